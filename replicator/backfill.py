"""The backfill: initial load, repair, a new inbox, single keys. Runs while the stream runs.

A thread of its own with a connection of its own. It reads chunks between two watermarks in the stream and hands
everything that is published or remembered to the stream's loop (`Calls`). Progress is written when a chunk is
acknowledged, so a crash costs one chunk. Faults of the source are waited out here; they never stop the stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

import orjson
import structlog

from replicator.backfill_job import BackfillJob, Chunk
from replicator.calls import Calls, Ended
from replicator.changes import Table
from replicator.chunk import Limits, lock_against_ddl, read_chunk, read_keys, scope
from replicator.config import Settings
from replicator.derivation import LOST_PATH
from replicator.derived import Derived, expected_keys, keys_within, looked_up_after
from replicator.errors import SourceUnavailable
from replicator.event import Origin, Position
from replicator.progress import Batch
from replicator.readings import Errand, Start
from replicator.relations import STREAMED_BY_NAME, Captured, DerivedRelation, StreamedRelation
from replicator.runtime import GrowingPause
from replicator.source import Sample, Source
from replicator.source_thread import SourceThread
from replicator.window import HIGH, LOW, MOST_CHANGED, Window

log = structlog.get_logger(__name__)

KEYS_AT_ONCE = 100
"""Keys that are owed have large values more often than others."""
LEAST_ROWS = 100
"""Of a chunk that was too much at once, at the least."""
LOOK_S = 1.0
"""Between two looks whether a relation can still be read of which keys are waited for."""
SLOW_S = 10.0
"""A watermark that takes longer through the stream is worth a word in the status."""


class Work(Protocol):
    """What the stream's loop does for the backfill. Every method is called through `Calls`, in the loop's thread."""

    def take_owed(self, limit: int) -> tuple[str, list[tuple[bytes, int]]] | None:
        """Keys of one table that must be read again, each with an inbox."""

    def next_job(self) -> BackfillJob | None:
        """The backfill to go on with."""

    def begin(self, job: BackfillJob) -> tuple[BackfillJob, Batch]:
        """Publishes the begin marker; the job as it has begun."""

    def advance(self, job: BackfillJob) -> Batch:
        """Remembers how far the job is."""

    def put_behind(self, job: BackfillJob) -> None:
        """Others come before it."""

    def held_up(self) -> str:
        """What backfills wait for of which none can go on; empty if there are none."""

    def end(self, job: BackfillJob) -> Batch:
        """Publishes the end marker."""

    def finish(self, job: BackfillJob) -> Batch:
        """Forgets the job."""

    def settle_owed(self, table: str, keys: list[bytes]) -> Batch:
        """These keys were read."""

    def put_back_owed(self, table: str, keys: list[tuple[bytes, int]]) -> None:
        """These keys could not be read: they are still owed."""

    def open_window(self, window: Window | None) -> None:
        """The stream marks this window from now on."""

    def announce(self, table: Table) -> None:
        """Makes the table's columns known before rows of them are published."""

    def can_read(self, table: str) -> bool:
        """Whether its rows can be read now."""

    def derived(self, relation: str) -> Derived | None:
        """A derived relation, if it can be read."""

    def errand(self, relation: str, keys: Iterable[tuple[Start, frozenset[int]]]) -> Errand:
        """Has these keys read behind the live ones."""

    def to_be_seen(self) -> tuple[int, ...]:
        """32-bit xids of the stream that a snapshot must see."""

    def read_whole(self, table: str, reason: str, batch: Batch) -> None:
        """Has a derived relation read as a whole; durable with the batch."""


class Backfiller(SourceThread):
    """The thread."""

    WAITED_OUT = (*SourceThread.WAITED_OUT, TimeoutError)

    def __init__(
        self,
        settings: Settings,
        captured: Captured,
        calls: Calls,
        work: Work,
        origin: Callable[[str], Origin],
        *,
        epoch: int,
        born: int,
    ) -> None:
        super().__init__("backfill", settings, born)
        self._epoch = epoch
        self._captured = captured
        self._calls = calls
        self._work = work
        self._origin = origin
        self._rows = settings.backfill_chunk_rows

    def _delayed(self, reason: str) -> None:
        self._rows = max(LEAST_ROWS, self._rows // 2)
        log.warning("backfill.waits", reason=reason, next_chunk_rows=self._rows)

    def _serve(self, source: Source, pause: GrowingPause) -> None:
        while not self._stop.is_set():
            if (owed := self._calls.run(lambda: self._work.take_owed(KEYS_AT_ONCE))) is not None:
                self._read_owed(source, *owed)
            elif (job := self._calls.run(self._work.next_job)) is not None:
                self._go_on(source, job)
            else:
                self._held_up = self._calls.run(self._work.held_up)
                self._stop.wait(0.2)
                continue
            pause.reset()
            self._held_up = ""
            self._rows = min(self._settings.backfill_chunk_rows, self._rows * 2)

    def _go_on(self, source: Source, job: BackfillJob) -> None:
        try:
            self._read_next(source, job)
        except self.WAITED_OUT:
            if self._rows <= LEAST_ROWS or job.fan_out is not None:  # else it is tried again with less at once
                self._calls.run(lambda: self._work.put_behind(job))
            raise

    def _read_owed(self, source: Source, table: str, keys: list[tuple[bytes, int]]) -> None:
        inbox_of = dict(keys)

        def read(window: Window) -> None:
            assert window.table is not None  # noqa: S101  # set by _in_window
            values = {key: orjson.loads(key) for key in inbox_of}
            possible = {key: value for key, value in values.items() if window.table.could_have(value)}
            if len(possible) < len(values):
                log.warning("keys.refused", table=table, keys=len(values) - len(possible), reason="of another type")
            if possible:
                window.rows = read_keys(source, source.connection, window.table, list(possible.values()))
            # A row that has no inbox any more is gone from the one that was named.
            found = {row.key for row in window.rows if row.inbox is not None}
            window.missing = [(key, inbox_of[key]) for key in possible if key not in found]

        try:
            self._in_window(source, STREAMED_BY_NAME[table], read)
        except BaseException:
            if not self._stop.is_set():
                self._calls.run(lambda: self._work.put_back_owed(table, keys))
            raise
        self._wait(self._calls.run(lambda: self._work.settle_owed(table, list(inbox_of))))

    def _read_next(self, source: Source, job: BackfillJob) -> None:
        if job.start is None:
            job = self._begin(source, job)
        chunk = job.chunk()
        if chunk is None:
            finished = job
            self._wait(self._calls.run(lambda: self._work.end(finished)))
            # Only now: a crash before this says the end again. Without it nothing is swept, or known as complete.
            self._wait(self._calls.run(lambda: self._work.finish(finished)))
            log.info("backfill.finished", id=job.id, rows=job.rows)
            return
        started = time.monotonic()
        relation = self._captured.by_name[chunk.table]
        if isinstance(relation, DerivedRelation):
            rows, job = self._read_derived(source, job, chunk)
        else:
            rows, job = self._read_chunk(source, job, relation, chunk)
        advanced = job
        self._wait(self._calls.run(lambda: self._work.advance(advanced)))
        pace = (
            self._settings.backfill_rows_per_second if job.fan_out is None else self._settings.fan_out_keys_per_second
        )
        self._stop.wait(max(0.0, rows / pace - (time.monotonic() - started)))

    def _begin(self, source: Source, job: BackfillJob) -> BackfillJob:
        expecting = replace(
            job, start=Position(self._epoch, source.emit("begin"), 0), expected=self._expect(source, job)
        )
        begun, batch = self._calls.run(lambda: self._work.begin(expecting))
        self._wait(batch)
        job = begun
        # Only now: a crash before this begins the job again. An end without a begin would sweep nothing.
        self._wait(self._calls.run(lambda: self._work.advance(begun)))
        log.info("backfill.began", id=job.id, tables=job.tables, inboxes=job.inboxes, expected=job.expected)
        return job

    def _expect(self, source: Source, job: BackfillJob) -> int | None:
        """The planner's guess; None where it has none worth showing."""
        if job.fan_out is not None:
            return None
        total = 0
        for name in job.tables:
            relation = self._captured.by_name[name]
            if isinstance(relation, DerivedRelation):
                if job.inboxes is not None or job.keys is not None:
                    continue
                derived = self._calls.run(lambda name=name: self._work.derived(name))  # type: ignore[misc]  # mypy can't see the default
                if derived is not None:
                    with source.reading():
                        total += expected_keys(source.connection, derived)
                continue
            for inbox in job.inboxes if job.inboxes is not None else (None,):
                where, parameters = scope(relation, Chunk(table=name, inbox=inbox, after=None, keys=job.keys))
                total += source.estimate_rows(name, where, parameters)
        return total

    def _read_derived(self, source: Source, job: BackfillJob, chunk: Chunk) -> tuple[int, BackfillJob]:
        """Finds the next keys, and has them read behind the live ones."""
        derived = self._calls.run(lambda: self._work.derived(chunk.table))
        if derived is None:
            raise SourceUnavailable(f"{chunk.table} can't be read at the moment")
        if job.fan_out is not None and not derived.has_path(job.fan_out.path):
            batch = Batch()
            self._calls.run(lambda: self._work.read_whole(chunk.table, LOST_PATH, batch))
            self._wait(batch)
            return 0, job.advanced(0, None)
        most, fan_out = self._rows, job.fan_out

        def find(_: Sample) -> list[Start]:
            if fan_out is None:
                return keys_within(source.connection, derived, chunk, most)
            return looked_up_after(source.connection, derived, fan_out.path, fan_out.start, chunk.after, most)

        keys = self._settled.read(source, self._calls.run(self._work.to_be_seen), find)
        inboxes = frozenset(job.fan_out.inboxes if job.fan_out is not None else ())
        errand = self._calls.run(lambda: self._work.errand(chunk.table, [(key, inboxes) for key in keys]))
        self._wait_for(errand)
        return len(keys), job.advanced(len(keys), keys[-1] if len(keys) == most else None)

    def _read_chunk(
        self, source: Source, job: BackfillJob, relation: StreamedRelation, chunk: Chunk
    ) -> tuple[int, BackfillJob]:
        limits = Limits(rows=self._rows, bytes=self._settings.backfill_chunk_bytes)
        order = relation.order(chunk.inbox)
        if len(chunk.after) != len(order) if chunk.after is not None else source.may_be_null(relation.name, order):
            chunk = replace(chunk, by_key=True)  # and goes on as it began
        after = None

        def read(window: Window) -> None:
            nonlocal after
            assert window.table is not None  # noqa: S101  # set by _in_window
            window.rows, after = read_chunk(source, source.connection, window.table, relation, chunk, limits)

        window = self._in_window(source, relation, read)
        return len(window.rows), job.advanced(len(window.rows), after)

    def _in_window(self, source: Source, relation: StreamedRelation, read: Callable[[Window], None]) -> Window:
        """Low watermark, settled snapshot, read, high watermark, acknowledged."""
        self._wait_born(source)
        window = Window(table_name=relation.name)
        self._calls.run(lambda: self._work.open_window(window))
        try:
            source.emit(window.message(LOW))
            self._await(window, window.opened, LOW)
            self._read_settled(source, relation, window, read)
            source.emit(window.message(HIGH))
            self._await(window, window.published, HIGH)
        finally:
            if not self._stop.is_set():
                self._calls.run(lambda: self._work.open_window(None))
        if window.batch is not None:
            self._wait(window.batch)
        return window

    def _wait_born(self, source: Source) -> None:
        """Before a window is opened: what is older than the slot may stay open for hours."""
        pause = GrowingPause(first=0.01, longest=1.0)
        while (xmin := source.sample().snapshot.xmin) < self._settled.born:
            back = self._settled.born - xmin
            self._held_up = f"transactions older than the replication slot, still open on the source ({back} ids back)"
            self._pause(pause.next())
        self._settled.born, self._held_up = 0, ""

    def _read_settled(
        self, source: Source, relation: StreamedRelation, window: Window, read: Callable[[Window], None]
    ) -> None:
        """Reads in a snapshot that sees everything delivered before the low watermark."""

        def under_todays_columns(_: Sample) -> Table:
            columns = [each for each in source.columns(relation.name) if each.name not in relation.excluded]
            names = source.type_names({(each.type_oid, each.type_modifier) for each in columns})
            window.table = Table(relation, columns, names, self._origin(relation.name))
            read(window)
            return window.table

        # Before the snapshot: a rewrite or truncation of the table is invisible to an older one.
        locked = partial(lock_against_ddl, source, source.connection, relation)
        overflown = partial(_refuse_overflown, window)
        table = self._settled.read(source, window.unsettled, under_todays_columns, first=locked, meanwhile=overflown)
        self._calls.run(lambda: self._work.announce(table))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Ended

    def _await(self, window: Window, event: threading.Event, boundary: str) -> None:
        """As long as the stream takes: given up and begun again, a chunk would never be read while it is behind."""
        since = time.monotonic()
        while not event.wait(0.1):
            if self._stop.is_set():
                raise Ended
            _refuse_overflown(window)
            if time.monotonic() > since + SLOW_S:
                self._held_up = f"the {boundary} watermark in the stream, which is behind"
        self._held_up = ""
        _refuse_overflown(window)

    def _wait(self, batch: Batch) -> None:
        """Until the batch is acknowledged, however long Kafka is away."""
        while not batch.complete:
            self._pause(0.005)

    def _wait_for(self, errand: Errand) -> None:
        """Until it is done; what can't be read any more is given up, so that other work goes on."""
        look_due = time.monotonic() + LOOK_S
        while not errand.complete:
            self._pause(0.005)
            if time.monotonic() < look_due:
                continue
            if not self._calls.run(lambda: self._work.can_read(errand.relation)):
                self._calls.run(errand.give_up)
                raise SourceUnavailable(f"{errand.relation} can't be read at the moment")
            look_due = time.monotonic() + LOOK_S


def _refuse_overflown(window: Window) -> None:
    if window.overflown:
        raise TimeoutError(f"more than {MOST_CHANGED} keys of {window.table_name} changed while a chunk was read")
