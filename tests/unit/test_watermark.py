"""What a partition has seen of the replicator's runs is known wherever a reading starts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumers.watermark import Generations
from replicator import Run

FIRST, SECOND, THIRD = Run(1, 100), Run(1, 200), Run(2, 50)


def test_a_partition_that_has_seen_nothing_takes_any_run() -> None:
    assert Generations().at(0) < FIRST
    assert Generations([(5, FIRST)]).at(4) < FIRST


def test_a_run_counts_from_its_first_offset_on() -> None:
    seen = Generations([(20, SECOND), (5, FIRST)])
    assert [seen.at(offset) for offset in (5, 19, 20, 1_000_000)] == [FIRST, FIRST, SECOND, SECOND]


def test_a_later_epoch_is_a_later_run_whatever_its_generation() -> None:
    assert SECOND < THIRD


def test_what_is_seen_is_new_until_it_is_stored() -> None:
    seen = Generations([(5, FIRST)])
    assert seen.new == []
    seen.see(20, SECOND)
    seen.see(30, THIRD)
    assert (seen.at(19), seen.at(20), seen.at(30)) == (FIRST, SECOND, THIRD)
    assert seen.new == [(20, SECOND), (30, THIRD)]
    seen.stored(30)
    assert seen.new == [(30, THIRD)]
    seen.stored(31)
    assert seen.new == []
    assert seen.at(25) == SECOND


def test_a_reading_that_is_behind_does_not_hide_what_is_known_beyond() -> None:
    """A pool that began at the end of the log reads for a tenant that comes from before it."""
    seen = Generations([(5, FIRST)])
    seen.see(50, THIRD)
    seen.see(20, SECOND)
    assert [seen.at(offset) for offset in (19, 20, 49, 50, 60)] == [FIRST, SECOND, SECOND, THIRD, THIRD]
    assert sorted(seen.new) == [(20, SECOND), (50, THIRD)]
    seen.stored(51)
    assert seen.new == []


def test_a_zombie_that_was_taken_for_new_is_known_once_its_past_is_read() -> None:
    seen = Generations()
    seen.see(50, FIRST)
    seen.see(20, SECOND)
    assert seen.at(60) == SECOND


def test_a_stored_run_that_an_older_one_follows_goes_on() -> None:
    """A log that lost its end was written again by a later run: what the lost end had seen comes after that."""
    seen = Generations([(5, FIRST), (50, THIRD), (100, SECOND)])
    assert seen.at(100) == THIRD
    assert seen.new == []


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([FIRST, SECOND, THIRD])), max_size=6), st.integers(0, 60))
def test_what_was_seen_is_the_latest_run_at_or_before_the_offset(stored: list[tuple[int, Run]], offset: int) -> None:
    before = [run for first, run in stored if first <= offset]
    found = Generations(stored).at(offset)
    assert found == max(before) if before else found < FIRST
