"""Tenants that do not follow their pool, kept in the target: from where each is to be read again, and why.

Parked by partition: what a tenant's other partitions bring goes on. Never opens or ends a transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from consumers.errors import Overtaken
from consumers.reasons import Reason
from consumers.watermark import Place

POOL_LOCK: Final = 1229867865
"""The class of the advisory locks on a tenant's pool, as in sql/target."""
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 60.0
_LOCK_PAUSE_S: Final = 1.0
"""Between two waits in a lock's queue: so long the tenant is free for who waits behind us."""
_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 1.0
_WAIT_SHARE: Final = 20
"""After a wait in vain the others are left alone for so many times as long."""


@dataclass(slots=True)
class Parked:
    """A parked tenant in one partition, and when it is tried again."""

    from_offset: int
    pause_s: float = _FIRST_PAUSE_S
    due: float = 0.0
    """On the monotonic clock: who has been due for longest is read first, and who is new."""
    is_told: bool = False
    """A person was told of it."""
    follows: bool = False
    """Its last stretch was applied: nothing is in its way."""
    wait_s: float = _FIRST_WAIT_S
    """How long the pool may wait for it where it is near."""
    waited_for_from: float = 0.0
    """Not before then, on the monotonic clock."""

    def failed(self, from_offset: int, *, is_locked: bool = False) -> None:
        """Still stuck, there."""
        self.from_offset, self.follows = from_offset, False
        if is_locked:
            self.due = time.monotonic() + _LOCK_PAUSE_S
            return
        self.due = time.monotonic() + self.pause_s
        self.pause_s = min(self.pause_s * 2, _LONGEST_PAUSE_S)

    def moved(self, from_offset: int) -> None:
        """A stretch was applied, up to there."""
        self.from_offset, self.follows = from_offset, True
        self.due, self.pause_s = time.monotonic(), _FIRST_PAUSE_S

    def waited_in_vain(self) -> None:
        """The pool has gone on without it: it waits less often now, and longer."""
        self.waited_for_from = time.monotonic() + _WAIT_SHARE * self.wait_s
        self.wait_s = min(self.wait_s * 2, _LONGEST_WAIT_S)


def read_parked(
    connection: Connection[Any], pool: str, topic_id: str, partitions: Iterable[int]
) -> dict[Place, Parked]:
    return {
        (tenant, partition): Parked(from_offset)
        for tenant, partition, from_offset in connection.execute(
            "SELECT tenant_id, partition, from_offset FROM replication_parked"
            " WHERE pool = %s AND topic_id = %s AND partition = ANY (%s)",
            [pool, topic_id, list(partitions)],
        )
    }


def hold_pools(connection: Connection[Any], tenants: Iterable[int]) -> None:
    """Until the transaction ends none of them changes pools. To be asked before `park`, in a statement of its own."""
    for tenant in sorted(set(tenants)):
        connection.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [POOL_LOCK, tenant])


def park(connection: Connection[Any], pool: str, topic_id: str, place: Place, from_offset: int, reason: Reason) -> bool:
    """Durable before the pool's progress passes the tenant. False: the tenant is gone, or another pool's."""
    parked = connection.execute(
        "INSERT INTO replication_parked AS p"
        " (tenant_id, partition, pool, topic_id, from_offset, error_class, error, advice)"
        " SELECT t.id, %s, %s, %s, %s, %s, %s, %s FROM tenants AS t"
        " WHERE t.id = %s AND replication_pool_of(t.id) = %s"
        " ON CONFLICT (tenant_id, partition) DO UPDATE SET"
        " pool = EXCLUDED.pool, topic_id = EXCLUDED.topic_id, from_offset = EXCLUDED.from_offset,"
        " error_class = EXCLUDED.error_class, error = EXCLUDED.error, advice = EXCLUDED.advice, tries = p.tries + 1",
        [place[1], pool, topic_id, from_offset, reason.kind, reason.says, reason.advice, place[0], pool],
    )
    return parked.rowcount == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRow:
    """As it was when the tenant's own reading began. Each change of it raises Overtaken if it is another by now."""

    pool: str
    topic_id: str
    place: Place
    from_offset: int

    def failed_again(self, connection: Connection[Any], from_offset: int, reason: Reason) -> None:
        """Stuck there, after one more try."""
        self._changed(
            connection,
            "UPDATE replication_parked"
            " SET from_offset = %s, error_class = %s, error = %s, advice = %s, tries = tries + 1",
            [from_offset, reason.kind, reason.says, reason.advice],
        )

    def moved(self, connection: Connection[Any], from_offset: int) -> None:
        """Some of what was missed is applied."""
        self._changed(connection, "UPDATE replication_parked SET from_offset = %s", [from_offset])

    def joined(self, connection: Connection[Any]) -> None:
        """It is parked no longer."""
        self._changed(connection, "DELETE FROM replication_parked", [])

    def _changed(self, connection: Connection[Any], statement: str, values: list[Any]) -> None:
        done = connection.execute(
            f"{statement} WHERE tenant_id = %s AND partition = %s AND pool = %s AND topic_id = %s"
            " AND from_offset = %s".encode(),
            [*values, *self.place, self.pool, self.topic_id, self.from_offset],
        )
        if done.rowcount != 1:
            tenant, partition = self.place
            raise Overtaken(f"tenant {tenant} is not parked in partition {partition} as it was")


def unpark_all(connection: Connection[Any], pool: str, partition: int) -> None:
    """In one partition, whatever its topic was: everything in it is backfilled."""
    connection.execute("DELETE FROM replication_parked WHERE pool = %s AND partition = %s", [pool, partition])
