"""What a backfill is to read, and how far it is: a value that is kept in the state topic.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from replicator.event import Position
from replicator.relations import BY_NAME, STREAMED, StreamedRelation
from replicator.values import JsonValue

Cursor = tuple[JsonValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The next rows of a backfill: those of one table, perhaps of one inbox, after a cursor."""

    relation: StreamedRelation
    inbox: int | None
    after: Cursor | None
    by_key: bool = False
    """Though it is of one inbox: a row with NULL in a column of the scan is neither before nor after a cursor."""

    @property
    def order(self) -> tuple[str, ...]:
        """The unique columns that rows are read by."""
        return self.relation.key if self.inbox is None or self.by_key else self.relation.scan


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillJob:
    """One backfill: tables in order, within them inboxes in order (or all at once), within them a cursor."""

    id: str
    tables: tuple[str, ...]
    inboxes: tuple[int, ...] | None
    requested_ms: int
    start: Position | None = None
    """Where it began in the stream; None: it waits."""
    at_table: int = 0
    at_inbox: int = 0
    after: Cursor | None = None
    rows: int = 0
    expected: int | None = None
    """The planner's estimate of all its rows."""

    def chunk(self) -> Chunk | None:
        """What to read next; None: all is read."""
        if self.at_table >= len(self.tables) or self.inboxes == ():
            return None
        inbox = self.inboxes[self.at_inbox] if self.inboxes is not None else None
        relation = BY_NAME[self.tables[self.at_table]]
        by_key = self.after is not None and len(self.after) != len(relation.scan)  # goes on as it began
        return Chunk(relation=relation, inbox=inbox, after=self.after, by_key=by_key)

    def advanced(self, rows: int, after: Cursor | None) -> BackfillJob:
        """After a chunk of so many rows; `after` is None if it was the last of its table (and inbox)."""
        if after is not None:
            return replace(self, rows=self.rows + rows, after=after)
        if self.inboxes is not None and self.at_inbox + 1 < len(self.inboxes):
            return replace(self, rows=self.rows + rows, after=None, at_inbox=self.at_inbox + 1)
        return replace(self, rows=self.rows + rows, after=None, at_inbox=0, at_table=self.at_table + 1)

    def to_record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "tables": self.tables,
            "inboxes": self.inboxes,
            "requested_ms": self.requested_ms,
            "start": None if self.start is None else list(self.start),
            "at_table": self.at_table,
            "at_inbox": self.at_inbox,
            "after": self.after,
            "rows": self.rows,
            "expected": self.expected,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> BackfillJob:
        """The inverse of `to_record`. Raises KeyError for a record of another version."""
        return cls(
            id=record["id"],
            tables=tuple(record["tables"]),
            inboxes=None if record["inboxes"] is None else tuple(record["inboxes"]),
            requested_ms=record["requested_ms"],
            start=None if record["start"] is None else Position(*record["start"]),
            at_table=record["at_table"],
            at_inbox=record["at_inbox"],
            after=None if record["after"] is None else tuple(record["after"]),
            rows=record["rows"],
            expected=record["expected"],
        )


def in_capture_order(tables: Sequence[str] | None) -> tuple[str, ...]:
    """Known tables among these (None: all), parents before children."""
    return tuple(relation.name for relation in STREAMED if tables is None or relation.name in tables)
