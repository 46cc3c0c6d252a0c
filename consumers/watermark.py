"""How far pools and tenants are in each partition, kept in the target and moved by compare-and-set.

Progress is a pool's: reading starts there, never at Kafka's own group offset. A watermark is a tenant's, and is moved
in the transaction of its rows; a tenant without one stands where its pool does. Whoever finds another value than it
expected was overtaken and must read the truth again. Never opens or ends a transaction.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from psycopg import Connection

from consumers.errors import Overtaken
from consumers.script import Answer, Script, Value
from replicator import NOWHERE, Position, Run


class Mark(NamedTuple):
    """A tenant's watermark in a partition: all its events before `next_offset` are applied."""

    next_offset: int
    position: Position
    """The last streamed position applied."""


Place = tuple[int, int]
"""(tenant, partition)"""


class Progress(NamedTuple):
    """Where a pool's reading of a partition goes on."""

    topic_id: str
    next_offset: int
    turn: int = 0
    """How often a tenant has joined the reading, or it began anew: who did not hear of it must not go on."""


def read_progress(connection: Connection[Any], pool: str) -> dict[int, Progress]:
    return {
        partition: Progress(*progress)
        for partition, *progress in connection.execute(
            "SELECT partition, topic_id, next_offset, turn FROM replication_progress WHERE pool = %s", [pool]
        )
    }


def start_progress(connection: Connection[Any], pool: str, partition: int, progress: Progress) -> Progress:
    """A partition that is read for the first time, or from anew after a gap; as it stands then."""
    ((turn,),) = connection.execute(
        "INSERT INTO replication_progress AS p (pool, partition, topic_id, next_offset) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (pool, partition) DO UPDATE SET topic_id = EXCLUDED.topic_id,"
        " next_offset = EXCLUDED.next_offset, source_at = NULL, turn = p.turn + 1 RETURNING turn",
        [pool, partition, progress.topic_id, progress.next_offset],
    ).fetchall()
    return progress._replace(turn=turn)


def go_back(connection: Connection[Any], pool: str, partition: int, start: Progress, high: int) -> None:
    """Reading starts again there, in a log that ends at `high`. Positions stay: they drop what is applied already."""
    connection.execute(
        "UPDATE replication_watermarks SET next_offset = %(start)s"
        " WHERE topic_id = %(topic)s AND partition = %(partition)s AND next_offset > %(start)s"
        " AND replication_pool_of(tenant_id) = %(pool)s",
        {"start": start.next_offset, "topic": start.topic_id, "partition": partition, "pool": pool},
    )
    connection.execute(
        "DELETE FROM replication_generations WHERE topic_id = %s AND partition = %s AND first_offset >= %s",
        [start.topic_id, partition, high],
    )


def advance_progress(
    connection: Connection[Any], pool: str, partition: int, expected: Progress, next_offset: int, source_ms: int | None
) -> None:
    """Everything before `next_offset` is durable for every tenant of the pool, or parked. Raises Overtaken."""
    moved = connection.execute(
        "UPDATE replication_progress SET next_offset = %s, read_at = now(), source_at = COALESCE(%s, source_at)"
        " WHERE pool = %s AND partition = %s AND topic_id = %s AND next_offset = %s AND turn = %s",
        [next_offset, _moment(source_ms), pool, partition, *expected],
    )
    if moved.rowcount != 1:
        raise Overtaken(f"another worker has read on in partition {partition}")


def join_progress(connection: Connection[Any], pool: str, partition: int, expected: Progress) -> Progress:
    """A tenant goes on with its pool from here; as that stands then. Raises Overtaken.

    Whoever passes over its events until now, as one that was frozen may, finds another turn.
    """
    joined = connection.execute(
        "UPDATE replication_progress SET turn = turn + 1"
        " WHERE pool = %s AND partition = %s AND topic_id = %s AND next_offset = %s AND turn = %s",
        [pool, partition, *expected],
    )
    if joined.rowcount != 1:
        raise Overtaken(f"another worker has read on in partition {partition}")
    return expected._replace(turn=expected.turn + 1)


def read_marks(connection: Connection[Any], topic_id: str, partitions: Iterable[int]) -> dict[Place, Mark]:
    """The watermarks of every tenant in these partitions. Those of another topic say nothing about this one."""
    return {
        (tenant, partition): Mark(next_offset, Position(*position))
        for tenant, partition, next_offset, *position in connection.execute(
            "SELECT tenant_id, partition, next_offset, source_epoch, source_point, source_ordinal"
            " FROM replication_watermarks WHERE topic_id = %s AND partition = ANY (%s)",
            [topic_id, list(partitions)],
        )
    }


def advance_mark(
    script: Script,
    topic_id: str,
    place: Place,
    expected: Mark | None,
    mark: Mark,
    source_ms: int | None,
) -> None:
    """Moves a tenant's watermark in the transaction of its rows. Sending it raises Overtaken.

    The statement also checks that row-level security is set to this very tenant.
    """
    tenant, partition = place

    def check(moved: Answer) -> None:
        if moved.count != 1:
            raise Overtaken(f"tenant {tenant} was served by another worker in partition {partition}")

    epoch, point, ordinal = mark.position
    moment = _moment(source_ms)
    given: dict[str, Value] = {
        "tenant": tenant,
        "setting": str(tenant),
        "partition": partition,
        "topic": topic_id,
        "next": mark.next_offset,
        "epoch": epoch,
        "point": point,
        "ordinal": ordinal,
        "moment": None if moment is None else moment.isoformat(),
    }
    if expected is None:
        script.ask(_FIRST_MARK, given, check)
    else:
        script.ask(_NEXT_MARK, {**given, "expected": expected.next_offset}, check)


_FIRST_MARK: Final = (
    "INSERT INTO replication_watermarks AS w (tenant_id, partition, topic_id, next_offset, source_epoch,"
    " source_point, source_ordinal, source_at, applied_at) SELECT %(tenant)s, %(partition)s::integer, %(topic)s::text,"
    " %(next)s::bigint, %(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint, %(moment)s::timestamptz, now()"
    " WHERE current_setting('app.current_tenant_id') = %(setting)s"
    " ON CONFLICT (tenant_id, partition) DO UPDATE SET topic_id = EXCLUDED.topic_id,"
    " next_offset = EXCLUDED.next_offset, source_epoch = EXCLUDED.source_epoch,"
    " source_point = EXCLUDED.source_point, source_ordinal = EXCLUDED.source_ordinal,"
    " source_at = EXCLUDED.source_at, applied_at = EXCLUDED.applied_at WHERE w.topic_id <> EXCLUDED.topic_id"
)
_NEXT_MARK: Final = (
    "UPDATE replication_watermarks SET next_offset = %(next)s, source_epoch = %(epoch)s, source_point = %(point)s,"
    " source_ordinal = %(ordinal)s, source_at = COALESCE(%(moment)s::timestamptz, source_at), applied_at = now()"
    " WHERE tenant_id = %(tenant)s AND partition = %(partition)s AND topic_id = %(topic)s"
    " AND next_offset = %(expected)s AND current_setting('app.current_tenant_id') = %(setting)s"
)


class Generations:
    """Which run of the replicator a partition has seen from which offset on: what tells a zombie's events.

    Kept in the target by partition and offset, so that a reading that starts anywhere knows what was seen before it.
    """

    def __init__(self, seen: Iterable[tuple[int, Run]] = ()) -> None:
        self._offsets: list[int] = []
        self._runs: list[Run] = []
        for offset, run in sorted(seen):
            if not self._runs or run > self._runs[-1]:
                self._offsets.append(offset)
                self._runs.append(run)
        self._new: list[tuple[int, Run]] = []

    def at(self, offset: int) -> Run:
        """The latest run that was seen at or before this offset."""
        if self._offsets and offset >= self._offsets[-1]:
            return self._runs[-1]
        number = bisect_right(self._offsets, offset)
        return self._runs[number - 1] if number else Run(NOWHERE.epoch, 0)

    def see(self, offset: int, run: Run) -> None:
        """A run later than all before it begins at this offset.

        More may be known beyond: a parked tenant's own reading is behind its pool's, which may have begun later.
        """
        first = last = bisect_right(self._offsets, offset)
        while last < len(self._runs) and self._runs[last] <= run:
            last += 1
        self._offsets[first:last], self._runs[first:last] = [offset], [run]
        self._new.append((offset, run))

    @property
    def new(self) -> list[tuple[int, Run]]:
        """What is not stored yet."""
        return list(self._new)

    def stored(self, upto: int) -> None:
        """What began before this offset is stored now."""
        self._new = [(offset, run) for offset, run in self._new if offset >= upto]


def read_generations(connection: Connection[Any], topic_id: str, partitions: Iterable[int]) -> dict[int, Generations]:
    seen: dict[int, list[tuple[int, Run]]] = {partition: [] for partition in partitions}
    for partition, first, *run in connection.execute(
        "SELECT partition, first_offset, epoch, generation FROM replication_generations"
        " WHERE topic_id = %s AND partition = ANY (%s)",
        [topic_id, list(seen)],
    ):
        seen[partition].append((first, Run(*run)))
    return {partition: Generations(runs) for partition, runs in seen.items()}


def write_generations(
    connection: Connection[Any], topic_id: str, partition: int, runs: Iterable[tuple[int, Run]]
) -> None:
    for offset, run in runs:
        connection.execute(
            "INSERT INTO replication_generations (topic_id, partition, first_offset, epoch, generation)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [topic_id, partition, offset, *run],
        )


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
