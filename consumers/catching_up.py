"""Parked tenants catch up beside their pool, each by a reading of its own.

A stretch of the log is read outside of the group, from where the tenant is stuck to where the pool is or is on its way
to, sorted out for this tenant alone, and applied under its lock: by threads and sessions that nobody else waits for, a
few at a time, each with one stretch in memory. So it is here that a lock is waited for in its queue.

What a stretch has come to is settled between two batches of the pool's: who joins then misses nothing of a batch that
was sorted out without it. Under traffic a tenant would run after its pool for ever, so one that is near is waited for:
for a moment, no more than once for each batch.

Belongs to the worker's loop, which calls everything here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import structlog
from confluent_kafka import KafkaException
from psycopg import Connection

from consumers import metrics, tenants
from consumers.ahead import MOST_BYTES, size_of
from consumers.apply import Applier, Result
from consumers.batch import Message
from consumers.config import Settings
from consumers.errors import Action, ConsumersError, LogGap, LogUnavailable, Overtaken, classify
from consumers.flight import Departures, Flight
from consumers.harvest import Harvest
from consumers.ledger import Ledger
from consumers.parking import Parked
from consumers.reasons import Reason
from consumers.stretch import LogReader
from consumers.watermark import Place

log = structlog.get_logger(__name__)

MOST_AT_ONCE: Final = 2
"""Readings, and so sessions and stretches in memory."""
STRETCH: Final = 5_000
"""Messages: about what the pool applies in one batch, so the tenant's lock is held no longer than by that."""
_AGAIN_S: Final = 1.0
"""After somebody else was faster, until it is tried again."""


@dataclass(slots=True)
class Reading:
    """One stretch of a tenant's."""

    place: Place
    start: int
    end: int
    """The offset that it comes to."""
    read: Future[list[Message]]
    awaited_until: float = 0.0
    """On the monotonic clock; 0: nobody waits for it."""
    flight: Flight | None = None
    is_given_up: bool = False
    """Its partition is another worker's, or is read again: what it still comes to is only counted."""

    @property
    def is_done(self) -> bool:
        if self.flight is not None:
            return self.flight.is_done
        return self.read.done() and (self.is_given_up or self.read.exception() is not None)


_Step = Callable[[Connection[Any], Reading], set[int]]


class CatchingUp:
    """Of one worker."""

    def __init__(
        self,
        settings: Settings,
        applier: Applier,
        *,
        ledger: Ledger,
        mapping: tenants.Mapping,
        departures: Departures,
        harvest: Harvest,
    ) -> None:
        """`applier`: of those that are beside, used by nobody else."""
        self._settings, self._applier = settings, applier
        self._ledger, self._mapping, self._departures, self._harvest = ledger, mapping, departures, harvest
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="beside")
        self._readings: list[Reading] = []

    @property
    def is_awaited(self) -> bool:
        """Whether the pool should not send off its next batch yet."""
        now = time.monotonic()
        return any(reading.awaited_until > now and not reading.is_given_up for reading in self._readings)

    def go_on(self, control: Connection[Any], ends: Mapping[int, int], *, may_be_awaited: bool) -> set[int]:
        """Begins what is due, and sends off what was read. Partitions of which the truth must be read again.

        `ends`: by partition, how far the pool is, or will be once the batch is done that was sorted out last.
        """
        self._begin(ends, may_be_awaited)
        torn: set[int] = set()
        for reading in list(self._readings):
            if reading.flight is None and reading.read.done() and not reading.is_done:
                torn |= self._guarded(control, reading, self._send_off)
        return torn

    def settle(self, control: Connection[Any]) -> set[int]:
        """No batch of the pool's is under way: what those that are done have come to. Partitions as with `go_on`."""
        torn: set[int] = set()
        for reading in [each for each in self._readings if each.is_done]:
            self._drop(reading)
            torn |= self._guarded(control, reading, self._settle)
            metrics.PARKED.set(len(self._ledger.parked))
        return torn

    def let_go(self, partitions: Iterable[int]) -> None:
        """They are another worker's, or are read again from the truth."""
        gone = set(partitions)
        for reading in self._readings:
            if reading.place[1] in gone:
                _give_up(reading)

    def end(self) -> None:
        """Nothing more of anything: what is under way in the target is ended. What is committed by then counts."""
        for reading in self._readings:
            _give_up(reading)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._readings:
            self._applier.cancel()

    def close(self, deadline: float) -> bool:
        """After `end`: whether everything has ended by then."""
        while not (is_over := all(map(_is_over, self._readings))) and time.monotonic() < deadline:
            time.sleep(0.01)
        if is_over:
            self._applier.close()
        return is_over

    def _begin(self, ends: Mapping[int, int], may_be_awaited: bool) -> None:
        now = time.monotonic()
        for place, parked in sorted(self._ledger.parked.items(), key=lambda each: each[1].due):
            if parked.due > now or len(self._readings) >= MOST_AT_ONCE:
                return
            if place[1] in ends and all(reading.place[0] != place[0] for reading in self._readings):
                self._readings.append(self._begun(place, parked, ends[place[1]], may_be_awaited))

    def _begun(self, place: Place, parked: Parked, end: int, may_be_awaited: bool) -> Reading:
        now = time.monotonic()
        is_near = parked.follows and end - parked.from_offset <= STRETCH
        is_awaited = may_be_awaited and is_near and now >= parked.waited_for_from
        return Reading(
            place,
            parked.from_offset,
            end,
            self._threads.submit(read, self._settings, place[1], parked.from_offset, end),
            awaited_until=now + parked.wait_s if is_awaited else 0.0,
        )

    def _send_off(self, control: Connection[Any], reading: Reading) -> set[int]:
        messages = reading.read.result()
        self._departures.prepare(control, messages)
        if not self._may_serve(control, reading.place):
            self._drop(reading)
            if (parked := self._ledger.parked.get(reading.place)) is not None:
                parked.due = time.monotonic() + _AGAIN_S
            return set()
        if messages:
            reading.end = messages[-1].offset + 1
        flight = Flight(messages, only=reading.place[0])
        self._departures.send_off(control, flight, self._applier, self._threads)
        flight.messages = []  # not sent off again: only the tenant's own are kept
        reading.flight = flight
        return set()

    def _settle(self, control: Connection[Any], reading: Reading) -> set[int]:
        """Its reading is over, whatever this raises."""
        if reading.flight is None and not reading.is_given_up:
            return self._failed_to_read(control, reading)
        result = Result(reading.place[0])
        for job in reading.flight.jobs if reading.flight is not None else ():  # one, or none
            result = job.result()
            self._harvest.take(result)
        parked = self._ledger.parked.get(reading.place)
        if reading.is_given_up or result.abandoned or parked is None:
            return set()
        if result.overtaken:
            torn = self._departures.read_again(control)
            if reading.place in self._ledger.parked:
                self._ledger.parked[reading.place].due = time.monotonic() + _AGAIN_S
            return torn
        self._ledger.caught_up(control, reading.place, result, reading.start, reading.end)
        if 0.0 < reading.awaited_until < time.monotonic() and reading.place in self._ledger.parked:
            parked.waited_in_vain()
        return set()

    def _failed_to_read(self, control: Connection[Any], reading: Reading) -> set[int]:
        try:
            reading.read.result()
        except LogGap:
            if reading.place in self._ledger.parked:
                self._ledger.missed(control, reading.place, reading.start)
                self._mapping.expire()  # for its backfill to be asked for
        return set()

    def _may_serve(self, control: Connection[Any], place: Place) -> bool:
        """Whether a parked tenant is known as the pool's own: else its reading would pass over all that is its."""
        if not self._mapping.serves(place[0]):
            self._departures.read_mapping(control)
        return place in self._ledger.parked and self._mapping.serves(place[0])

    def _guarded(self, control: Connection[Any], reading: Reading, step: _Step) -> set[int]:
        """One step of a reading, whose faults are its own. Raises what stops the worker, or what the loop meets too."""
        tenant, partition = reading.place
        try:
            return step(control, reading)
        except Overtaken:
            self._drop(reading)
            return {partition}
        except (psycopg.Error, ConsumersError, KafkaException) as error:
            self._drop(reading)
            verdict = classify(error)
            if (parked := self._ledger.parked.get(reading.place)) is not None:
                parked.failed(parked.from_offset)
            if verdict.action is Action.STOP or control.broken:
                raise
            says = Reason.of(error, verdict).says
            log.warning("tenant.not_caught_up", tenant=tenant, partition=partition, reason=says)
            return set()

    def _drop(self, reading: Reading) -> None:
        if reading in self._readings:
            self._readings.remove(reading)


def read(settings: Settings, partition: int, start: int, end: int) -> list[Message]:
    """The next stretch from `start`, up to `end` at the most. Raises LogGap, LogUnavailable or KafkaException."""
    if start >= end:
        return []
    with closing(LogReader(settings)) as reader:
        messages = next(reader.read(partition, start, end, STRETCH), [])
    is_cut = len(messages) >= STRETCH or size_of(messages) >= MOST_BYTES
    if not is_cut and (not messages or messages[-1].offset + 1 < end):
        # The pool has read up to there: a broker that knows of less is behind, and what it lacks is not passed over.
        raise LogUnavailable(f"partition {partition} can't be read from offset {start} up to {end}")
    return messages


def _give_up(reading: Reading) -> None:
    reading.is_given_up = True
    if reading.flight is not None:
        reading.flight.ended.set()


def _is_over(reading: Reading) -> bool:
    return reading.read.done() and (reading.flight is None or reading.flight.is_done)
