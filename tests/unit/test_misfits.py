"""Which columns do not take an event's values, whoever wrote it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from consumers.misfits import misfits
from consumers.ordering import Event
from consumers.relation import Relation
from replicator import NOWHERE, TableSchema

COLUMNS = (("id", "bigint"), ("status", "integer"))
SCHEMA = TableSchema(table="conversations", columns=COLUMNS, key=("id",), inbox="")
RELATION = Relation(
    name="conversations",
    columns={"tenant_id": "integer", "id": "bigint", "status": "smallint"},
    documents=frozenset(),
    parents=(),
    children=(),
)


class Target:
    """Its columns of this name take nothing."""

    def __init__(self, narrow: str) -> None:
        self._narrow = narrow

    def execute(self, statement: bytes, given: dict[str, Any], *, prepare: bool) -> None:
        assert not prepare
        if f'r."{self._narrow}"'.encode() in statement:
            raise psycopg.errors.NumericValueOutOfRange


@pytest.mark.parametrize("more", [b"", b',"source":"\xff"'])
def test_the_columns_are_found_whatever_stands_beside_the_row(more: bytes) -> None:
    body = b'{"after":{"id":7,"status":99999}' + more + b"}"
    event = Event(0, 5, "u", "conversations", b"[7]", 1, NOWHERE, False, "v", b"", body, "", None, ())
    target: Any = Target("status")
    assert misfits(target, RELATION, event, lambda *_: SCHEMA) == [("status", "smallint", "integer")]
