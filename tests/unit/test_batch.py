"""Messages become each tenant's events: once, in order, and none is dropped in silence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import pytest

from consumers.batch import Batch, Message, View, begins_backfill, ends_of, new_marks, sort_out
from consumers.errors import Action, BadEvent, LogTooNew, classify
from consumers.ordering import Event, steps
from consumers.tenants import Owner
from consumers.watermark import Generations, Mark
from replicator import NOWHERE, BackfillMarker, GenerationMarker, HeartbeatMarker, Position, Run, partition_of
from replicator.envelope import encode
from replicator.event import Cause, Head, Marker, encode_marker, pack_head

PARTITIONS = 2
EPOCH = 3
RUN = Run(EPOCH, 100)
COMMITTED_MS = 1_700_000_000_000
# Inboxes by the partition that the partitioner gives them.
ZERO, ONE = ([inbox for inbox in range(1, 200) if partition_of(inbox, PARTITIONS) == number] for number in (0, 1))
MINE, MINE_TOO, OTHERS, NOBODYS = ZERO[:4]
MINE_ELSEWHERE = ONE[0]
OWNERS = {
    MINE: Owner(1, "", True),
    MINE_TOO: Owner(1, "", True),
    MINE_ELSEWHERE: Owner(1, "", True),
    OTHERS: Owner(2, "", True),
}


TIMES_THAT_ARE_NONE = ["5", 5.5, -1, True, [], {}, 10**18]
"""In milliseconds, and by another hand."""


def at(point: int, ordinal: int = 1) -> Position:
    return Position(EPOCH, point, ordinal)


@dataclass
class Log:
    """Messages of partition 0 unless said otherwise, with growing offsets."""

    offset: int = 10
    messages: list[Message] = field(default_factory=list)

    def change(
        self,
        inbox: int | None,
        point: int,
        *,
        op: Literal["u", "d", "t", "r"] = "u",
        table: str = "messages",
        key: bytes = b"[7]",
        run: Run = RUN,
        partition: int = 0,
    ) -> Log:
        position, is_read = Position(run.epoch, point, 1), op == "r"
        head = Head(op, table, key, position, run.generation, "v", b"", is_read, "")
        body = encode(head, b'{"name":"test"', Cause(1, point, COMMITTED_MS + point, 0), b"null", b"{}")
        return self.put(pack_head(head), body, None if inbox is None else b"%d" % inbox, partition)

    def marker(self, marker: Marker, run: Run = RUN, partition: int = 0) -> Log:
        return self.put(*encode_marker(marker, run, 1), None, partition)

    def put(self, headers: Any, body: bytes, key: bytes | None, partition: int = 0) -> Log:
        self.messages.append(Message(partition, self.offset, key, headers, body))
        self.offset += 1
        return self

    def sorted(self, **known: Any) -> Batch:
        return sort_out(self.messages, view(**known))


def view(**known: Any) -> View:
    given: dict[str, Any] = {
        "owners": OWNERS,
        "marks": {},
        "generations": {partition: Generations() for partition in range(PARTITIONS)},
        "partitions": PARTITIONS,
        "parked": {},
        "holders": lambda _table, _ids: {},
    }
    return View(**given | known)


def points(batch: Batch, tenant: int = 1) -> list[int]:
    return [event.position.point for event in batch.events.get(tenant, ())]


def backfill(boundary: Literal["begin", "end"], inboxes: tuple[int, ...] | None) -> BackfillMarker:
    return BackfillMarker(
        id="b", boundary=boundary, tables=("messages",), inboxes=inboxes, start=at(1), start_read=at(1)
    )


def test_each_tenant_gets_the_events_of_its_inboxes_in_the_order_of_reading() -> None:
    batch = Log().change(MINE, 5).change(OTHERS, 6).change(MINE_TOO, 7).sorted()
    assert (points(batch, 1), points(batch, 2)) == ([5, 7], [6])
    first = batch.events[1][0]
    assert (first.inbox, first.partition, first.offset, first.op, first.table) == (MINE, 0, 10, "u", "messages")
    assert batch.ends == {0: 13}
    assert batch.counts.messages == 3


def test_events_of_an_inbox_that_nobody_owns_are_counted() -> None:
    batch = Log().change(NOBODYS, 5).change(NOBODYS, 6).sorted()
    assert batch.counts.unmapped == {NOBODYS: 2}
    assert not batch.events
    assert batch.ends == {0: 12}


# --- zombies


def test_an_older_run_than_its_partition_has_seen_is_a_zombie() -> None:
    old, new = Run(EPOCH, 100), Run(EPOCH, 200)
    batch = Log().change(MINE, 5, run=old).change(MINE, 6, run=new).change(MINE, 9, run=old).sorted()
    assert points(batch) == [5, 6]
    assert batch.counts.zombies == 1


def test_a_marker_of_a_new_run_is_enough_to_tell_a_zombie() -> None:
    batch = Log().marker(GenerationMarker(), Run(EPOCH, 200)).change(MINE, 9).sorted()
    assert (points(batch), batch.counts.zombies) == ([], 1)


def test_an_older_epoch_is_a_zombie_whatever_its_generation() -> None:
    batch = Log().change(MINE, 5, run=Run(EPOCH + 1, 1)).change(MINE, 9, run=Run(EPOCH, 999)).sorted()
    assert (points(batch), batch.counts.zombies) == ([5], 1)


def test_markers_of_a_zombie_say_nothing() -> None:
    log = Log().marker(GenerationMarker(), Run(EPOCH, 200)).marker(HeartbeatMarker(source_ms=9))
    batch = log.marker(backfill("end", None)).sorted()
    assert (batch.source_ms, dict(batch.events), batch.counts.zombies) == ({}, {}, 2)


def test_each_partition_has_seen_its_own_runs() -> None:
    log = Log().marker(GenerationMarker(), Run(EPOCH, 200)).change(MINE_ELSEWHERE, 9, partition=1)
    assert points(log.sorted()) == [9]


def test_a_worker_that_starts_again_knows_a_zombie_from_what_was_stored() -> None:
    stored = {0: Generations([(3, Run(EPOCH, 200))])}
    batch = Log().change(MINE, 9).sorted(generations=stored)
    assert (points(batch), batch.counts.zombies) == ([], 1)


def test_a_reading_that_starts_before_a_run_takes_what_stood_before_it() -> None:
    stored = {0: Generations([(3, RUN), (12, Run(EPOCH, 200))])}
    batch = Log().change(MINE, 5).change(MINE, 6).change(MINE, 7).sorted(generations=stored)
    assert (points(batch), batch.counts.zombies) == ([5, 6], 1)


def test_a_new_run_is_remembered_from_its_first_message_on() -> None:
    seen = {0: Generations()}
    Log().change(MINE, 5).change(MINE, 6).change(MINE, 7, run=Run(EPOCH, 200)).sorted(generations=seen)
    assert seen[0].new == [(10, RUN), (12, Run(EPOCH, 200))]


# --- what is applied already


def test_a_stretch_that_was_published_twice_is_applied_once() -> None:
    again = Run(EPOCH, 200)
    log = Log().change(MINE, 5).change(MINE, 6).change(MINE, 7)
    batch = log.change(MINE, 6, run=again).change(MINE, 7, run=again).change(MINE, 8, run=again).sorted()
    assert points(batch) == [5, 6, 7, 8]
    assert batch.counts.repeated == 2


def test_the_stored_mark_tells_a_stretch_that_an_earlier_batch_has_applied() -> None:
    batch = Log().change(MINE, 6).change(MINE, 7).change(MINE, 8).sorted(marks={(1, 0): Mark(10, at(7))})
    assert (points(batch), batch.counts.repeated) == ([8], 2)


def test_the_mark_of_one_tenant_or_partition_says_nothing_of_another() -> None:
    log = Log().change(MINE, 5).change(OTHERS, 6).change(MINE_ELSEWHERE, 7, partition=1)
    batch = log.sorted(marks={(1, 0): Mark(10, at(9))})
    assert (points(batch, 1), points(batch, 2)) == ([7], [6])


def test_read_rows_are_not_measured_by_the_streamed_mark_and_do_not_move_it() -> None:
    log = Log().change(MINE, 9).change(MINE, 5, op="r").change(MINE, 20, op="r").change(MINE, 10)
    batch = log.sorted(marks={(1, 0): Mark(10, at(8))})
    assert points(batch) == [9, 5, 20, 10]
    assert batch.counts.repeated == 0


def test_offsets_below_the_watermark_are_skipped_be_they_streamed_read_or_markers() -> None:
    log = Log().change(MINE, 50).change(MINE, 51, op="r").marker(backfill("end", (MINE,))).change(MINE, 53)
    batch = log.sorted(marks={(1, 0): Mark(13, at(7))})
    assert points(batch) == [53]
    assert batch.ends == {0: 14}


def test_what_is_skipped_does_not_move_the_streamed_mark() -> None:
    batch = Log().change(MINE, 50).change(MINE, 9).sorted(marks={(1, 0): Mark(11, at(8))})
    assert points(batch) == [9]


# --- broadcasts


def test_a_broadcast_goes_to_the_tenants_that_hold_the_row() -> None:
    asked: list[tuple[str, Sequence[int] | None]] = []

    def holders(table: str, ids: Sequence[int] | None) -> dict[int | None, list[int]]:
        asked.append((table, ids))
        return {7: [2]}

    batch = Log().change(None, 5, op="d").sorted(holders=holders)
    assert (points(batch, 1), points(batch, 2)) == ([], [5])
    assert batch.events[2][0].inbox is None
    assert asked == [("messages", [7])]


def test_who_holds_what_is_asked_once_for_a_table_however_many_broadcasts_there_are() -> None:
    asked: list[tuple[str, Sequence[int] | None]] = []

    def holders(table: str, ids: Sequence[int] | None) -> dict[int | None, list[int]]:
        asked.append((table, ids))
        return {None: [1]} if ids is None else {7: [1], 8: [2]}

    log = Log()
    for partition in range(PARTITIONS):
        log.change(None, 5, op="d", partition=partition).change(None, 6, op="d", key=b"[8]", partition=partition)
    log.change(None, 7, op="t", key=b"").change(None, 8, op="d", table="inboxes")
    batch = log.sorted(holders=holders)
    assert asked == [("inboxes", [7]), ("messages", [7, 8]), ("messages", None)]
    assert (points(batch, 1)[0], points(batch, 1)[-1], points(batch, 2)[0]) == (5, 8, 6)


def test_a_truncate_goes_to_the_tenants_that_hold_any_row() -> None:
    asked: list[Sequence[int] | None] = []

    def holders(_table: str, ids: Sequence[int] | None) -> dict[int | None, list[int]]:
        asked.append(ids)
        return {None: [1, 2]}

    batch = Log().change(None, 5, op="t", key=b"").sorted(holders=holders)
    assert (points(batch, 1), points(batch, 2), asked) == ([5], [5], [None])


def test_a_broadcast_goes_to_a_tenant_whose_row_is_in_the_same_batch() -> None:
    batch = Log().change(MINE, 5).change(None, 6, op="d").sorted()
    assert (points(batch, 1), points(batch, 2)) == ([5, 6], [])


def test_an_event_of_another_table_does_not_bring_a_broadcast() -> None:
    assert points(Log().change(MINE, 5).change(None, 6, op="d", table="conversations").sorted()) == [5]


def test_a_broadcast_is_one_event_for_a_tenant_that_holds_and_brings() -> None:
    assert points(Log().change(MINE, 5).change(None, 6, op="d").sorted(holders=lambda *_: {7: [1]})) == [5, 6]


def test_a_broadcast_that_was_applied_is_skipped() -> None:
    batch = Log().change(None, 5, op="d").sorted(holders=lambda *_: {7: [1]}, marks={(1, 0): Mark(10, at(5))})
    assert (points(batch), batch.counts.repeated) == ([], 1)


@pytest.mark.parametrize("key", [b"{", b'["a"]', b"5", b"[1,2]", b"[9223372036854775808]"])
def test_a_broadcast_of_a_key_that_the_target_can_not_have_concerns_nobody(key: bytes) -> None:
    batch = Log().change(MINE, 4).change(None, 5, op="d", key=key).sorted(holders=lambda *_: {7: [1]})
    assert (points(batch), batch.counts.unreadable) == ([4], 1)


# --- markers


def test_a_marker_goes_to_each_tenant_with_its_inboxes_of_this_partition() -> None:
    marker = backfill("begin", None)
    batch = Log().marker(marker).sorted()
    assert {tenant: [event.inboxes for event in events] for tenant, events in batch.events.items()} == {
        1: [(MINE, MINE_TOO)],
        2: [(OTHERS,)],
    }
    assert batch.events[1][0].marker == marker
    elsewhere = Log().marker(marker, partition=1).sorted()
    assert [event.inboxes for event in elsewhere.events[1]] == [(MINE_ELSEWHERE,)]
    assert 2 not in elsewhere.events


def test_a_marker_of_some_inboxes_goes_to_their_owners() -> None:
    batch = Log().marker(backfill("end", (MINE_TOO, NOBODYS, MINE_ELSEWHERE))).sorted()
    assert [event.inboxes for event in batch.events[1]] == [(MINE_TOO,)]
    assert 2 not in batch.events


def test_a_heartbeat_says_how_far_the_source_was() -> None:
    batch = Log().marker(HeartbeatMarker(source_ms=5)).marker(HeartbeatMarker(source_ms=8)).sorted()
    assert (batch.source_ms, dict(batch.events), batch.ends) == ({0: 8}, {}, {0: 12})


def test_a_marker_of_a_newer_replicator_stops_the_worker() -> None:
    headers, _ = encode_marker(GenerationMarker(), RUN, 1)
    with pytest.raises(LogTooNew, match="partition 0, offset 10") as raised:
        Log().put(headers, b'{"message":{"kind":"unheard of"}}', None).sorted()
    assert classify(raised.value).action is Action.STOP


@pytest.mark.parametrize("body", [b"xx", b"", b"[]", b'{"message":{"kind":"backfill"}}', b'{"message":{"kind":5}}'])
def test_a_marker_of_another_hand_is_counted(body: bytes) -> None:
    headers, _ = encode_marker(GenerationMarker(), RUN, 1)
    batch = Log().put(headers, body, None).sorted()
    assert (batch.counts.unreadable, dict(batch.events)) == (1, {})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"inboxes": other} for other in ("x", [f"{MINE}"], [2**63])),
        *({"keys": other} for other in (5, [1])),
        *({"start": [1.5, 1, 1]}, {"start_read": [1, 2**63, 1]}, {"spared": {"messages": [2**63]}}),
        *({"tables": None}, {"complete": "no"}, {"id": "\0"}),
    ],
)
def test_a_backfills_marker_of_other_types_is_counted_and_no_tenants(wrong: dict[str, Any]) -> None:
    headers, body = encode_marker(backfill("end", None), RUN, 1)
    envelope = orjson.loads(body)
    # Python's own JSON: the other one writes no number that a bigint can't hold.
    body = json.dumps({**envelope, "message": {**envelope["message"], **wrong}}).encode()
    batch = Log().change(MINE, 5).put(headers, body, None).change(MINE, 6).sorted()
    assert (batch.counts.unreadable, points(batch)) == (1, [5, 6])


@pytest.mark.parametrize("time", TIMES_THAT_ARE_NONE)
def test_a_heartbeat_that_says_no_time_is_counted(time: Any) -> None:
    batch = Log().marker(HeartbeatMarker(source_ms=5)).marker(HeartbeatMarker(source_ms=time)).sorted()
    assert (batch.counts.unreadable, batch.source_ms) == (1, {0: 5})


def test_the_begin_of_a_backfill_is_told_without_parsing() -> None:
    log = Log().marker(backfill("begin", None)).marker(backfill("end", None)).marker(GenerationMarker())
    log.change(MINE, 5).change(None, 5, op="d")
    assert [begins_backfill(message) for message in log.messages] == [True, False, False, False, False]


# --- parked tenants


def test_a_parked_tenant_is_left_to_its_own_reading() -> None:
    log = Log().change(MINE, 5).change(OTHERS, 6).change(MINE_ELSEWHERE, 7, partition=1).marker(backfill("end", None))
    batch = log.change(None, 8, op="d").sorted(parked={(1, 0)}, holders=lambda *_: {7: [1]})
    assert points(batch, 1) == [7]
    assert [event.op for event in batch.events[2]] == ["u", "m", "d"]


def test_a_reading_of_its_own_takes_one_tenant_alone_although_it_is_parked() -> None:
    log = Log().change(MINE, 5).change(OTHERS, 6).change(NOBODYS, 7).change(None, 8, op="d")
    batch = log.sorted(parked={(1, 0)}, only=1, holders=lambda *_: {7: [1, 2]})
    assert list(batch.events) == [1]
    assert points(batch) == [5, 8]
    assert not batch.counts.unmapped


# --- messages that are not ours

FOREIGN: list[Any] = [
    [],
    [("op", b"u")],
    [("op", b"u"), ("position", b"1:2"), ("generation", b"1")],
    [("op", b"u"), ("position", b"a:b:c"), ("generation", b"1")],
    [("op", b"\xff"), ("position", b"1:2:3"), ("generation", b"1")],
    [("op", None), ("position", b"1:2:3"), ("generation", b"1")],
    [("op", b"u"), ("position", None), ("generation", b"1")],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"")],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", None)],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"%d" % 2**63)],
    [("op", b"u"), ("position", b"%d:2:3" % 2**63), ("generation", b"1")],
    [("op", b"u"), ("position", b"1:2:-3"), ("generation", b"1")],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"1"), ("table", b"messages"), ("key", None)],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"1"), ("key", b"[7]"), ("absent", None)],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"1"), ("table", b"mess\0ages"), ("key", b"[7]")],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"1"), ("table", b"t" * 256), ("key", b"[7]")],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"1"), ("key", b"[7]"), ("schema", b"\0")],
    [("op", b"u"), ("position", b"1:2:3"), ("generation", b"1"), ("key", b"[7]"), ("error", b"too\0large")],
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("key", [None, b"", b"abc", b"-5", b"5 ", b"9" * 5000, b"%d" % NOBODYS])
def test_an_unreadable_message_of_nobody_is_counted(headers: Any, key: bytes | None) -> None:
    batch = Log().put(headers, b"", key).sorted()
    assert (batch.counts.unreadable, dict(batch.events), batch.ends) == (1, {}, {0: 11})


@pytest.mark.parametrize("headers", FOREIGN)
def test_an_unreadable_message_that_a_tenants_inbox_keys_is_an_event_without_a_row(headers: Any) -> None:
    batch = Log().put(headers, b"", b"%d" % MINE).sorted()
    (event,) = batch.events[1]
    assert event.error
    assert (event.inbox, event.is_read, batch.counts.unreadable) == (MINE, True, 0)


@pytest.mark.parametrize("more", [[], [("since", b"a later version")], [("table", b"messages")]])
def test_an_event_keeps_its_headers_as_they_came(more: Any) -> None:
    log = Log().change(MINE, 5)
    headers = [*log.messages[0].headers, *more]
    (event,) = log.put(headers, b"", b"%d" % MINE).sorted(marks={(1, 0): Mark(11, NOWHERE)}).events[1]
    assert event.headers == headers


def test_a_change_of_a_kind_that_is_not_known_is_nothing_else() -> None:
    log = Log().change(MINE, 5).change(MINE, 6).change(None, 7)
    for number in (1, 2):
        headers = [(name, b"z" if name == "op" else value) for name, value in log.messages[number].headers]
        log.messages[number] = log.messages[number]._replace(headers=headers)
    batch = log.sorted(holders=lambda *_: {7: [1]})
    known, unknown = batch.events[1]
    assert (known.error, bool(unknown.error), batch.counts.unreadable) == ("", True, 1)
    with pytest.raises(BadEvent, match="offset 11"):
        steps(batch.events[1])


@pytest.mark.parametrize("key", [b"abc", b"", b"9" * 19, b"-" + b"9" * 19, b"-0", b"007", b"+5", b" 5", b"1_0", b"5\n"])
def test_a_change_under_a_key_that_is_no_inbox_is_counted(key: bytes) -> None:
    log = Log().change(MINE, 5)
    log.messages[0] = log.messages[0]._replace(key=key)
    batch = log.sorted()
    assert (batch.counts.unreadable, dict(batch.events), batch.counts.unmapped) == (1, {}, {})


@pytest.mark.parametrize("inbox", [-5, 0, 2**63 - 1, -(2**63)])
def test_an_inbox_is_any_number_that_its_column_takes(inbox: int) -> None:
    batch = Log().change(inbox, 5).sorted()
    assert (batch.counts.unreadable, batch.counts.unmapped) == (0, {inbox: 1})


LATEST = pack_head(Head("u", "messages", b"[7]", Position(2**63 - 1, 5, 1), 2**63 - 1, "v", b"", False, ""))
"""Of a run that nothing is later than."""


def as_op(op: bytes) -> list[tuple[str, bytes]]:
    return [(name, op if name == "op" else value) for name, value in LATEST]


@pytest.mark.parametrize(
    ("op", "key", "body"),
    [
        (b"zzz", None, b""),
        (b"zzz", b"%d" % NOBODYS, b""),
        (b"zzz", b"%d" % MINE, b""),
        (b"", None, b""),
        (b"u", b"abc", b""),
        (b"u", b"", b""),
        (b"m", None, b"xx"),
        (b"m", None, b'{"message":{"kind":"backfill"}}'),
        (b"m", None, b'{"message":{"kind":"heartbeat","source_ms":-1}}'),
    ],
)
def test_the_run_of_a_message_that_is_not_ours_makes_nobody_a_zombie(op: bytes, key: bytes | None, body: bytes) -> None:
    seen = {0: Generations()}
    batch = Log().change(MINE, 5).put(as_op(op), body, key).change(MINE, 6).sorted(generations=seen)
    assert batch.counts.zombies == 0
    assert [event.position.point for event in batch.events[1] if not event.error] == [5, 6]
    assert seen[0].new == [(10, RUN)]


# --- where the tenant stands afterwards


def moved(events: list[Event], marks: dict[tuple[int, int], Mark]) -> dict[tuple[int, int], Any]:
    return dict(new_marks(1, events, ends_of(events), marks))


def test_the_mark_moves_to_the_last_streamed_change() -> None:
    old = Mark(10, at(3))
    events = Log().change(MINE, 5).change(MINE, 6).change(MINE, 50, op="r").sorted().events[1]
    assert moved(events, {(1, 0): old}) == {(1, 0): (old, Mark(13, at(6)), COMMITTED_MS + 6)}


def test_read_rows_alone_leave_the_streamed_position_where_it_was() -> None:
    old = Mark(10, at(3))
    events = Log().change(MINE, 50, op="r").sorted().events[1]
    assert moved(events, {(1, 0): old}) == {(1, 0): (old, Mark(11, at(3)), None)}
    assert moved(events, {}) == {(1, 0): (None, Mark(11, NOWHERE), None)}


def test_each_partition_has_a_mark_of_its_own() -> None:
    events = Log().change(MINE, 5).change(MINE_ELSEWHERE, 9, partition=1).sorted().events[1]
    assert moved(events, {}) == {
        (1, 0): (None, Mark(11, at(5)), COMMITTED_MS + 5),
        (1, 1): (None, Mark(12, at(9)), COMMITTED_MS + 9),
    }


def test_a_body_without_a_time_moves_the_mark_all_the_same() -> None:
    events = [event._replace(body=orjson.dumps({})) for event in Log().change(MINE, 5).sorted().events[1]]
    assert moved(events, {}) == {(1, 0): (None, Mark(11, at(5)), None)}


@pytest.mark.parametrize("time", TIMES_THAT_ARE_NONE)
def test_a_body_that_says_no_time_moves_the_mark_all_the_same(time: Any) -> None:
    body = orjson.dumps({"source": {"ts_ms": time}})
    events = [event._replace(body=body) for event in Log().change(MINE, 5).sorted().events[1]]
    assert moved(events, {}) == {(1, 0): (None, Mark(11, at(5)), None)}
