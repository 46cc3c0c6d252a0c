"""Coalescing of rows that say no inbox: an absence at one inbox neither ends a row nor comes before it."""

from __future__ import annotations

from consumers.ordering import Delete, Event, Rows, Upsert, steps
from replicator import Position

A, B = 1, 2


def event(op: str, inbox: int | None, ordinal: int) -> Event:
    body = b'{"after":{"id":5,"n":%d}}' % ordinal
    position = Position(1, 1, ordinal)
    return Event(0, ordinal, op, "contacts", b"[5]", inbox, position, True, "v", b"", body, "", None, ())


def row(inbox: int, n: int) -> Event:
    return event("r", inbox, 2 * n + 1)


def absence(inbox: int | None, n: int) -> Event:
    return event("d", inbox, 2 * n)


def collapsed(*events: Event) -> list[tuple[list[int], list[Delete]]]:
    """For each step the ordinals of what is written, and what is deleted."""
    done = steps(events, {"contacts"})
    assert all(isinstance(step, Rows) for step in done)
    return [
        (
            [upsert.position.ordinal for upsert in step.upserts.get("contacts", ())],
            step.deletes.get("contacts", []),
        )
        for step in done
        if isinstance(step, Rows)
    ]


def at(inbox: int | None, n: int) -> Delete:
    return Delete(5, inbox, Position(1, 1, 2 * n))


def test_an_absence_at_an_inbox_comes_after_the_row() -> None:
    assert collapsed(row(A, 1), absence(A, 2)) == [([3], []), ([], [at(A, 2)])]


def test_an_absence_that_a_later_row_contradicts_is_nothing() -> None:
    assert collapsed(row(A, 1), absence(A, 2), row(B, 2)) == [([5], [])]
    assert collapsed(row(B, 2), absence(A, 2)) == [([5], [])]


def test_absence_everywhere_ends_the_row_and_absences_before_it() -> None:
    assert collapsed(row(A, 1), absence(A, 2), absence(None, 3)) == [([], [at(None, 3)])]
    assert collapsed(absence(None, 2), row(A, 3), absence(B, 4)) == [([7], [at(None, 2)]), ([], [at(B, 4)])]


def test_the_same_row_at_two_inboxes_is_written_once() -> None:
    assert collapsed(row(A, 1), row(B, 1)) == [([3], [])]


def test_where_rows_have_an_inbox_an_absence_at_it_ends_them() -> None:
    (step,) = steps([row(A, 1), absence(A, 2)])
    assert isinstance(step, Rows)
    assert step.upserts == {}
    assert at(A, 2) in step.deletes["contacts"]


def test_a_move_between_inboxes_of_one_read_keeps_the_row_whichever_comes_first() -> None:
    for events in ([absence(A, 2), row(B, 2)], [row(B, 2), absence(A, 2)]):
        (step,) = steps(events)
        assert isinstance(step, Rows)
        (written,) = step.upserts["contacts"]
        assert isinstance(written, Upsert)
        assert (written.inbox, step.deletes["contacts"]) == (B, [at(A, 2)])
