"""Columns that the source has and the target lacks: which, in how many rows they were left out, and how to get them.

Kept in the target, so that `consumers status` can say it. The counts are for people: what was counted since the last
`write` is lost when a worker is killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import structlog
from psycopg import Connection
from psycopg.rows import class_row

from consumers.identifiers import quoted
from consumers.relation import Relation

log = structlog.get_logger(__name__)

Column = tuple[str, str, str]
"""Table, name, and type in the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """One column that the target lacks."""

    relation: str
    name: str
    type: str
    """In the source; `text` if the target does not know that type."""
    rows: int
    first_seen: datetime
    last_seen: datetime


class SkippedColumns:
    """What a worker has left out since the last `write`."""

    def __init__(self) -> None:
        self._pending: Counter[Column] = Counter()
        self._named: set[Column] = set()

    def add(self, counts: Counter[Column]) -> None:
        self._pending.update(counts)

    def write(self, connection: Connection[Any]) -> None:
        """Names in the log what was not named before."""
        if not self._pending:
            return
        for (relation, name, kind), rows in sorted(self._pending.items()):
            connection.execute(
                "INSERT INTO replication_skipped_columns AS s (relation, name, type, rows) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (relation, name) DO UPDATE SET type = EXCLUDED.type, rows = s.rows + EXCLUDED.rows,"
                " last_seen = now()",
                [relation, name, kind, rows],
            )
        if self._pending.keys() - self._named:
            for table, statement in remedies(read(connection)).items():
                log.warning("columns.skipped", table=table, sql=statement, advice=ADVICE.format(table=table))
        self._named |= self._pending.keys()
        self._pending.clear()

    def forget_added(self, connection: Connection[Any], relations: Mapping[str, Relation]) -> None:
        """Those that the target has by now."""
        for relation in relations.values():
            connection.execute(
                "DELETE FROM replication_skipped_columns WHERE relation = %s AND name = ANY (%s)",
                [relation.name, list(relation.columns)],
            )
        self._named = {
            column for column in self._named if column[0] in relations and column[1] not in relations[column[0]].columns
        }


ADVICE = "Then `replicator backfill --all --table {table}` brings the values of rows that are there already."


def read(connection: Connection[Any]) -> list[Skipped]:
    """In order of tables; those that the target has got since are not among them."""
    return (
        connection.cursor(row_factory=class_row(Skipped))
        .execute(
            "SELECT relation, name, CASE WHEN to_regtype(type) IS NULL THEN 'text' ELSE type END AS type,"
            " rows, first_seen, last_seen FROM replication_skipped_columns AS s WHERE NOT EXISTS ("
            "SELECT FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(relation)) AND attname = s.name)"
            " ORDER BY relation, name"
        )
        .fetchall()
    )


def remedies(skipped: Iterable[Skipped]) -> dict[str, str]:
    """By table, what its owner may run to have the columns."""
    return {
        table: f"ALTER TABLE {quoted(table)} "
        + ", ".join(f"ADD COLUMN {quoted(column.name)} {column.type}" for column in columns)
        + ";"
        for table, columns in groupby(skipped, key=lambda column: column.relation)
    }
