"""How each tenant comes to its lead signals: its setting and its rules, as they were last read, with an age.

Says in `lead_rules.refused` why a rule is left out. Belongs to one thread; what it gives away is immutable.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
import psycopg
import structlog
from psycopg import Connection

from consumers.errors import Overtaken
from consumers.lead_columns import LeadColumns, Origin
from consumers.lead_rules import RULES, Rule
from consumers.rules_file import shipped_rules
from consumers.script import Answer, Script
from consumers.tenant_rules import Own, tenant_rules

log = structlog.get_logger(__name__)

CHANNEL: Final = "lead_rules"
"""Where triggers tell of a tenant whose rules or setting have changed."""
_LIMITS: Final = {"lock_timeout": "200ms", "statement_timeout": "2s"}
_AGAIN_S: Final = 5.0
"""After so long locked rules are asked for again: as many tenants as there are would else wait one after the other."""
_READ_AT_ONCE: Final = 50
"""Tenants; the loop waits for them: seven messages for each."""
_NAMED: Final = 10
"""Refused rules that a line of the log names."""


class Leads:
    """Read tenant by tenant, when it is asked for."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._shipped = shipped_rules()
        self._known: dict[int, tuple[float, LeadColumns]] = {}
        self._refused: dict[int, dict[str, str]] = {}
        self._again_at = float("-inf")
        """Until then rules are locked by somebody, as far as is known."""

    def expire(self, tenant: int | None = None) -> None:
        """Something changed: to be read again before the next use. None: of all tenants."""
        if tenant is None:
            self._known = {each: (float("-inf"), found) for each, (_, found) in self._known.items()}
        elif tenant in self._known:
            self._known[tenant] = float("-inf"), self._known[tenant][1]

    def of(self, connection: Connection[Any], tenant: int) -> LeadColumns | None:
        """None: what stands there stays, to be made later. Raises psycopg.Error.

        Who may write a tenant's rules may also lock them: nobody waits for that.
        """
        read_at, found = self._known.get(tenant, (float("-inf"), None))
        began = time.monotonic()
        if began - read_at <= self._longest_s:
            return found
        if began >= self._again_at:
            try:
                self._known[tenant] = began, self._read(connection, tenant)
                return self._known[tenant][1]
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                self._again_at = time.monotonic() + _AGAIN_S
                log.warning(
                    "rules.not_read", tenant=tenant, advice="A session locks them: see pg_locks. Older ones hold."
                )
        if found is not None:  # whose they are is no rule, and nobody may write a tenant's that was given away
            found = replace(found, origin=read_origin(connection, tenant))
        return found

    def of_many(self, connection: Connection[Any], tenants: Collection[int]) -> dict[int, LeadColumns | None]:
        """Some of these are read again, in turn; the others as they were last read, who never was is left out."""
        aged = sorted(tenants, key=lambda tenant: self._known[tenant][0] if tenant in self._known else float("-inf"))
        found = {tenant: self.of(connection, tenant) for tenant in aged[:_READ_AT_ONCE]}
        return found | {tenant: self._known[tenant][1] for tenant in aged[_READ_AT_ONCE:] if tenant in self._known}

    def _read(self, connection: Connection[Any], tenant: int) -> LeadColumns:
        with connection.transaction():
            for limit in ("lock_timeout", "statement_timeout"):
                connection.execute("SELECT set_config(%s, %s, true)", [limit, _LIMITS[limit]])
            found, refused, noted = read(connection, tenant, self._shipped)
            if refused != noted:
                _note(connection, tenant, noted.keys() | refused.keys(), refused)
            if refused and refused != self._refused.get(tenant):
                some = sorted(refused)[:_NAMED]
                advice = "See `consumers rules list`."
                log.warning("rules.refused", tenant=tenant, count=len(refused), rules=some, advice=advice)
            self._refused[tenant] = refused
        return found


def read(
    connection: Connection[Any], tenant: int, shipped: Sequence[Rule]
) -> tuple[LeadColumns, dict[str, str], dict[str, str]]:
    """Of one tenant, in the transaction that is open; with why rules of its own are left out, now and as was noted."""
    own, noted = read_own(connection, tenant)
    rules = tenant_rules(shipped, own)
    return LeadColumns(read_origin(connection, tenant), rules.ready, rules.digest), dict(rules.refused), noted


def read_own(connection: Connection[Any], tenant: int) -> tuple[Own, dict[str, str]]:
    """A tenant's own rules, and by name why some are left out, in the transaction that is open.

    The first RULES by name: whoever may write more of them has no use for the rest.
    """
    connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
    found = connection.execute(
        "SELECT name, pattern, signal, weight, speaker, refused FROM lead_rules WHERE tenant_id = %s"
        " ORDER BY name LIMIT %s",
        [tenant, RULES],
    ).fetchall()
    own = {name: Rule(name, *rule) if rule[0] is not None else None for name, *rule, _ in found}
    return own, {name: refused for name, *_, refused in found if refused is not None}


def expect_origin(script: Script, tenant: int, origin: Origin | None) -> None:
    """Sending it raises Overtaken if the tenant's signals come from elsewhere by now."""

    def check(answer: Answer) -> None:
        if (answer.rows[0][0] if answer.rows else None) != origin:
            raise Overtaken(f"where the lead signals of tenant {tenant} come from has changed")

    script.ask("SELECT lead_signals FROM tenant_settings WHERE tenant_id = %(tenant)s", {"tenant": tenant}, check)


def read_origin(connection: Connection[Any], tenant: int) -> Origin | None:
    found = connection.execute("SELECT lead_signals FROM tenant_settings WHERE tenant_id = %s", [tenant]).fetchone()
    return found[0] if found else None


def _note(connection: Connection[Any], tenant: int, names: Collection[str], refused: Mapping[str, str]) -> None:
    """Rows that somebody has locked are noted at another time."""
    said = orjson.dumps([{"name": name, "reason": refused.get(name)} for name in sorted(names)]).decode()
    connection.execute(
        "UPDATE lead_rules AS l SET refused = f.reason FROM (SELECT o.name, x.reason FROM lead_rules AS o"
        " JOIN json_to_recordset(%s::json) AS x (name text, reason text) ON x.name = o.name"
        " WHERE o.tenant_id = %s FOR UPDATE OF o SKIP LOCKED) AS f WHERE l.tenant_id = %s AND l.name = f.name",
        [said, tenant, tenant],
    )
