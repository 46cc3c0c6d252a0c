"""How far a tenant's rows are in the log: what of it is in them, read from the target, by partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from psycopg import Connection

from consumers.errors import Refused


def reached(connection: Connection[Any], tenant: int, topic_id: str, partitions: Collection[int]) -> dict[int, int]:
    """The first offset that is not applied yet. While the tenant is locked, it stays so. Raises Refused.

    Where the tenant is parked it is where it is to be read again; else its pool's progress, or its own watermark, which
    is committed first.
    """
    found: dict[int, int] = dict(
        connection.execute(
            "SELECT p.partition, GREATEST(w.next_offset, COALESCE(k.from_offset, p.next_offset))"
            " FROM replication_progress AS p"
            " LEFT JOIN replication_watermarks AS w"
            " ON w.tenant_id = %(tenant)s AND w.partition = p.partition AND w.topic_id = p.topic_id"
            " LEFT JOIN replication_parked AS k"
            " ON k.tenant_id = %(tenant)s AND k.partition = p.partition AND k.topic_id = p.topic_id"
            " WHERE p.pool = replication_pool_of(%(tenant)s)"
            " AND p.topic_id = %(topic)s AND p.partition = ANY (%(partitions)s)",
            {"tenant": tenant, "topic": topic_id, "partitions": list(partitions)},
        ).fetchall()
    )
    if unread := sorted(set(partitions) - set(found)):
        raise Refused(
            f"the tenant's pool has not read partition {', '.join(map(str, unread))} of this topic yet:"
            " does a worker run, and was the topic made anew?"
        )
    return found
