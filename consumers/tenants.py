"""Whose an inbox is: the mapping as it was last read, with an age.

A cache for sorting events; the truth is looked at again under the tenant's lock (`target`). Never guesses: an inbox
that is not here is unmapped.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from psycopg import Connection

from consumers.errors import Overtaken

TENANT_LOCK: Final = 1229867864
"""The class of the tenants' advisory locks, as in sql/target."""
CHANNEL: Final = "inbox_tenant_mapping"
"""Where the mapping's trigger tells of a change."""


class Owner(NamedTuple):
    tenant: int
    backfill: str
    """The backfill that is under way, as far as its begin marker was read; else empty."""
    is_complete: bool
    """Whether a backfill of this inbox has ended since the inbox began to belong to its tenant."""


class Mapping:
    """Active inboxes of living tenants."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._read_at = float("-inf")
        self.owners: dict[int, Owner] = {}

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self._read_at > self._longest_s

    def expire(self) -> None:
        """Something changed: to be read again before the next use."""
        self._read_at = float("-inf")

    def read(self, connection: Connection[Any]) -> None:
        began = time.monotonic()
        self.owners = {
            inbox: Owner(tenant, backfill or "", complete)
            for inbox, tenant, backfill, complete in connection.execute(
                "SELECT m.inbox_id, m.tenant_id, m.backfill_id, m.backfilled_at IS NOT NULL"
                " FROM inbox_tenant_mapping AS m JOIN tenants AS t ON t.id = m.tenant_id"
                " WHERE m.is_active AND t.deleted_at IS NULL"
            )
        }
        self._read_at = began


def verify(connection: Connection[Any], tenant: int, inboxes: Collection[int]) -> None:
    """The second look, under the tenant's lock: the mapping can't change until it is let go. Raises Overtaken.

    A tenant that was set aside keeps its rows, and what says no inbox still goes for them.
    """
    found = connection.execute(
        "SELECT t.id, (SELECT count(*) FROM inbox_tenant_mapping AS m WHERE m.tenant_id = t.id AND m.is_active"
        " AND t.deleted_at IS NULL AND m.inbox_id = ANY (%s)) FROM tenants AS t WHERE t.id = %s",
        [list(inboxes), tenant],
    ).fetchone()
    if found is None or found[1] != len(inboxes):
        raise Overtaken(f"the mapping of tenant {tenant} has changed")
