"""A chunk holds no more bytes than it may by a few rows, be they as large as they will."""

from __future__ import annotations

from typing import Any, cast

import pytest
from psycopg import sql

from replicator.backfill_job import Chunk
from replicator.changes import Table
from replicator.chunk import FIRST_FETCH_ROWS, Limits, read_chunk
from replicator.pgoutput import Column
from replicator.relations import STREAMED_BY_NAME
from replicator.source import Source
from tests.unit.test_changes import ORIGIN

MESSAGES = STREAMED_BY_NAME["messages"]
COLUMNS = [Column("id", 20, -1, True), Column("inbox_id", 20, -1, False), Column("content", 25, -1, False)]
TABLE = Table(MESSAGES, COLUMNS, {(20, -1): "bigint", (25, -1): "text"}, ORIGIN)


class Table1000:
    """Stands for a session on a table of a thousand rows of one size: keeps how many were fetched at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.left = 1000
        self.fetched: list[int] = []
        self.pgresult = self
        self.nfields = len(COLUMNS)
        self.ntuples = 0

    def qualified(self, name: str) -> sql.Identifier:
        return sql.Identifier(name)

    def execute(self, statement: sql.Composed, parameters: Any = ()) -> Any:
        text = statement if isinstance(statement, str) else statement.as_string(None)
        if text.startswith("FETCH"):
            self.ntuples = min(int(text.split()[1]), self.left)
            self.left -= self.ntuples
            self.fetched.append(self.ntuples)
        return self

    def get_value(self, row: int, column: int) -> bytes:
        return b"x" * self._size if column == 2 else b"%d" % row


@pytest.mark.parametrize("size", [1, 1_000, 300_000, 5_000_000])
def test_the_size_of_its_rows_decides_how_many_are_fetched(size: int) -> None:
    session = Table1000(size)
    limit = 4_000_000
    rows, after = read_chunk(
        cast(Source, session),
        cast(Any, session),
        TABLE,
        MESSAGES,
        Chunk(table="messages", inbox=None, after=None),
        Limits(rows=2_000, bytes=limit),
    )
    assert rows
    read = sum(len(row.json) for row in rows)
    assert read <= max(limit * 1.3, FIRST_FETCH_ROWS * size * 1.1)
    assert (after is None) == (session.left == 0)
    assert len(session.fetched) < 10
