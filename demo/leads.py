"""What the target says of leads, and by whose clock: filled everywhere, with evidence, and the same when made anew.

A witness like `compare`: nothing of the product is imported. The product is asked to make every row's signals anew by
taking them away as a superuser; the workers do the rest by themselves. Local hours are those of Python's zones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import psycopg
from rich.table import Table

SIGNALS = "is_lead, visit_scheduled, crm_converted, ai_probability_label, ai_probability_score, lead_evidence"
TABLE = "conversations_analytics"
ZONE = "America/Sao_Paulo"
"""Of a tenant without settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leads:
    """One tenant's signals."""

    tenant: int
    conversations: int
    empty: int
    """Without signals, or a lead without evidence."""
    leads: int
    visits: int
    conversions: int
    high: int
    """Labelled Alto."""
    example: str
    """One conversation's evidence."""
    zone: str
    late_hours: int
    """Conversations whose local hour, day or date is not that of the tenant's zone."""
    changed: int | None = None
    """Other than before, when all were made anew; None: not all came back."""

    @property
    def is_well(self) -> bool:
        return not (self.empty or self.late_hours or self.changed or self.changed is None)


def take_away(connection: psycopg.Connection) -> None:
    """Every conversation's signals, having kept them aside for the comparison."""
    connection.execute(f"CREATE TEMPORARY TABLE before AS SELECT tenant_id, conversation_id, {SIGNALS} FROM {TABLE}")
    emptied = ", ".join(f"{name} = NULL" for name in (*SIGNALS.split(", "), "lead_rules_digest"))
    connection.execute(f"UPDATE {TABLE} SET {emptied}")


def are_back(connection: psycopg.Connection) -> bool:
    """Whether every conversation has signals again."""
    return not connection.execute(f"SELECT FROM {TABLE} WHERE lead_rules_digest IS NULL LIMIT 1").fetchall()


def look(connection: psycopg.Connection) -> list[Leads]:
    """Every tenant's, after `take_away`. In a session that row-level security does not bind."""
    changed = dict(
        connection.execute(
            f"SELECT tenant_id, count(*) FILTER (WHERE ROW({SIGNALS}) IS DISTINCT FROM"
            f" (SELECT ROW({SIGNALS}) FROM before AS b WHERE b.tenant_id = t.tenant_id"
            f" AND b.conversation_id = t.conversation_id)) FROM {TABLE} AS t GROUP BY tenant_id"
        )
    )
    is_whole = are_back(connection)
    zones = dict(connection.execute("SELECT tenant_id, time_zone FROM tenant_settings"))
    found = connection.execute(
        "SELECT tenant_id, count(*), count(*) FILTER (WHERE num_nulls(is_lead, visit_scheduled, crm_converted,"
        " ai_probability_label, ai_probability_score, lead_evidence) > 0 OR is_lead AND lead_evidence = '[]'),"
        " count(*) FILTER (WHERE is_lead), count(*) FILTER (WHERE visit_scheduled),"
        " count(*) FILTER (WHERE crm_converted), count(*) FILTER (WHERE ai_probability_label = 'Alto')"
        f" FROM {TABLE} GROUP BY tenant_id ORDER BY tenant_id"
    ).fetchall()
    return [
        Leads(
            tenant=tenant,
            conversations=conversations,
            empty=empty,
            leads=leads,
            visits=visits,
            conversions=conversions,
            high=high,
            example=_example(connection, tenant),
            zone=zones.get(tenant, ZONE),
            late_hours=_late_hours(connection, tenant, ZoneInfo(zones.get(tenant, ZONE))),
            changed=changed[tenant] if is_whole else None,
        )
        for tenant, conversations, empty, leads, visits, conversions, high in found
    ]


def _example(connection: psycopg.Connection, tenant: int) -> str:
    found = connection.execute(
        f"SELECT conversation_id, lead_evidence FROM {TABLE} WHERE tenant_id = %s AND visit_scheduled"
        " ORDER BY jsonb_array_length(lead_evidence) DESC, conversation_id LIMIT 1",
        [tenant],
    ).fetchone()
    if found is None:
        return ""
    conversation, evidence = found
    told = ", ".join(f"{piece['rule']} (message {piece['message_id']})" for piece in evidence[:2])
    return f"conversation {conversation}: {told}{', …' if len(evidence) > 2 else ''}"


def _late_hours(connection: psycopg.Connection, tenant: int, zone: ZoneInfo) -> int:
    late = 0
    for began, hour, date, day in connection.execute(
        f"SELECT conversation_created_at, local_hour, local_date, local_day_of_week FROM {TABLE}_live"
        " WHERE tenant_id = %s",
        [tenant],
    ):
        assert isinstance(began, datetime)
        local = began.replace(tzinfo=UTC).astimezone(zone)
        late += (hour, date, day) != (local.hour, local.date(), local.isoweekday() % 7)
    return late


def render(found: list[Leads]) -> Table:
    """For a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("tenant", "zone"):
        table.add_column(heading, no_wrap=True)
    for heading in ("rows", "leads", "visits", "enrolled", "Alto", "empty", "changed", "hours off"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        counts = (each.conversations, each.leads, each.visits, each.conversions, each.high, each.empty)
        changed = "?" if each.changed is None else f"{each.changed:,}"
        style = None if each.is_well else "bold red"
        place = each.zone.rpartition("/")[2].replace("_", " ")
        figures = [*(f"{count:,}" for count in counts), changed, f"{each.late_hours:,}"]
        table.add_row(str(each.tenant), place, *figures, style=style)
    return table
