"""Which inboxes of a tenant a command speaks of, or why it can't."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from consumers.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A living tenant's inboxes by how they stand."""

    active: frozenset[int]
    awaited: frozenset[int]
    """Active, but not backfilled yet."""
    inactive: frozenset[int]


def owned(connection: Connection[Any], tenant: int) -> Owned:
    """Raises Refused for a tenant that does not exist, or was set aside."""
    found = connection.execute("SELECT deleted_at IS NULL FROM tenants WHERE id = %s", [tenant]).fetchone()
    if found is None:
        raise Refused(f"there is no tenant {tenant}: `consumers map list` shows whose the inboxes are")
    if not found[0]:
        raise Refused(f"tenant {tenant} is set aside (tenants.deleted_at): nothing is applied for it")
    inboxes = connection.execute(
        "SELECT inbox_id, is_active, backfilled_at IS NULL FROM inbox_tenant_mapping WHERE tenant_id = %s", [tenant]
    ).fetchall()
    active = frozenset(inbox for inbox, is_active, _ in inboxes if is_active)
    return Owned(
        active=active,
        awaited=frozenset(inbox for inbox, is_active, waits in inboxes if is_active and waits),
        inactive=frozenset(inbox for inbox, is_active, _ in inboxes if not is_active),
    )


def chosen(connection: Connection[Any], tenant: int, wanted: Collection[int]) -> frozenset[int]:
    """Of the tenant's active inboxes those that are wanted; none wanted: all. Raises Refused."""
    active = owned(connection, tenant).active
    if not active:
        raise Refused(f"tenant {tenant} has no active inbox, so no partition: `consumers map add`")
    if foreign := sorted(set(wanted) - active):
        raise Refused(f"inbox {', '.join(map(str, foreign))} is no active inbox of tenant {tenant}")
    return frozenset(wanted) or active
