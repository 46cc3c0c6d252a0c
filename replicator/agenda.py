"""What is still to be read: backfills that were asked for and keys that are owed, durable in the state topic.

Lives in the run's loop; threads that read come in through `Calls`.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import orjson
import structlog

from replicator.backfill_job import BackfillJob, FanOut, of_epoch
from replicator.changes import Table
from replicator.derivation import Derivation
from replicator.derived import Derived
from replicator.event import BackfillMarker, pack_key
from replicator.memory import Memory
from replicator.outlet import Outlet
from replicator.progress import Batch
from replicator.readings import Errand, Start
from replicator.relations import Captured, StreamedRelation
from replicator.request import ASKED, MOST_INBOXES, BackfillRequest, CancelRequest, KeysRequest, Request
from replicator.window import Window

log = structlog.get_logger(__name__)

MOST_JOBS = 1_000
"""Backfills waiting; whoever asks beyond that asks again later."""
MOST_FINISHED = 100
"""Ids of backfills that are remembered after their end, for whoever waits for one."""
MOST_OWED = 50_000
"""Keys of one table that are owed; beyond that reading the whole table again costs less than remembering them."""
MOST_KEYS = 100_000
"""Keys asked for over the control topic and kept in memory; consumers ask again for what is dropped."""


class Agenda:
    """Jobs oldest first, owed keys before jobs."""

    def __init__(
        self,
        captured: Captured,
        memory: Memory,
        outlet: Outlet,
        announce: Callable[[Table], None],
        open_window: Callable[[Window | None], None],
        derivation: Derivation,
    ) -> None:
        self._captured = captured
        self._derivation = derivation
        self._memory = memory
        self._outlet = outlet
        self.announce = announce
        self.open_window = open_window
        kept = (BackfillJob.from_record(record) for record in memory.under("backfill/").values())
        jobs = [job for job in (each.limited_to(captured.names) for each in kept) if job.tables]
        self.jobs: dict[str, BackfillJob] = {job.id: job for job in sorted(jobs, key=lambda job: job.requested_ms)}
        ended = memory.records.get("finished", {}).get("ids", [])
        self._finished: deque[str] = deque(ended, maxlen=MOST_FINISHED)
        self._owed: dict[str, dict[bytes, int]] = {}
        """Table → key → inbox. A table without keys is not in it."""
        self._failed: set[str] = set()
        """Backfills that could not go on, since another did."""
        debts = memory.under("owed/")
        self._debts = dict.fromkeys(debts, 0.0)
        """Records of keys that the stream owes, until each was read and published → since when."""
        for record in debts.values():
            self._owed.setdefault(record["table"], {})[pack_key(record["key"])] = record["inbox"]

    def is_behind(self, upto: float) -> bool:
        """Something that the stream brought before this moment may not be published yet, or what it does not bring.

        A new epoch's backfill brings what its stream does not; a live change may be followed in the background, or
        leave a debt. What can't be read is no reason for ever, unless a new epoch lacks it: nobody has read that yet.
        """
        return any(since <= upto for since in self._debts.values()) or any(
            job.id == of_epoch(self._memory.run.epoch) or (job.catches_up and self._is_ready(job))
            for job in self.jobs.values()
        )

    @property
    def owed(self) -> int:
        """Keys that wait to be read again."""
        return sum(map(len, self._owed.values()))

    def owe(self, table: str, key: bytes, inbox: int, batch: Batch) -> None:
        """A key of which the stream alone can't give a whole row. Durable with the batch of its cause."""
        if self._is_covered(table, batch):
            return
        keys = self._owed.setdefault(table, {})
        keys[key] = inbox
        if len(keys) > MOST_OWED:
            self._owe_table(table, batch)
            return
        name = _owed_record(table, key)
        self._debts.setdefault(name, time.monotonic())
        self._memory.write(name, {"table": table, "key": orjson.loads(key), "inbox": inbox}, batch)

    def _owe_table(self, table: str, batch: Batch) -> None:
        """The debt as a backfill, remembered before the keys are forgotten."""
        name = f"owed-{uuid.uuid4()}"
        job = BackfillJob(id=name, tables=(table,), inboxes=None, requested_ms=_now_ms(), catches_up=True)
        log.warning("owed.too_many", table=table, keys=len(self._owed[table]), backfill=job.id)
        self._remember(job, batch)
        for key in self._owed.pop(table):
            self._forget_debt(_owed_record(table, key), batch)

    def request(self, request: Request, batch: Batch) -> None:
        """A request from the control topic."""
        match request:
            case KeysRequest():
                self._request_keys(request)
            case BackfillRequest():
                self._request_backfill(request, batch)
            case CancelRequest():
                self._cancel(request.id, batch)

    def _request_keys(self, request: KeysRequest) -> None:
        relation = self._captured.by_name.get(request.table)
        if relation is None:
            log.warning("keys.refused", keys=len(request.keys), reason="their table is not captured")
            return
        keys = [key for key in request.keys if len(key) == len(relation.key)]
        if len(keys) < len(request.keys):
            wide = f"a key of this table has {len(relation.key)} values"
            log.warning("keys.refused", table=relation.name, keys=len(request.keys) - len(keys), reason=wide)
        if not isinstance(relation, StreamedRelation):
            self._derivation.ask(relation.name, keys, request.inbox)
            return
        for number, key in enumerate(keys):
            if self.owed >= MOST_KEYS:
                full = f"{MOST_KEYS} keys wait already; they are asked for again"
                log.warning("keys.refused", table=relation.name, keys=len(keys) - number, reason=full)
                return
            self._owed.setdefault(relation.name, {}).setdefault(pack_key(list(key)), request.inbox)

    def _request_backfill(self, request: BackfillRequest, batch: Batch) -> None:
        tables = self._available(request.tables)
        if reason := _unfit(request, tables):
            log.warning("backfill.refused", id=request.id, reason=reason)
            return
        if request.id in self.jobs or request.known in self.jobs:
            return
        if len(self.jobs) >= MOST_JOBS:
            log.warning("backfill.refused", id=request.id, reason=f"{MOST_JOBS} wait already; it is asked for again")
            return
        if request.known in self._finished:  # its end marker is on its way to whoever asks
            return
        if any(_covers(job, tables, request.inboxes) for job in self._waiting()):
            return
        is_complete = request.tables is None and request.keys is None
        self._add(request.id, tables, request.inboxes, batch, keys=request.keys, is_complete=is_complete)

    def _cancel(self, name: str, batch: Batch) -> None:
        """Only what a person asked for: whatever else is read would lack in the log."""
        job = self.jobs.get(name)
        if job is None or not name.startswith(ASKED):
            log.warning("backfill.not_cancelled", id=name, reason="nobody asked for it" if job else "there is none")
            return
        log.info("backfill.cancelled", id=name, rows=job.rows)
        del self.jobs[name]
        self._memory.forget(f"backfill/{name}", batch)

    def read_whole(self, table: str, reason: str, batch: Batch) -> None:
        """A derived relation is to be read as a whole. Durable with the batch."""
        if not self._is_covered(table, batch):
            log.info("relation.read_whole", relation=table, reason=reason)
            self._add(f"{table}-{secrets.token_hex(4)}", (table,), None, batch, catches_up=True)

    def fan_out(self, table: str, fan_out: FanOut, batch: Batch) -> None:
        """One change concerns many keys. Durable with the batch."""
        if fan_out not in [job.fan_out for job in self._waiting()]:
            self._add(
                f"{table}-fan-out-{secrets.token_hex(4)}", (table,), None, batch, fan_out=fan_out, catches_up=True
            )

    def _is_covered(self, table: str, batch: Batch) -> bool:
        """Whether a backfill that waits reads all of it: then the stream's rows are not all there until it ends."""
        job = next((job for job in self._waiting() if _covers(job, (table,), None)), None)
        if job is not None and not job.catches_up:
            self._remember(replace(job, catches_up=True), batch)
        return job is not None

    def _available(self, tables: Sequence[str] | None) -> tuple[str, ...]:
        """Of all tables those that there are. What is gone is read as a whole when it returns; nobody would read again
        what is there and can't be read for a while.
        """
        wanted = self._captured.in_order(tables)
        return wanted if tables is not None else tuple(name for name in wanted if self._derivation.exists(name))

    def _add(
        self,
        name: str,
        tables: tuple[str, ...],
        inboxes: tuple[int, ...] | None,
        batch: Batch,
        *,
        keys: tuple[int, int] | None = None,
        is_complete: bool = False,
        fan_out: FanOut | None = None,
        catches_up: bool = False,
    ) -> None:
        job = BackfillJob(
            id=name,
            tables=tables,
            inboxes=inboxes,
            requested_ms=_now_ms(),
            keys=keys,
            is_complete=is_complete,
            fan_out=fan_out,
            catches_up=catches_up,
        )
        log.info("backfill.requested", id=job.id, tables=job.tables, inboxes=job.inboxes)
        self._remember(job, batch)

    def take_owed(self, limit: int) -> tuple[str, list[tuple[bytes, int]]] | None:
        if not self._owed:
            return None
        table, owed = next(iter(self._owed.items()))
        keys = list(islice(owed.items(), limit))
        for key, _ in keys:
            del owed[key]
        if not owed:
            del self._owed[table]
        return table, keys

    def put_back_owed(self, table: str, keys: list[tuple[bytes, int]]) -> None:
        for key, inbox in keys:
            self._owed.setdefault(table, {}).setdefault(key, inbox)

    def settle_owed(self, table: str, keys: list[bytes]) -> Batch:
        batch = Batch()
        for key in keys:
            name = _owed_record(table, key)
            # Owed again since it was taken: the record stands for the newer debt.
            if key not in self._owed.get(table, {}):
                self._forget_debt(name, batch)
        return batch

    def _forget_debt(self, name: str, batch: Batch) -> None:
        if name in self._debts:
            del self._debts[name]
            self._memory.forget(name, batch)

    def _waiting(self) -> list[BackfillJob]:
        """Backfills that have not begun: all that changed before they do is in them."""
        return [job for job in self.jobs.values() if job.start is None]

    def can_read(self, table: str) -> bool:
        """Whether its rows can be read now."""
        return self._derivation.can_read(table)

    def derived(self, relation: str) -> Derived | None:
        """A derived relation, if it can be read."""
        return self._derivation.derived(relation)

    def to_be_seen(self) -> tuple[int, ...]:
        """32-bit xids of the stream that a snapshot must see."""
        return self._derivation.to_be_seen

    def errand(self, relation: str, keys: Iterable[tuple[Start, frozenset[int]]]) -> Errand:
        """Has keys of a derived relation read behind the live ones."""
        return self._derivation.errand(relation, keys)

    def next_job(self) -> BackfillJob | None:
        """Fan-outs first: they are live changes. What can't be read now waits, and lets others pass: other backfills,
        and other tables of the same.
        """
        ready = [job for job in map(self._readable, self.jobs.values()) if job is not None]
        others = [job for job in ready if job.id not in self._failed] or ready
        return next((job for job in others if job.fan_out is not None), next(iter(others), None))

    def put_behind(self, job: BackfillJob) -> None:
        """It could not go on: others come before it, and then it is tried again."""
        if job.id in self.jobs:
            self.jobs[job.id] = self.jobs.pop(job.id)
            self._failed.add(job.id)

    def held_up(self) -> str:
        """What the backfills wait for of which none can go on, in words."""
        tables = {chunk.table for job in self.jobs.values() if (chunk := job.chunk()) is not None}
        broken = sorted(table for table in tables if not self._derivation.can_read(table))
        return f"{', '.join(broken)}, which can't be read at the moment" if broken else ""

    def _readable(self, job: BackfillJob) -> BackfillJob | None:
        """The job, at a table that can be read now; None: there is none."""
        for _ in job.tables[job.at_table :]:
            if self._is_ready(job):
                return job
            job = job.later()
        return job if job.chunk() is None else None

    def _is_ready(self, job: BackfillJob) -> bool:
        chunk = job.chunk()
        return chunk is None or self._derivation.can_read(chunk.table)

    def begin(self, job: BackfillJob) -> tuple[BackfillJob, Batch]:
        """The begin marker; whatever is read from now on is read after it. The job, as it is returned, is remembered by
        `advance`, once every partition has the marker.
        """
        batch = Batch()
        job = replace(job, start_read=self._derivation.next_position())
        if job.id not in self.jobs:  # it was given up just now
            return job, batch
        job = replace(job, catches_up=self.jobs[job.id].catches_up)  # it may have become so since it was taken
        self.jobs[job.id] = job
        if job.fan_out is None:
            self._outlet.marker(self._marker(job, "begin"), self._point(job), batch)
        return job, batch

    def advance(self, job: BackfillJob) -> Batch:
        batch = Batch()
        if job.id in self.jobs:  # else it was cancelled meanwhile
            self._remember(job, batch)
        if job.id not in self._failed:
            self._failed.clear()
        return batch

    def end(self, job: BackfillJob) -> Batch:
        """The end marker. The job is forgotten by `finish`, once every partition has the marker."""
        batch = Batch()
        if job.id in self.jobs and job.fan_out is None:
            self._outlet.marker(self._marker(job, "end"), self._point(job), batch)
        return batch

    def finish(self, job: BackfillJob) -> Batch:
        batch = Batch()
        if job.id not in self.jobs:
            return batch
        del self.jobs[job.id]
        self._finished.append(job.id)
        self._memory.forget(f"backfill/{job.id}", batch)
        self._memory.write("finished", {"ids": list(self._finished)}, batch)
        return batch

    def _remember(self, job: BackfillJob, batch: Batch) -> None:
        self.jobs[job.id] = job
        self._memory.write(f"backfill/{job.id}", job.to_record(), batch)

    def _point(self, job: BackfillJob) -> int:
        return job.start.point if job.start is not None else 0

    def _marker(self, job: BackfillJob, boundary: Literal["begin", "end"]) -> BackfillMarker:
        if job.start is None or job.start_read is None:
            raise ValueError("a backfill that has not begun has no marker")
        derived = self._captured.derived_among(job.tables)
        return BackfillMarker(
            id=job.id,
            boundary=boundary,
            tables=self._captured.in_order(job.tables),
            derived=derived,
            is_complete=job.is_complete,
            inboxes=job.inboxes,
            keys=job.keys,
            start=job.start,
            start_read=job.start_read,
            spared={name: self._derivation.spared(name) for name in derived} if boundary == "end" else {},
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _owed_record(table: str, key: bytes) -> str:
    return f"owed/{table}/{key.decode()}"


def _unfit(request: BackfillRequest, tables: tuple[str, ...]) -> str:
    """Why the request can't be taken; empty if it can."""
    if not request.id:
        return "it has no id"
    if not tables:
        return "it names no captured table"
    if request.inboxes == ():
        return "it names no inbox"
    if request.inboxes is not None and len(request.inboxes) > MOST_INBOXES:
        return f"it names {len(request.inboxes)} inboxes; ask for {MOST_INBOXES} at a time, or for all"
    return ""


def _covers(job: BackfillJob, tables: tuple[str, ...], inboxes: tuple[int, ...] | None) -> bool:
    """Whether a backfill that has not begun will read all of this scope, and nobody can give it up."""
    is_partial = job.fan_out is not None or job.keys is not None
    if is_partial or job.id.startswith(ASKED) or not set(tables) <= set(job.tables):
        return False
    return job.inboxes is None or (inboxes is not None and set(inboxes) <= set(job.inboxes))
