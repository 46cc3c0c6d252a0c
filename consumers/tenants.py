"""Whose an inbox is, and which pool serves its tenant: the mapping as it was last read, with an age.

A cache for sorting events; the truth is looked at again under the tenant's lock (`target`). Never guesses: an inbox
that is nobody's is unmapped.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection

from consumers.errors import Overtaken
from consumers.script import Script, Value

TENANT_LOCK: Final = 1229867864
"""The class of the tenants' advisory locks, as in sql/target."""
CHANNEL: Final = "inbox_tenant_mapping"
"""Where the triggers of mapping and pools tell of a change."""
DEFAULT_POOL: Final = "default"
"""Serves all tenants that no other pool names, as in sql/target."""


class Owner(NamedTuple):
    tenant: int
    backfill: str
    """The backfill that is under way, as far as its begin marker was read; else empty."""
    is_complete: bool
    """Whether a backfill of this inbox has ended since the inbox began to belong to its tenant."""


class Mapping:
    """Active inboxes of living tenants, as a pool sees them."""

    def __init__(self, longest_s: float, pool: str = DEFAULT_POOL) -> None:
        self._longest_s, self._pool = longest_s, pool
        self._read_at = float("-inf")
        self._pools: dict[int, str] = {}
        self._elsewhere: frozenset[int] = frozenset()
        self.owners: dict[int, Owner] = {}
        """Of the pool's own tenants."""

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self._read_at > self._longest_s

    def expire(self) -> None:
        """Something changed: to be read again before the next use."""
        self._read_at = float("-inf")

    def read(self, connection: Connection[Any]) -> None:
        """In one statement: whom the pool serves, and what is theirs, are of the same moment."""
        began = time.monotonic()
        found = connection.execute(
            "SELECT t.id, replication_pool_of(t.id), m.inbox_id, m.backfill_id, m.backfilled_at IS NOT NULL"
            " FROM tenants AS t LEFT JOIN inbox_tenant_mapping AS m"
            " ON m.tenant_id = t.id AND m.is_active AND t.deleted_at IS NULL"
        ).fetchall()
        self._pools = {tenant: pool for tenant, pool, *_ in found}
        self._elsewhere = frozenset(inbox for _, pool, inbox, *_ in found if inbox is not None and pool != self._pool)
        self.owners = {
            inbox: Owner(tenant, backfill or "", complete)
            for tenant, pool, inbox, backfill, complete in found
            if inbox is not None and pool == self._pool
        }
        self._read_at = began

    def serves(self, tenant: int) -> bool:
        """Whether the tenant is the pool's own, with inboxes or without."""
        return self._pools.get(tenant, DEFAULT_POOL) == self._pool

    def is_elsewhere(self, inbox: int) -> bool:
        """Whether its events are another pool's affair. Those that are nobody's are the default pool's."""
        return self._pool != DEFAULT_POOL or inbox in self._elsewhere


def verify(connection: Connection[Any], tenant: int, inboxes: Collection[int]) -> None:
    """The second look, under the tenant's lock: the mapping can't change until it is let go. Raises Overtaken.

    A tenant that was set aside keeps its rows, and what says no inbox still goes for them.
    """
    _judge(connection.execute(_LOOK, _looked_for(tenant, inboxes)).fetchall(), tenant, inboxes, None)


def look_again(script: Script, tenant: int, inboxes: Collection[int], pool: str) -> None:
    """The same, when it is sent; and the pool must serve the tenant."""
    script.ask(_LOOK, _looked_for(tenant, inboxes), lambda answer: _judge(answer.rows, tenant, inboxes, pool))


def _looked_for(tenant: int, inboxes: Collection[int]) -> dict[str, Value]:
    return {"tenant": tenant, "inboxes": list(inboxes)}


def _judge(found: Sequence[tuple[Any, ...]], tenant: int, inboxes: Collection[int], pool: str | None) -> None:
    if not found or int(found[0][1]) != len(inboxes):
        raise Overtaken(f"the mapping of tenant {tenant} has changed")
    if pool is not None and found[0][0] != pool:
        raise Overtaken(f"tenant {tenant} is served by the pool {found[0][0]} now")


_LOOK: Final = (
    "SELECT replication_pool_of(t.id), (SELECT count(*) FROM inbox_tenant_mapping AS m WHERE m.tenant_id = t.id"
    " AND m.is_active AND t.deleted_at IS NULL AND m.inbox_id = ANY (%(inboxes)s::bigint[]))"
    " FROM tenants AS t WHERE t.id = %(tenant)s"
)
