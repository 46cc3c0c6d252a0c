"""What decides between several rows of one key is an integer: anything else is said, before a row is read."""

from __future__ import annotations

from typing import Any, cast

import pytest

from replicator.definitions import _derive
from replicator.pgoutput import Column
from replicator.relations import DerivedRelation
from replicator.source import Source
from tests.unit.test_derivation import INT8, derived

NUMERIC = 1700
VERSIONS = DerivedRelation(name="versions", select="SELECT * FROM v", key=("id",), inbox="inbox_id", newest="mark")


class Columns:
    """Stands for a source of which one column is of some type, or is not there."""

    def __init__(self, **mark: int) -> None:
        types = {"id": INT8, "inbox_id": INT8, **mark}
        self.columns = [Column(name, oid, -1, False) for name, oid in types.items()]

    def columns_of(self, select: str) -> list[Column]:
        return self.columns

    def type_names(self, types: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
        return dict.fromkeys(types, "of some type")


def test_a_column_that_is_no_integer_does_not_say_which_row_is_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.definitions.derive", lambda *_: derived("a").lineage)
    found: dict[str, Any] = {}
    for name, mark in {"numeric": {"mark": NUMERIC}, "integer": {"mark": INT8}, "absent": {}}.items():
        found[name] = _derive(cast(Source, Columns(**mark)), VERSIONS, derived("a").catalog, None)
    assert found.pop("numeric") == "its column mark is no integer"
    assert [each.relation for each in found.values()] == [VERSIONS, VERSIONS]
