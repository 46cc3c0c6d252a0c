"""`consumers pool`: which tenants a pool of their own serves, seen and changed by a person.

Changing pools is one row of `replication_tenant_pools`: a trigger in the target parks the tenant from where it stands,
and a worker of the new pool reads it up to the others. So SQL by hand gives the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from consumers.config import Settings
from consumers.errors import Refused
from consumers.mapping_admin import lock_tenants
from consumers.session import connect
from consumers.tenants import DEFAULT_POOL

SILENT_S: Final = 30
"""A pool of which nothing was read for so long has no worker: heartbeats come every few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A set of tenants, and who reads for it."""

    name: str
    tenants: tuple[int, ...]
    joining: tuple[int, ...]
    """Those that are still being read up to the others."""
    partitions: int
    """In which it has begun to read."""
    read_at: datetime | None
    """When a worker of it last got on, in any partition."""
    is_served: bool
    """A worker of it has got on lately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A tenant changes pools."""

    tenant: int
    from_pool: str
    to_pool: str
    behind: Mapping[int, int]
    """By partition: offsets that are to be read for it alone."""
    is_served: bool

    @property
    def says(self) -> list[str]:
        """The plan, a line each."""
        offsets = sum(self.behind.values())
        catching_up = (
            f"read it up to the others there: {offsets:,} offsets in partition {', '.join(map(str, self.behind))}"
            if self.behind
            else "it stands where the others do, in every partition"
        )
        return [f"tenant {self.tenant}: from the pool {self.from_pool} to the pool {self.to_pool}", catching_up]

    @property
    def warning(self) -> str:
        if self.is_served:
            return ""
        return (
            f"no worker of the pool {self.to_pool} reads: until one does, the tenant gets nothing."
            f" Start one: consumers run --pool {self.to_pool}"
        )


def listing(settings: Settings) -> tuple[Pool, ...]:
    """The default pool, and all that have tenants or have read. Reads as the applier."""
    with connect(settings, settings.target_dsn, "pool list") as connection:
        return read_pools(connection)


def read_pools(connection: psycopg.Connection[Any]) -> tuple[Pool, ...]:
    """The same over a connection that exists."""
    found = connection.execute(
        "WITH members AS ("
        " SELECT t.id, replication_pool_of(t.id) AS pool, EXISTS (SELECT FROM replication_parked AS k"
        " WHERE k.tenant_id = t.id AND k.error_class = 'pool') AS joins FROM tenants AS t WHERE t.deleted_at IS NULL"
        "), readings AS ("
        " SELECT pool, count(*) AS partitions, max(read_at) AS read_at FROM replication_progress GROUP BY pool"
        "), names AS (SELECT pool FROM members UNION SELECT pool FROM readings UNION SELECT %s)"
        " SELECT n.pool, array(SELECT m.id FROM members AS m WHERE m.pool = n.pool ORDER BY 1),"
        " array(SELECT m.id FROM members AS m WHERE m.pool = n.pool AND m.joins ORDER BY 1),"
        " COALESCE(r.partitions, 0), r.read_at, COALESCE(r.read_at > now() - %s * interval '1 s', false)"
        " FROM names AS n LEFT JOIN readings AS r USING (pool) ORDER BY n.pool <> %s, n.pool",
        [DEFAULT_POOL, SILENT_S, DEFAULT_POOL],
    )
    return tuple(
        Pool(
            name=name,
            tenants=tuple(tenants),
            joining=tuple(joining),
            partitions=partitions,
            read_at=read_at,
            is_served=is_served,
        )
        for name, tenants, joining, partitions, read_at, is_served in found
    )


def assign(settings: Settings, tenant: int, pool: str, *, apply: bool) -> Assignment | None:
    """The change, carried out if `apply`; None: the tenant is of that pool already. Raises Refused."""
    with connect(settings, settings.owner_dsn, "pool assign") as connection, connection.transaction():
        if apply:  # before any row is locked, as the workers do it
            lock_tenants(connection, [tenant])
        found = connection.execute("SELECT replication_pool_of(id) FROM tenants WHERE id = %s", [tenant]).fetchone()
        if found is None:
            raise Refused(f"tenant {tenant} does not exist")
        if found[0] == pool:
            return None
        planned = Assignment(
            tenant=tenant,
            from_pool=found[0],
            to_pool=pool,
            behind=_behind(connection, tenant, found[0], pool),
            is_served=any(each.name == pool and each.is_served for each in read_pools(connection)),
        )
        if apply:
            connection.execute(
                "INSERT INTO replication_tenant_pools (tenant_id, pool) VALUES (%s, %s)"
                " ON CONFLICT (tenant_id) DO UPDATE SET pool = EXCLUDED.pool, since = now()",
                [tenant, pool],
            )
        return planned


def _behind(connection: psycopg.Connection[Any], tenant: int, old: str, new: str) -> dict[int, int]:
    found = connection.cursor(row_factory=class_row(_Stand)).execute(
        "SELECT mine.partition, mine.next_offset"
        " - COALESCE(k.from_offset, GREATEST(theirs.next_offset, w.next_offset), 0) AS offsets"
        " FROM replication_progress AS mine"
        " LEFT JOIN replication_progress AS theirs"
        " ON theirs.pool = %(old)s AND theirs.partition = mine.partition AND theirs.topic_id = mine.topic_id"
        " LEFT JOIN replication_watermarks AS w"
        " ON w.tenant_id = %(tenant)s AND w.partition = mine.partition AND w.topic_id = mine.topic_id"
        " LEFT JOIN replication_parked AS k"
        " ON k.tenant_id = %(tenant)s AND k.partition = mine.partition AND k.topic_id = mine.topic_id"
        " WHERE mine.pool = %(new)s ORDER BY 1",
        {"tenant": tenant, "old": old, "new": new},
    )
    return {stand.partition: stand.offsets for stand in found if stand.offsets > 0}


@dataclass(frozen=True, slots=True)
class _Stand:
    partition: int
    offsets: int
