"""Relations that the target has no table for: which, and how many changes of their rows came to nothing.

Kept in the target, so that `consumers status` can say it. The counts are for people: what was counted since the last
`write` is lost when a worker is killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from psycopg import Connection
from psycopg.rows import class_row

from consumers import metrics

log = structlog.get_logger(__name__)

ADVICE: Final = "`consumers setup` shows what it would make."


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One relation without a table."""

    relation: str
    changes: int
    first_seen: datetime
    last_seen: datetime


class MissingTables:
    """What a worker has passed over since the last `write`."""

    def __init__(self) -> None:
        self._pending: Counter[str] = Counter()
        self.names: frozenset[str] = frozenset()
        """Relations that were passed over and that the target still has no table for."""

    def add(self, counts: Counter[str]) -> None:
        """Names in the log what was not named before."""
        self._pending.update(counts)
        for relation, changes in counts.items():
            metrics.TABLELESS.labels(table=relation).inc(changes)
        for relation in sorted(counts.keys() - self.names):
            log.warning("relation.has_no_table", table=relation, advice=ADVICE)
        self.names |= counts.keys()

    def write(self, connection: Connection[Any]) -> None:
        for relation, changes in sorted(self._pending.items()):
            connection.execute(
                "INSERT INTO replication_missing_tables AS m (relation, changes) VALUES (%s, %s)"
                " ON CONFLICT (relation) DO UPDATE SET changes = m.changes + EXCLUDED.changes, last_seen = now()",
                [relation, changes],
            )
        self._pending.clear()

    def forget_made(self, connection: Connection[Any], relations: Iterable[str]) -> None:
        """Those that the target has by now."""
        connection.execute("DELETE FROM replication_missing_tables WHERE relation = ANY (%s)", [list(relations)])
        self.names -= frozenset(relations)


def read(connection: Connection[Any]) -> list[Missing]:
    """In order of their names; those that the target has got since are not among them."""
    return (
        connection.cursor(row_factory=class_row(Missing))
        .execute(
            "SELECT m.relation, m.changes, m.first_seen, m.last_seen FROM replication_missing_tables AS m"
            " WHERE NOT EXISTS (SELECT FROM replication_relations() AS r WHERE r.relation = m.relation)"
            " ORDER BY m.relation"
        )
        .fetchall()
    )
