"""When an epoch begins: whenever positions of before and after cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicator.history import Past, Present, next_epoch, why_new_epoch

PUBLISHED = {"inboxes": [1, 2, 3], "messages": [4, 5, 3]}
PAST = Past(
    epoch=5,
    begun=5,
    system_id="741",
    timeline=1,
    slot="s",
    published=PUBLISHED,
    generation=1_000,
    confirmed=2_000,
    mode="streaming",
    last_commit=1_900,
)
PRESENT = Present(
    system_id="741",
    timeline=1,
    slot="s",
    slot_is_new=False,
    published=PUBLISHED,
    slot_confirmed=2_000,
    generation=2_001,
    mode="streaming",
)


def _why(past: Past | None, present: Present) -> str | None:
    return why_new_epoch(past, present, PUBLISHED.keys())


def test_a_table_of_which_nothing_is_made_may_come_and_go() -> None:
    assert _why(PAST, replace(PRESENT, published={**PUBLISHED, "notes": [7, 8, 3]})) is None


def test_the_epoch_goes_on_where_it_was_left() -> None:
    assert _why(PAST, PRESENT) is None


def test_a_slot_behind_the_last_confirmed_is_ours() -> None:
    """What was confirmed is remembered before the slot is told, and may never have reached it."""
    assert _why(PAST, replace(PRESENT, slot_confirmed=1)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"last_commit": 2_001}, "gone back to 0/7D1"),
        ({"went_back": True}, "the commit at 0/76C is not there any more"),
    ],
)
def test_a_source_that_was_taken_back_begins_an_epoch(change: dict[str, Any], reason: str) -> None:
    assert reason in str(_why(replace(PAST, **change), PRESENT))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system_id": "742"}, "another cluster"),
        ({"timeline": 2}, "failed over"),
        ({"slot": "other"}, "slot is new"),
        ({"slot_is_new": True}, "slot is new"),
        ({"mode": "polling"}, "read by streaming before, and by polling now"),
        ({"published": PUBLISHED | {"messages": [4, 6, 3]}}, "table of it: messages"),
        ({"published": {"inboxes": [1, 2, 3]}}, "table of it: messages"),
        ({"published": {name: [*oids, 0] for name, oids in PUBLISHED.items()}}, "table of it: inboxes, messages"),
        ({"slot_confirmed": 2_001}, "0/7D1, beyond 0/7D0"),
        ({"generation": 2_000}, "gone back to 0/7D0"),
    ],
)
def test_a_break_begins_an_epoch_with_its_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(_why(PAST, replace(PRESENT, **change)))


def test_a_generation_that_is_not_beyond_the_last_begins_an_epoch() -> None:
    """Though it is beyond all that was confirmed: runs would not be told apart."""
    assert _why(replace(PAST, generation=2_001), PRESENT) is not None


def test_an_epoch_that_was_left_unfinished_is_begun_anew() -> None:
    """Under the old one all that follows would be a zombie's."""
    assert "epoch 6 was begun" in str(_why(replace(PAST, begun=6), PRESENT))


def test_without_memory_an_epoch_begins() -> None:
    assert _why(None, PRESENT) is not None


def test_epochs_grow_while_the_clock_goes_back_and_when_the_memory_is_lost() -> None:
    assert next_epoch(1_800_000_000, 1_760_000_000) == 1_800_000_001
    assert next_epoch(0, 1_760_000_000) == 1_760_000_000


def test_records_that_a_zombie_may_have_taken_the_place_of_are_not_done_without() -> None:
    assert "3 records of the state topic" in (_why(replace(PAST, hidden=3), PRESENT) or "")
