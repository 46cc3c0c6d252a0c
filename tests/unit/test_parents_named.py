"""What is read out of a row before it is staged: the ids of its parents, and nothing that only looks like one."""

from __future__ import annotations

import orjson
import pytest

from consumers.forms import Forms
from consumers.ordering import Rows, Upsert
from consumers.relation import Relation
from consumers.staging import pack
from replicator import Position, TableSchema

NAMED = "parent_id"
CHILD = Relation(
    name="children",
    columns={"id": "integer", NAMED: "integer", "other_id": "bigint", "text": "text", 'odd"': "text"},
    documents=frozenset(),
    parents=((NAMED, "parents"), ("other_id", "others")),
    children=(),
)
GRAPH = {name: Relation(name=name, columns={}, documents=frozenset(), parents=(), children=()) for name in "ab"}
RELATIONS = {"children": CHILD, "parents": GRAPH["a"], "others": GRAPH["b"]}
SCHEMA = TableSchema(table="children", columns=tuple(CHILD.columns.items()), key=("id",), inbox="")


def parents(row: bytes) -> bytes:
    """As they are staged."""
    lines: list[bytes] = []
    step = Rows({"children": [Upsert(1, 7, Position(1, 2, 3), "v", b"", b'{"after":%b}' % row)]})
    pack(step, b"1\t0", Forms(RELATIONS), lambda *_: SCHEMA, None, lines)
    return lines[0].split(b"\t")[8]


@pytest.mark.parametrize(
    ("value", "staged"), [(5, b"5"), (-5, b"-5"), (2**63 - 1, b"9223372036854775807"), (None, b"null"), ("5", b"5")]
)
def test_a_parent_is_named_by_a_number_or_a_string_of_one(value: object, staged: bytes) -> None:
    assert parents(orjson.dumps({"id": 1, NAMED: value, "other_id": 6})) == b"{%b,6}" % staged


def test_what_a_row_does_not_say_is_null() -> None:
    assert parents(b'{"id":1}') == b"{null,null}"


@pytest.mark.parametrize("text", ['"parent_id":9', ',"parent_id":9', '"', "\\", '\\"parent_id":9', "parent_id"])
def test_text_names_no_parent(text: str) -> None:
    assert parents(orjson.dumps({"text": text, NAMED: 5, "other_id": None})) == b"{5,null}"
    assert parents(orjson.dumps({f'odd"{NAMED}': 9, "text": text, NAMED: 5})) == b"{5,null}"


def test_what_is_no_number_is_left_to_the_server_to_refuse() -> None:
    assert parents(orjson.dumps({NAMED: "7.000"})) == b"{7.000,null}"
