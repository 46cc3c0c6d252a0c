"""One chunk of a backfill between its two watermarks in the stream.

The chunk is read after everything that the stream delivered before the low watermark is settled, and published at the
high watermark without the keys that the stream changed in between: the stream has newer rows of them. (DBLog,
https://arxiv.org/abs/2010.12597, with reads made exact by the settled snapshot.)

Pure, and used from two threads in turn: the stream's loop marks, the backfill's thread reads. Each field has one
writer, and the events of the two watermarks order them.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field

from replicator.changes import RenderedRow, Table
from replicator.progress import Batch

LOW, HIGH = "low", "high"
MOST_CHANGED = 100_000


@dataclass(slots=True, kw_only=True)
class Window:
    """Between its watermarks every changed key of the table is remembered, `MOST_CHANGED` of them at the most."""

    table_name: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    opened: threading.Event = field(default_factory=threading.Event)
    published: threading.Event = field(default_factory=threading.Event)
    unsettled: tuple[int, ...] = ()
    """32-bit xids delivered before the low watermark that a snapshot must see."""
    table: Table | None = None
    rows: list[RenderedRow] = field(default_factory=list)
    missing: list[tuple[bytes, int]] = field(default_factory=list)
    """Keys that were asked for and do not exist, each with the inbox that the asker named."""
    changed: dict[bytes, bool] = field(default_factory=dict)
    """Key → whether all its changes in the window left columns out."""
    truncated: bool = False
    overflown: bool = False
    """More keys changed than are remembered: the chunk must be read again."""
    batch: Batch | None = None
    """Set when published: complete when the chunk is acknowledged."""

    def message(self, boundary: str) -> str:
        """What to emit into the WAL."""
        return f"{boundary}:{self.token}"

    def is_open(self) -> bool:
        return self.opened.is_set() and not self.published.is_set() and not self.overflown

    def mark(self, key: bytes, partial: bool) -> None:
        """The stream changed this key."""
        self.changed[key] = partial and self.changed.get(key, True)
        if len(self.changed) > MOST_CHANGED:
            self.overflown = True
            self.changed.clear()

    def mark_truncated(self) -> None:
        """The stream emptied the table: what was read before is gone."""
        self.truncated = True

    @property
    def _is_void(self) -> bool:
        return self.truncated or self.overflown

    def survivors(self) -> list[RenderedRow]:
        """Rows that are still the newest known."""
        if self._is_void:
            return []
        return [row for row in self.rows if row.key not in self.changed]

    def survivors_missing(self) -> list[tuple[bytes, int]]:
        """Keys that are still known to be absent."""
        return [] if self._is_void else [each for each in self.missing if each[0] not in self.changed]

    def to_read_again(self) -> list[RenderedRow]:
        """Rows whose newer version in the stream lacks columns that nobody else has."""
        return [row for row in self.rows if self.changed.get(row.key, False)]
