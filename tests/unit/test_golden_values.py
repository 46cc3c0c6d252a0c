"""From the bytes of a server to the bytes of an event: golden for every kind of value, and lossless for any.

`tests/golden/values-18.6.hex` is what a PostgreSQL 18.6 streamed for one table (a Relation, then Inserts, one frame a
line) with a column of each kind of `tests/integration/kinds.py`; `values.jsonl` holds (type OID, modifier, name) of its
columns, and then the row of each event.
"""

from __future__ import annotations

from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from replicator.changes import Table
from replicator.envelope import encode
from replicator.event import Cause, Head, Origin, Position, TableSchema, decode, pack_head, unpack_head
from replicator.pgoutput import ABSENT, Column, Insert, RawRow, Relation, decode_frame
from replicator.relations import STREAMED_BY_NAME

GOLDEN = Path(__file__).parents[1] / "golden"
FRAMES = [decode_frame(bytes.fromhex(line)) for line in (GOLDEN / "values-18.6.hex").read_text().splitlines()]
TYPES, *ROWS = (GOLDEN / "values.jsonl").read_bytes().splitlines()
ORIGIN = Origin(topic_prefix="acme", database="chatwoot", schema="public", table="messages")
NAMES = {(oid, modifier): name for oid, modifier, name in orjson.loads(TYPES)}


def relation() -> Relation:
    (found,) = (frame for frame in FRAMES if isinstance(frame, Relation))
    return found


def test_every_kind_of_value_has_its_golden_bytes() -> None:
    table = Table(STREAMED_BY_NAME["messages"], relation().columns, NAMES, ORIGIN)
    rendered = [table.render(frame.new).json for frame in FRAMES if isinstance(frame, Insert)]
    assert rendered == ROWS


def test_no_kind_of_value_shares_its_json_with_sql_null() -> None:
    """JSON's null, an empty text and an empty array are not the absence of a value."""
    *rows, last = map(orjson.loads, ROWS)
    assert {value for name, value in last.items() if name.startswith("kind_")} == {None}
    for frame, row in zip((frame for frame in FRAMES if isinstance(frame, Insert)), rows, strict=False):
        assert [raw is None for raw in frame.new] == [value is None for value in row.values()]


TEXT, INT8, INT4, BOOL = 25, 20, 23, 16
LIKE: dict[int, st.SearchStrategy[bytes]] = {
    TEXT: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(str.encode),
    INT8: st.integers(-(2**63), 2**63 - 1).map(lambda value: b"%d" % value),
    INT4: st.integers(-(2**31), 2**31 - 1).map(lambda value: b"%d" % value),
    BOOL: st.sampled_from([b"t", b"f"]),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Column], RawRow]:
    """Any columns in any order, and a row of theirs."""
    name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
    names = draw(st.lists(name.filter(lambda each: each not in ("id", "inbox_id")), unique=True, max_size=8))
    kinds = {each: draw(st.sampled_from([*LIKE])) for each in names} | {"id": INT8, "inbox_id": INT4}
    order = draw(st.permutations([*kinds]))
    row: RawRow = [
        draw(LIKE[kinds[each]] if each in ("id", "inbox_id") else LIKE[kinds[each]] | st.none() | st.just(ABSENT))
        for each in order
    ]
    return [Column(each, kinds[each], -1, each == "id") for each in order], row


def as_text(value: object) -> bytes | None:
    """What the server printed for a value of an event."""
    if value is None or isinstance(value, bool):
        return {None: None, True: b"t", False: b"f"}[value]
    return str(value).encode()


@given(tables())
def test_any_row_comes_back_from_its_event(given_: tuple[list[Column], RawRow]) -> None:
    columns, row = given_
    names = {(oid, -1): str(oid) for oid in LIKE}
    table = Table(STREAMED_BY_NAME["messages"], columns, names, ORIGIN)
    rendered = table.render(row)
    version = table.version
    head = Head("c", "messages", rendered.key, Position(1, 2, 3), 1, version, rendered.absent, False, "")
    body = decode(encode(head, table.origin, Cause(1, 2, 3, 4), b"null", rendered.json))
    said = unpack_head(pack_head(head))
    absent = orjson.loads(said.absent or b"[]")
    after = body["after"]
    assert [as_text(after[each.name]) if each.name in after else ABSENT for each in columns] == row
    assert {each.name for each in columns} == {*after, *absent}
    assert not {*after} & {*absent}
    assert orjson.loads(said.key) == [after["id"]]
    assert TableSchema.decode(table.schema.encode()) == table.schema
