"""When the stream gives way to polling, and when it comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.modes import (
    BY_WHY,
    LONGEST_PAUSE_MS,
    RULES,
    STEADY_MS,
    Facts,
    Mode,
    Standing,
    Why,
    next_standing,
    quick_epochs,
    rest_until_ms,
    why_poll,
)

WELL = Facts(
    setting="auto",
    in_recovery=False,
    may_replicate=True,
    wal_level="logical",
    budget_is_spent=False,
    slot_is_lost=False,
    can_poll=lambda: True,
)
PAUSE_MS = 1_000
REASONS: dict[Why, dict[str, Any]] = {
    Why.SETTING: {"setting": "poll"},
    Why.STANDBY: {"in_recovery": True},
    Why.RIGHT: {"may_replicate": False},
    Why.WAL_LEVEL: {"wal_level": "replica"},
    Why.WAL_BUDGET: {"budget_is_spent": True},
    Why.SLOT_LOST: {"slot_is_lost": True},
}
STREAM = Standing(mode=Mode.STREAM, since_ms=0)


def after(now: Standing | None, facts: Facts, at_ms: int) -> Standing:
    return next_standing(now, facts, at_ms, PAUSE_MS)


def fallen(why: Why, at_ms: int = 10, now: Standing = STREAM) -> Standing:
    return after(now, replace(WELL, **REASONS[why]), at_ms)


def test_every_reason_has_a_rule_and_says_what_brings_the_stream_back() -> None:
    assert REASONS.keys() == BY_WHY.keys() == set(Why) - {Why.NONE}
    assert all(rule.sentence and rule.back for rule in RULES)


@pytest.mark.parametrize("why", REASONS)
def test_each_reason_alone_ends_the_stream_and_its_end_brings_it_back(why: Why) -> None:
    standing = fallen(why)
    assert (standing.mode, standing.why, standing.since_ms, standing.switches) == (Mode.POLL, why, 10, 1)
    assert after(standing, WELL, standing.not_before_ms - 1) is standing
    back = after(standing, WELL, standing.not_before_ms)
    assert (back.mode, back.why, back.since_ms, back.switches) == (Mode.STREAM, Why.NONE, standing.not_before_ms, 2)


def test_the_first_reason_counts_and_may_change_without_a_switch() -> None:
    standing = fallen(Why.WAL_BUDGET)
    both = replace(WELL, **REASONS[Why.WAL_BUDGET], **REASONS[Why.RIGHT])
    assert why_poll(both) is Why.RIGHT
    other = after(standing, both, 99_999)
    assert other == replace(standing, why=Why.RIGHT)
    assert after(other, both, 199_999) is other, "it does not come back as long as a reason holds"


def test_where_nothing_can_be_polled_the_stream_is_left_only_by_the_setting() -> None:
    nothing = replace(WELL, can_poll=lambda: False)
    assert after(STREAM, replace(nothing, may_replicate=False), 10) is STREAM
    assert after(STREAM, replace(nothing, setting="poll"), 10).mode is Mode.POLL


def test_nobody_asks_what_can_be_polled_where_it_does_not_matter() -> None:
    asked: list[bool] = []
    facts = replace(WELL, can_poll=lambda: not asked.append(True))  # type: ignore[func-returns-value]
    assert after(STREAM, facts, 10) is STREAM
    assert asked == []


def test_a_first_run_is_no_switch() -> None:
    assert after(None, WELL, 10) == Standing(mode=Mode.STREAM, since_ms=10)
    polled = after(None, replace(WELL, wal_level="replica"), 10)
    assert polled == Standing(mode=Mode.POLL, why=Why.WAL_LEVEL, since_ms=10)
    assert after(polled, WELL, 11).mode is Mode.STREAM, "it has not fallen, so it need not pause"


def test_the_pause_doubles_with_each_fall_up_to_a_bound_and_is_forgiven_in_time() -> None:
    now, at_ms, pauses = STREAM, 0, []
    for _ in range(16):
        now = fallen(Why.WAL_BUDGET, at_ms, now)
        pauses.append(now.not_before_ms - at_ms)
        at_ms = now.not_before_ms
        now = after(now, WELL, at_ms)
    assert pauses[:4] == [1_000, 2_000, 4_000, 8_000]
    assert pauses[-1] == LONGEST_PAUSE_MS
    assert fallen(Why.WAL_BUDGET, at_ms + STEADY_MS, now).falls == 17
    steady = fallen(Why.WAL_BUDGET, at_ms + STEADY_MS + 1, now)
    assert (steady.falls, steady.not_before_ms - steady.since_ms) == (1, PAUSE_MS)
    assert steady.switches == now.switches + 1


@given(st.lists(st.tuples(st.sampled_from([*REASONS, None]), st.integers(0, 3_000)), max_size=40))
def test_whatever_happens_it_polls_while_there_is_reason_and_pauses_are_kept(
    steps: list[tuple[Why | None, int]],
) -> None:
    now, at_ms = STREAM, 0
    for why, passes in steps:
        at_ms += passes
        before, now = now, after(now, replace(WELL, **REASONS[why]) if why is not None else WELL, at_ms)
        assert (now.mode is Mode.POLL) or why is None
        assert now.switches == before.switches + (now.mode is not before.mode)
        assert now.mode is Mode.POLL or before.mode is Mode.STREAM or at_ms >= before.not_before_ms
        assert Standing.from_record(now.to_record()) == now


def test_epochs_of_the_stream_that_follow_soon_on_each_other_are_counted() -> None:
    """The first is none, nor is one after a stream that was steady, or after polling."""
    first = {"mode": "streaming", "begun_ms": 0, "quick": 0}
    assert quick_epochs({}, Mode.STREAM, 0) == 0
    assert quick_epochs(first, Mode.STREAM, STEADY_MS) == 1
    assert quick_epochs(first | {"quick": 4}, Mode.STREAM, 1) == 5
    assert quick_epochs(first | {"quick": 4}, Mode.STREAM, STEADY_MS + 1) == 0
    assert quick_epochs(first | {"mode": "polling"}, Mode.STREAM, 1) == 0
    assert quick_epochs(first, Mode.POLL, 1) == 0
    assert quick_epochs({"mode": "streaming"}, Mode.STREAM, STEADY_MS + 1) == 0, "of a version that did not count"


def test_a_slot_rests_for_longer_with_each_quick_epoch() -> None:
    assert rest_until_ms(5_000, 0, 10) == 0
    assert [rest_until_ms(5_000, quick, 10) - 5_000 for quick in (1, 2, 5)] == [10, 20, 160]
    assert rest_until_ms(5_000, 10_000, 10) == 5_000 + LONGEST_PAUSE_MS
