"""The loop on top of the consumers: one worker.

A turn: take what Kafka has (which also serves rebalances and keeps the membership), see whether the batch in flight is
done, make it durable, and send the next one off, tenants in parallel. While a batch is applied the loop goes on reading
into a bounded buffer, and parked tenants catch up beside it. Everything that is known of partitions belongs to this
thread; the threads of `apply` own nothing but their sessions.

On a revoke the batch in flight is finished, or abandoned: compare-and-set keeps a late one from doing harm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg
import structlog
from confluent_kafka import KafkaException
from psycopg import Connection

from consumers import metrics, target_session
from consumers.ahead import ReadAhead
from consumers.apply import Applier
from consumers.audit import Audit
from consumers.batch import Batch
from consumers.catching_up import CatchingUp
from consumers.config import Settings
from consumers.errors import Action, ConsumersError, Overtaken, TargetRefused, classify
from consumers.flight import Departures, Flight
from consumers.harvest import Harvest
from consumers.inbound import Inbound
from consumers.layout import Layout
from consumers.leads import Leads
from consumers.ledger import Ledger
from consumers.missing import MissingTables
from consumers.reasons import Reason
from consumers.requests import Requests
from consumers.retrying import Retrying
from consumers.schemas import Schemas
from consumers.skipped import SkippedColumns
from consumers.tenants import Mapping as TenantMapping
from consumers.topic import TopicShape
from consumers.upkeep import Upkeep
from replicator import VERSION
from replicator.runtime import GrowingPause, Health, Stop

log = structlog.get_logger(__name__)

POLL_S: Final = 0.02
BRISK_S: Final = 0.002
"""The longest wait for messages while some wait for their turn, which comes with the clock or with a batch's end."""
GROUP_S: Final = 2.0
"""How long Kafka may take to note that a worker leaves: milliseconds, or it is away."""
REVOKE_S: Final = 5.0
"""How long a batch may take to finish when its partitions are taken away."""
_TO_LEAVE_S: Final = 1.5
"""Beyond the settings' time to stop: then the process ends, whatever hangs."""
_TO_CANCEL_S: Final = 3.0
"""Of the settings' time to stop: for what ends after the batch in flight is given up."""
UNHEALTHY_S: Final = 60.0
"""No turn completed for so long is worth a probe's notice."""


def run(settings: Settings) -> int:
    """A worker until SIGTERM. Returns the exit code; raises ConsumersError or psycopg.Error with what stopped it."""
    stop = Stop()
    stop.install(settings.stop_timeout_s + _TO_LEAVE_S)
    worker = Worker(settings, stop)
    try:
        worker.work()
    except psycopg.Error as error:
        verdict = classify(error)
        reason = Reason.of(error, verdict)
        raise TargetRefused(f"the target says: {reason.says}. {reason.advice}") from None
    finally:
        worker.close()
    if worker.left_behind:  # a thread that does not come back from the network must not keep the process
        os._exit(0)
    return 0


class Worker:
    """One member of a pool."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self._settings, self._stop = settings, stop
        self._pause = GrowingPause(first=0.2, longest=10.0)
        self._control: Connection[Any] | None = None
        self._layout = Layout()
        self._mapping = TenantMapping(settings.mapping_ttl_s, settings.pool)
        self._leads = Leads(settings.mapping_ttl_s)
        self._ledger = Ledger(settings.pool)
        self._audit = Audit()
        self._skipped = SkippedColumns()
        self._missing = MissingTables()
        self._ahead = ReadAhead(settings.batch_messages, settings.batch_wait_ms)
        self._flight: Flight | None = None
        self._recover: set[int] = set()
        """Partitions of which the truth must be read again."""
        self._threads = ThreadPoolExecutor(settings.connections, thread_name_prefix="apply")
        self._schemas = Schemas(settings)
        self._requests = Requests(settings)
        self._applier = Applier(settings, self._layout, self._schemas)
        self._inbound: Inbound | None = None
        self._health: Health | None = None
        self._retrying = Retrying(settings, self._layout, self._schemas, self._requests.send)
        self._departures = Departures(settings.pool, self._layout, self._mapping, self._leads, self._ledger)
        self._upkeep = Upkeep(
            settings,
            departures=self._departures,
            layout=self._layout,
            mapping=self._mapping,
            leads=self._leads,
            ledger=self._ledger,
            requests=self._requests,
            skipped=self._skipped,
            missing=self._missing,
            audit=self._audit,
            retrying=self._retrying,
        )
        self._harvest = Harvest(self._ledger, self._audit, self._skipped, self._missing, self._requests)
        self._catching_up = CatchingUp(
            settings,
            Applier(settings, self._layout, self._schemas, is_beside=True),
            ledger=self._ledger,
            mapping=self._mapping,
            departures=self._departures,
            harvest=self._harvest,
        )
        self._waits_for = ""
        self._well_at = time.monotonic()
        """When a turn last ended, and the target was not waited for."""
        self.left_behind = False

    # --- life

    def work(self) -> None:
        """Returns when asked to stop; raises what a person must mend."""
        self._health = Health(self._settings.http_host, self._settings.http_port, self._status)
        self._health.start()
        log.info("consumers.starts", version=VERSION, pool=self._settings.pool, http_port=self._health.port)
        self._begin()
        while not self._stop.asked:
            try:
                self._turn()
            except (psycopg.Error, ConsumersError, KafkaException) as error:
                self._wait_out(error)
            else:
                self._waits_for = ""
                if not self._applier.waits_for:
                    self._well_at = time.monotonic()
                self._pause.reset()

    def close(self) -> None:
        """Finishes or abandons what is in flight, leaves the group, lets everything go."""
        deadline = time.monotonic() + self._settings.stop_timeout_s
        self._catching_up.end()
        self._finish_flight(self._settings.stop_timeout_s - _TO_CANCEL_S)
        if self._flight is not None:  # given up, and its threads are told so before anything waits for them
            self._applier.cancel()
        if self._inbound is not None and not self._inbound.close(GROUP_S):
            log.warning("group.not_left", advice="Kafka does not answer; it gives the partitions on by itself.")
            self.left_behind = True
        self.left_behind |= not self._upkeep.close()
        self.left_behind |= not self._retrying.close()
        self._requests.close()
        self._schemas.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._flight is not None:
            while not all(job.done() for job in self._flight.jobs) and time.monotonic() < deadline:
                time.sleep(0.01)
            self.left_behind |= not all(job.done() for job in self._flight.jobs)
        self.left_behind |= not self._catching_up.close(deadline)
        if not self.left_behind:
            self._applier.close()
        try:
            if self._control is not None and not self._control.broken:
                self._skipped.write(self._control)
                self._missing.write(self._control)
                self._audit.write(self._control, finished=True)
                self._control.close()
        except psycopg.Error as error:
            log.warning("audit.not_written", error=type(error).__name__)
        if self._health is not None:
            self._health.stop()
        log.info("consumers.stopped")

    def _begin(self) -> None:
        """Verifies the target, and joins the group."""
        while not self._stop.asked:
            try:
                target_session.refuse_shared(self._settings, self._open_control())
                TopicShape(self._settings)
                self._inbound = Inbound(self._settings, self._on_assign, self._on_revoke, self._on_lost)
            except (psycopg.Error, ConsumersError, KafkaException) as error:
                self._wait_out(error)
            else:
                return

    def _wait_out(self, error: Exception) -> None:
        """Waits for as long as the error's verdict asks, or raises it."""
        verdict = classify(error)
        if verdict.action is Action.STOP:
            raise error
        reason = Reason.of(error, verdict)
        self._waits_for = reason.says
        log.warning("worker.waits", reason=reason.says, advice=reason.advice)
        if self._control is not None and self._control.broken:
            self._control = None
        deadline, reads = time.monotonic() + self._pause.next(), True
        while time.monotonic() < deadline and not self._stop.wait(0.1):
            try:
                if reads:
                    self._read()  # the membership goes on
            except (psycopg.Error, ConsumersError, KafkaException) as another:
                if classify(another).action is Action.STOP:
                    raise
                log.warning("log.waits", reason=Reason.of(another, classify(another)).says)
                reads = False  # the next turn tries again

    # --- a turn

    def _turn(self) -> None:
        self._read()
        control = self._open_control()
        if self._flight is not None and self._flight.is_done:
            self._settle(control, self._flight)
        if self._flight is None:
            self._recover |= self._catching_up.settle(control)
        if self._flight is None and self._recover:
            self._reopen(control)
        if self._flight is None:
            self._flight = self._next_batch()
        if self._flight is not None and self._flight.batch is None:
            self._departures.prepare(control, self._flight.messages)
            self._departures.send_off(control, self._flight, self._applier, self._threads)
        may_be_awaited = self._flight is not None or not self._ahead.is_ripe
        self._recover |= self._catching_up.go_on(control, self._ends(), may_be_awaited=may_be_awaited)
        assert self._inbound is not None  # noqa: S101  # joined before the first turn
        self._recover |= self._upkeep.look_after(control, self._inbound)

    def _read(self) -> None:
        """Into the buffer, which is bounded by its room."""
        if self._inbound is None:
            return
        try:
            taken = self._inbound.take(self._ahead.room, BRISK_S if len(self._ahead) else POLL_S)
        except BaseException:
            # What had come by then is gone, and what comes next would follow it as if nothing were between.
            self._recover |= self._ledger.progress.keys()
            raise
        if self._inbound.gaps:
            self._recover |= self._inbound.gaps & self._ledger.progress.keys()
        self._ahead.add([message for message in taken if message.partition in self._ledger.progress])

    def _next_batch(self) -> Flight | None:
        if self._recover or self._catching_up.is_awaited or not self._ahead.is_ripe:
            return None
        due = {partition: known.next_offset for partition, known in self._ledger.progress.items()}
        messages, torn = self._ahead.next_batch(due)
        self._recover |= torn
        return Flight(messages)

    def _ends(self) -> dict[int, int]:
        """By partition, how far everything is sorted out."""
        ends = {partition: known.next_offset for partition, known in self._ledger.progress.items()}
        if self._flight is not None and self._flight.batch is not None and not self._flight.ended.is_set():
            ends.update({partition: end for partition, end in self._flight.batch.ends.items() if partition in ends})
        return ends

    def _settle(self, control: Connection[Any], flight: Flight) -> None:
        """Makes durable what the threads have done; sends them off again if somebody else was faster."""
        for job in flight.jobs:
            result = job.result()
            self._harvest.take(result)
            known = flight.results.get(result.tenant)
            flight.results[result.tenant] = result
            if known is not None and known.stuck and not result.stuck:
                result.stuck, result.reason = known.stuck, known.reason
        flight.jobs = []
        results = list(flight.results.values())
        if flight.ended.is_set() or any(result.abandoned for result in results):
            self._give_up(flight)
            return
        if any(result.overtaken for result in results):
            self._start_over(control, flight)
            return
        assert flight.batch is not None  # noqa: S101  # a flight that is done was sorted out
        try:
            self._ledger.settle(control, flight.batch, results)
        except Overtaken as error:
            log.warning("worker.overtaken", reason=str(error))
            self._give_up(flight)
            return
        self._flight = None
        self._observe(flight.batch)
        if self._inbound is not None:
            self._inbound.mirror(flight.batch.ends)

    def _start_over(self, control: Connection[Any], flight: Flight) -> None:
        """From the truth; what is applied by now is skipped by the watermarks."""
        outdated = self._departures.read_again(control)
        self._recover |= outdated
        if outdated & flight.partitions:
            self._give_up(flight)
            return
        flight.results.clear()
        flight.batch = None

    def _give_up(self, flight: Flight) -> None:
        """Nothing more of this flight; its partitions, as far as they are still ours, are read from the truth again."""
        flight.ended.set()
        self._flight = None
        self._recover |= flight.partitions & self._ledger.progress.keys()

    def _reopen(self, control: Connection[Any]) -> None:
        """Reads the truth of partitions again, and goes on from there."""
        assert self._inbound is not None  # noqa: S101  # partitions come from it
        shape = TopicShape(self._settings)
        self._recover |= self._ledger.of_another_topic(shape.topic_id)
        partitions = sorted(self._recover & self._ledger.progress.keys())
        self._catching_up.let_go(partitions)
        self._ahead.drop(partitions)
        starts = self._ledger.open(control, shape, partitions, self._inbound.bounds)
        for partition, offset in starts.items():
            self._inbound.seek(partition, offset)
        self._recover.clear()
        self._ahead.drop(partitions)
        log.info("worker.reads_again", offsets=starts)

    # --- rebalances, within _read

    def _on_assign(self, partitions: list[int]) -> Mapping[int, int]:
        """Where the new partitions start. Waits for the target: there is nothing else to do without it."""
        if not partitions:
            return {}
        pause = GrowingPause(first=0.2, longest=5.0)
        while not self._stop.asked:
            try:
                control = self._open_control()
                self._departures.read_mapping(control)
                assert self._inbound is not None  # noqa: S101  # its own callback
                starts = self._ledger.open(control, TopicShape(self._settings), partitions, self._inbound.bounds)
            except (psycopg.Error, ConsumersError) as error:
                verdict = classify(error)
                if verdict.action is Action.STOP:
                    raise
                log.warning("worker.waits", reason=Reason.of(error, verdict).says, advice=verdict.advice)
                self._stop.wait(pause.next())
            else:
                log.info("partitions.assigned", offsets=starts)
                return starts
        return {}

    def _on_revoke(self, partitions: list[int]) -> None:
        """Finishes the batch in flight, or abandons it."""
        log.info("partitions.revoked", partitions=partitions)
        if not self._stop.asked:  # else it has had its time
            self._finish_flight(REVOKE_S)
        self._let_go(partitions)

    def _on_lost(self, partitions: list[int]) -> None:
        log.warning("partitions.lost", partitions=partitions)
        self._let_go(partitions)

    def _let_go(self, partitions: Iterable[int]) -> None:
        partitions = set(partitions)
        if self._flight is not None and self._flight.partitions & partitions:
            self._flight.ended.set()
            if self._flight.batch is None:  # nobody works on it
                self._give_up(self._flight)
        self._catching_up.let_go(partitions)
        self._ahead.drop(partitions)
        self._ledger.forget(partitions)

    def _finish_flight(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (flight := self._flight) is not None and flight.batch is not None and time.monotonic() < deadline:
            if flight.ended.is_set():  # given up before
                break
            if not flight.is_done:
                time.sleep(0.005)
                continue
            try:
                self._settle(self._open_control(), flight)
            except (psycopg.Error, ConsumersError, KafkaException) as error:
                log.warning("batch.abandoned", error=type(error).__name__)
                break
        if self._flight is not None:
            self._flight.ended.set()
            if self._flight.batch is None:
                self._give_up(self._flight)

    # --- upkeep

    def _open_control(self) -> Connection[Any]:
        """The loop's own connection: progress, mapping, notices. Raises psycopg.Error or TargetRefused."""
        if self._control is None or self._control.broken:
            self._control = None
            control = target_session.open_session(self._settings, "worker control", is_brief=True)
            self._layout.read(control)
            target_session.refuse_unbound(control, self._layout.relations)
            self._upkeep.listen(control)
            self._control = control
        return self._control

    def _observe(self, batch: Batch) -> None:
        counts = batch.counts
        metrics.BATCHES.inc()
        metrics.MESSAGES.inc(counts.messages)
        metrics.REPEATED.inc(counts.repeated)
        metrics.ZOMBIES.inc(counts.zombies)
        metrics.UNMAPPED.inc(counts.unmapped.total())
        metrics.UNREADABLE.inc(counts.unreadable)
        metrics.PARKED.set(len(self._ledger.parked))
        metrics.PARTITIONS.set(len(self._ledger.progress))
        if counts.unreadable:
            log.error("messages.unreadable", count=counts.unreadable, advice="Something else writes to the topic.")
        if counts.zombies:
            log.warning("events.of_an_older_run_dropped", count=counts.zombies)

    def _status(self) -> dict[str, object]:
        waits_for = self._waits_for or self._applier.waits_for or (self._inbound.waits_for if self._inbound else "")
        is_stuck = time.monotonic() - self._well_at > UNHEALTHY_S
        return {
            "healthy": self._inbound is not None and not is_stuck,
            "pool": self._settings.pool,
            "partitions": sorted(self._ledger.progress),
            "waits_for": waits_for,
            "parked": [list(place) for place in list(self._ledger.parked)],
            "applied_rows": self._harvest.rows,
            "buffered_messages": len(self._ahead),
            "without_table": sorted(self._missing.names),
            "tenants": dict(self._harvest.applied),
        }
