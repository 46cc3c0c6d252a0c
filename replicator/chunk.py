"""Reads one chunk of a streamed table: by keyset, never OFFSET, or by a list of keys.

Relies on an open REPEATABLE READ transaction. Values are taken as the text that PostgreSQL printed, under the column
types of the catalogue, so a backfilled row is rendered exactly as a streamed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.pq.abc import PGresult

from replicator.backfill_job import Chunk, Cursor
from replicator.changes import RenderedRow, Table
from replicator.relations import StreamedRelation
from replicator.source import Source, identifier
from replicator.values import JsonValue

FIRST_FETCH_ROWS = 10
"""Until the size of a row is known; then as many are fetched as should fill the chunk, so that its limit in bytes holds
also for rows of 1 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    rows: int
    bytes: int


def scope(relation: StreamedRelation, chunk: Chunk) -> tuple[sql.Composed, list[Any]]:
    """The WHERE clause of a chunk, and its parameters."""
    order = relation.key if chunk.by_key else relation.order(chunk.inbox)
    conditions: list[sql.Composable] = []
    parameters: list[Any] = []
    if chunk.inbox is not None:
        conditions.append(sql.SQL("{} = %s").format(sql.Identifier(relation.inbox)))
        parameters.append(chunk.inbox)
    if chunk.keys is not None:
        conditions.append(sql.SQL("{} BETWEEN %s AND %s").format(sql.Identifier(*relation.key)))
        parameters.extend(chunk.keys)
    if chunk.after is not None:
        conditions.append(
            sql.SQL("({}) > ({})").format(_columns(order), sql.SQL(", ").join([sql.SQL("%s")] * len(order)))
        )
        parameters.extend(chunk.after)
    return sql.SQL(" AND ").join(conditions or [sql.SQL("true")]), parameters


def read_chunk(
    source: Source,
    connection: Connection[Any],
    table: Table,
    relation: StreamedRelation,
    chunk: Chunk,
    limits: Limits,
) -> tuple[list[RenderedRow], Cursor | None]:
    """The chunk's rows, and the cursor after them; None: there are no more."""
    where, parameters = scope(relation, chunk)
    order = relation.key if chunk.by_key else relation.order(chunk.inbox)
    statement = sql.SQL("DECLARE chunk NO SCROLL CURSOR FOR SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {}").format(
        _columns(_names(table)),
        source.qualified(relation.name),
        where,
        _columns(order),
        sql.Literal(limits.rows),
    )
    connection.execute(statement, parameters)
    rows: list[RenderedRow] = []
    size = 0
    raw: list[bytes | None] = []
    fetch = FIRST_FETCH_ROWS
    while size < limits.bytes:
        fetched = _rows(connection, sql.SQL("FETCH {} FROM chunk").format(sql.Literal(fetch)), ())
        for raw in fetched:
            row = table.render(list(raw))
            size += len(row.json)
            rows.append(row)
        if len(fetched) < fetch:
            break
        fetch = max(1, min(fetch * 10, (limits.bytes - size) * len(rows) // size))
    ended = size < limits.bytes and len(rows) < limits.rows
    connection.execute("CLOSE chunk")
    return rows, None if ended or not rows else table.cursor(list(raw), order)


def read_keys(
    source: Source, connection: Connection[Any], table: Table, keys: Sequence[Sequence[JsonValue]]
) -> list[RenderedRow]:
    """The rows of these keys that exist."""
    relation = table.relation
    one = sql.SQL("({})").format(sql.SQL(", ").join([sql.SQL("%s")] * len(relation.key)))
    statement = sql.SQL("SELECT {} FROM {} WHERE ({}) IN ({})").format(
        _columns(_names(table)),
        source.qualified(relation.name),
        _columns(relation.key),
        sql.SQL(", ").join([one] * len(keys)),
    )
    found = _rows(connection, statement, [value for key in keys for value in key])
    return [table.render(list(raw)) for raw in found]


def lock_against_ddl(source: Source, connection: Connection[Any], relation: StreamedRelation) -> None:
    """Until the transaction ends the columns stay as the catalogue has them; reading and writing go on."""
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(source.qualified(relation.name)), ())


def raw_rows(result: PGresult) -> list[list[bytes | None]]:
    """Values as the text that PostgreSQL printed."""
    width = range(result.nfields)
    return [[result.get_value(i, j) for j in width] for i in range(result.ntuples)]


def _rows(connection: Connection[Any], statement: sql.Composed, parameters: Any) -> list[list[bytes | None]]:
    result = connection.execute(statement, parameters).pgresult
    return raw_rows(result) if result is not None else []


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(identifier, names))


def _names(table: Table) -> list[str]:
    return [name for name, _ in table.schema.columns]
