"""What a backfill is to read, and how far it is: a value that is kept in the state topic.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from replicator.event import Position
from replicator.values import JsonValue

Cursor = tuple[JsonValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The next rows of a backfill: those of one table, perhaps of one inbox, after a cursor."""

    table: str
    inbox: int | None
    after: Cursor | None
    keys: tuple[int, int] | None = None
    """Only those between these, both included."""
    by_key: bool = False
    """Though it is of one inbox: a row with NULL in a column of the scan is neither before nor after a cursor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """One change that concerns many keys: they are read in the background, and nothing is swept."""

    path: str
    start: tuple[JsonValue, ...]
    inboxes: tuple[int, ...]
    """Where the change's row was and is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillJob:
    """One backfill: tables in order, within them inboxes in order (or all at once), within them a cursor."""

    id: str
    tables: tuple[str, ...]
    inboxes: tuple[int, ...] | None
    requested_ms: int
    keys: tuple[int, int] | None = None
    """Only rows whose key lies between these, both included."""
    is_complete: bool = False
    """It reads every captured relation."""
    start: Position | None = None
    """Where it began in the stream; None: it waits."""
    start_read: Position | None = None
    """And among the reads of derived relations: kept, because a later run's reads count from another generation."""
    at_table: int = 0
    at_inbox: int = 0
    after: Cursor | None = None
    rows: int = 0
    expected: int | None = None
    """The planner's estimate of all its rows."""
    catches_up: bool = False
    """It follows a change of the stream: until it ends the stream's rows are not all there."""
    fan_out: FanOut | None = None
    """Set: only the keys that this leads to."""

    def chunk(self) -> Chunk | None:
        """What to read next; None: all is read."""
        if self.at_table >= len(self.tables) or self.inboxes == ():
            return None
        inbox = self.inboxes[self.at_inbox] if self.inboxes is not None else None
        return Chunk(table=self.tables[self.at_table], inbox=inbox, after=self.after, keys=self.keys)

    def advanced(self, rows: int, after: Cursor | None) -> BackfillJob:
        """After a chunk of so many rows; `after` is None if it was the last of its table (and inbox)."""
        if after is not None:
            return replace(self, rows=self.rows + rows, after=after)
        if self.inboxes is not None and self.at_inbox + 1 < len(self.inboxes):
            return replace(self, rows=self.rows + rows, after=None, at_inbox=self.at_inbox + 1)
        return replace(self, rows=self.rows + rows, after=None, at_inbox=0, at_table=self.at_table + 1)

    def later(self) -> BackfillJob:
        """With the table that it has come to behind the others, from its beginning."""
        done, at, left = self.tables[: self.at_table], self.tables[self.at_table], self.tables[self.at_table + 1 :]
        return replace(self, tables=(*done, *left, at), at_inbox=0, after=None)

    def limited_to(self, captured: Collection[str]) -> BackfillJob:
        """Without tables that are not captured any more: nobody can read them, and nothing of them is to be swept."""
        tables = tuple(name for name in self.tables if name in captured)
        if tables == self.tables:
            return self
        done = sum(name in captured for name in self.tables[: self.at_table])
        goes_on = self.at_table < len(self.tables) and self.tables[self.at_table] in captured
        after, at_inbox = (self.after, self.at_inbox) if goes_on else (None, 0)
        return replace(self, tables=tables, at_table=done, after=after, at_inbox=at_inbox)

    def to_record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "tables": self.tables,
            "inboxes": self.inboxes,
            "requested_ms": self.requested_ms,
            "keys": self.keys,
            "complete": self.is_complete,
            "start": None if self.start is None else list(self.start),
            "start_read": None if self.start_read is None else list(self.start_read),
            "at_table": self.at_table,
            "at_inbox": self.at_inbox,
            "after": self.after,
            "rows": self.rows,
            "expected": self.expected,
            "catches_up": self.catches_up,
            "fan_out": None
            if self.fan_out is None
            else {"path": self.fan_out.path, "start": self.fan_out.start, "inboxes": self.fan_out.inboxes},
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> BackfillJob:
        """The inverse of `to_record`. Raises KeyError for a record of another version."""
        return cls(
            id=record["id"],
            tables=tuple(record["tables"]),
            inboxes=None if record["inboxes"] is None else tuple(record["inboxes"]),
            requested_ms=record["requested_ms"],
            keys=None if record["keys"] is None else (record["keys"][0], record["keys"][1]),
            is_complete=record["complete"],
            start=None if record["start"] is None else Position(*record["start"]),
            start_read=None if record["start_read"] is None else Position(*record["start_read"]),
            at_table=record["at_table"],
            at_inbox=record["at_inbox"],
            after=None if record["after"] is None else tuple(record["after"]),
            rows=record["rows"],
            expected=record["expected"],
            catches_up=record["catches_up"],
            fan_out=_fan_out(record["fan_out"]),
        )


def _fan_out(record: dict[str, Any] | None) -> FanOut | None:
    if record is None:
        return None
    return FanOut(path=record["path"], start=tuple(record["start"]), inboxes=tuple(record["inboxes"]))


def of_epoch(epoch: int) -> str:
    """The id of the backfill that brings what was there before this epoch began."""
    return f"epoch-{epoch}"
