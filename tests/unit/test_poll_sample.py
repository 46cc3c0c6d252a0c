"""The time of a sample: nothing that was committed before it may be missing in its snapshot."""

from __future__ import annotations

from typing import Any

from replicator.source import Source


class _Told(Source):
    """A session that tells what it is given."""

    def __init__(self, *told: tuple[Any, ...]) -> None:
        self._told, self._replayed_us = list(told), None

    def rows(self, statement: Any, parameters: Any = ()) -> list[tuple[Any, ...]]:
        return [self._told.pop(0)]


def test_a_primary_has_its_clock() -> None:
    session = _Told((50, "7:7:", 7, "0/10", False, None), (60, "7:7:", 7, "0/10", False, 3))
    assert [session.poll_sample().at_us for _ in range(2)] == [50, 60]


def test_a_standby_has_the_time_of_a_commit_that_was_replayed_before_the_snapshot() -> None:
    session = _Told(
        (50, "7:7:", 7, "0/10", True, 20), (60, "8:8:", 8, "0/20", True, 30), (70, "8:8:", 8, "0/20", True, 30)
    )
    assert [session.poll_sample().at_us for _ in range(3)] == [0, 20, 30], "0: nothing is known to be there"
