"""What every run has, whatever it reads the source by: where events go, what is remembered, what is asked of it.

A run holds the source (a slot, or the pollers' lock) from its beginning to its end. Everything that it shares belongs
to its loop's thread; threads that read come in through `Calls`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from replicator import metrics
from replicator.agenda import Agenda
from replicator.backfill_job import FanOut
from replicator.calls import Calls
from replicator.changes import Table
from replicator.config import Settings
from replicator.control import Control
from replicator.derivation import Derivation
from replicator.digest_memory import DigestMemory
from replicator.errors import ReplicatorError
from replicator.event import Origin, Topics
from replicator.memory import Succession
from replicator.modes import BY_WHY, Mode, Standing
from replicator.progress import Batch, Progress
from replicator.publisher import Publisher
from replicator.relations import Captured
from replicator.runtime import Stop
from replicator.takeover import KAFKA_SECONDS, Tenure
from replicator.window import Window

log = structlog.get_logger(__name__)

HUNG_S = 10.0
"""Beyond this a loop without a turn, or a Kafka that does not answer, is no passing moment."""


class Stopped(ReplicatorError):
    """A stop was asked for while something was waited for."""


class Every:
    """True once every so many seconds, first at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self, now: float) -> bool:
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class Run(ABC):
    """One run: from taking the source to losing it."""

    def __init__(
        self, settings: Settings, kafka: Mapping[str, Any], stop: Stop, captured: Captured, standing: Standing
    ) -> None:
        self._settings, self._kafka, self._stop, self._captured = settings, kafka, stop, captured
        self.standing = standing
        self._housekeeping = Batch()
        self._announced: set[str] = set()
        self._described_at = 0.0
        self.has_begun = False
        """The source was taken, and every partition knows of the run."""
        self.status: dict[str, object] = {}

    @abstractmethod
    def serve(self) -> None:
        """Until the stop is asked for. Raises a ReplicatorError otherwise."""

    @abstractmethod
    def _describe(self) -> dict[str, object]:
        """What the status shows."""

    def waits_for(self, now: float) -> str:
        """What keeps the run from being well; empty if nothing does. From any thread."""
        if not self.status:
            return "the beginning of a run"
        if now - self._described_at > HUNG_S:
            return f"the loop, which has made no turn for {now - self._described_at:.0f} s"
        if self._publisher.unreachable_s > HUNG_S:
            return f"Kafka, which has not answered for {self._publisher.unreachable_s:.0f} s"
        return ""

    def _assemble(
        self,
        tenure: Tenure,
        publisher: Publisher,
        open_window: Callable[[Window | None], None],
        digests: DigestMemory | None,
    ) -> None:
        """What a run works with, once it holds the source. `_disperse` ends it."""
        self.has_begun = True
        self._tenure, self._publisher = tenure, publisher
        self._progress = Progress(tenure.confirmed)
        self._derivation = Derivation(
            self._captured,
            tenure.memory,
            tenure.outlet,
            self._progress,
            self._announce,
            self._origin,
            self._read_whole,
            self._fan_out,
            digests,
            most_dirty=self._settings.dirty_keys,
            fingerprints=self._settings.fingerprints,
        )
        self._agenda = Agenda(
            self._captured, tenure.memory, tenure.outlet, self._announce, open_window, self._derivation
        )
        topics = Topics(self._settings.topic_prefix)
        control = tenure.memory.records.get("control")
        next_offset = control["next_offset"] if control is not None else None
        self._control = Control(self._kafka, topics, next_offset, KAFKA_SECONDS)
        self._succession = Succession(self._kafka, topics, tenure.outlet.run, tenure.remembered_until)
        self._calls = Calls()

    def _disperse(self) -> None:
        self._calls.close()
        self._control.close()
        self._succession.close()

    def _announce(self, table: Table) -> None:
        """Consumers must be able to look up a version before they meet a row of it."""
        if table.version in self._announced:
            return
        batch = Batch()
        self._tenure.outlet.schema(table.schema, batch)
        self._publisher.wait_for(batch, KAFKA_SECONDS)
        self._announced.add(table.version)
        log.info("schema.announced", table=table.relation.name, version=table.version)

    def _origin(self, table: str) -> Origin:
        return Origin(
            topic_prefix=self._settings.topic_prefix,
            database=self._tenure.identity.database,
            schema=self._settings.source_schema,
            table=table,
        )

    def _read_whole(self, relation: str, reason: str, batch: Batch) -> None:
        self._agenda.read_whole(relation, reason, batch)

    def _fan_out(self, relation: str, fan_out: FanOut, batch: Batch) -> None:
        self._agenda.fan_out(relation, fan_out, batch)

    def _take_requests(self) -> None:
        before = self._control.next_offset
        for request in self._control.poll():
            self._agenda.request(request, self._housekeeping)
        if self._control.next_offset != before:
            self._remember_control(self._housekeeping)

    def _look_for_others(self) -> None:
        """Raises Superseded if a later run has begun; what an earlier one still writes must not outlast ours."""
        if overruled := self._succession.check():
            log.warning("state.written_again", records=len(overruled), reason="an earlier run woke up and wrote them")
            self._renew_housekeeping()
            self._tenure.memory.write_again(overruled, self._housekeeping)

    def _remember_control(self, batch: Batch) -> None:
        self._tenure.memory.write("control", {"next_offset": self._control.next_offset}, batch)

    def _write_status(self, *, stopped: bool = False) -> None:
        self.status, self._described_at = self._describe(), time.monotonic()
        metrics.observe_mode(is_polling=self.standing.mode is Mode.POLL, switches=self.standing.switches)
        self._renew_housekeeping()
        if not self._publisher.unreachable:
            # Backfills have records of their own, which would make this one as large as they are together.
            brief = {name: value for name, value in self.status.items() if name != "backfills"}
            self._tenure.memory.write("status", {**brief, "stopped": stopped}, self._housekeeping)

    def _renew_housekeeping(self) -> None:
        """Nobody waits for this batch; a fresh one keeps its counters small."""
        if self._housekeeping.complete:
            self._housekeeping = Batch()

    def _shared_status(self) -> dict[str, object]:
        """What every status shows."""
        run = self._tenure.outlet.run
        rule = BY_WHY.get(self.standing.why)
        return {
            "mode": self.standing.mode.value,
            "mode_since_ms": self.standing.since_ms,
            "mode_because": rule.sentence if rule is not None else "",
            "mode_back": rule.back if rule is not None else "",
            "mode_not_before_ms": self.standing.not_before_ms,
            "mode_switches": self.standing.switches,
            "at_ms": time.time_ns() // 1_000_000,
            "epoch": run.epoch,
            "generation": run.generation,
            "events": self._tenure.outlet.published,
            "oversized": self._tenure.outlet.oversized,
            "unacknowledged": self._publisher.waiting,
            "kafka_reachable": not self._publisher.unreachable,
            "owed_keys": self._agenda.owed,
            "derived": self._derivation.describe(),
            "backfills": [job.to_record() for job in self._agenda.jobs.values()],
        }
