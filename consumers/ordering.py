"""A tenant's events in the order of reading → what is left to do for each row, in steps.

Coalescing must end where applying one event after the other would have: so events of a row are taken in the order of
their positions, as the row's own stored position would take them (an upsert needs a greater one, a delete one that is
not smaller), columns that an event leaves out are filled from the event before, never across a delete, and a delete at
an inbox touches only a row of that inbox. Only events of one inbox are known to follow each other without a gap: a
partial row of another inbox goes into a step of its own. What concerns many rows (a truncate, a sweep) stands between
two steps.

Rows that say no inbox (contacts) may be at several: their absence at one says nothing of the others. What it comes to
depends on what refers to the row, so it is looked at after all else of its step.

Pure: values in, values out. Never knows which rows the target holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
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
    headers: Sequence[tuple[str, bytes]] = ()
    """As they came: what a dead letter keeps."""


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


def steps(events: Iterable[Event], without_inbox: Container[str] = ()) -> list[Step]:
    """What is to be done for these events of one tenant. Raises BadEvent for an event that can't be read.

    `without_inbox`: tables whose rows say none.
    """
    done: list[Step] = []
    rows: dict[tuple[str, bytes], list[Event]] = defaultdict(list)

    def close() -> None:
        if rows:
            done.extend(_collapse(rows, without_inbox))
            rows.clear()

    for event in events:
        if event.key and (event.op in UPSERTS or event.op == "d"):
            rows[event.table, event.key].append(event)
            continue
        close()
        if event.op == "t" and not event.key:
            done.append(Truncate(event.table, event.position))
        elif event.marker is None:
            raise BadEvent(f"{_named(event)} is of a kind that this version does not know")
        elif event.marker.boundary == "begin":
            done.append(Begin(event.marker.id, event.inboxes))
        else:
            done.append(Sweep(event.marker, event.inboxes))
    close()
    return done


def _collapse(rows: dict[tuple[str, bytes], list[Event]], without_inbox: Container[str]) -> list[Rows]:
    """One step, or a few: nearly every row needs the first one alone."""
    layers: list[Rows] = []
    absences: dict[str, list[Delete]] = defaultdict(list)
    for (table, key), events in rows.items():
        if len(events) > 1:
            events.sort(key=_position)
        row = identifier(key)
        folded = _fold_unplaced(row, events, absences[table]) if table in without_inbox else _fold(row, events)
        for depth, (deletes, live) in enumerate(folded):
            if depth == len(layers):
                layers.append(Rows())
            if deletes:
                layers[depth].deletes.setdefault(table, []).extend(deletes)
            if live is not None:
                layers[depth].upserts.setdefault(table, []).append(live)
    for layer in layers:
        for found in layer.upserts.values():
            found.sort()
    if last := {table: deletes for table, deletes in absences.items() if deletes}:
        layers.append(Rows({}, last))
    return layers


def _position(event: Event) -> Position:
    return event.position


def _fold(row: int, events: list[Event]) -> Iterator[tuple[list[Delete], Upsert | None]]:
    """Of one row, by layer: what is to be deleted first, and the row's last state, if it lives."""
    deletes: list[Delete] = []
    live: Upsert | None = None
    for event in events:
        if event.op in UPSERTS:
            if live is not None and event.absent and event.inbox != live.inbox:
                # Another partition may have brought what stands between the two: only the stored row tells.
                yield deletes, live
                deletes, live = [], None
            live = _later(live, row, event)
            continue
        deletes.append(Delete(row, event.inbox, event.position))
        if live is not None and event.inbox in (None, live.inbox):
            # The upsert would have taken the row over from any inbox, had the row been older.
            before = live.position._replace(ordinal=live.position.ordinal - 1)
            deletes.append(Delete(row, None, before))
            live = None
    yield deletes, live


def _fold_unplaced(
    row: int, events: list[Event], absences: list[Delete]
) -> Iterator[tuple[list[Delete], Upsert | None]]:
    """The same for a row that says no inbox. Absences at an inbox that no later row contradicts go to `absences`."""
    deletes: list[Delete] = []
    live: Upsert | None = None
    after: list[Delete] = []
    for event in events:
        if event.op in UPSERTS:
            live = _later(live, row, event)
            after = []
        elif event.inbox is None:
            deletes.append(Delete(row, None, event.position))
            live, after = None, []
        else:
            after.append(Delete(row, event.inbox, event.position))
    absences.extend(after)
    yield deletes, live


def _later(live: Upsert | None, row: int, event: Event) -> Upsert:
    if event.inbox is None:
        raise BadEvent(f"{_named(event)} has no inbox")
    if (event.error and not event.schema) or not (event.error or event.body):
        raise BadEvent(f"{_named(event)} has no row: {event.error or 'no body'}")
    if event.error:
        return Upsert(row, event.inbox, event.position, event.schema, b"", b"", is_lost=True)
    if live is None or not event.absent:
        return Upsert(row, event.inbox, event.position, event.schema, event.absent, event.body)
    if not live.body:
        return Upsert(row, event.inbox, event.position, event.schema, event.absent, event.body, is_lost=True)
    body, absent = _filled(live.body, event)
    return Upsert(row, event.inbox, event.position, event.schema, absent, body, live.is_lost and bool(absent))


def _named(event: Event) -> str:
    return f"the event at partition {event.partition}, offset {event.offset} ({event.table})"


def _filled(older: bytes, event: Event) -> tuple[bytes, bytes]:
    """The later event's body with the columns that it leaves out taken from the older one, where that has them."""
    try:
        known: dict[str, Any] = orjson.loads(older)["after"]
        envelope: dict[str, Any] = orjson.loads(event.body)
        absent: list[str] = orjson.loads(event.absent)
        after = envelope["after"]
        after.update({name: known[name] for name in absent if name in known})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadEvent(f"{_named(event)} can't be read") from None
    missing = [name for name in absent if name not in known]
    return orjson.dumps({"after": after}), orjson.dumps(missing) if missing else b""


def identifier(key: bytes) -> int:
    """The id in a key, a JSON array of one integer. Raises BadEvent for another key: the target has none."""
    try:
        found = int(key[1:-1])
    except ValueError:
        raise BadEvent("the event's key is not one integer") from None
    if not -(2**63) <= found < 2**63:
        raise BadEvent("the event's key is too large")
    return found
