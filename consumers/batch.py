"""Messages of some partitions → the events of each tenant, and how far that reading went.

Drops what a zombie replicator wrote (an older run than its partition has seen) and what a tenant has applied already:
offsets before its watermark, and streamed changes that are not beyond the last streamed position applied. Events of an
inbox that nobody owns are counted, those of other pools' tenants left to them. A broadcast goes to the tenants that
hold the row, and to those that had an event of its table just before, whose rows may not be written yet.

Asks nobody: the mapping, the watermarks and the holders of rows are given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeGuard

import orjson

from consumers.errors import BadEvent, LogTooNew
from consumers.ordering import UPSERTS, Event, identifier
from consumers.tenants import Owner
from consumers.watermark import Generations, Mark, Place
from replicator import (
    NOWHERE,
    BackfillMarker,
    GenerationMarker,
    Head,
    HeartbeatMarker,
    Marker,
    Position,
    Run,
    UnknownMarker,
    decode_marker,
    partition_of,
    unpack_head,
)


class Message(NamedTuple):
    """One record of the changes topic."""

    partition: int
    offset: int
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    body: bytes


def head_of(headers: Sequence[tuple[str, bytes]]) -> Head | None:
    """What they say; None: the message is not ours, or of no kind that this version knows."""
    try:
        head = unpack_head(headers)
    except (KeyError, ValueError, AttributeError, TypeError):  # Kafka's headers may have no value
        return None
    return head if head.op in _OPS else None


_OPS: Final = UPSERTS | {"d", "t", "m"}
UNKNOWN: Final = Head("u", "", b"[0]", NOWHERE, 0, "", b"", True, "it is no change event that this version knows")
"""Of a message that is not ours; whoever applies its event refuses it."""
_MOST_DIGITS: Final = len(b"-9223372036854775808")
"""Of an inbox, which is a bigint at the most, and its sign."""
_END_OF_TIME_MS: Final = 253_402_300_800_000
"""The year 10000, which no time of ours has: what is said to be beyond is no time."""

Holders = Callable[[str, Sequence[int] | None], Mapping[int | None, Iterable[int]]]
"""(table, ids or None for any) → by id (None for any) the tenants that hold such a row."""


@dataclass(slots=True)
class Counts:
    """What became of the messages of one reading, by number."""

    messages: int = 0
    repeated: int = 0
    """Streamed changes that were published twice."""
    zombies: int = 0
    unreadable: int = 0
    """Messages that are not ours, or of no kind that is known, and that name no inbox of a tenant."""
    unmapped: Counter[int] = field(default_factory=Counter)
    """By inbox."""


@dataclass(slots=True)
class Batch:
    """What a stretch of reading means."""

    events: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By tenant, in the order of reading."""
    ends: dict[int, int] = field(default_factory=dict)
    """The offset after the last message, by partition."""
    source_ms: dict[int, int] = field(default_factory=dict)
    """What the source committed before this time stands before the end, by partition."""
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the worker knows when it sorts messages out."""

    owners: Mapping[int, Owner]
    marks: Mapping[Place, Mark]
    generations: Mapping[int, Generations]
    partitions: int
    parked: Container[Place]
    """Tenants that a reading of their own serves."""
    only: int | None = None
    """Such a reading: of this tenant alone."""
    holders: Holders
    serves: Callable[[int], bool] = lambda _: True
    """Whether a tenant is the pool's own."""
    is_elsewhere: Callable[[int], bool] = lambda _: False
    """Whether the events of an inbox that has no owner here are another pool's affair."""


class _Sorting:
    """One pass over the messages."""

    def __init__(self, view: View, held: Mapping[tuple[str, int | None], Iterable[int]]) -> None:
        """`held`: by table and id (None: any) the tenants that hold a row of which a broadcast tells."""
        self.batch = Batch()
        self._view, self._held = view, held
        self._streamed: dict[Place, Position] = {}
        self._active: dict[str, set[int]] = defaultdict(set)

    def take(self, message: Message) -> None:
        self.batch.counts.messages += 1
        self.batch.ends[message.partition] = message.offset + 1
        head, key = head_of(message.headers), message.key
        inbox = None if key is None else inbox_of(key)
        if head is None or (inbox is None and key is not None):
            self._unreadable(message)
            return
        generations = self._view.generations[message.partition]
        run, seen = head.run, generations.at(message.offset)
        if run < seen:
            self.batch.counts.zombies += 1
            return
        marker = marker_of(message) if head.op == "m" else None
        if head.op == "m" and marker is None:
            self._unreadable(message)
            return
        if run > seen:  # not sooner: to the run of a message that is not ours all that is ours could be a zombie's
            generations.see(message.offset, Run(*run))
        if marker is not None:
            self._marker(message, head, marker)
        elif inbox is None:
            self._broadcast(message, head)
        else:
            self._keyed(message, head, inbox)

    def _keyed(self, message: Message, head: Head, inbox: int) -> None:
        owner = self._view.owners.get(inbox)
        if owner is not None:
            self._give(owner.tenant, event_of(message, head, inbox))
        elif self._view.only is None and not self._view.is_elsewhere(inbox):
            self.batch.counts.unmapped[inbox] += 1

    def _broadcast(self, message: Message, head: Head) -> None:
        try:
            told = _told(head)
        except BadEvent:  # the target has no row of such a key
            self._unreadable(message)
            return
        for tenant in {*self._held.get(told, ()), *self._active[head.table]}:
            if self._view.serves(tenant):
                self._give(tenant, event_of(message, head, None))

    def _give(self, tenant: int, event: Event) -> None:
        place = (tenant, event.partition)
        if (place in self._view.parked) if self._view.only is None else tenant != self._view.only:
            return
        mark = self._view.marks.get(place)
        if mark is not None and event.offset < mark.next_offset:
            return
        if not event.is_read:
            before = self._streamed.get(place)
            if before is None:
                before = mark.position if mark is not None else NOWHERE
            if event.position <= before:
                self.batch.counts.repeated += 1
                return
            self._streamed[place] = event.position
        self._active[event.table].add(tenant)
        self.batch.events[tenant].append(event)

    def _marker(self, message: Message, head: Head, marker: Marker) -> None:
        match marker:
            case HeartbeatMarker(source_ms=source_ms):
                self.batch.source_ms[message.partition] = source_ms
            case BackfillMarker():
                concerned: dict[int, list[int]] = defaultdict(list)
                for inbox in self._inboxes(marker, message.partition):
                    concerned[self._view.owners[inbox].tenant].append(inbox)
                for tenant, inboxes in concerned.items():
                    event = event_of(message, head, None)
                    self._give(tenant, event._replace(marker=marker, inboxes=tuple(inboxes)))
            case GenerationMarker():
                pass  # its run, which every message carries, is all that it says

    def _inboxes(self, marker: BackfillMarker, partition: int) -> Iterable[int]:
        named = self._view.owners if marker.inboxes is None else marker.inboxes
        return (
            inbox
            for inbox in named
            if inbox in self._view.owners and partition_of(inbox, self._view.partitions) == partition
        )

    def _unreadable(self, message: Message) -> None:
        """A message that is not ours. If its key names an inbox, a person must look at it: it becomes a dead letter."""
        inbox = inbox_of(message.key)
        owner = self._view.owners.get(inbox) if inbox is not None else None
        if inbox is None or owner is None:
            self.batch.counts.unreadable += 1
            return
        self._give(owner.tenant, event_of(message, UNKNOWN, inbox))


def marker_of(message: Message) -> Marker | None:
    """None: it is not ours. Raises LogTooNew for one that a newer replicator wrote."""
    try:
        marker = decode_marker(message.body)
    except UnknownMarker:
        raise LogTooNew(
            f"the marker at partition {message.partition}, offset {message.offset} is of a newer replicator"
        ) from None
    except ValueError:
        return None
    return None if isinstance(marker, HeartbeatMarker) and not _is_time(marker.source_ms) else marker


def sort_out(messages: Sequence[Message], view: View) -> Batch:
    """Raises LogTooNew for a marker that a newer replicator wrote."""
    sorting = _Sorting(view, _holders(messages, view.holders))
    for message in messages:
        sorting.take(message)
    return sorting.batch


def _holders(messages: Iterable[Message], ask: Holders) -> dict[tuple[str, int | None], Iterable[int]]:
    """Who holds what the broadcasts tell of, asked once for each table: a broadcast stands in every partition."""
    told: set[tuple[str, int | None]] = set()
    for message in messages:
        if message.key is None and (head := head_of(message.headers)) is not None and head.op != "m":
            with suppress(BadEvent):  # `_Sorting` says what is wrong with it
                told.add(_told(head))
    found: dict[tuple[str, int | None], Iterable[int]] = {}
    for table in sorted({table for table, _ in told}):
        ids = sorted(number for name, number in told if name == table and number is not None)
        answers = [ask(table, ids)] if ids else []
        if (table, None) in told:
            answers.append(ask(table, None))
        found |= {(table, number): tenants for answer in answers for number, tenants in answer.items()}
    return found


def _told(head: Head) -> tuple[str, int | None]:
    """The row of which a broadcast tells; None: any of its table. Raises BadEvent for a key that no row can have."""
    return head.table, identifier(head.key) if head.key else None


def begins_backfill(message: Message) -> bool:
    """Whether the mapping must be read anew before this message is sorted out."""
    return message.key is None and (b'"kind":"backfill"' in message.body and b'"begin"' in message.body)


def new_marks(
    tenant: int, events: Sequence[Event], ends: Mapping[int, int], marks: Mapping[Place, Mark]
) -> dict[Place, tuple[Mark | None, Mark, int | None]]:
    """Where the tenant stands after these events: (expected, new, the source's time of the last change) by place."""
    last: dict[int, Event] = {}
    touched: set[int] = set()
    for event in events:
        touched.add(event.partition)
        if not event.is_read:
            last[event.partition] = event
    moved: dict[Place, tuple[Mark | None, Mark, int | None]] = {}
    for partition in touched:
        expected = marks.get((tenant, partition))
        streamed = last.get(partition)
        position = streamed.position if streamed else expected.position if expected else NOWHERE
        source_ms = committed_ms(streamed.body) if streamed else None
        moved[tenant, partition] = expected, Mark(ends[partition], position), source_ms
    return moved


def ends_of(events: Iterable[Event]) -> dict[int, int]:
    """The offset after the last of these events, by partition."""
    return {event.partition: event.offset + 1 for event in events}


def inbox_of(key: bytes | None) -> int | None:
    """The number in a message's key, as the replicator writes it; None: it is no inbox."""
    if key is None or len(key) > _MOST_DIGITS:
        return None
    try:
        inbox = int(key)
    except ValueError:
        return None
    return inbox if b"%d" % inbox == key and -(2**63) <= inbox < 2**63 else None


def committed_ms(body: bytes) -> int | None:
    """When the change of this body was committed; None: it says no time."""
    try:
        committed = orjson.loads(body)["source"]["ts_ms"]
    except (ValueError, KeyError, TypeError):
        return None
    return committed if _is_time(committed) else None


def _is_time(given: object) -> TypeGuard[int]:
    """Whether these are milliseconds since 1970: whoever else writes to the topic may say anything."""
    return type(given) is int and 0 <= given < _END_OF_TIME_MS


def event_of(message: Message, head: Head, inbox: int | None) -> Event:
    """`inbox` None: a broadcast."""
    return Event(
        message.partition,
        message.offset,
        head.op,
        head.table,
        head.key,
        inbox,
        head.position,
        head.is_read,
        head.schema,
        head.absent,
        message.body,
        head.error,
        None,
        (),
        message.headers,
    )
