"""A run that polls: the same events as a run of the stream, found by asking.

Needs nothing but SELECT. Holds the pollers' lock by the one session that also reads, in a thread (`poller`); this is
the loop that publishes and remembers. Every relation is captured as a derived one is: keys first, then their rows.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from replicator.config import Settings
from replicator.definitions import Definitions, captured_by, polled_by, read_definitions
from replicator.digest_memory import DigestMemory
from replicator.errors import NothingToPoll
from replicator.event import HeartbeatMarker, Position
from replicator.marks import Marks
from replicator.modes import LEFT_OUT, Standing
from replicator.poller import Poller
from replicator.publisher import Publisher
from replicator.reader import Reader
from replicator.rolling_pass import as_time, describe
from replicator.run import Every, Run, Stopped
from replicator.runtime import Stop
from replicator.settled import SettledReads
from replicator.source import Source
from replicator.takeover import KAFKA_SECONDS, Tenure, ever_published, take_over_polling

log = structlog.get_logger(__name__)

WAIT_S: Final = 0.02
CONTROL_S: Final = 0.25
DERIVED_S: Final = 0.05
WRITE_DOWN_S: Final = 1.0
LOOK_S: Final = 5.0
STATUS_S: Final = 2.0
DRAIN_S: Final = 4.0
"""At a stop: how long Kafka may take for what is queued."""


class Polling(Run):
    """One run: from taking the lock to losing it."""

    def __init__(
        self,
        settings: Settings,
        kafka: Mapping[str, Any],
        stop: Stop,
        standing: Standing,
        look: Callable[[Source], None],
        held_bytes: Callable[[], int],
    ) -> None:
        """`look` raises ModeChanged when the source is to be streamed. `held_bytes`: WAL that a slot of ours keeps."""
        super().__init__(settings, kafka, stop, polled_by(settings), standing)
        self._look_whether_to_stream, self._held_bytes = look, held_bytes
        self._every_derived, self._every_control = Every(DERIVED_S), Every(CONTROL_S)
        self._every_write_down, self._every_look = Every(WRITE_DOWN_S), Every(LOOK_S)
        self._every_status, self._every_heartbeat = Every(STATUS_S), Every(settings.heartbeat_s)
        self._told_us = 0
        self._ever: frozenset[str] = frozenset()
        """Relations that were ever published, in this epoch or an earlier one."""
        self._left_out: tuple[str, ...] = ()
        """Of these what is not polled."""

    def waits_for(self, now: float) -> str:
        if said := super().waits_for(now):
            return said
        if (held := self._held_bytes()) > self._settings.wal_budget_bytes:
            return f"the replication slot dropped, which the role may not do: it keeps {held:,} bytes of WAL"
        return ""

    def serve(self) -> None:
        publisher = Publisher(self._kafka, self._settings.max_message_bytes, self._while_waiting)
        try:
            with Source(self._settings) as source:
                found = read_definitions(source, self._captured)
                _refuse_nothing(found)
                tenure = take_over_polling(
                    self._settings, self._kafka, source, publisher, found.available, self.standing
                )
                self._poll(tenure, found, source, publisher)
        finally:
            publisher.close(1.0)

    def _poll(self, tenure: Tenure, found: Definitions, source: Source, publisher: Publisher) -> None:
        self._digests = DigestMemory(
            self._settings.digest_entries, tenure.memory, lambda batch: publisher.wait_for(batch, KAFKA_SECONDS)
        )
        self._assemble(tenure, publisher, lambda window: None, self._digests)
        self._install(found)
        self._note_left_out(tenure)
        self._marks = Marks(tenure.memory)
        run = tenure.outlet.run
        self._poller = Poller(
            self._settings,
            self._calls,
            self._agenda,
            self._derivation,
            self._digests,
            self._marks,
            lambda settled: self._reader(settled, found),
            self._look_whether_to_stream,
            source=source,
            start=Position(run.epoch, run.generation, 0),
            fresh_us=1000 * int(tenure.memory.records["confirmed"].get("fresh_ms", 0)),
        )
        self._poller.start()
        try:
            self._take_turns()
        finally:
            self._poller.stop()
            self._disperse()
            self._poller.join(5)

    def _reader(self, settled: SettledReads, found: Definitions) -> Reader:
        return Reader(
            self._settings,
            self._captured,
            self._calls,
            self._derivation,
            self._install,
            self._origin,
            settled,
            known=found,
            hashed=True,
        )

    def _install(self, found: Definitions) -> None:
        self._derivation.install(found.relations, found.keys)

    def _note_left_out(self, tenure: Tenure) -> None:
        known = {*captured_by(self._settings).names, *self._captured.names}
        self._ever = frozenset(known.intersection(ever_published(tenure.memory)))
        self._left_out = tuple(sorted(self._ever.difference(self._captured.names)))
        if self._left_out:
            log.warning("poll.leaves_out", relations=self._left_out, reason=LEFT_OUT)

    def _take_turns(self) -> None:
        """Until a stop, which is said in the status whenever it comes."""
        try:
            while not self._stop.asked:
                self._turn()
            self._drain()
        except Stopped:
            self._write_status(stopped=True)
            raise

    def _turn(self) -> None:
        self._publisher.poll()
        self._calls.serve()
        if self._poller.error is not None:
            raise self._poller.error
        now = time.monotonic()
        self._progress.seal()
        if self._every_derived.due(now):
            self._derivation.finish()
        if self._every_write_down.due(now):
            self._derivation.write_down()
            self._marks.write_down()
            self._digests.write_down()
        if self._every_control.due(now):
            self._take_requests()
        if self._every_heartbeat.due(now):
            self._heartbeat()
        if self._every_look.due(now):
            self._look_for_others()
        if self._every_status.due(now):
            self._write_status()
        self._publisher.hasten(self._calls.is_waiting)
        select.select([self._calls.wake], [], [], WAIT_S)

    def _heartbeat(self) -> None:
        """Tells every partition up to when it is complete: that is what a rolling pass has shown, and no more.

        Nothing can be said of a partition whose tables stand still.
        """
        if self._left_out:
            return
        verified_us = self._marks.verified_us(self._begun())
        if verified_us > self._told_us:
            self._renew_housekeeping()
            marker = HeartbeatMarker(source_ms=verified_us // 1000)
            self._tenure.outlet.marker(marker, self._tenure.outlet.run.generation, self._housekeeping)
            self._told_us = verified_us

    def _begun(self) -> list[str]:
        """Polled relations that were ever read, be they readable now or not."""
        names = (each.name for each in self._captured.derived)
        return [name for name in names if name in self._ever or self._marks.of(name).has_begun]

    def _while_waiting(self) -> None:
        """Called while the producer's queue is full, or an acknowledgement is waited for."""
        if self._stop.asked:
            raise Stopped

    def _drain(self) -> None:
        """Gives Kafka a moment for what is queued; what is acknowledged need not be found again."""
        self._poller.stop()
        deadline = time.monotonic() + DRAIN_S
        while self._publisher.waiting and time.monotonic() < deadline:
            self._publisher.hasten()
            self._publisher.poll()
            self._calls.serve()
            time.sleep(0.005)
        self._derivation.finish()
        self._derivation.write_down()
        self._marks.write_down()
        self._digests.write_down(at_once=True)
        self._write_status(stopped=True)

    def _describe(self) -> dict[str, object]:
        poller = self._poller
        marks = {name: self._marks.of(name) for name in self._derivation.available}
        return {
            **self._shared_status(),
            "polls": poller.polls,
            "candidates": poller.candidates,
            "poll_candidates": poller.poll_candidates,
            "poll_s": round(poller.poll_s, 4),
            "source_s": round(poller.spent_s, 3),
            "held_back_s": round(poller.held_back_s, 3),
            "held_bytes": self._held_bytes(),
            "poll_waits_for": poller.waits_for,
            "verified": describe(poller.rolling.checked, {name: mark.verified_us for name, mark in marks.items()}),
            "verified_through": as_time(self._marks.verified_us(self._begun())),
            "held_inboxes": {
                name: {inbox: as_time(us) for inbox, us in mark.held.items()}
                for name, mark in marks.items()
                if mark.held
            },
            "left_out": self._left_out,
            "digests": self._digests.describe(),
        }


def _refuse_nothing(found: Definitions) -> None:
    """Raises NothingToPoll."""
    if not found.available:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.relations.items())
        raise NothingToPoll(f"nothing can be polled: {reasons or 'REPLICATOR_VIEW is empty'}")
