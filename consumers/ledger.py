"""What a worker knows of its partitions, as the target has it: progress, watermarks, runs seen, who is parked.

Read when a partition is assigned, moved when a batch is durable, read again when somebody else was faster. A partition
whose log lacks what comes next is a gap: reading starts at what there is, and its inboxes are backfilled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from psycopg import Connection

from consumers import parking, watermark
from consumers.apply import Result
from consumers.batch import Batch
from consumers.parking import Parked, ParkedRow
from consumers.reasons import Reason
from consumers.tenants import DEFAULT_POOL, TENANT_LOCK
from consumers.topic import TopicShape
from consumers.watermark import Generations, Mark, Place, Progress
from replicator import partition_of

log = structlog.get_logger(__name__)


class Ledger:
    """By partition. Belongs to the worker's loop."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self.topic_id = ""
        self.partitions = 0
        """Of the topic."""
        self.progress: dict[int, Progress] = {}
        self.marks: dict[Place, Mark] = {}
        self.generations: dict[int, Generations] = {}
        self.parked: dict[Place, Parked] = {}

    def open(
        self,
        connection: Connection[Any],
        shape: TopicShape,
        partitions: list[int],
        bounds: Callable[[int], tuple[int, int]],
    ) -> dict[int, int]:
        """Where reading of these partitions starts. Raises psycopg.Error or LogUnavailable."""
        self.topic_id, self.partitions = shape.topic_id, shape.partitions
        stored = watermark.read_progress(connection, self._pool)
        for partition in partitions:
            low, high = bounds(partition)
            known = stored.get(partition)
            if known is None or known.topic_id != shape.topic_id or not low <= known.next_offset <= high:
                known = self._start(connection, partition, known, Progress(shape.topic_id, low), high)
            self.progress[partition] = known
        self.read_again(connection, partitions)
        return {partition: self.progress[partition].next_offset for partition in partitions}

    def read_again(self, connection: Connection[Any], partitions: Iterable[int]) -> None:
        """Watermarks, runs and parked tenants of these partitions."""
        partitions, known = list(partitions), self.parked
        self._forget_tenants(partitions)
        self.marks.update(watermark.read_marks(connection, self.topic_id, partitions))
        self.generations.update(watermark.read_generations(connection, self.topic_id, partitions))
        found = parking.read_parked(connection, self._pool, self.topic_id, partitions)
        self.parked.update(_with_pauses(found, known))

    def read_parked_again(self, connection: Connection[Any]) -> None:
        """Who was parked by others meanwhile: a tenant that comes from another pool."""
        found = parking.read_parked(connection, self._pool, self.topic_id, self.progress)
        self.parked = _with_pauses(found, self.parked)

    def of_another_topic(self, topic_id: str) -> set[int]:
        """Partitions that are read as those of another topic than this."""
        return {partition for partition, known in self.progress.items() if known.topic_id != topic_id}

    def forget(self, partitions: Iterable[int]) -> None:
        """They are another worker's now."""
        partitions = list(partitions)
        self._forget_tenants(partitions)
        for partition in partitions:
            self.progress.pop(partition, None)
            self.generations.pop(partition, None)

    def take_marks(self, result: Result) -> None:
        """Watermarks that a tenant's transactions have moved."""
        self.marks.update({place: mark for place, mark in result.marks.items() if place[1] in self.progress})

    def settle(self, connection: Connection[Any], batch: Batch, results: Iterable[Result]) -> None:
        """Everything of the batch is durable, or its tenant is parked, with this transaction.

        Raises Overtaken if another worker has read on.
        """
        stuck = [(result, partition, offset) for result in results for partition, offset in result.stuck.items()]
        with connection.transaction():
            parking.hold_pools(connection, [result.tenant for result, _, _ in stuck])
            gone = set()
            for result, partition, offset in stuck:
                assert result.reason is not None  # noqa: S101  # who is stuck says why
                place = (result.tenant, partition)
                if not parking.park(connection, self._pool, self.topic_id, place, offset, result.reason):
                    gone.add(place)
            for inbox, events in batch.counts.unmapped.items():
                connection.execute(
                    "INSERT INTO unmapped_inboxes AS u (inbox_id, events) VALUES (%s, %s)"
                    " ON CONFLICT (inbox_id) DO UPDATE SET events = u.events + EXCLUDED.events, last_seen = now()",
                    [inbox, events],
                )
            for partition, end in batch.ends.items():
                new = self.generations[partition].new
                watermark.write_generations(connection, self.topic_id, partition, new)
                expected, source_ms = self.progress[partition], batch.source_ms.get(partition)
                watermark.advance_progress(connection, self._pool, partition, expected, end, source_ms)
        for partition, end in batch.ends.items():
            self.progress[partition] = self.progress[partition]._replace(next_offset=end)
            self.generations[partition].stored(end)
        for result, partition, offset in stuck:
            if (result.tenant, partition) in gone:
                continue
            assert result.reason is not None  # noqa: S101  # as above
            parked = self.parked[result.tenant, partition] = Parked(offset)
            if result.reason.is_brief:  # its own reading has the time, from now on
                log.info(
                    "tenant.stands_aside",
                    tenant=result.tenant,
                    partition=partition,
                    offset=offset,
                    error=result.reason.says,
                )
            else:
                parked.failed(offset)
                _tell(parked, (result.tenant, partition), result.reason)

    def try_parked_again(self) -> None:
        """At once: what they failed on may have been mended."""
        for parked in self.parked.values():
            parked.due = 0.0

    def caught_up(self, connection: Connection[Any], place: Place, result: Result, start: int, end: int) -> None:
        """What a parked tenant's own reading has come to, from `start` to before `end`. Raises Overtaken."""
        parked = self.parked.get(place)
        if parked is None:  # its partition is another worker's by now
            return
        offset = result.stuck.get(place[1], end)
        if result.reason is not None:
            self._row(place, start).failed_again(connection, offset, result.reason)
            parked.failed(offset, is_locked=result.reason.is_lock)
            _tell(parked, place, result.reason)
        elif offset >= self.progress[place[1]].next_offset:
            self._join(connection, place, start)
            log.info("tenant.caught_up", tenant=place[0], partition=place[1])
        else:
            self._row(place, start).moved(connection, offset)
            parked.moved(offset)

    def missed(self, connection: Connection[Any], place: Place, start: int) -> None:
        """The log no longer has what a parked tenant is to read from `start` on: its inboxes there are backfilled.

        Raises Overtaken.
        """
        tenant, partition = place
        self._join(connection, place, start, self._inboxes(connection, partition).get(tenant, ()))
        log.error(
            "log.gap",
            partition=partition,
            expected=start,
            tenants=[tenant],
            advice="The tenants concerned are backfilled from the source.",
        )

    def _join(self, connection: Connection[Any], place: Place, start: int, backfilled: Sequence[int] = ()) -> None:
        """The tenant goes on with its pool, these inboxes of it to be backfilled. Raises Overtaken."""
        partition = place[1]
        with connection.transaction():
            if backfilled:
                _want_backfill(connection, {place[0]: backfilled})
            joined = watermark.join_progress(connection, self._pool, partition, self.progress[partition])
            self._row(place, start).joined(connection)
        self.progress[partition] = joined
        self.parked.pop(place, None)

    def _row(self, place: Place, start: int) -> ParkedRow:
        return ParkedRow(pool=self._pool, topic_id=self.progress[place[1]].topic_id, place=place, from_offset=start)

    def _start(
        self, connection: Connection[Any], partition: int, known: Progress | None, start: Progress, high: int
    ) -> Progress:
        """The first reading of a partition, or one after a gap: what the log no longer has is read from the source.

        What was known of offsets that the log (it ends at `high`) is yet to write again would drop those events. What
        parked tenants had missed is part of what is read from the source.
        """
        inboxes = self._inboxes(connection, partition)
        if known is None and not inboxes and self._pool != DEFAULT_POOL:
            # Whoever is assigned to it later comes from where it stands; nothing before the end is anybody's.
            return watermark.start_progress(connection, self._pool, partition, start._replace(next_offset=high))
        if known is None and start.next_offset == 0:
            return watermark.start_progress(connection, self._pool, partition, start)
        log.error(
            "log.gap",
            partition=partition,
            expected=known.next_offset if known else None,
            starts_at=start.next_offset,
            another_topic=known is not None and known.topic_id != start.topic_id,
            tenants=sorted(inboxes),
            advice="The tenants concerned are backfilled from the source.",
        )
        with connection.transaction():
            _want_backfill(connection, inboxes)
            start = watermark.start_progress(connection, self._pool, partition, start)
            watermark.go_back(connection, self._pool, partition, start, high)
            parking.unpark_all(connection, self._pool, partition)
        return start

    def _inboxes(self, connection: Connection[Any], partition: int) -> dict[int, list[int]]:
        """Of one partition, by tenant of the pool."""
        inboxes: dict[int, list[int]] = {}
        for inbox, tenant in connection.execute(
            "SELECT inbox_id, tenant_id FROM inbox_tenant_mapping WHERE is_active"
            " AND replication_pool_of(tenant_id) = %s",
            [self._pool],
        ):
            if partition_of(inbox, self.partitions) == partition:
                inboxes.setdefault(tenant, []).append(inbox)
        return inboxes

    def _forget_tenants(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        self.marks = {place: mark for place, mark in self.marks.items() if place[1] not in gone}
        self.parked = {place: parked for place, parked in self.parked.items() if place[1] not in gone}


def _with_pauses(found: Mapping[Place, Parked], known: Mapping[Place, Parked]) -> dict[Place, Parked]:
    """What was found; who stands where it was known to stand is not tried sooner for it."""
    return {
        place: before if (before := known.get(place)) and before.from_offset == parked.from_offset else parked
        for place, parked in found.items()
    }


def _tell(parked: Parked, place: Place, reason: Reason) -> None:
    """Once, of a tenant that a person may have to look after."""
    if not parked.is_told:
        parked.is_told = True
        log.error(
            "tenant.parked",
            tenant=place[0],
            partition=place[1],
            offset=parked.from_offset,
            error=reason.says,
            advice=reason.advice,
        )


def _want_backfill(connection: Connection[Any], inboxes: Mapping[int, Sequence[int]]) -> None:
    """In a transaction: inboxes of these tenants count as incomplete, so that they are asked for."""
    for tenant in sorted(inboxes):
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TENANT_LOCK, tenant])
    connection.execute(
        "UPDATE inbox_tenant_mapping SET backfill_id = NULL, backfilled_at = NULL WHERE inbox_id = ANY (%s)",
        [[inbox for own in inboxes.values() for inbox in own]],
    )
