"""A row whose state could not be sent: what is known of it is never passed off as all of it."""

from __future__ import annotations

import orjson
import pytest

from consumers.errors import BadEvent
from consumers.ordering import Delete, Event, Rows, Upsert, steps
from replicator import Position

INBOX = 7


def at(point: int) -> Position:
    return Position(1, point, 1)


def event(point: int, op: str = "u", *, inbox: int = INBOX, error: str = "", absent: str = "", **after: str) -> Event:
    body = orjson.dumps({"after": None if error or op == "d" else {"id": 42, **after}})
    left_out = orjson.dumps([absent]) if absent else b""
    schema = "" if op == "d" else "v1"
    return Event(0, point, op, "messages", b"[42]", inbox, at(point), False, schema, left_out, body, error, None, ())


LARGE = event(2, error="too-large")


def fold(*events: Event) -> tuple[Upsert | None, list[Delete]]:
    (rows,) = steps(events)
    assert isinstance(rows, Rows)
    upserts = rows.upserts.get("messages", [])
    return (upserts[0] if upserts else None), rows.deletes.get("messages", [])


@pytest.mark.parametrize("before", [[], [event(1, "c", content="small")]], ids=["alone", "after a whole row"])
def test_nothing_of_it_is_known(before: list[Event]) -> None:
    assert fold(*before, LARGE) == (Upsert(42, INBOX, at(2), "v1", b"", b"", is_lost=True), [])


def test_a_later_whole_row_heals_it() -> None:
    healed, _ = fold(LARGE, event(3, content="small again"))
    assert healed is not None
    assert (healed.is_lost, healed.absent) == (False, b"")


def test_a_later_part_does_not_heal_it_until_the_rest_has_come() -> None:
    part = event(3, absent="content", status="2")
    lost, _ = fold(event(1, "c", content="stale", status="1"), LARGE, part)
    assert lost is not None
    assert (lost.is_lost, orjson.loads(lost.absent)) == (True, ["content"])
    assert b"stale" not in lost.body, "what was before it is not what it is"
    healed, _ = fold(LARGE, part, event(4, absent="status", content="small again"))
    assert healed is not None
    assert (healed.is_lost, healed.absent) == (False, b"")
    assert orjson.loads(healed.body)["after"] == {"id": 42, "status": "2", "content": "small again"}


def test_a_part_at_another_inbox_is_left_to_the_stored_row() -> None:
    lost, part = steps([LARGE, event(3, inbox=8, absent="content", status="2")])
    assert isinstance(lost, Rows)
    assert isinstance(part, Rows)
    assert lost.upserts["messages"][0].is_lost
    assert part.upserts["messages"] == [Upsert(42, 8, at(3), "v1", b'["content"]', part.upserts["messages"][0].body)]


def test_a_delete_ends_it() -> None:
    live, deletes = fold(LARGE, event(3, "d"))
    assert live is None
    assert Delete(42, INBOX, at(3)) in deletes


def test_a_delete_at_another_inbox_does_not() -> None:
    live, _ = fold(LARGE, event(3, "d", inbox=8))
    assert live is not None
    assert live.is_lost


def test_an_event_of_no_table_is_refused() -> None:
    """It may be anything: nobody goes on over it without a person's look."""
    with pytest.raises(BadEvent, match="offset 2"):
        steps([LARGE._replace(table="", schema="", error="its headers are not those of a change event")])
