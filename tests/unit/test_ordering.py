"""Coalescing ends where applying one event after the other would have."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Literal, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.errors import BadEvent
from consumers.ordering import Begin, Delete, Event, Rows, Step, Sweep, Truncate, Upsert, identifier, steps
from replicator import BackfillMarker, Position
from tests import histories
from tests.histories import Source

TABLES = ("messages",)
READINGS = 20
"""Of each history."""


class Stored(NamedTuple):
    inbox: int
    position: Position
    columns: dict[str, Any]


class Reference:
    """A target's rows under the rules of row positions, without foreign keys."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Stored] = {}

    def upsert(self, table: str, row: int, inbox: int, position: Position, body: bytes) -> None:
        stored = self.rows.get((table, row))
        if stored is None or stored.position < position:
            known = stored.columns if stored is not None else {}
            self.rows[table, row] = Stored(inbox, position, {**known, **orjson.loads(body)["after"]})

    def delete(self, table: str, row: int, inbox: int | None, position: Position) -> None:
        stored = self.rows.get((table, row))
        if stored is not None and stored.position <= position and inbox in (None, stored.inbox):
            del self.rows[table, row]

    def truncate(self, table: str, position: Position) -> None:
        for name, row in list(self.rows):
            if name == table:
                self.delete(table, row, None, position)

    def take_singly(self, events: Iterable[Event]) -> None:
        """One event after the other."""
        for event in events:
            if not event.key:
                self.truncate(event.table, event.position)
            elif event.op == "d":
                self.delete(event.table, identifier(event.key), event.inbox, event.position)
            else:
                assert event.inbox is not None
                self.upsert(event.table, identifier(event.key), event.inbox, event.position, event.body)

    def take(self, events: Iterable[Event]) -> None:
        """In steps."""
        for step in steps(events):
            match step:
                case Rows():
                    for table, deletes in step.deletes.items():
                        for delete in deletes:
                            self.delete(table, *delete)
                    for table, upserts in step.upserts.items():
                        for row in upserts:
                            self.upsert(table, row.id, row.inbox, row.position, row.body)
                case Truncate():
                    self.truncate(step.table, step.position)
                case _:
                    raise AssertionError(step)

    def contents(self) -> dict[tuple[str, int], dict[str, Any]]:
        return {place: stored.columns for place, stored in self.rows.items()}


def contents(source: Source) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (table, key): {"id": key, "inbox_id": row.inbox, **row.columns} for (table, key), row in source.rows.items()
    }


@settings(max_examples=250, deadline=None)
@given(histories.histories(TABLES), st.integers(0, 2**32))
def test_two_partitions_in_any_order_and_any_batches_end_as_the_source(
    history: list[tuple[histories.Operation, bool]], seed: int
) -> None:
    source = Source.after(history)
    for nth in range(READINGS):
        singly, coalesced = Reference(), Reference()
        for batch in histories.reading(source.published, Random(seed + nth)):
            singly.take_singly(batch)
            coalesced.take(batch)
        assert singly.contents() == contents(source)
        assert coalesced.contents() == contents(source)


@settings(max_examples=100, deadline=None)
@given(histories.histories(TABLES), st.integers(0, 2**32))
def test_in_the_order_of_commits_every_batch_ends_as_its_events_one_by_one(
    history: list[tuple[histories.Operation, bool]], seed: int
) -> None:
    published = Source.after(history).published
    for nth in range(READINGS):
        singly, coalesced = Reference(), Reference()
        for batch in histories.batches(published, Random(seed + nth)):
            singly.take_singly(batch)
            coalesced.take(batch)
            assert coalesced.rows == singly.rows


# --- the rules, one by one


def at(
    point: int,
    op: str = "u",
    inbox: int | None = 11,
    *,
    key: bytes = b"[1]",
    partition: int = 0,
    table: str = "messages",
    error: str = "",
    marker: BackfillMarker | None = None,
    absent: tuple[str, ...] = (),
    **after: object,
) -> Event:
    """An event at this point; its offset is the point too."""
    body = orjson.dumps({"after": {"id": 1, **after}})
    packed = orjson.dumps(absent) if absent else b""
    position = Position(1, point, 0)
    inboxes = (11,) if marker is not None else ()
    return Event(partition, point, op, table, key, inbox, position, False, "v", packed, body, error, marker, inboxes)


def marker(boundary: Literal["begin", "end"]) -> BackfillMarker:
    start = Position(1, 1, 0)
    return BackfillMarker(id="b", boundary=boundary, tables=("messages",), inboxes=(11,), start=start, start_read=start)


def only(found: list[Step]) -> Rows:
    """The one step."""
    assert len(found) == 1
    assert isinstance(found[0], Rows)
    return found[0]


def after(row: Upsert) -> dict[str, Any]:
    columns: dict[str, Any] = orjson.loads(row.body)["after"]
    return columns


def test_of_several_changes_the_last_is_left() -> None:
    rows = only(steps([at(1, "c", a=1), at(2, a=2), at(3, a=3)]))
    assert rows.upserts == {"messages": [Upsert(1, 11, Position(1, 3, 0), "v", b"", b'{"after":{"id":1,"a":3}}')]}
    assert rows.deletes == {}


def test_the_last_is_that_of_the_highest_position_whatever_was_read_first() -> None:
    (row,) = only(steps([at(9, inbox=12, partition=1, a=9), at(4, a=4)])).upserts["messages"]
    assert (row.inbox, after(row)["a"]) == (12, 9)


def test_rows_of_a_table_stand_in_the_order_of_their_ids() -> None:
    rows = only(steps([at(1, key=b"[10]"), at(2, key=b"[9]"), at(3, key=b"[2]")]))
    assert [row.id for row in rows.upserts["messages"]] == [2, 9, 10]


def test_a_column_left_out_is_filled_from_the_event_before() -> None:
    (row,) = only(steps([at(1, "c", a=1, long="x"), at(2, a=2, absent=("long",))])).upserts["messages"]
    assert after(row) == {"id": 1, "a": 2, "long": "x"}
    assert row.absent == b""


def test_a_null_of_the_event_before_is_a_value() -> None:
    (row,) = only(steps([at(1, "c", long=None), at(2, absent=("long",))])).upserts["messages"]
    assert after(row) == {"id": 1, "long": None}
    assert row.absent == b""


def test_what_no_event_carries_stays_absent() -> None:
    (row,) = only(
        steps([at(1, long="x", absent=("wide",)), at(2, absent=("long", "wide")), at(3, absent=("long", "wide"))])
    ).upserts["messages"]
    assert after(row) == {"id": 1, "long": "x"}
    assert row.absent == b'["wide"]'


def test_a_column_is_never_filled_across_a_delete() -> None:
    (row,) = only(steps([at(1, "c", long="old"), at(2, "d"), at(3, absent=("long",))])).upserts["messages"]
    assert "long" not in after(row)
    assert row.absent == b'["long"]'


def test_a_partial_row_of_another_inbox_is_written_after_the_one_before_it() -> None:
    """Between the two there may be what another batch has brought: it is in the target, not here."""
    first, second = steps([at(1, long="x"), at(5, inbox=12, absent=("long",), a=5)])
    assert isinstance(first, Rows)
    assert isinstance(second, Rows)
    assert [(row.inbox, row.absent) for row in first.upserts["messages"]] == [(11, b"")]
    assert [(row.inbox, row.absent) for row in second.upserts["messages"]] == [(12, b'["long"]')]
    assert after(second.upserts["messages"][0]) == {"id": 1, "a": 5}


def test_a_late_row_of_an_inbox_that_was_left_does_not_fill_a_newer_one() -> None:
    """The row moved from 12 to 11 with a new text (5), then changed without it (7); 12's partition is read late."""
    target = Reference()
    target.take([at(5, inbox=11, inbox_id=11, long="new")])
    target.take([at(7, inbox=11, inbox_id=11, absent=("long",)), at(2, inbox=12, inbox_id=12, partition=1, long="old")])
    target.take([at(4, "d", inbox=12, partition=1)])
    assert target.contents() == {("messages", 1): {"id": 1, "inbox_id": 11, "long": "new"}}


def test_a_row_that_came_and_went_is_deleted_whatever_inbox_it_is_stored_under() -> None:
    rows = only(steps([at(3), at(5, inbox=12), at(9, "d", inbox=12)]))
    assert rows.upserts == {}
    target = Reference()
    target.take([at(1, inbox=13)])
    target.take([at(3), at(5, inbox=12), at(9, "d", inbox=12)])
    assert target.rows == {}
    target.take([at(4, inbox=13)])
    target.take([at(3), at(5, inbox=12), at(9, "d", inbox=12)])
    assert target.rows == {}


def test_a_delete_at_an_inbox_leaves_the_row_of_another() -> None:
    rows = only(steps([at(5, inbox=12), at(7, "d", inbox=11)]))
    assert [row.inbox for row in rows.upserts["messages"]] == [12]
    assert rows.deletes == {"messages": [Delete(1, 11, Position(1, 7, 0))]}


def test_a_broadcast_deletes_the_row_of_any_inbox() -> None:
    rows = only(steps([at(5, inbox=12), at(7, "d", inbox=None)]))
    assert rows.upserts == {}
    assert Delete(1, None, Position(1, 7, 0)) in rows.deletes["messages"]


def test_a_row_that_comes_back_is_written_after_its_delete() -> None:
    rows = only(steps([at(3), at(5, "d"), at(7, "c", a=7)]))
    assert [after(row)["a"] for row in rows.upserts["messages"]] == [7]
    assert Delete(1, 11, Position(1, 5, 0)) in rows.deletes["messages"]


def test_keys_of_different_tables_are_different_rows() -> None:
    rows = only(steps([at(1), at(2, "d", table="conversations")]))
    assert list(rows.upserts) == ["messages"]
    assert list(rows.deletes) == ["conversations"]


def test_what_concerns_many_rows_stands_between_two_steps() -> None:
    begin, end = marker("begin"), marker("end")
    found = steps(
        [
            at(1, a=1),
            at(2, "t", None, key=b""),
            at(3, a=3),
            at(4, "m", None, key=b"", marker=begin),
            at(5, a=5),
            at(6, "m", None, key=b"", marker=end),
        ]
    )
    assert [type(step) for step in found] == [Rows, Truncate, Rows, Begin, Rows, Sweep]
    assert found[1] == Truncate("messages", Position(1, 2, 0))
    assert found[3] == Begin("b", (11,))
    assert found[5] == Sweep(end, (11,))


def test_nothing_to_do_is_no_step() -> None:
    assert steps([]) == []


def test_a_message_without_a_body_is_no_row() -> None:
    with pytest.raises(BadEvent, match="no body"):
        steps([at(5)._replace(body=b"")])
    with pytest.raises(BadEvent, match=r"partition 0, offset 5 \(messages\) has no row: no body"):
        steps([at(5)._replace(body=b""), at(6, absent=("long",))])
    assert only(steps([at(5, "d")._replace(body=b"")])).upserts == {}


def test_a_row_needs_an_inbox() -> None:
    with pytest.raises(BadEvent, match="no inbox"):
        steps([at(5, inbox=None)])


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"after":null}', b'{"after":[]}', b"{}"])
def test_a_body_that_can_not_be_read_is_told_when_it_must_be_read(body: bytes) -> None:
    with pytest.raises(BadEvent, match="offset 6"):
        steps([at(5, long="x"), at(6, absent=("long",))._replace(body=body)])


@pytest.mark.parametrize("absent", [b"{", b"5", b"null", b"[[]]"])
def test_columns_that_are_named_wrongly_are_told(absent: bytes) -> None:
    with pytest.raises(BadEvent, match="offset 6"):
        steps([at(5, long="x"), at(6)._replace(absent=absent)])


@pytest.mark.parametrize(
    "event", [at(1, "x"), at(1, "m"), at(1, "t"), at(1, "x", key=b""), at(1, "d", None, key=b""), at(1, key=b"")]
)
def test_an_event_of_an_unknown_kind_changes_nothing(event: Event) -> None:
    with pytest.raises(BadEvent, match="does not know"):
        steps([event])


@pytest.mark.parametrize("key", [b"[]", b'["a"]', b"[1,2]", b"[null]", b"[1.5]", b"5", b"[true]"])
def test_a_key_is_one_integer(key: bytes) -> None:
    with pytest.raises(BadEvent, match="not one integer"):
        identifier(key)


def test_a_key_is_a_bigint_that_may_be_negative() -> None:
    assert identifier(b"[-9223372036854775808]") == -(2**63)
    with pytest.raises(BadEvent, match="too large"):
        identifier(b"[9223372036854775808]")
