"""The wire contract: golden bytes for every kind of event, and decoding as the inverse of encoding.

`tests/golden/events.json` holds the headers and the body of each event as they go to Kafka. A change there is a change
of the contract: consumers that are already running read what is written tomorrow.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.envelope import Envelope, encode
from replicator.event import (
    NOWHERE,
    VERSION,
    BackfillMarker,
    Cause,
    ClockColumn,
    GenerationMarker,
    Head,
    Headers,
    HeartbeatMarker,
    Marker,
    Origin,
    Position,
    Run,
    TableSchema,
    Topics,
    UnknownMarker,
    decode,
    decode_marker,
    encode_marker,
    pack_head,
    pack_key,
    row_of,
    unpack_head,
)
from replicator.request import BackfillRequest, CancelRequest, KeysRequest, Request, decode_request, encode_request

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden" / "events.json").read_text())

ORIGIN = Origin(topic_prefix="acme", database="chatwoot", schema="public", table="messages").render()
CAUSE = Cause(xid=4294967294, lsn=0x16_B374D848, committed_ms=1_760_000_000_001, seen_ms=1_760_000_000_042)
RUN = Run(1_760_000_000, 0x16_00000000)
NULL = b"null"
VALUES = {  # one of each kind, as `replicator.values` makes them
    "id": 9_223_372_036_854_775_807,
    "inbox_id": 7,
    "private": False,
    "content": 'café "quoted" \\ \n\u2028 \U0001f600',
    "price": "NaN",
    "created_at": "0044-03-15 12:00:00+00 BC",
    "ends_at": "infinity",
    "additional_attributes": '{"a": null, "b": "\\u0000"}',
    "json_null": "null",
    "sql_null": None,
    "tags": '{x,NULL,"y z"}',
    "digest": "\\xdeadbeef",
}
ROW = orjson.dumps(VALUES)
SCHEMA = "0123456789ab"


def head(op: str, **fields: Any) -> Head:
    whole = Head(
        op,  # type: ignore[arg-type]  # one of the letters
        "messages",
        b"[42]",
        Position(RUN.epoch, CAUSE.lsn, 7),
        RUN.generation,
        SCHEMA,
        b"",
        False,
        "",
    )
    return whole._replace(**fields)


def change(of: Head, before: bytes, after: bytes, moved_to: int | None = None) -> tuple[Headers, bytes]:
    _, point, ordinal = of.position
    headers = Envelope(of, ORIGIN).headers(of.key, point, ordinal, of.absent, of.error)
    return headers, encode(of, ORIGIN, CAUSE, before, after, moved_to)


BACKFILL = BackfillMarker(
    id="3f2a",
    boundary="begin",
    tables=("conversations", "messages", "contacts"),
    derived=("contacts",),
    is_complete=True,
    inboxes=(7, 8),
    start=Position(RUN.epoch, 5, 0),
    start_read=Position(*RUN, 0),
    spared={"contacts": (11, 12)},
)
MARKERS: dict[str, Marker] = {
    "marker: generation": GenerationMarker(),
    "marker: heartbeat": HeartbeatMarker(source_ms=1_760_000_000_123),
    "marker: backfill begins": BACKFILL,
    "marker: backfill of every inbox ends": replace(BACKFILL, boundary="end", inboxes=None),
}
OLD = b'{"id":42,"inbox_id":7}'
EVENTS: dict[str, tuple[Headers, bytes]] = {
    "create": change(head("c"), NULL, ROW),
    "update": change(head("u"), NULL, ROW),
    "update with old values": change(head("u"), OLD, ROW),
    "update without an unchanged TOAST value": change(
        head("u", absent=b'["content"]'), NULL, b'{"id":42,"inbox_id":7}'
    ),
    "move: the half that leaves": change(
        head("d", position=Position(RUN.epoch, CAUSE.lsn, 6), schema=""), OLD, NULL, moved_to=8
    ),
    "move: the row": change(head("u"), OLD, b'{"id":42,"inbox_id":8}'),
    "delete": change(head("d", schema=""), OLD, NULL),
    "read": change(head("r", is_read=True, position=Position(RUN.epoch, CAUSE.lsn - 1, 1)), NULL, ROW),
    "read: the key does not exist": change(head("d", is_read=True, schema=""), NULL, NULL),
    "truncate": change(head("t", key=b"", schema=""), NULL, NULL),
    "too large": change(head("u", error="too-large"), NULL, NULL),
    **{name: encode_marker(marker, RUN, 0x16_B374D900) for name, marker in MARKERS.items()},
}


def test_the_golden_file_holds_every_case() -> None:
    assert GOLDEN.keys() == EVENTS.keys()


@pytest.mark.parametrize("name", EVENTS)
def test_bytes_are_golden(name: str) -> None:
    headers, body = EVENTS[name]
    assert [[key, value.decode()] for key, value in headers] == GOLDEN[name]["headers"]
    assert body.decode().replace(f'"version":"{VERSION}"', '"version":"0.1.0"') == GOLDEN[name]["body"]


def changes() -> list[str]:
    return [name for name in EVENTS if name not in MARKERS]


@pytest.mark.parametrize("name", changes())
def test_headers_say_what_the_body_says(name: str) -> None:
    """A reader that never parses a body must not judge otherwise than one that does."""
    headers, body = EVENTS[name]
    said, envelope = unpack_head(headers), decode(body)
    ours = envelope["replication"]
    assert said.op == envelope["op"]
    assert said.table == envelope["source"]["table"]
    assert said.position == Position(ours["epoch"], ours["point"], ours["ordinal"])
    assert said.run == Run(ours["epoch"], ours["generation"])
    assert said.schema == ours["schema"]
    assert orjson.loads(said.absent or b"null") == ours.get("absent")
    assert said.is_read == (envelope["source"]["snapshot"] == "incremental")
    assert said.error == ours.get("error", "")


def test_every_kind_of_value_comes_back() -> None:
    assert decode(EVENTS["create"][1])["after"] == VALUES


@pytest.mark.parametrize("name", changes())
def test_whatever_reads_debezium_reads_this(name: str) -> None:
    """Names and JSON types of Debezium's PostgreSQL connector, "Data change events"."""
    envelope = decode(EVENTS[name][1])
    assert list(envelope) == ["before", "after", "op", "ts_ms", "source", "replication"]
    assert envelope["op"] in {"c", "u", "d", "r", "t"}
    assert isinstance(envelope["ts_ms"], int)
    types = {key: type(value) for key, value in envelope["source"].items()}
    assert types == {
        **dict.fromkeys(("version", "connector", "name", "db", "schema", "table"), str),
        **dict.fromkeys(("txId", "lsn", "ts_ms"), int),
        "snapshot": str,
    }
    assert envelope["source"]["snapshot"] in {"true", "first", "last", "false", "incremental"}


def test_a_name_with_a_quote_stays_a_name() -> None:
    origin = Origin(topic_prefix='a"b', database="c\\d", schema="é", table="messages").render()
    source = decode(encode(head("c"), origin, CAUSE, NULL, ROW))["source"]
    assert (source["name"], source["db"], source["schema"]) == ('a"b', "c\\d", "é")


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b'{"a":NaN}'])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode(body)


@pytest.mark.parametrize("name", MARKERS)
def test_a_marker_comes_back(name: str) -> None:
    headers, body = EVENTS[name]
    assert decode_marker(body) == MARKERS[name]
    said = unpack_head(headers)
    assert (said.op, said.run, said.is_read, said.key) == ("m", RUN, True, b"")


def test_a_marker_of_a_later_version_is_refused() -> None:
    with pytest.raises(UnknownMarker, match="older than the replicator"):
        decode_marker(b'{"op":"m","message":{"kind":"weather"}}')


WRONG: list[tuple[str, Any]] = [
    *(("id", other) for other in (None, 5, ["x"], "a\0b")),
    *(("boundary", other) for other in (None, "middle", [], {})),
    *((name, other) for name in ("tables", "derived") for other in (None, "messages", {}, [None], ["a\0"], [["a"]])),
    *(("complete", other) for other in (None, 0, "", "no")),
    *(("inboxes", other) for other in ("x", 5, {}, ["7"], [True], [7.0], [None], [2**63], [-(2**63) - 1], [[7]])),
    *(("keys", other) for other in (5, "12", [], [1], [1, 2, 3], [1, "2"], [1.5, 2], [1, 2**63], {"a": 1, "b": 2})),
    *(
        (name, other)
        for name in ("start", "start_read")
        for other in (None, "123", 1, [], [1, 2], [1, 2, 3, 4], [1.5, 2, 3], ["1", 2, 3], [1, -2, 3], [1, 2, 2**63])
    ),
    *(("spared", other) for other in (None, [], [2**63], {"contacts": 5}, {"contacts": "12"}, {"contacts": [2**63]})),
    *(("spared", other) for other in ({"contacts": [True]}, {"contacts": [1.5]}, {"a\0": [1]}, "x")),
]


@pytest.mark.parametrize(("name", "other"), WRONG)
def test_a_marker_of_other_types_is_refused(name: str, other: Any) -> None:
    envelope = decode(EVENTS["marker: backfill begins"][1])
    assert name in envelope["message"]
    with pytest.raises(ValueError) as raised:
        decode_marker(json.dumps({**envelope, "message": {**envelope["message"], name: other}}).encode())
    assert not isinstance(raised.value, UnknownMarker)


@pytest.mark.parametrize("name", list(decode(EVENTS["marker: backfill begins"][1])["message"]))
def test_a_marker_that_lacks_a_field_is_refused(name: str) -> None:
    envelope = decode(EVENTS["marker: backfill begins"][1])
    del envelope["message"][name]
    with pytest.raises(ValueError):
        decode_marker(orjson.dumps(envelope))


@pytest.mark.parametrize(
    "body",
    [b"", b"xx", b"[]", b"5", b'"message"', b"null", b"{}", b'{"message":null}', b'{"message":[]}', b'{"message":"x"}']
    + [b'{"message":{}}', b'{"message":{"kind":null}}', b'{"message":{"kind":["backfill"]}}']
    + [b'{"message":{"kind":"heartbeat","source_ms":%s}}' % other for other in (b"1.5", b'"5"', b"true", b"null")]
    + [b'{"message":{"kind":"heartbeat","source_ms":9223372036854775808}}', b'{"message":{"kind":"heartbeat"}}']
    + [b"[" * 2000],
)
def test_what_is_no_marker_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError) as raised:
        decode_marker(body)
    assert not isinstance(raised.value, UnknownMarker)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b'"x"',
        b"null",
        b"{}",
        b'{"kind":"weather"}',
        b'{"kind":"backfill","id":"x"}',
        b'{"kind":"backfill","id":"x","tables":"messages","inboxes":null,"known":""}',
        b'{"kind":"backfill","id":"x","tables":null,"inboxes":"12","known":""}',
        b'{"kind":"backfill","id":"x","tables":null,"inboxes":["12"],"known":""}',
        b'{"kind":"backfill","id":"x","tables":null,"inboxes":[true],"known":""}',
        b'{"kind":"backfill","id":1,"tables":null,"inboxes":null,"known":""}',
        b'{"kind":"keys","table":"messages","inbox":"7","keys":[[1]]}',
        b'{"kind":"keys","table":"messages","inbox":7.5,"keys":[[1]]}',
        b'{"kind":"keys","table":"messages","inbox":7,"keys":["12"]}',
        b'{"kind":"keys","table":"messages","inbox":7,"keys":"12"}',
        b'{"kind":"keys","table":"messages","inbox":7,"keys":[[[1]]]}',
        b'{"kind":"keys","table":"messages","inbox":7,"keys":[[1.5]]}',
        b'{"kind":"keys","table":"messages","inbox":7,"keys":[{"id":1}]}',
    ],
)
def test_what_is_no_request_is_refused(record: bytes) -> None:
    """With one of the faults that the reader of the control topic passes over."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_request(record)


def test_headers_that_are_not_ours_are_refused() -> None:
    with pytest.raises(KeyError):
        unpack_head([("op", b"c")])
    with pytest.raises(ValueError):
        unpack_head([("op", b"c"), ("position", b"1:2"), ("generation", b"1")])


INTS = st.integers(0, 2**63 - 1)
NAMES = st.text(min_size=1, max_size=10).filter(lambda text: text.isprintable())
POSITIONS = st.builds(Position, INTS, INTS, INTS)
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none() | NAMES, min_size=1, max_size=3)
HEADS = st.builds(
    Head,
    st.sampled_from("cudrtm"),
    st.just("") | NAMES,
    st.just(b"") | KEYS.map(pack_key),
    POSITIONS,
    INTS,
    st.just("") | NAMES,
    st.just(b"") | st.lists(NAMES, min_size=1).map(orjson.dumps),
    st.booleans(),
    st.just("") | NAMES,
)
MAYBE_INBOXES = st.none() | st.lists(INTS).map(tuple)
REQUESTS = (
    st.builds(
        BackfillRequest,
        id=NAMES,
        tables=st.none() | st.lists(NAMES).map(tuple),
        inboxes=MAYBE_INBOXES,
        keys=st.none() | st.tuples(INTS, INTS),
        known=NAMES,
    )
    | st.builds(CancelRequest, id=NAMES)
    | st.builds(KeysRequest, table=NAMES, inbox=INTS, keys=st.lists(KEYS.map(tuple)).map(tuple))
)


@given(HEADS)
def test_any_head_comes_back(any_head: Head) -> None:
    assert unpack_head(pack_head(any_head)) == any_head


AWKWARD = st.sampled_from(["after", "op", "before", ',"after":{', '},"op":"', '"', "\\", "\\\\", '{"op":"u"},'])
COLUMNS = st.dictionaries(NAMES | AWKWARD, NAMES | AWKWARD | INTS | st.booleans() | st.none(), max_size=6)


@given(HEADS, st.none() | COLUMNS, COLUMNS)
def test_a_row_is_cut_out_of_any_body(any_head: Head, before: dict[str, Any] | None, after: dict[str, Any]) -> None:
    assert row_of(encode(any_head, ORIGIN, CAUSE, orjson.dumps(before), orjson.dumps(after))) == orjson.dumps(after)


def test_a_row_is_found_in_a_body_that_another_hand_made() -> None:
    assert row_of(b'{ "op": "u", "after": {"id": 1} }') == b'{"id":1}'


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"after":', b'{"after":null}', b'{"before":{"after":{}}}'])
def test_a_body_without_a_row_has_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        row_of(body)


@given(HEADS, HEADS)
def test_an_envelope_serves_every_row_of_its_kind(one: Head, other: Head) -> None:
    """Nothing of the event that it was made for is left in it, and its headers are the contract's."""
    alike = one._replace(key=other.key, absent=other.absent, error=other.error)
    alike = alike._replace(position=other.position._replace(epoch=one.position.epoch))
    _, point, ordinal = alike.position
    assert Envelope(one, ORIGIN).headers(alike.key, point, ordinal, alike.absent, alike.error) == pack_head(alike)
    said = (CAUSE, NULL, NULL, point, ordinal)
    bodies = [Envelope(head, ORIGIN).body(*said, alike.absent, 8, alike.error) for head in (one, alike)]
    assert bodies[0] == bodies[1]


@given(st.text())
def test_a_database_may_have_any_name(name: str) -> None:
    origin = Origin(topic_prefix=name, database=name, schema=name, table="messages").render()
    source = decode(encode(head("c"), origin, CAUSE, NULL, ROW))["source"]
    assert (source["name"], source["db"], source["schema"]) == (name, name, name)


@given(POSITIONS, POSITIONS)
def test_any_position_comes_back_and_keeps_its_order(one: Position, other: Position) -> None:
    assert Position.unpack(one.pack()) == one
    assert (one < other) == ((one.epoch, one.point, one.ordinal) < (other.epoch, other.point, other.ordinal))


def test_an_epoch_outweighs_a_point_and_a_point_an_ordinal() -> None:
    assert NOWHERE < Position(1, 9, 9) < Position(2, 1, 9) < Position(2, 2, 1)


@given(REQUESTS)
def test_any_request_comes_back(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@given(
    st.builds(
        BackfillMarker,
        id=NAMES,
        boundary=st.sampled_from(["begin", "end"]),
        tables=st.lists(NAMES).map(tuple),
        derived=st.lists(NAMES).map(tuple),
        is_complete=st.booleans(),
        spared=st.dictionaries(NAMES, st.lists(st.integers(1, 9)).map(tuple)),
        inboxes=MAYBE_INBOXES,
        start=POSITIONS,
        start_read=POSITIONS,
    )
)
def test_any_backfill_marker_comes_back(marker: BackfillMarker) -> None:
    assert decode_marker(encode_marker(marker, RUN, 1)[1]) == marker


@given(KEYS, KEYS)
def test_keys_are_equal_bytes_only_if_they_are_equal(one: list[Any], other: list[Any]) -> None:
    same = [(type(each), each) for each in one] == [(type(each), each) for each in other]
    assert (pack_key(one) == pack_key(other)) == same


TABLE = TableSchema(
    table="messages", columns=(("id", "bigint"), ("inbox_id", "integer")), key=("id",), inbox="inbox_id"
)


def test_the_version_of_the_same_columns_never_changes() -> None:
    """Written down, because it must be the same in every run and in every release."""
    assert TABLE.version == "ec475090686a"
    assert TableSchema.decode(TABLE.encode()) == TABLE


def test_the_clock_and_the_order_of_a_derived_relation_come_back() -> None:
    clock = ClockColumn("days", "integer", "timezone('UTC', now())::date - day")
    derived = replace(TABLE, inbox="", is_derived=True, clock=(clock,), order=("id", "days", "inbox_id"))
    assert TableSchema.decode(derived.encode()) == derived
    assert derived.version != TABLE.version


@pytest.mark.parametrize(
    "other",
    [
        replace(TABLE, table="notes"),
        replace(TABLE, key=("inbox_id", "id")),
        replace(TABLE, inbox="id"),
        replace(TABLE, columns=TABLE.columns[:1]),
        replace(TABLE, columns=TABLE.columns[::-1]),
        replace(TABLE, columns=(*TABLE.columns, ("note", "text"))),
        replace(TABLE, columns=(("id", "bigint"), ("inbox", "integer"))),
        replace(TABLE, columns=(("id", "bigint"), ("inbox_id", "bigint"))),
    ],
)
def test_the_version_changes_with_any_column(other: TableSchema) -> None:
    assert other.version != TABLE.version
    assert TableSchema.decode(other.encode()) == other


@pytest.mark.parametrize(
    "wrong",
    [{"table": other} for other in (None, 5, ["messages"], "a\0")]
    + [{"columns": other} for other in (None, "id", ["ab"], [["id"]], [["id", 5]], [["id", "bigint", "x"]], {"id": 1})]
    + [{"key": other} for other in (None, "id", [5], [None])]
    + [{"inbox": None}, {"derived": 0}, {"order": "id"}, {"unstable": None}]
    + [{"clock": other} for other in (None, ["abc"], [["a", "b"]], [["a", "b", 5]], [["a", "b", "c", "d"]])],
)
def test_a_schema_of_other_types_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TableSchema.decode(orjson.dumps({**orjson.loads(TABLE.encode()), **wrong}))


@pytest.mark.parametrize("record", [b"", b"xx", b"\xff", b"[]", b"5", b"null", b'"table"', b"{}", b'{"table":"x"}'])
def test_what_is_no_schema_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError):
        TableSchema.decode(record)


def test_topics_have_the_names_that_operators_grant() -> None:
    topics = Topics("acme")
    names = (topics.changes, topics.schemas, topics.state, topics.control)
    assert names == ("acme.changes", "acme.schemas", "acme.state", "acme.control")
