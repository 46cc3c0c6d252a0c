"""Rows keep their values under their names, whatever happened to the table's columns."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.changes import Table, fill_from_old
from replicator.errors import ProtocolError, SourceRefused
from replicator.event import Origin
from replicator.pgoutput import ABSENT, Column, RawRow
from replicator.relations import STREAMED_BY_NAME
from replicator.values import JsonValue

TEXT, INT8, INT4, BOOL = 25, 20, 23, 16
TYPE_NAMES = {(TEXT, -1): "text", (INT8, -1): "bigint", (INT4, -1): "integer", (BOOL, -1): "boolean"}
ORIGIN = Origin(topic_prefix="acme", database="chatwoot", schema="public", table="messages")
MESSAGES = STREAMED_BY_NAME["messages"]
TYPES = {"id": INT8, "inbox_id": INT4, "content": TEXT, "private": BOOL, "secret": TEXT}


def columns(*names: str, identity: Sequence[str] = ("id",)) -> list[Column]:
    return [Column(name, TYPES.get(name, TEXT), -1, name in identity) for name in names]


def table(*names: str, identity: Sequence[str] = ("id",), excluded: frozenset[str] = frozenset()) -> Table:
    relation = replace(MESSAGES, excluded=excluded)
    return Table(relation, columns(*names, identity=identity), TYPE_NAMES, ORIGIN)


WHOLE = ("id", "inbox_id", "content", "private")
ROW: RawRow = [b"42", b"7", b"hi", b"t"]


def test_a_row_becomes_json_with_its_key_and_inbox() -> None:
    row = table(*WHOLE).render(ROW)
    assert orjson.loads(row.json) == {"id": 42, "inbox_id": 7, "content": "hi", "private": True}
    assert (row.key, row.inbox, row.absent) == (b"[42]", 7, b"")


@pytest.mark.parametrize(
    ("names", "row", "expected"),
    [
        ((*WHOLE, "added"), [*ROW, b"x"], {"content": "hi", "added": "x"}),
        (("id", "inbox_id", "private"), [b"42", b"7", b"t"], {}),
        (("id", "inbox_id", "renamed", "private"), ROW, {"renamed": "hi"}),
        (("private", "content", "inbox_id", "id"), ROW[::-1], {"content": "hi"}),
    ],
    ids=["added", "dropped", "renamed", "reordered"],
)
def test_values_never_shift_when_the_columns_change(
    names: tuple[str, ...], row: RawRow, expected: dict[str, str]
) -> None:
    drifted = table(*names)
    rendered = drifted.render(row)
    assert orjson.loads(rendered.json) == {"id": 42, "inbox_id": 7, "private": True, **expected}
    assert (rendered.key, rendered.inbox) == (b"[42]", 7)
    assert drifted.version != table(*WHOLE).version


@given(st.permutations(WHOLE))
def test_the_order_of_columns_means_nothing(order: list[str]) -> None:
    row = dict(zip(WHOLE, ROW, strict=True))
    rendered = table(*order).render([row[name] for name in order])
    assert orjson.loads(rendered.json) == {"id": 42, "inbox_id": 7, "content": "hi", "private": True}


@pytest.mark.parametrize("row", [ROW[:-1], [*ROW, b"x"], []])
def test_a_row_of_another_width_is_refused(row: RawRow) -> None:
    with pytest.raises(ProtocolError, match="columns"):
        table(*WHOLE).render(row)


@pytest.mark.parametrize("row", [[], [b"42"], [*ROW, b"x"]])
def test_an_old_row_of_another_width_is_refused(row: RawRow) -> None:
    with_old = table(*WHOLE, identity=WHOLE)
    for read in (with_old.render_old, with_old.key_of, with_old.inbox_of):
        with pytest.raises(ProtocolError, match="columns"):
            read(row)


def test_filling_from_an_old_row_of_another_width_is_refused() -> None:
    with pytest.raises(ProtocolError):
        fill_from_old([b"1", ABSENT], [b"1"])


@pytest.mark.parametrize(
    ("column", "garbled"),
    [("id", b"4s3cr3t"), ("id", b""), ("private", b"s3cr3t"), ("content", b"s3cr3t \xff"), ("inbox_id", b"s3cr3t")],
)
def test_a_garbled_value_is_refused_by_its_column_and_never_printed(column: str, garbled: bytes) -> None:
    """A UnicodeDecodeError carries the bytes, a ValueError or KeyError prints them."""
    row = [garbled if name == column else value for name, value in zip(WHOLE, ROW, strict=True)]
    everything = table(*WHOLE, identity=WHOLE)
    for read in (everything.render, everything.render_old):
        with pytest.raises(ProtocolError, match=rf"messages\.{column} ") as refused:
            read(row)
        assert "s3cr3t" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("key", "could"),
    [([42], True), (["42"], False), ([True], False), ([None], False), ([1 << 63], False), ([1, 2], False), ([], False)],
)
def test_a_key_is_known_by_the_types_of_its_columns(key: list[JsonValue], could: bool) -> None:
    """PostgreSQL finds row 42 for the text "42"; the event of that row has another key."""
    assert table(*WHOLE).could_have(key) is could


@pytest.mark.parametrize("lost", ["id", "inbox_id"])
def test_a_table_without_its_key_or_inbox_is_refused_by_name(lost: str) -> None:
    with pytest.raises(SourceRefused, match=rf"messages has no column {lost} any more"):
        table(*(name for name in WHOLE if name != lost))


def test_excluded_columns_appear_nowhere() -> None:
    hidden = table("id", "secret", "inbox_id", "other", identity=("id", "secret"), excluded=frozenset({"secret"}))
    row: RawRow = [b"1", b"s3cr3t", b"7", b"seen"]
    rendered = hidden.render(row)
    partial = hidden.render([b"1", ABSENT, b"7", ABSENT])
    everything = b"".join(
        [*rendered[2:], *partial[2:], hidden.render_old(row), hidden.schema.encode(), rendered.key, partial.key]
    )
    assert b"secret" not in everything
    assert b"s3cr3t" not in everything
    assert orjson.loads(rendered.json) == {"id": 1, "inbox_id": 7, "other": "seen"}
    assert partial.absent == b'["other"]'


def test_absent_is_not_null() -> None:
    row = table(*WHOLE).render([b"42", b"7", ABSENT, None])
    assert orjson.loads(row.json) == {"id": 42, "inbox_id": 7, "private": None}
    assert row.absent == b'["content"]'


def test_the_old_row_says_what_the_identity_carries_and_no_more() -> None:
    """The server fills the other columns of a key row with NULL, which is not their value."""
    by_index = table(*WHOLE, identity=("inbox_id", "id"))
    assert orjson.loads(by_index.render_old([b"42", b"7", None, None])) == {"id": 42, "inbox_id": 7}
    old = orjson.loads(table(*WHOLE, identity=WHOLE).render_old([b"42", None, b"hi", None]))
    assert old == {"id": 42, "inbox_id": None, "content": "hi", "private": None}


def test_the_old_row_fills_what_was_left_out_and_nothing_else() -> None:
    assert fill_from_old([b"1", ABSENT, None, b"new"], [b"1", b"kept", b"was", b"old"]) == [b"1", b"kept", None, b"new"]


def test_a_key_or_inbox_that_was_left_out_is_refused() -> None:
    rows: list[RawRow] = [[ABSENT, b"7", b"hi", b"t"], [b"42", ABSENT, b"hi", b"t"]]
    for row in rows:
        with pytest.raises(ProtocolError, match="without its key or inbox"):
            table(*WHOLE).render(row)


def test_a_cursor_is_the_values_of_its_columns_in_their_order() -> None:
    assert table(*WHOLE).cursor(ROW, ("inbox_id", "id")) == (7, 42)


def test_the_schema_names_types_in_the_rows_order() -> None:
    schema = table("inbox_id", "secret", "id", excluded=frozenset({"secret"})).schema
    assert schema.columns == (("inbox_id", "integer"), ("id", "bigint"))
    assert (schema.key, schema.inbox) == (("id",), "inbox_id")
