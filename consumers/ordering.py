"""A tenant's events in the order of reading → what is left to do for each row, in steps.

Coalescing must end where applying one event after the other would have: so events of a row are taken in the order of
their positions, as the row's own stored position would take them (an upsert needs a greater one, a delete one that is
not smaller), columns that an event leaves out are filled from the event before, never across a delete, and a delete at
an inbox touches only a row of that inbox. What concerns many rows (a truncate, a sweep) stands between two steps.

Pure: values in, values out. Never knows which rows the target holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from consumers.errors import BadEvent
from replicator import BackfillMarker, Position

UPSERTS: Final = frozenset("cur")


class Event(NamedTuple):
    """One message that concerns a tenant: a plain tuple, made once for each (0.3 us; a frozen dataclass takes 1.3)."""

    partition: int
    offset: int
    op: str
    table: str
    key: bytes
    """JSON array, `b""` where no single row is concerned."""
    inbox: int | None
    """None: a broadcast."""
    position: Position
    is_read: bool
    schema: str
    absent: bytes
    body: bytes
    error: str
    marker: BackfillMarker | None
    """Begin or end of a backfill of this tenant's inboxes in this partition."""
    inboxes: tuple[int, ...]
    """Of the marker."""


class Upsert(NamedTuple):
    """The last state of a row. `body` is a change event's envelope; only its `after` counts."""

    id: int
    inbox: int
    position: Position
    schema: str
    absent: bytes
    """JSON array of columns that nobody carried, `b""` for a whole row."""
    body: bytes
    """`b""`: nobody carried any column."""
    is_lost: bool = False
    """The row's state was too large to be sent: what is not in the body is not known to the target either."""


class Delete(NamedTuple):
    """Deletes the stored row if it is not beyond the position, and is stored under the inbox (None: any)."""

    id: int
    inbox: int | None
    position: Position


@dataclass(frozen=True, slots=True)
class Rows:
    """Changes of single rows, at most one upsert a row, by table. Deletes come first."""

    upserts: dict[str, list[Upsert]] = field(default_factory=dict)
    deletes: dict[str, list[Delete]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Truncate:
    """Every row of a table that is not beyond the position."""

    table: str
    position: Position


@dataclass(frozen=True, slots=True)
class Begin:
    """A backfill of these inboxes has begun."""

    backfill: str
    inboxes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A backfill of these inboxes has ended: what is older than its start is gone."""

    marker: BackfillMarker
    inboxes: tuple[int, ...]


Step = Rows | Truncate | Begin | Sweep


def steps(events: Iterable[Event]) -> list[Step]:
    """What is to be done for these events of one tenant. Raises BadEvent for an event that can't be read."""
    done: list[Step] = []
    rows: dict[tuple[str, bytes], list[Event]] = defaultdict(list)

    def close() -> None:
        if rows:
            done.append(_collapse(rows))
            rows.clear()

    for event in events:
        if event.key:
            rows[event.table, event.key].append(event)
            continue
        close()
        if event.marker is None:
            done.append(Truncate(event.table, event.position))
        elif event.marker.boundary == "begin":
            done.append(Begin(event.marker.id, event.inboxes))
        else:
            done.append(Sweep(event.marker, event.inboxes))
    close()
    return done


def _collapse(rows: dict[tuple[str, bytes], list[Event]]) -> Rows:
    upserts: dict[str, list[Upsert]] = defaultdict(list)
    deletes: dict[str, list[Delete]] = defaultdict(list)
    for (table, key), events in rows.items():
        row = identifier(key)
        if len(events) > 1:
            events.sort(key=_position)
        live = _fold(row, events, deletes[table])
        if live is not None:
            upserts[table].append(live)
    return Rows(
        {table: sorted(found) for table, found in upserts.items() if found},
        {table: found for table, found in deletes.items() if found},
    )


def _position(event: Event) -> Position:
    return event.position


def _fold(row: int, events: list[Event], deletes: list[Delete]) -> Upsert | None:
    """The row's last state, if it lives; what is to be deleted before goes to `deletes`."""
    live: Upsert | None = None
    first = events[0].position
    for event in events:
        if event.op in UPSERTS:
            if live is None:
                first = event.position
            live = _later(live, row, event)
            continue
        deletes.append(Delete(row, event.inbox, event.position))
        if live is not None and event.inbox in (None, live.inbox):
            # The upsert would have taken the row over from any inbox, had the row been older.
            deletes.append(Delete(row, None, first._replace(ordinal=first.ordinal - 1)))
            live = None
    return live


def _later(live: Upsert | None, row: int, event: Event) -> Upsert:
    if event.inbox is None or (event.error and not event.schema):
        reason = event.error or "no inbox"
        raise BadEvent(
            f"the event at partition {event.partition}, offset {event.offset} ({event.table}) has no row: {reason}"
        )
    if event.error:
        return Upsert(row, event.inbox, event.position, event.schema, b"", b"", is_lost=True)
    if live is None or not event.absent:
        return Upsert(row, event.inbox, event.position, event.schema, event.absent, event.body)
    if not live.body:
        return Upsert(row, event.inbox, event.position, event.schema, event.absent, event.body, is_lost=True)
    body, absent = _filled(live.body, event)
    return Upsert(row, event.inbox, event.position, event.schema, absent, body, live.is_lost and bool(absent))


def _filled(older: bytes, event: Event) -> tuple[bytes, bytes]:
    """The later event's body with the columns that it leaves out taken from the older one, where that has them."""
    try:
        known: dict[str, Any] = orjson.loads(older)["after"]
        envelope: dict[str, Any] = orjson.loads(event.body)
        absent: list[str] = orjson.loads(event.absent)
        after = envelope["after"]
        after.update({name: known[name] for name in absent if name in known})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadEvent(f"the event at partition {event.partition}, offset {event.offset} can't be read") from None
    missing = [name for name in absent if name not in known]
    return orjson.dumps({"after": after}), orjson.dumps(missing) if missing else b""


def identifier(key: bytes) -> int:
    """The id in a key, a JSON array of one integer. Raises BadEvent for another key: the target has none."""
    try:
        return int(key[1:-1])
    except ValueError:
        raise BadEvent("the event's key is not one integer") from None
