"""`consumers replay`: one tenant's stretch of the log written into a shadow, laid beside the live rows, and merged.

Reads only the partitions of the tenant's inboxes, beside the workers, which go on with every tenant, this one too. Up
to where the tenant was when the command began the stretch is read at leisure. For each look at the live rows the tenant
is locked for a moment, in which the shadow takes in what was applied since: so a row that the workers have just
written, or deleted, is no difference, and none is brought back. Differences are found in a snapshot, without the lock;
a merge holds it for one table at a time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from consumers import starts
from consumers.batch import Message, View, head_of, new_marks, sort_out
from consumers.config import Settings
from consumers.differing import Differing, Merged, TableDifference, one_by_one
from consumers.errors import BadEvent, Fault, Refused, TargetRefused, TargetUnavailable, classify, classify_applying
from consumers.leads import Leads
from consumers.ordering import Event, identifier
from consumers.ownership import chosen
from consumers.reached import reached
from consumers.reasons import Reason
from consumers.schemas import Schemas
from consumers.session import connect
from consumers.stretch import LogReader
from consumers.tenants import TENANT_LOCK, Owner
from consumers.topic import TopicShape
from consumers.watermark import Mark, Place, read_generations
from replicator import partition_of

_TRIES: Final = 20
"""To catch up with the tenant: its log grows meanwhile."""
_LOCKED_S: Final = 2.0
"""For what is read while the tenant is locked: its workers have set it aside, and it gets nothing new."""
_FIRST_ANALYZE: Final = 1_000
"""Events after which the shadow's tables are analyzed, and then at each doubling: nobody else does it for temporary
tables, and plans made for empty ones look up a row by its tenant alone."""
_NAMED: Final = 20
"""Events that can't be applied, and are shown."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    tenant: int
    inboxes: frozenset[int] = frozenset()
    """Empty: all of the tenant's."""
    start: starts.Start = field(default_factory=starts.Start)
    apply: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    partition: int
    start: int
    end: int
    log_start: int
    """The first offset that the log still has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unapplied:
    """An event that the tables refuse. Its row is not compared."""

    partition: int
    offset: int
    table: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    tenant: int
    inboxes: tuple[int, ...]
    stretches: tuple[Stretch, ...]
    messages: int
    events: int
    """Of the tenant."""
    tables: tuple[TableDifference, ...]
    unapplied: tuple[Unapplied, ...]
    unapplied_count: int
    merged: tuple[Merged, ...] = ()
    seconds: float = 0.0

    @property
    def is_equal(self) -> bool:
        return all(table.is_equal for table in self.tables)


def replay(settings: Settings, wish: Wish, say: Say) -> Replayed:
    """Raises Refused, LogUnavailable, LogGap, TargetUnavailable, TargetRefused; then nothing of it stays."""
    began = time.monotonic()
    with ExitStack() as stack:
        with connect(settings, settings.target_dsn, "replay") as connection:
            inboxes = chosen(connection, wish.tenant, wish.inboxes)
        shape = TopicShape(settings)
        reader = stack.enter_context(closing(LogReader(settings)))
        schemas = stack.enter_context(closing(Schemas(settings)))
        try:
            shadow = stack.enter_context(closing(Differing(settings, wish.tenant, inboxes)))
            replaying = _Replaying(settings, wish, inboxes, shape, reader, schemas, shadow, say)
            tables = replaying.compare()
            merged = replaying.merge(tables) if wish.apply else ()
        except psycopg.Error as error:
            raise _said(error) from None
        return replaying.result(tables, merged, time.monotonic() - began)


class _Replaying:
    """One replay: how far it is, and what it has met."""

    def __init__(
        self,
        settings: Settings,
        wish: Wish,
        inboxes: frozenset[int],
        shape: TopicShape,
        reader: LogReader,
        schemas: Schemas,
        shadow: Differing,
        say: Say,
    ) -> None:
        self._settings, self._wish, self._inboxes, self._shape = settings, wish, inboxes, shape
        self._reader, self._schemas, self._shadow, self._say = reader, schemas, shadow, say
        self._partitions = sorted({partition_of(inbox, shape.partitions) for inbox in inboxes})
        ends = self._reached()
        self._starts = starts.resolve(wish.start, reader, ends, inboxes)
        self._lows = {partition: reader.bounds(partition)[0] for partition in self._starts}
        self._at = dict(self._starts)
        self._due = sum(ends[partition] - start for partition, start in self._starts.items())
        self._marks: dict[Place, Mark] = {}
        self._generations = read_generations(shadow.connection, shape.topic_id, self._starts)
        self._leads = Leads(settings.mapping_ttl_s)
        self._without_inbox = {name for name, relation in shadow.relations.items() if relation.inbox is None}
        self._unapplied: list[Unapplied] = []
        self._messages = self._events = self._unapplied_count = 0
        self._analyze_at = _FIRST_ANALYZE
        self._told_at = time.monotonic()
        self._tell_starts()

    def compare(self) -> list[TableDifference]:
        """Reads the stretch, then looks at both in one snapshot."""
        connection = self._shadow.connection
        self._read_to(self._reached())
        self._say(f"read {self._messages:,} messages, {self._events:,} of the tenant; now comparing")
        self._shadow.analyze()
        self._hold()
        is_held = True
        told = {partition: self._reader.bounds(partition)[1] for partition in self._at}
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(self._wish.tenant)])
                self._let_go()  # the snapshot is taken
                is_held = False
                self._shadow.find()
        finally:
            connection.isolation_level = None
            if is_held:
                self._let_go()
        self._pass_over_broadcasts(told)
        return self._shadow.found(self._inboxes)

    def merge(self, tables: Iterable[TableDifference]) -> tuple[Merged, ...]:
        """One transaction for each table that differs, parents before their children."""
        unlike = {table.table for table in tables if not table.is_equal}
        merged = []
        for relation in one_by_one(self._shadow):
            if relation.name not in unlike:
                continue
            self._hold()
            try:
                merged.append(self._shadow.merge(relation, self._inboxes))
            finally:
                self._let_go()
            done = merged[-1]
            self._say(f"{done.table}: {done.written:,} rows written, {done.deleted:,} deleted")
        return tuple(merged)

    def result(self, tables: Sequence[TableDifference], merged: tuple[Merged, ...], seconds: float) -> Replayed:
        return Replayed(
            tenant=self._wish.tenant,
            inboxes=tuple(sorted(self._inboxes)),
            stretches=tuple(
                Stretch(partition=partition, start=start, end=self._at[partition], log_start=self._lows[partition])
                for partition, start in sorted(self._starts.items())
            ),
            messages=self._messages,
            events=self._events,
            tables=tuple(tables),
            unapplied=tuple(self._unapplied),
            unapplied_count=self._unapplied_count,
            merged=merged,
            seconds=round(seconds, 3),
        )

    def _pass_over_broadcasts(self, ends: Mapping[int, int]) -> None:
        """What a delete tells that stands in every partition may be applied by one copy, and not yet by another."""
        told: dict[str, set[int]] = defaultdict(set)
        for partition, start in self._at.items():
            for messages in self._reader.read(partition, start, ends[partition], self._settings.batch_messages):
                for message in messages:
                    if message.key is not None or (head := head_of(message.headers)) is None:
                        continue
                    with suppress(BadEvent):  # it concerns no row of ours
                        if head.op == "t":
                            self._shadow.forget(head.table, None)
                        elif head.op == "d":
                            told[head.table].add(identifier(head.key))
        for table, ids in told.items():
            self._shadow.forget(table, list(ids))

    def _tell_starts(self) -> None:
        for partition, start in sorted(self._starts.items()):
            self._say(f"partition {partition}: from offset {start:,}")
            if start == self._lows[partition] > 0:
                self._say(
                    f"partition {partition}: what stood before is no longer in the log; rows that it does not mention"
                    f" are not looked at. To read the source instead: {starts.backfill_of(self._inboxes)}"
                )

    def _reached(self) -> dict[int, int]:
        connection = self._shadow.connection
        return reached(connection, self._wish.tenant, self._shape.topic_id, self._partitions)

    def _hold(self) -> None:
        """The tenant's rows stand still, and the shadow has all that they are made of."""
        for _ in range(_TRIES):
            self._read_to(self._reached())
            try:
                self._shadow.connection.execute("SELECT pg_advisory_lock(%s, %s)", [TENANT_LOCK, self._wish.tenant])
            except psycopg.errors.LockNotAvailable as error:
                if isinstance(error.__context__, KeyboardInterrupt):  # it came just before the time was up
                    raise error.__context__ from None
                continue
            is_still = False
            try:
                is_still = self._read_to(self._reached(), _LOCKED_S)
            finally:
                if not is_still:
                    self._let_go()
            if is_still:
                return
        raise Refused(f"tenant {self._wish.tenant} is written faster than its log can be read: try at a calmer hour")

    def _let_go(self) -> None:
        with suppress(psycopg.OperationalError):  # a lost session has lost its locks
            self._shadow.connection.execute("SELECT pg_advisory_unlock(%s, %s)", [TENANT_LOCK, self._wish.tenant])

    def _read_to(self, ends: Mapping[int, int], longest_s: float = float("inf")) -> bool:
        """Whether the shadow is there, in so many seconds."""
        deadline = time.monotonic() + longest_s
        self._shadow.look_at_shadow()
        for partition, start in self._at.items():
            for messages in self._reader.read(partition, start, ends[partition], self._settings.batch_messages):
                self._take(messages)
                self._at[partition] = messages[-1].offset + 1
                self._tell()
                if time.monotonic() > deadline:
                    return False
            self._at[partition] = max(self._at[partition], ends[partition])
        return True

    def _take(self, messages: Sequence[Message]) -> None:
        tenant = self._wish.tenant
        view = View(
            owners={inbox: Owner(tenant, "", True) for inbox in self._inboxes},
            marks=self._marks,
            generations=self._generations,
            partitions=self._shape.partitions,
            parked=(),
            only=tenant,
            holders=lambda _, ids: dict.fromkeys(ids or (None,), (tenant,)),
        )
        batch = sort_out(messages, view)
        events = batch.events.get(tenant, [])
        if events:
            self._write(events)
            moved = new_marks(tenant, events, batch.ends, self._marks)
            self._marks.update({place: mark for place, (_, mark, _) in moved.items()})
        self._messages += len(messages)
        self._events += len(events)
        if self._events >= self._analyze_at:
            self._analyze_at = 2 * self._events
            self._shadow.analyze()

    def _write(self, events: Sequence[Event]) -> None:
        """All but those that the tables refuse."""
        leads = self._leads.of(self._shadow.connection, self._wish.tenant)
        try:
            self._shadow.write(events, self._schemas, leads, self._without_inbox)
        except (psycopg.Error, BadEvent) as error:
            verdict = classify_applying(error)
            if verdict.fault is not Fault.ROW or self._shadow.connection.broken:
                raise
            if len(events) > 1:
                middle = len(events) // 2
                self._write(events[:middle])
                self._write(events[middle:])
            else:
                self._note_unapplied(events[0], Reason.of(error, verdict).says)

    def _note_unapplied(self, event: Event, reason: str) -> None:
        self._unapplied_count += 1
        if len(self._unapplied) < _NAMED:
            self._unapplied.append(
                Unapplied(partition=event.partition, offset=event.offset, table=event.table, reason=reason)
            )
        with suppress(BadEvent):  # no row of the target has such a key
            self._shadow.spare(event.table, [identifier(event.key)])

    def _tell(self) -> None:
        if time.monotonic() - self._told_at < 2.0:
            return
        self._told_at = time.monotonic()
        part = f" of {max(self._due, self._messages):,}" if self._due else ""
        self._say(f"read {self._messages:,}{part} messages, {self._events:,} of the tenant")


def _said(error: psycopg.Error) -> Exception:
    verdict = classify(error)
    kind: Any = TargetUnavailable if verdict.fault is Fault.ENVIRONMENT else TargetRefused
    reason = Reason.of(error, verdict)
    return kind(f"the target says: {reason.says}. {reason.advice}")  # type: ignore[no-any-return]
