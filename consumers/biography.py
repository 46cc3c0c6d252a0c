"""What became of each event of one row: told by the log's order, the mapping, and the row as it is stored.

Pure: heads of messages and what the target says in, sentences out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from replicator import Head, Position, Run

APPLIED: Final = "applied: the row as it is stored"
DELETED: Final = "applied: the row is gone since"
SUPERSEDED: Final = "superseded by a later event"
REPEATED: Final = "published twice: skipped as already applied"
ZOMBIE: Final = "of an older run of the replicator: dropped"
UNMAPPED: Final = "its inbox is nobody's, or not active: not applied"
WAITING: Final = "waiting: beyond what the tenant has applied"
PARKED: Final = "waiting: the tenant is parked there"
TOO_LARGE: Final = "without a body, too large to be sent: the row is a stub until it can be"
ELSEWHERE: Final = "passed over: the row is not stored under this inbox"
OLDER: Final = "applied once, but the stored row is older: `consumers replay` shows it, and puts it right"
UNKNOWN: Final = "not known: no row is stored, and no event says that it was deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A tenant's row of one table."""

    tenant: int
    table: str
    position: Position
    inbox: int | None
    synced_at: datetime | None
    """None: a stub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a tenant is in one partition."""

    next_offset: int
    is_parked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One event of the row."""

    partition: int
    offset: int
    inbox: int | None
    """None: a broadcast."""
    head: Head
    committed_ms: int | None
    is_zombie: bool
    is_repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event, and what became of it for one tenant."""

    tenant: int | None
    event: Found
    outcome: str


def outcome(
    event: Found, stored: StoredRow | None, standing: Standing | None, last_delete: Position | None, *, is_owned: bool
) -> str:
    """For one tenant, whose the inbox is or is not. `last_delete`: the latest delete of the row in the log."""
    if event.is_zombie:
        return ZOMBIE
    if not is_owned:
        return UNMAPPED
    if standing is None or event.offset >= standing.next_offset:
        return PARKED if standing is not None and standing.is_parked else WAITING
    if event.is_repeated:
        return REPEATED
    position = event.head.position
    if stored is not None and position < stored.position:
        return SUPERSEDED
    if stored is None and last_delete is not None and position < last_delete:
        return SUPERSEDED
    if event.head.op == "d":
        return DELETED if stored is None or stored.synced_at is None else ELSEWHERE
    if event.head.error:
        return TOO_LARGE
    if stored is not None:
        return APPLIED if position == stored.position else OLDER
    return UNKNOWN


class Streamed:
    """What a partition has said so far: which runs, and up to where its inbox's owner has streamed changes."""

    def __init__(self) -> None:
        self._seen = Run(0, 0)
        self._last: dict[int, Position] = {}

    def take(self, head: Head, inbox: int | None, owners: Mapping[int, int]) -> tuple[bool, bool]:
        """Whether it is a zombie's, and whether it repeats what was said."""
        if head.run < self._seen:
            return True, False
        self._seen = head.run
        if head.op == "m" or head.is_read:
            return False, False
        tenants = [*self._last] if inbox is None else [owners[each] for each in (inbox,) if each in owners]
        repeats = bool(tenants) and all(head.position <= self._last.get(each, Position(0, 0, 0)) for each in tenants)
        for each in tenants:
            self._last[each] = max(head.position, self._last.get(each, head.position))
        return False, repeats
