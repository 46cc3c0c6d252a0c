"""A run of the stream: the loop on top of logical replication.

A turn of the loop, in this order of priority:

1. frames that have arrived, at most `FRAMES_A_TURN`, so that nothing below starves;
2. acknowledgements from Kafka;
3. what threads that read ask for;
4. what is due by the clock: a sample of the source, the confirmed LSN, feedback, heartbeats, requests, status;
5. if nothing arrived: send what is queued, then wait for the source, briefly.

A run ends by a stop, or by a fault; `ACTIONS` says what comes next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from replicator import metrics
from replicator.backfill import Backfiller
from replicator.capture import Capture
from replicator.config import Settings
from replicator.course import Course
from replicator.definitions import Definitions, captured_by, read_definitions
from replicator.deriver import Deriver
from replicator.digest_memory import DigestMemory
from replicator.errors import (
    ReplicatorError,
    SlotStuck,
    SourceChanged,
    SourceSilent,
    SourceUnavailable,
    SourceWentBack,
    WalBudgetSpent,
)
from replicator.event import HeartbeatMarker
from replicator.history import changed_tables
from replicator.inspection import read_tables
from replicator.lapses import SENTENCE, Lapses
from replicator.lsn import format_lsn
from replicator.modes import Standing
from replicator.pgoutput import Begin, Commit, Keepalive, decode_frame
from replicator.progress import Batch
from replicator.publisher import Publisher
from replicator.relations import SHIPPED, STREAMED_BY_NAME
from replicator.replication import Replication
from replicator.run import Every, Run, Stopped
from replicator.runtime import Stop
from replicator.source import Sample, Source
from replicator.takeover import KAFKA_SECONDS, Tenure, take_over
from replicator.verifier import Verifier
from replicator.window import Window

log = structlog.get_logger(__name__)

FRAMES_A_TURN = 2_000
WAIT_S = 0.02
"""Longest wait for the source in one turn: bounds how late acknowledgements and calls are seen."""
SEAL_S = 0.1
SEAL_EVENTS = 5_000
CONFIRM_S = 1.0
FEEDBACK_S = 5.0
"""The server ends a session that says nothing for wal_sender_timeout (60 s by default)."""
CONTROL_S = 0.25
DERIVED_S = 0.05
BEAT_S = 0.2
LOOK_S = 5.0
"""How often a run looks whether it still is what it was when it began."""
STATUS_S = 2.0
SILENT_S = 60.0
"""A walsender that has not answered for so long is left, as it would leave us..."""
SILENCE_S = 10.0
"""...and one that has not for this long is said to be slow."""
MOST_SILENT_S = 3600.0
"""The next run waits twice as long, up to this: the walsender may be decoding a huge transaction of tables that are not
published, which it begins anew for every connection."""
DRAIN_S = 4.0
"""At a stop: how long Kafka may take for what is queued. What is dropped was not confirmed and comes again."""


class Streaming(Run):
    """One run: from taking the slot to losing it."""

    def __init__(
        self,
        settings: Settings,
        kafka: Mapping[str, Any],
        stop: Stop,
        standing: Standing,
        *,
        patience_s: float = SILENT_S,
    ) -> None:
        """`patience_s`: how long a walsender may leave a question unanswered."""
        super().__init__(settings, kafka, stop, captured_by(settings), standing)
        self._patience_s = patience_s
        self._received = 0
        self._confirmed = self._began_at = 0
        self._confirming: tuple[int, Batch] | None = None
        self._sample: Sample | None = None
        self._reached: float | None = None
        """When the stream had passed the sample."""
        self._told = False
        """Every partition knows that all before the sample is published."""
        self._published: tuple[int, int] = (0, 0)
        """(LSN, source time in ms): of the last sample that every partition knows of."""
        self._every_confirm, self._every_feedback = Every(CONFIRM_S), Every(FEEDBACK_S)
        self._every_seal, self._every_control = Every(SEAL_S), Every(CONTROL_S)
        self._every_derived, self._every_beat = Every(DERIVED_S), Every(BEAT_S)
        self._every_status, self._every_heartbeat = Every(STATUS_S), Every(settings.heartbeat_s)
        self._every_look, self._every_budget = Every(LOOK_S), Every(LOOK_S)
        self._replication: Replication | None = None
        self._noted: Begin | None = None
        """The last commit that the state topic knows of."""

    def waits_for(self, now: float) -> str:
        if said := super().waits_for(now):
            return said
        if self._replication is not None and self._replication.silent_s > SILENCE_S:
            return f"the source's walsender, which has not answered for {self._replication.silent_s:.0f} s"
        if lapsed := self._lapses.tables:
            return f"{', '.join(lapsed)}: {SENTENCE}"
        return ""

    @property
    def advanced(self) -> bool:
        """Whether the slot was told to forget anything."""
        return self._began_at < self._confirmed

    def serve(self) -> None:
        publisher = Publisher(self._kafka, self._settings.max_message_bytes, self._while_waiting)
        try:
            with Source(self._settings) as source:
                self._source = source
                replication = Replication(self._settings)
                try:
                    found = read_definitions(source, self._captured)
                    tables = (*STREAMED_BY_NAME, *found.available)
                    watched = _watched(source, found)
                    tenure = take_over(
                        self._settings, self._kafka, source, replication, publisher, tables, watched, self.standing
                    )
                    self._replication = replication
                    self._stream(tenure, found, source, replication, publisher)
                except SlotStuck:
                    log.warning("slot.stuck", slot=self._settings.slot)
                    source.drop_slot()
                    raise
                finally:
                    replication.close()
        finally:
            publisher.close(1.0)

    def _stream(
        self, tenure: Tenure, found: Definitions, source: Source, replication: Replication, publisher: Publisher
    ) -> None:
        self._received = self._confirmed = self._began_at = tenure.confirmed
        digests = DigestMemory.unrecorded(self._settings.digest_entries) if self._settings.verify else None
        self._digests = digests
        self._assemble(tenure, publisher, self._open_window, digests)
        self._lapses = self._followed_identities(tenure)
        self._course, self._noted = Course(tenure.last_commit, tenure.confirmed), tenure.last_commit
        self._capture = Capture(
            {oid: name for name, (oid, *_) in tenure.published.items() if name in STREAMED_BY_NAME},
            source,
            tenure.outlet,
            self._progress,
            self._origin,
            self._announce,
            self._agenda.owe,
            self._derivation,
            self._lapses,
            self._course,
        )
        self._install(found)
        self._backfiller = Backfiller(
            self._settings,
            self._captured,
            self._calls,
            self._agenda,
            self._origin,
            epoch=tenure.outlet.run.epoch,
            born=tenure.born,
        )
        self._deriver = Deriver(
            self._settings,
            self._captured,
            self._calls,
            self._derivation,
            self._install,
            self._origin,
            known=found,
            born=tenure.born,
            hashed=digests is not None,
        )
        self._verifier = (
            Verifier(
                self._settings,
                self._calls,
                self._agenda,
                self._derivation,
                digests,
                self._has_passed,
                born=tenure.born,
            )
            if digests is not None
            else None
        )
        self._readers = [each for each in (self._backfiller, self._deriver, self._verifier) if each is not None]
        for reader in self._readers:
            reader.start()
        try:
            self._take_turns(replication)
        finally:
            for reader in self._readers:
                reader.stop()
            self._disperse()
            self._backfiller.join(5)
            self._deriver.join(1)

    def _take_turns(self, replication: Replication) -> None:
        """Until a stop, which is said in the status whenever it comes."""
        try:
            while not self._stop.asked:
                self._turn(replication)
            self._drain(replication)
        except Stopped:  # somewhere in a turn, so nothing more is confirmed
            self._write_status(stopped=True)
            raise
        except SourceWentBack:
            batch = Batch()
            self._note_course(batch, went_back=True)
            self._publisher.wait_for(batch, KAFKA_SECONDS)
            raise
        except SourceUnavailable:  # what comes back may be an older copy of it
            self._note_course()
            raise

    def _followed_identities(self, tenure: Tenure) -> Lapses:
        shipped = {table.name: table for table in SHIPPED}
        tables = {oid: shipped[name] for name, (oid, *_) in tenure.published.items() if name in shipped}
        return Lapses(
            {} if self._settings.accept_default_identity else tables,
            tenure.memory,
            self._read_whole,
            lambda table: self._derivation.made_of((self._settings.source_schema, table)),
        )

    def _turn(self, replication: Replication) -> None:
        arrived = self._take_frames(replication)
        if replication.silent_s > self._patience_s:
            raise SourceSilent(f"the source's walsender has not answered for {replication.silent_s:.0f} s")
        self._publisher.poll()
        self._calls.serve()
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error
        self._on_the_clock(replication)
        if not arrived:
            self._publisher.hasten(self._calls.is_waiting)
            replication.wait(WAIT_S, self._calls.wake)

    def _take_frames(self, replication: Replication) -> int:
        """Handles what has arrived; returns how many frames that were."""
        handle = self._capture.handle
        for count in range(FRAMES_A_TURN):
            frame = replication.read()
            if frame is None:
                return count
            message = decode_frame(frame)
            if isinstance(message, Keepalive):
                self._keepalive(replication, message)
                continue
            handle(message)
            if isinstance(message, Commit):
                self._received = message.end_lsn
                if self._progress.batch.sent >= SEAL_EVENTS:
                    self._progress.seal()
        return FRAMES_A_TURN

    def _keepalive(self, replication: Replication, keepalive: Keepalive) -> None:
        if self._capture.between_transactions:
            self._course.reach(keepalive.wal_end)
            self._received = max(self._received, keepalive.wal_end)
            self._progress.idle_at(keepalive.wal_end)
        if keepalive.reply_requested:
            replication.feedback(self._received, self._confirmed)

    def _on_the_clock(self, replication: Replication) -> None:
        now = time.monotonic()
        if self._every_seal.due(now):
            self._progress.seal()
        if self._every_beat.due(now):
            self._heartbeat(now)
        if self._every_heartbeat.due(now):
            self._take_sample(replication)
        self._finish_confirming(replication)
        if self._every_derived.due(now):
            self._derivation.finish()
        if self._every_confirm.due(now):
            self._derivation.write_down()
            if self._digests is not None:
                self._digests.write_down()
            self._note_course()
            self._confirm()
        if self._every_feedback.due(now):
            replication.feedback(self._received, self._confirmed, ask_reply=True)
        if self._every_control.due(now):
            self._take_requests()
        if self._every_look.due(now):
            self._look()
        self._guard_budget(now)
        if self._every_status.due(now):
            self._write_status()

    def _heartbeat(self, now: float) -> None:
        """Once everything committed before the sample is published, derived rows too: tells every partition."""
        sample = self._sample
        if sample is None or self._told:
            return
        if self._reached is None:
            if self._received < sample.flushed_lsn or not self._capture.between_transactions:
                return
            self._reached = now
        if self._derivation.is_done(self._reached) and not self._agenda.is_behind(self._reached):
            self._renew_housekeeping()
            marker = HeartbeatMarker(source_ms=sample.at_ms)
            self._tenure.outlet.marker(marker, self._received, self._housekeeping)
            self._told = True
            self._published = sample.flushed_lsn, sample.at_ms

    def _has_passed(self, lsn: int) -> bool:
        """Whether everything up to there was delivered."""
        return self._received >= lsn and self._capture.between_transactions

    def _take_sample(self, replication: Replication) -> None:
        """Of the source, once the last one has been told to every partition."""
        if self._sample is None or self._told:
            self._sample, self._reached, self._told = self._source.sample(), None, False
        replication.feedback(self._received, self._confirmed, ask_reply=True)

    def _note_course(self, batch: Batch | None = None, *, went_back: bool = False) -> None:
        """For the next run to know the source by."""
        self._renew_housekeeping()
        last, batch = self._course.last, batch or self._housekeeping
        if last is not None and (went_back or last != self._noted):
            self._tenure.memory.write("course", {"last_commit": list(last), "went_back": went_back}, batch)
            self._noted = last

    def _confirm(self) -> None:
        """Begins to confirm: what the slot will be told is remembered first."""
        if self._progress.unsettled:
            self._progress.settle(self._source.sample().snapshot)
        if self._confirming is not None:
            return
        lsn = self._progress.confirm(self._derivation.hold())
        if lsn > self._confirmed:
            batch = Batch()
            self._tenure.memory.write("confirmed", {"lsn": lsn, "fresh_ms": self._fresh_ms(lsn)}, batch)
            self._confirming = lsn, batch

    def _fresh_ms(self, lsn: int) -> int:
        """A source time before which everything committed lies before this LSN: where polling would begin."""
        upto, at_ms = self._published
        known: int = self._tenure.memory.records.get("confirmed", {}).get("fresh_ms", 0)
        return max(known, at_ms) if upto <= lsn else known

    def _finish_confirming(self, replication: Replication) -> None:
        if self._confirming is not None and self._confirming[1].complete:
            self._confirmed = self._confirming[0]
            self._confirming = None
            replication.feedback(max(self._received, self._confirmed), self._confirmed)

    def _look(self) -> None:
        """Whether the run is the latest, and tables are published as when it began; what became of their identities."""
        self._look_for_others()
        if changed := changed_tables(self._tenure.published, self._source.published(), self._watched):
            raise SourceChanged(f"the publication was changed, or a table of it: {', '.join(changed)}")
        if self._lapses.tables:
            flushed = self._source.sample().flushed_lsn
            self._lapses.look(read_tables(self._settings, self._source, SHIPPED), flushed, self._housekeeping)

    def _guard_budget(self, now: float) -> None:
        """Also while Kafka is away: that is when the slot keeps WAL. Raises WalBudgetSpent."""
        if not self._every_budget.due(now):
            return
        slot = self._source.slot()
        if slot is not None and slot.held_bytes is not None and slot.held_bytes > self._settings.wal_budget_bytes:
            raise WalBudgetSpent(f"the slot keeps {slot.held_bytes:,} bytes of WAL on the source")

    def _describe(self) -> dict[str, object]:
        sample = self._source.sample()
        metrics.observe(self._capture, self._tenure.outlet, self._publisher.waiting, self._progress.unsettled)
        return {
            **self._shared_status(),
            "received_lsn": format_lsn(self._received),
            "confirmed_lsn": format_lsn(self._confirmed),
            "behind_bytes": max(0, sample.flushed_lsn - self._received),
            "last_commit_ms": self._capture.last_commit_ms,
            "row_changes": self._capture.row_changes,
            "transactions": self._capture.transactions,
            "unsettled": len(self._progress.unsettled),
            "lapsed_identities": self._lapses.tables,
            "backfill_waits_for": self._backfiller.waits_for,
            "derived_waits_for": self._deriver.waits_for,
            "verified": self._verifier.describe() if self._verifier is not None else {},
        }

    def _install(self, found: Definitions) -> None:
        """Derived relations as the source has them now."""
        self._watched = _watched(self._source, found)
        unseen = {table for table in found.keys if self._source.name_of(*table) not in self._tenure.published}
        self._derivation.install(found.relations, found.keys, unseen)
        self._capture.trace_again()

    def _open_window(self, window: Window | None) -> None:
        self._capture.window = window

    def _while_waiting(self) -> None:
        """Called while the producer's queue is full, or an acknowledgement is waited for."""
        if self._stop.asked:
            raise Stopped
        now = time.monotonic()
        if self._replication is not None and self._every_feedback.due(now):
            self._replication.feedback(self._received, self._confirmed, ask_reply=True)
        self._guard_budget(now)

    def _drain(self, replication: Replication) -> None:
        """Gives Kafka a moment for what is queued, and confirms once more what can be."""
        deadline = time.monotonic() + DRAIN_S
        self._note_course()
        self._progress.seal()
        self._until(lambda: self._progress.acknowledged_all and self._confirming is None, deadline, replication)
        self._confirm()
        self._until(lambda: self._confirming is None, deadline, replication)
        replication.feedback(self._received, self._confirmed)
        self._write_status(stopped=True)

    def _until(self, done: Callable[[], bool], deadline: float, replication: Replication) -> None:
        while not done() and time.monotonic() < deadline:
            self._publisher.hasten()
            self._publisher.poll()
            self._finish_confirming(replication)
            time.sleep(0.005)


def _watched(source: Source, found: Definitions) -> frozenset[str]:
    """The tables that something is made of."""
    return frozenset(table.name for table in SHIPPED).union(source.name_of(*table) for table in found.keys)


def next_patience(seconds: float, error: ReplicatorError, *, advanced: bool) -> float:
    """How long the next run waits for a walsender that is silent, after a run that waited so long and ended so."""
    if advanced:
        return SILENT_S
    return min(2 * seconds, MOST_SILENT_S) if isinstance(error, SourceSilent) else seconds
