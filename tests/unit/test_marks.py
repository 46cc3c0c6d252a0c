"""How far polling is, and how much of its time it takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator import walk
from replicator.marks import Mark, Marks, Walked
from replicator.progress import Batch
from replicator.time_share import TimeShare
from replicator.walk import Walk


class Memory:
    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    def write(self, key: str, content: Any, batch: Batch) -> None:
        batch.sent += 1
        self.records[key] = content


def test_a_mark_is_what_was_said_last() -> None:
    memory = Memory()
    marks = Marks(memory)  # type: ignore[arg-type]
    assert not marks.of("view").has_begun
    marks.advance("view", upto=5)
    batch = marks.advance("view", verified_us=7)
    assert not batch.complete, "it is durable with its batch"
    assert Marks(memory).of("view") == Mark(upto=5, verified_us=7)  # type: ignore[arg-type]
    assert not Marks(memory).of("other").has_begun  # type: ignore[arg-type]


def test_an_inbox_with_a_key_that_can_not_be_read_stays_where_it_was() -> None:
    marks = Marks(Memory())  # type: ignore[arg-type]
    marks.verified("view", 10, ())
    marks.verified("view", 20, (3,))
    marks.verified("view", 30, (3, 4))
    assert (marks.of("view").verified_us, marks.of("view").held) == (30, {"3": 10, "4": 20})
    assert marks.verified_us(["view"]) == 10
    marks.verified("view", 40, ())
    assert marks.verified_us(["view"]) == 40


def test_relations_are_verified_together_up_to_the_least() -> None:
    marks = Marks(Memory())  # type: ignore[arg-type]
    marks.verified("view", 10, ())
    assert marks.verified_us(["view", "contacts"]) == 0
    marks.verified("contacts", 5, ())
    assert marks.verified_us(["view", "contacts"]) == 5
    assert marks.verified_us([]) == 0


@given(st.floats(0.01, 1), st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_no_more_than_the_share_is_spent(share: float, queries: list[float]) -> None:
    budget, now = TimeShare(share), 0.0
    for seconds in queries:
        now += budget.rest_s(now) + seconds
        budget.spent(seconds, now)
    now += budget.rest_s(now)
    assert budget.spent_s == pytest.approx(sum(queries))
    assert budget.spent_s <= share * now * 1.000001
    assert budget.rest_s(now + 1) == 0


@given(
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(0, 40)),
)
def test_a_walk_comes_to_every_page_that_has_keys_or_is_known(
    keys: set[int], known: set[int], listed: int, after: int | None
) -> None:
    """Pages of eight keys, listed a few at a time."""

    def keys_after(_: Any, __: Any, ___: Any, behind: Any, most: int) -> list[tuple[int]]:
        return [(key,) for key in sorted(keys) if behind is None or key > behind[0]][:most]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "keys_after", keys_after)
        patch.setattr(walk, "LISTED", listed)
        way, taken, pages = Walk("view", after), list[int](), list[int]()
        while True:
            way.fill(None, None, lambda key: key // 8)  # type: ignore[arg-type]
            ahead = [key for key in known if way.after is None or key > way.after]
            if (key := way.next_key(min(ahead, default=None))) is None:
                break
            pages.append(key // 8)
            taken += way.take(range(key // 8 * 8, key // 8 * 8 + 8))
    first = -1 if after is None else after
    assert taken == sorted(key for key in keys if key > first)
    assert pages == sorted({key // 8 for key in keys | known if key > first})
    assert way.visited == len(taken)


def test_a_walk_is_known_to_later_runs_once_it_is_written_down() -> None:
    memory = Memory()
    marks = Marks(memory)  # type: ignore[arg-type]
    marks.walk("view", Walked(7, 511))
    assert Marks(memory).of("view").walked is None  # type: ignore[arg-type]
    marks.write_down()
    assert Marks(memory).of("view").walked == Walked(7, 511)  # type: ignore[arg-type]
    marks.walk("view", Walked(7, 1023))
    marks.end_walk("view")
    marks.write_down()
    assert marks.of("view").walked is None
    written = len(memory.records)
    marks.end_walk("other")
    assert len(memory.records) == written, "nothing is written that says nothing"
