"""What is read again of derived relations: an item, an errand of many keys, and what is read of either at once.

An *item* is a key, or the start of a path whose look-up will say which keys. Pure data; when it is read, and what it
holds up until then, is the affair of `dirty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from replicator.progress import Batch
from replicator.values import JsonValue

KEY: Final = ""
"""The path of an item that is a key itself."""

Start = tuple[JsonValue, ...]
"""A key, or the values that a path starts from."""


@dataclass(slots=True, eq=False)
class Item:
    """One thing to be read."""

    start: Start
    inboxes: frozenset[int]
    """Where its causes named it: if it is not there any more, that is a delete there."""
    first: float
    due: float
    lsn: int
    """The commit that first touched it; 0: it holds nothing."""
    transaction: int
    """Serial number of the last transaction that touched it."""
    owed: Batch | None = None
    """Set when it was written down with all its inboxes: complete when that is acknowledged."""
    is_recorded: bool = False
    """A record of it stands in the state topic."""
    tries: int = 0
    """Failed readings."""
    reason: str = ""
    """Of the last failure, without a value."""

    @property
    def holds(self) -> bool:
        return self.lsn > 0 and not (self.owed is not None and self.owed.complete)


@dataclass(slots=True, eq=False)
class Errand:
    """Keys that a backfill, a wide fan-out or a rolling pass asks for: read behind the live ones, held nowhere."""

    relation: str
    keys: list[tuple[Start, frozenset[int]]]
    """Each with the inboxes where it is expected."""
    open: int = 0
    """Readings of it that are under way."""
    is_wanted: bool = True

    def give_up(self) -> None:
        """Nobody waits for it any more: what is being read of it need not be read again."""
        self.keys, self.is_wanted = [], False

    @property
    def complete(self) -> bool:
        """Everything is acknowledged, or has become an item of its own that failed and is written down."""
        return not self.keys and not self.open


@dataclass(slots=True, eq=False)
class Reading:
    """What is read at once, in one snapshot: items of one group, or a part of an errand."""

    relation: str
    path: str
    items: list[Item]
    unsettled: tuple[int, ...]
    """32-bit xids that the snapshot must see."""
    errand: Errand | None = None
    number: int = 0
    """Of its turn, given before its snapshot is taken: where its rows stand among those of other readings."""
    batch: Batch | None = None
    """Set when its rows are published."""
