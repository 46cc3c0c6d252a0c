"""The thread that polls: one session, which also holds the pollers' lock, and never more than a share of its time.

What it does, in turns, as far as each kind has something to do:

* what is due to be read: keys that consumers ask for, and those that could not be read before;
* candidates: keys that were stamped, or appended, since the last poll;
* the next page of a backfill: every row of it is read again; where there is none, of the rolling pass: rows whose
  hashes differ from what was published.

A session that is lost ends the run: another poller may hold the lock by the time there is a new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final

import structlog
from psycopg import Connection

from replicator.agenda import Agenda
from replicator.backfill_job import BackfillJob, Chunk
from replicator.beyond import Beyond, Stamped
from replicator.calls import Calls, Ended
from replicator.candidates import END_OF_TIME, LAST_KEY, appended_after, greatest_key, stamp_of, stamped_after
from replicator.config import Settings
from replicator.derivation import MOST_FAILED, Derivation
from replicator.derived import Derived, expected_keys, keys_within, referred
from replicator.digest_memory import DigestMemory
from replicator.errors import SourceBusy, SourceRefused, SourceUnavailable
from replicator.event import Position
from replicator.horizon import Horizon, Sampled
from replicator.marks import Marks
from replicator.progress import Batch
from replicator.reader import Reader
from replicator.rolling_pass import Keys, RollingPass, expected_nowhere, next_page
from replicator.runtime import GrowingPause
from replicator.settled import SettledReads
from replicator.source import PollSample, Source
from replicator.source_thread import SourceThread
from replicator.time_share import TimeShare
from replicator.walk import Walk

log = structlog.get_logger(__name__)

CANDIDATES: Final = 2_000
"""Of one relation at once."""
IDLE_S: Final = 0.05
LOOK_S: Final = 5.0
"""Between two looks whether the source could be streamed."""
OPEN: Final = "transactions that were open when polling began: only then all can be read"
PATIENCE_S: Final = 300.0
"""So long at the most for these: a prepared one may be forgotten for ever, and the rolling pass finds what it wrote."""

Ask = Callable[[Connection[Any], Derived, Stamped, int, int], Sequence[Stamped]]
"""Rows behind a place, up to a limit, at most so many: in the order of their stamps."""


class Poller(SourceThread):
    """The thread. `error` is ModeChanged when the source can be streamed again."""

    WAITED_OUT: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(
        self,
        settings: Settings,
        calls: Calls,
        agenda: Agenda,
        derivation: Derivation,
        digests: DigestMemory,
        marks: Marks,
        reader: Callable[[SettledReads], Reader],
        look: Callable[[Source], None],
        *,
        source: Source,
        start: Position,
        fresh_us: int,
    ) -> None:
        """`source`: holds the lock. `look` raises ModeChanged. `start`: where backfills of this run begin. `fresh_us`:
        all that was committed before was published when the epoch began; 0: that is not known.
        """
        super().__init__("poller", settings, 0)
        self._given, self._calls, self._look = source, calls, look
        self._agenda, self._derivation, self._digests, self._marks = agenda, derivation, digests, marks
        self._reader = reader(self._settled)
        self._start, self._fresh_us = start, fresh_us
        self._share = TimeShare(settings.poll_share)
        self._margin_us = round(settings.poll_clock_margin_s * 1e6)
        self._horizon = Horizon(self._margin_us)
        self._kind = 0
        self._has_failed = False
        """The last page of a backfill could not be read."""
        self._begun_us = 0
        """When the last relation's mark began in this run, by the source's clock..."""
        self._begun_s = time.monotonic()
        """...and by ours."""
        self._is_early = False
        """A backfill waits for transactions that were open by then."""
        self._beyond: dict[str, Beyond] = {}
        self._poll_due = self._look_due = 0.0
        self._accounted_s = 0.0
        self._job_walk: tuple[str, Walk] | None = None
        self.rolling = RollingPass(
            calls,
            derivation,
            digests,
            have_read=self._have_followed,
            published_upto=lambda lsn: None,  # nobody else publishes
            verified=self._verified,
            keys_per_second=settings.digest_keys_per_second,
            rest=self._rest,
            marks=marks,
        )
        self.polls = self.candidates = self.poll_candidates = 0
        """`poll_candidates`: of the last poll that has ended; so is `poll_s`."""
        self.poll_s = self.held_back_s = 0.0
        """Source time of the last poll's queries; how far its bound was behind the source's clock."""

    @property
    def spent_s(self) -> float:
        """In queries on the source, in this run."""
        return self._share.spent_s

    def _open(self) -> AbstractContextManager[Source]:
        return nullcontext(self._given)

    def _delayed(self, reason: str) -> None:
        log.warning("poll.waits", reason=reason)

    def _serve(self, source: Source, pause: GrowingPause) -> None:
        source.plan_once()
        self._accounted_s = source.busy_s
        while not self._stop.is_set():
            try:
                self._turn(source)
            except (SourceBusy, SourceUnavailable, SourceRefused) as error:
                if source.connection.closed or source.connection.broken:
                    raise
                self._held_up = str(error)
                self._delayed(self._held_up)
                self._rest(source)
                self._wait(pause.next())
            else:
                pause.reset()
                self._held_up = OPEN if self._is_early else ""

    def _turn(self, source: Source) -> None:
        if time.monotonic() >= self._look_due:
            self._look(source)
            self._look_due = time.monotonic() + LOOK_S
        self._take_turn(source)
        self._rest(source)

    def _take_turn(self, source: Source) -> None:
        """One piece of work, of another kind than the last if there is any: none is so slow that it starves others."""
        kinds = (self._reader.serve, self._poll_when_due, self._go_on)
        for number in range(self._kind, self._kind + len(kinds)):
            self._kind = (number + 1) % len(kinds)
            if kinds[number % len(kinds)](source):
                return
        self._wait(IDLE_S)

    def _poll_when_due(self, source: Source) -> bool:
        if time.monotonic() < self._poll_due:
            return False
        self._poll(source)
        return True

    def _go_on(self, source: Source) -> bool:
        """One page of a backfill, or of the rolling pass. False: there is nothing to do now."""
        if not self._has_begun():
            return False  # who read a page now could not say from when on changes of it are candidates
        job = self._calls.run(self._agenda.next_job)
        self._is_early = job is not None and job.start is None and not self._may_begin()
        if self._is_early:
            return False
        if job is None or self._has_failed:
            self._has_failed = False
            return self.rolling.serve(source) or job is not None
        try:
            self._read_next(source, job)
        except (SourceBusy, SourceUnavailable, SourceRefused):
            self._has_failed = True
            self._calls.run(lambda: self._agenda.put_behind(job))
            raise
        return True

    def _verified(self, relation: str, at_us: int, unread: frozenset[int]) -> Batch:
        """Not before all of it was read once: of pages that were never visited nobody knows which rows are gone."""
        jobs = self._agenda.jobs.values()
        if any(relation in job.tables and job.keys is None and job.fan_out is None for job in jobs):
            return Batch()
        return self._marks.verified(relation, at_us, unread)

    def _has_begun(self) -> bool:
        return self._calls.run(
            lambda: all(self._marks.of(each.relation.name).has_begun for each in self._derivation.readable)
        )

    def _may_begin(self) -> bool:
        """Whether every transaction has ended that was open when marks began: what it had stamped before is neither a
        candidate nor in a page that is read too soon. Or was waited for in vain."""
        safe_us = self._horizon.safe_us
        has_settled = safe_us is not None and safe_us >= self._begun_us - self._margin_us
        return has_settled or time.monotonic() >= self._begun_s + PATIENCE_S

    # --- candidates

    def _poll(self, source: Source) -> None:
        """Everything that was stamped, or appended, since the marks; and the marks move to what is safe."""
        relations = self._calls.run(lambda: self._derivation.readable)
        before, known = source.busy_s, self.candidates
        self._poll_due = time.monotonic() + self._settings.poll_interval_s
        sample, greatest = self._sampled(source, relations)
        now = Sampled(sample.at_us, sample.next_xid, greatest)
        self._horizon.note(now)
        self._horizon.see(sample.snapshot.xmin)
        self.held_back_s = (sample.at_us - self._horizon.reached_us) / 1e6
        for derived in relations:
            self._try(source, partial(self._poll_relation, source, derived, now))
        self.poll_s, self.poll_candidates = source.busy_s - before, self.candidates - known
        self.polls += 1

    def _sampled(self, source: Source, relations: Iterable[Derived]) -> tuple[PollSample, dict[str, int]]:
        """The source now, and by relation that is polled by its keys the greatest, if it can be asked for."""
        greatest: dict[str, int] = {}

        def ask(derived: Derived) -> None:
            with source.reading():
                greatest[derived.relation.name] = greatest_key(source.connection, derived)

        with source.reading():
            sample = source.poll_sample()
        for derived in relations:
            if derived.relation.is_appended:
                self._try(source, partial(ask, derived))
        return sample, greatest

    def _try(self, source: Source, poll: Callable[[], None]) -> None:
        """A relation whose candidates can't be asked for holds up neither others nor the rolling pass."""
        try:
            poll()
        except (SourceBusy, SourceUnavailable, SourceRefused) as error:
            if source.connection.closed or source.connection.broken:
                raise
            self._delayed(str(error))

    def _poll_relation(self, source: Source, derived: Derived, now: Sampled) -> None:
        name = derived.relation.name
        mark = self._calls.run(lambda: self._marks.of(name))
        if not mark.has_begun:
            self._begun_us, self._begun_s = now.at_us, time.monotonic()
        if derived.relation.is_appended:
            after = now.greatest.get(name) if mark.upto is None else mark.upto
            if after is not None:
                self._ask(source, derived, after, self._horizon.safe_key(name), appended_after)
        elif stamp_of(derived):
            # Of what a standby shows that lags behind, all that was published once was later.
            first_us = min(self._fresh_us or now.at_us, now.at_us) - self._margin_us
            after = first_us if mark.upto is None else mark.upto
            self._ask(source, derived, after, self._horizon.safe_us, stamped_after)
        elif mark.upto is None:
            self._remember(name, now.at_us)  # only the rolling pass finds what changes there

    def _ask(self, source: Source, derived: Derived, mark: int, safe: int | None, ask: Ask) -> None:
        """A mark stands between two stamps: of rows that are stamped alike all were read, or none counts as read."""
        name = derived.relation.name
        beyond = self._beyond.setdefault(name, Beyond())
        at, more = Stamped(mark, LAST_KEY), True
        reached = mark
        self._remember(name, mark)  # it has begun, whatever becomes of the query: the rolling pass needs no candidates
        while more:
            limit = (safe if safe is not None else mark) if beyond.is_full else END_OF_TIME
            with source.reading():
                found = ask(source.connection, derived, at, limit, CANDIDATES)
            if keys := beyond.unread(found):
                self.candidates += len(keys)
                self._have_followed(source, name, expected_nowhere(keys))
            beyond.note(found)
            more = len(found) == CANDIDATES
            at = found[-1] if found else at
            if safe is not None:
                reached = max(mark, min(safe, at.at - 1) if more else safe)
            self._remember(name, reached)
        beyond.pass_by(reached)

    def _remember(self, relation: str, upto: int) -> None:
        def remember() -> None:
            if self._marks.of(relation).upto != upto:
                self._marks.advance(relation, upto=upto)

        self._calls.run(remember)

    # --- what is read as a whole

    def _read_next(self, source: Source, job: BackfillJob) -> None:
        if job.start is None:
            job = self._begin(source, job)
        chunk = job.chunk()
        if chunk is None:
            self._await(self._calls.run(lambda: self._agenda.end(job)))
            self._await(self._calls.run(lambda: self._agenda.finish(job)))
            log.info("backfill.finished", id=job.id, rows=job.rows)
            return
        derived = self._calls.run(lambda: self._derivation.derived(chunk.table))
        if derived is None:
            raise SourceUnavailable(f"{chunk.table} can't be read at the moment")
        advanced = self._read_page(source, job, chunk, derived)
        self._await(self._calls.run(lambda: self._agenda.advance(advanced)))

    def _begin(self, source: Source, job: BackfillJob) -> BackfillJob:
        expected = 0
        for name in job.tables if job.inboxes is None and job.keys is None else ():
            derived = self._calls.run(lambda name=name: self._derivation.derived(name))  # type: ignore[misc]  # mypy can't see the default
            if derived is not None:
                with source.reading():
                    expected += expected_keys(source.connection, derived)
        asked = replace(job, start=self._start, expected=expected or None)
        begun, batch = self._calls.run(lambda: self._agenda.begin(asked))
        self._await(batch)
        self._await(self._calls.run(lambda: self._agenda.advance(begun)))
        log.info("backfill.began", id=begun.id, tables=begun.tables, inboxes=begun.inboxes, expected=begun.expected)
        return begun

    def _read_page(self, source: Source, job: BackfillJob, chunk: Chunk, derived: Derived) -> BackfillJob:
        if chunk.inbox is not None or chunk.keys is not None:
            most = self._settings.backfill_chunk_rows
            with source.reading():
                found = keys_within(source.connection, derived, chunk, most)
            self._have_read(source, chunk.table, expected_nowhere(int(key) for (key,) in found))  # type: ignore[arg-type]  # an integer, by `definitions`
            return job.advanced(len(found), found[-1] if len(found) == most else None)
        walk = self._walk_of(job, chunk)
        look = next_page(source, self._calls, self._digests, walk, derived)
        if look is None:
            self._job_walk = None
            return job.advanced(0, None)
        keys = walk.take(look.keys)
        # All is read again, and what is known and gone; of neighbours that are known together hashes say which.
        seen = [] if look.knows_keys else self.rolling.hashes(source, derived, keys)[0]
        differing = self._calls.run(lambda: self._digests.compare(look, seen))
        self._have_read(source, chunk.table, {**expected_nowhere(keys), **differing})
        self._calls.run(lambda: self._digests.settle(look))
        return job.advanced(len(keys), (look.keys.stop - 1,))

    def _walk_of(self, job: BackfillJob, chunk: Chunk) -> Walk:
        """The way through this table that the last page was on, or one that goes on behind it."""
        name = f"{job.id}/{chunk.table}"
        if self._job_walk is None or self._job_walk[0] != name:
            after = int(chunk.after[0]) if chunk.after is not None else None  # type: ignore[arg-type]  # its cursors are ours
            self._job_walk = name, Walk(chunk.table, after)
        return self._job_walk[1]

    # --- reading

    def _have_followed(self, source: Source, relation: str, keys: Keys) -> None:
        """Read, and then what they refer to and what says no inbox: it may have been published before these were."""
        self._have_read(source, relation, keys)
        for held in self._calls.run(lambda: self._derivation.readable):
            name, column = held.relation.name, dict(held.relation.held_by).get(relation)
            derived = self._calls.run(lambda: self._derivation.derived(relation))
            if column is None or derived is None or self._calls.run(partial(self._is_broken, name)):
                continue
            with source.reading():
                found = referred(source.connection, derived, column, list(keys))
            self._have_read(source, name, expected_nowhere(found))

    def _have_read(self, source: Source, relation: str, keys: Keys) -> None:
        """Read, published and acknowledged; or failed, each key by itself."""
        items = [((key,), inboxes) for key, inboxes in keys.items()]
        errand = self._calls.run(lambda: self._agenda.errand(relation, items))
        while not errand.complete:
            if self._reader.serve(source):
                self._rest(source)
            elif self._calls.run(lambda: self._is_broken(relation)):
                self._calls.run(errand.give_up)
                raise SourceUnavailable(f"{relation} can't be read at the moment")
            else:
                self._wait(0.005)

    def _is_broken(self, relation: str) -> bool:
        return self._derivation.derived(relation) is None or self._derivation.failed(relation) >= MOST_FAILED

    def _await(self, batch: Batch) -> None:
        """Until the batch is acknowledged, however long Kafka is away."""
        while not batch.complete:
            self._wait(0.005)

    def _rest(self, source: Source) -> None:
        """As long as the share asks for, after what was spent since the last rest."""
        spent, self._accounted_s = source.busy_s - self._accounted_s, source.busy_s
        self._share.spent(spent, time.monotonic())
        self._wait(self._share.rest_s(time.monotonic()))

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Ended
