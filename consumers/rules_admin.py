"""`consumers rules`: a tenant's lead rules and where its signals come from, seen and changed by a person.

What can't be taken is refused before anything is written. A file states all rules that are the tenant's own. Workers
hear of a change by the tables' triggers, and make the tenant's rows anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from consumers.config import Settings
from consumers.errors import Refused, RulesRefused
from consumers.lead_columns import FROM_SOURCE, Origin
from consumers.lead_rules import Rule
from consumers.leads import read_origin, read_own
from consumers.mapping_admin import Change
from consumers.rules_file import RulesFile, shipped_rules
from consumers.session import connect
from consumers.tenant_rules import tenant_rules
from consumers.tenants import TENANT_LOCK

AUTO: Final = "auto"
ORIGINS: Final = (AUTO, "source", "rules", "external")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One rule as it applies to a tenant, or does not."""

    rule: Rule | None
    """None: switched off."""
    name: str
    whose: str
    """`shipped`, or the tenant's `own`."""
    refused: str | None
    """Why it is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    tenant: int
    origin: Origin | None
    rules: tuple[Listed, ...]
    """By name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One conversation's signals."""

    is_lead: bool | None
    visit_scheduled: bool | None
    crm_converted: bool | None
    label: str | None
    score: float | None
    evidence: tuple[tuple[str, int], ...]
    """(rule, message id) in the order of the messages."""
    by: str
    """`rules`, `older rules` (soon to be made anew), `source`, or `others`."""


def listing(settings: Settings, tenant: int) -> Listing:
    """Raises Refused if there is no such tenant."""
    with connect(settings, settings.target_dsn, "rules list") as connection, connection.transaction():
        _refuse_unknown(connection, tenant)
        own, _ = read_own(connection, tenant)
        origin = read_origin(connection, tenant)
    shipped = {rule.name: rule for rule in shipped_rules()}
    refused = tenant_rules(shipped.values(), own).refused
    merged: dict[str, Rule | None] = {**shipped, **own}
    rules = tuple(
        Listed(rule=merged[name], name=name, whose="own" if name in own else "shipped", refused=refused.get(name))
        for name in sorted(merged)
    )
    return Listing(tenant=tenant, origin=origin, rules=rules)


def put(settings: Settings, tenant: int, file: RulesFile, *, apply: bool) -> tuple[Change, ...]:
    """The changes to the tenant's own rules that make them the file's, carried out if `apply`. Raises RulesRefused."""
    shipped = shipped_rules()
    if unknown := sorted(set(file.off) - {rule.name for rule in shipped}):
        raise Refused(f"no shipped rule is named {', '.join(unknown)}")
    wanted: dict[str, Rule | None] = {**dict.fromkeys(file.off), **{rule.name: rule for rule in file.rules}}
    if refused := tenant_rules(shipped, wanted).refused:
        raise RulesRefused(sorted(refused.items()))
    with connect(settings, settings.owner_dsn, "rules set") as connection, connection.transaction():
        _refuse_unknown(connection, tenant)
        own, _ = read_own(connection, tenant)
        changes = tuple(_differences(tenant, own, wanted))
        for change in changes if apply else ():
            connection.execute(change.sql, change.parameters)
        return changes


def decide(settings: Settings, tenant: int, origin: str, *, apply: bool) -> tuple[Change, ...]:
    """Where the tenant's signals are to come from: one of ORIGINS.

    Under the tenant's lock: what workers have under way is in the target before, and they look again afterwards.
    """
    wanted = None if origin == AUTO else origin
    with connect(settings, settings.owner_dsn, "rules origin") as connection, connection.transaction():
        _refuse_unknown(connection, tenant)
        if apply:
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TENANT_LOCK, tenant])
        if read_origin(connection, tenant) == wanted:
            return ()
        change = Change(
            does=f"take the lead signals of tenant {tenant} from: {origin}",
            sql="INSERT INTO tenant_settings (tenant_id, lead_signals) VALUES (%s, %s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET lead_signals = EXCLUDED.lead_signals",
            parameters=(tenant, wanted),
        )
        if apply:
            connection.execute(change.sql, change.parameters)
        return (change,)


def explain(settings: Settings, tenant: int, conversation: int) -> Explained:
    """Raises Refused if the tenant has no such conversation."""
    with connect(settings, settings.target_dsn, "rules explain") as connection, connection.transaction():
        _refuse_unknown(connection, tenant)
        own, _ = read_own(connection, tenant)
        found = connection.execute(
            "SELECT is_lead, visit_scheduled, crm_converted, ai_probability_label, ai_probability_score, lead_evidence,"
            " lead_rules_digest FROM conversations_analytics WHERE tenant_id = %s AND conversation_id = %s",
            [tenant, conversation],
        ).fetchone()
    if found is None:
        raise Refused(f"tenant {tenant} has no conversation {conversation}")
    is_lead, visit, converted, label, score, evidence, made_by = found
    return Explained(
        is_lead=is_lead,
        visit_scheduled=visit,
        crm_converted=converted,
        label=label,
        score=None if score is None else float(score),
        evidence=tuple((piece["rule"], piece["message_id"]) for piece in evidence or ()),
        by=_by(made_by, tenant_rules(shipped_rules(), own).digest),
    )


def _by(mark: str | None, digest: str) -> str:
    if mark is None or mark == FROM_SOURCE:
        return mark or "others"
    made_by, _, given = mark.partition("x")
    rules = "rules" if made_by == digest else "older rules"
    return f"{FROM_SOURCE} and {rules}" if given else rules


def _differences(tenant: int, own: Any, wanted: dict[str, Rule | None]) -> Iterator[Change]:
    for name in sorted(own.keys() - wanted.keys()):
        yield Change(
            does=f"remove rule {name}",
            sql="DELETE FROM lead_rules WHERE tenant_id = %s AND name = %s",
            parameters=(tenant, name),
        )
    for name, rule in sorted(wanted.items()):
        if name in own and own[name] == rule:
            continue
        given = (rule.signal, rule.speaker, rule.weight, rule.pattern) if rule else (None,) * 4
        yield Change(
            does=f"{'alter' if name in own else 'add'} rule {name}" if rule else f"switch rule {name} off",
            sql="INSERT INTO lead_rules (tenant_id, name, signal, speaker, weight, pattern)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, name) DO UPDATE SET signal = EXCLUDED.signal,"
            " speaker = EXCLUDED.speaker, weight = EXCLUDED.weight, pattern = EXCLUDED.pattern",
            parameters=(tenant, name, *given),
        )


def _refuse_unknown(connection: psycopg.Connection[Any], tenant: int) -> None:
    connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
    if connection.execute("SELECT FROM tenants WHERE id = %s", [tenant]).fetchone() is None:
        raise Refused(f"tenant {tenant} does not exist")
