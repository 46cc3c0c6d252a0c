"""What goes on, what waits, and what is closed, when rows of a tenant have dead letters."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from consumers.dead_letters import pack_headers, unpack_headers
from consumers.errors import BY_SQLSTATE, Fault
from consumers.ordering import Event
from consumers.waiting import Closing, Held, Kept, Stand, is_of_one_row, is_whole, sort
from replicator import BackfillMarker, Position

HERE, THERE = 11, 12


def at(point: int) -> Position:
    return Position(1, point, 1)


def event(op: str, point: int, key: bytes = b"[7]", inbox: int | None = HERE, **changes: object) -> Event:
    made = Event(0, point, op, "messages", key, inbox, at(point), False, "v", b"", b"{}", "", None, ())
    return made._replace(**changes)  # type: ignore[arg-type]


def partial(point: int, inbox: int = HERE) -> Event:
    return event("u", point, inbox=inbox, absent=b'["content"]')


def held(*kept: tuple[int, int | None]) -> Held:
    """Of message 7, by (point, inbox)."""
    letters = [Kept(at(point), inbox) for point, inbox in kept]
    return Held(Stand(len(letters), 1), {("messages", b"[7]"): letters})


def points(events: Sequence[Event]) -> list[int]:
    return [each.position.point for each in events]


def test_without_dead_letters_all_goes_on() -> None:
    done = sort([partial(1), event("d", 2)], Held())
    assert (points(done.going), done.waiting, done.closings) == ([1, 2], [], [])


def test_a_partial_event_waits_and_another_row_does_not() -> None:
    other = event("u", 3, key=b"[8]", absent=b'["content"]')
    done = sort([partial(2), other, partial(4)], held((1, HERE)))
    assert (points(done.going), points(done.waiting), done.closings) == ([3], [2, 4], [])


def test_a_whole_row_heals_what_is_not_beyond_it_and_what_comes_after_goes_on() -> None:
    done = sort([partial(2), event("u", 3), partial(4)], held((1, HERE), (2, THERE)))
    assert (points(done.going), done.waiting) == ([3, 4], [])
    assert done.closings == [Closing("messages", b"[7]", None, at(3))]


def test_an_older_whole_row_of_another_partition_leaves_what_is_beyond_it() -> None:
    done = sort([event("u", 3, inbox=THERE), partial(4)], held((1, HERE), (9, HERE)))
    assert (points(done.going), points(done.waiting)) == ([3], [4])


def test_a_delete_closes_what_is_of_its_inbox() -> None:
    at_one = sort([event("d", 5), partial(6)], held((1, HERE), (2, THERE)))
    assert at_one.closings == [Closing("messages", b"[7]", HERE, at(5))]
    assert points(at_one.waiting) == [6]
    everywhere = sort([event("d", 5, inbox=None), partial(6)], held((1, HERE), (2, THERE)))
    assert everywhere.closings == [Closing("messages", b"[7]", None, at(5))]
    assert everywhere.waiting == []


def test_a_truncate_closes_what_is_of_its_table() -> None:
    done = sort([partial(2), event("t", 3, key=b"", inbox=None), partial(4)], held((1, HERE)))
    assert (points(done.going), done.waiting) == ([3, 4], [])
    assert done.closings == [Closing("messages", None, None, at(3))]


def test_a_row_that_was_too_large_goes_on_and_heals_nothing() -> None:
    done = sort([event("u", 2, error="too large"), partial(3)], held((1, HERE)))
    assert (points(done.going), points(done.waiting), done.closings) == ([2], [3], [])


def test_the_known_dead_letters_are_left_as_they_are() -> None:
    known = held((1, HERE))
    sort([event("u", 3)], known)
    assert known == held((1, HERE))


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (event("u", 1), True),
        (event("d", 1, body=b""), True),
        (partial(1), False),
        (event("u", 1, error="too large"), False),
        (event("c", 1, body=b""), False),
    ],
)
def test_what_needs_nothing_that_came_before(given: Event, whole: bool) -> None:
    assert is_whole(given) is whole


def test_what_concerns_many_rows_is_no_dead_letter() -> None:
    position = at(1)
    marker = BackfillMarker(
        id="b",
        boundary="end",
        tables=("messages",),
        is_complete=True,
        inboxes=None,
        start=position,
        start_read=position,
    )
    assert is_of_one_row(event("x", 1, key=b""))
    assert not is_of_one_row(event("t", 1, key=b""))
    assert not is_of_one_row(event("m", 1, key=b"", marker=marker))


def test_headers_are_kept_as_they_came() -> None:
    headers = [("op", b"u"), ("key", b"\x00\xff\n"), ("é", b""), ("none", None)]
    assert unpack_headers(json.loads(pack_headers(headers))) == headers


def test_nothing_of_the_environment_is_a_rows_fault() -> None:
    """Connection, resources, read-only target, rights, locks, time-outs, restarts."""
    rows = {state for state, verdict in BY_SQLSTATE.items() if verdict.fault is Fault.ROW}
    assert rows == {"22", "23", "23503", "54"}
