"""How each tenant comes to its lead signals: its setting and its rules, as they were last read, with an age.

Says in `lead_rules.refused` why a rule is left out. Belongs to one thread; what it gives away is immutable.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from psycopg import Connection

from consumers.lead_columns import LeadColumns, Origin
from consumers.lead_rules import Rule
from consumers.rules_file import shipped_rules
from consumers.tenant_rules import Own, tenant_rules

log = structlog.get_logger(__name__)

CHANNEL: Final = "lead_rules"
"""Where triggers tell of a tenant whose rules or setting have changed."""


class Leads:
    """Read tenant by tenant, when it is asked for."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._shipped = shipped_rules()
        self._known: dict[int, tuple[float, LeadColumns]] = {}

    def expire(self, tenant: int | None = None) -> None:
        """Something changed: to be read again before the next use. None: of all tenants."""
        if tenant is None:
            self._known.clear()
        else:
            self._known.pop(tenant, None)

    def of(self, connection: Connection[Any], tenant: int) -> LeadColumns:
        """Raises psycopg.Error."""
        read_at, found = self._known.get(tenant, (float("-inf"), None))
        if found is None or time.monotonic() - read_at > self._longest_s:
            began = time.monotonic()
            found = self._read(connection, tenant)
            self._known[tenant] = began, found
        return found

    def _read(self, connection: Connection[Any], tenant: int) -> LeadColumns:
        with connection.transaction():
            found, refused, noted = read(connection, tenant, self._shipped)
            if refused != noted:
                _note(connection, tenant, noted.keys() | refused.keys(), refused)
        return found


def read(
    connection: Connection[Any], tenant: int, shipped: Sequence[Rule]
) -> tuple[LeadColumns, dict[str, str], dict[str, str]]:
    """Of one tenant, in the transaction that is open; with why rules of its own are left out, now and as was noted."""
    own, noted = read_own(connection, tenant)
    rules = tenant_rules(shipped, own)
    return LeadColumns(read_origin(connection, tenant), rules.ready, rules.digest), dict(rules.refused), noted


def read_own(connection: Connection[Any], tenant: int) -> tuple[Own, dict[str, str]]:
    """A tenant's own rules, and by name why some are left out, in the transaction that is open."""
    connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
    found = connection.execute(
        "SELECT name, pattern, signal, weight, speaker, refused FROM lead_rules WHERE tenant_id = %s", [tenant]
    ).fetchall()
    own = {name: Rule(name, *rule) if rule[0] is not None else None for name, *rule, _ in found}
    return own, {name: refused for name, *_, refused in found if refused is not None}


def read_origin(connection: Connection[Any], tenant: int) -> Origin | None:
    found = connection.execute("SELECT lead_signals FROM tenant_settings WHERE tenant_id = %s", [tenant]).fetchone()
    return found[0] if found else None


def _note(connection: Connection[Any], tenant: int, names: set[str], refused: Any) -> None:
    for name in sorted(names):
        connection.execute(
            "UPDATE lead_rules SET refused = %s WHERE tenant_id = %s AND name = %s", [refused.get(name), tenant, name]
        )
    if refused:
        log.warning("rules.refused", tenant=tenant, rules=sorted(refused), advice="See `consumers rules list`.")
