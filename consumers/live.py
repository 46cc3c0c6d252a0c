"""The reading view of a derived relation: its columns, those that the clock changes computed at the moment of reading.

No row says anything of `now()`: such columns are never sent, and `<table>_live` computes them from the stored ones, by
the expressions that the source's own definition comes to. Where the source has not said them yet, the analytics view's
are those of the reference view that ships with the replicator. The analytics view also tells when a conversation began
by the clock of the tenant's own place. security_invoker: row-level security binds who reads.

Makes text, and knows no database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pglast import ast
from pglast.visitors import Visitor

from consumers.derived import as_expression
from consumers.identifiers import literal, quoted
from consumers.relation import OWN_COLUMNS
from replicator import ClockColumn, TableSchema

ANALYTICS: Final = "conversations_analytics"
_NOW: Final = "timezone('UTC', now())"
CLOCK: Final = (
    ClockColumn("waiting_time_seconds", "integer", f"floor(EXTRACT(EPOCH FROM {_NOW} - waiting_since))::integer"),
    ClockColumn("is_snoozed", "boolean", f"status = 3 AND (snoozed_until IS NULL OR snoozed_until > {_NOW})"),
    ClockColumn("is_waiting_long", "boolean", f"COALESCE(waiting_since < {_NOW} - interval '1 hour', false)"),
    ClockColumn("days_since_creation", "integer", f"{_NOW}::date - conversation_created_at::date"),
    ClockColumn("is_today", "boolean", f"conversation_created_at::date = {_NOW}::date"),
    ClockColumn("is_yesterday", "boolean", f"conversation_created_at::date = {_NOW}::date - 1"),
    ClockColumn("is_this_week", "boolean", f"date_trunc('week', conversation_created_at) = date_trunc('week', {_NOW})"),
    ClockColumn(
        "is_this_month", "boolean", f"date_trunc('month', conversation_created_at) = date_trunc('month', {_NOW})"
    ),
    ClockColumn("is_this_year", "boolean", f"date_trunc('year', conversation_created_at) = date_trunc('year', {_NOW})"),
)
"""Of the reference view in sql/source."""

LOCAL_ONLY: Final = frozenset(
    {
        "is_lead",
        "visit_scheduled",
        "crm_converted",
        "ai_probability_label",
        "ai_probability_score",
        "nome_mapeado_bot",
        "tipo_conversa",
        "analise_ia",
        "sugestao_disparo",
        "score_prioridade",
        "dados_extraidos_ia",
        "metadados_analise_ia",
        "analisado_em",
        "precisa_remarketing",
        "status_resolucao",
        "nivel_interesse",
        "lead_evidence",
        "lead_rules_digest",
    }
)
"""Columns of the analytics table that the source's view does not have, or need not."""

ZONE: Final = "America/Sao_Paulo"
"""Of a tenant that has no settings."""
_PERIOD: Final = (
    "CASE WHEN EXTRACT(HOUR FROM local.at) < 6 THEN 'Night' WHEN EXTRACT(HOUR FROM local.at) < 12 THEN 'Morning'"
    " WHEN EXTRACT(HOUR FROM local.at) < 18 THEN 'Afternoon' WHEN EXTRACT(HOUR FROM local.at) < 22 THEN 'Evening'"
    " WHEN local.at IS NOT NULL THEN 'Night' END"
)
_LOCAL: Final = {
    "local_created_at": ("timestamp without time zone", "local.at"),
    "local_date": ("date", "local.at::date"),
    "local_hour": ("integer", "EXTRACT(HOUR FROM local.at)::integer"),
    "local_day_of_week": ("integer", "EXTRACT(DOW FROM local.at)::integer"),
    "local_period": ("text", _PERIOD),
    "local_is_weekday": ("boolean", "EXTRACT(ISODOW FROM local.at) <= 5"),
    "local_is_weekend": ("boolean", "EXTRACT(ISODOW FROM local.at) > 5"),
    "local_is_business_hours": (
        "boolean",
        "EXTRACT(ISODOW FROM local.at) <= 5 AND EXTRACT(HOUR FROM local.at) >= 9 AND EXTRACT(HOUR FROM local.at) < 18",
    ),
}
"""The calendar columns of the analytics view, which are UTC's, by the tenant's clock: type and expression."""
_BEGAN: Final = "conversation_created_at"
_AT: Final = (
    f" CROSS JOIN LATERAL (SELECT r.{_BEGAN} AT TIME ZONE 'UTC' AT TIME ZONE COALESCE("
    f"(SELECT s.time_zone FROM tenant_settings AS s WHERE s.tenant_id = r.tenant_id), '{ZONE}') AS at) AS local"
)

_MADE: Final = "made by consumers setup"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A reading view as it should be."""

    name: str
    columns: Mapping[str, str]
    """Type by name, as format_type prints it, in order."""
    query: str
    origin: str
    """`source` or `default`: where the expressions come from."""

    @property
    def comment(self) -> str:
        """What tells this view from another of the same name, and from what it was before."""
        digest = hashlib.sha256(self.query.encode()).hexdigest()[:12]
        return f"clock columns computed at reading; {_MADE} ({self.origin}, {digest})"

    @property
    def creation(self) -> str:
        return (
            f"CREATE OR REPLACE VIEW {quoted(self.name)} WITH (security_invoker = true) AS {self.query};"
            f" COMMENT ON VIEW {quoted(self.name)} IS {literal(self.comment)}"
        )

    def anew(self, readers: list[str]) -> str:
        """In the place of one with other columns, for the roles that may read that one."""
        rights = "".join(f"; GRANT SELECT ON {quoted(self.name)} TO {quoted(role)}" for role in readers)
        return f"DROP VIEW {quoted(self.name)}; {self.creation}{rights}"

    def keeps(self, present: Mapping[str, str]) -> bool:
        """Whether it can replace a view of these columns: it may only have more at its end."""
        return list(self.columns.items())[: len(present)] == list(present.items())


def is_ours(comment: str) -> bool:
    """Whether setup made the view that bears the comment."""
    return _MADE in comment


def is_default(comment: str) -> bool:
    """Whether it did so without knowing the source's own expressions."""
    return f"{_MADE} (default," in comment


def name_of(table: str) -> str:
    return f"{table}_live"


def faults(schema: TableSchema, stored: Mapping[str, str]) -> Iterator[str]:
    """What can't be computed from the columns of the table."""
    clock = {column.name for column in schema.clock}
    for column in schema.clock:
        tree = as_expression(column.expression)
        if tree is None:
            yield f"the expression of {schema.table}.{column.name} is no single expression"
            continue
        named = _Named()
        named(tree)
        if unknown := sorted(name for name in named.columns if name in clock or name not in stored):
            yield f"the expression of {schema.table}.{column.name} names what is no stored column: {', '.join(unknown)}"
        if named.has_query:
            yield f"the expression of {schema.table}.{column.name} asks another table"


def view(schema: TableSchema, stored: Mapping[str, str], types: Mapping[str, str], origin: str) -> View:
    """The view over a table of these columns: the tenant, the relation in its own order, what else the table holds.

    `types`: the target's name for the type of each clock column.
    """
    clock = {column.name: column for column in schema.clock}
    own = schema.order or (*(name for name, _ in schema.columns), *clock)
    order = dict.fromkeys(name for name in own if name in clock or name in stored)
    rest = (name for name in stored if name not in order and name not in OWN_COLUMNS)
    columns: dict[str, str] = {}
    parts: list[str] = []
    for name in ("tenant_id", *order, *rest):
        if name in clock:
            columns[name] = types[clock[name].type_name]
            parts.append(f"({clock[name].expression})::{columns[name]} AS {quoted(name)}")
        else:
            columns[name] = stored[name]
            parts.append(f"r.{quoted(name)}")
    query = f"FROM {quoted(schema.table)} AS r"
    if schema.table == ANALYTICS and stored.get(_BEGAN, "").startswith("timestamp") and not _LOCAL.keys() & columns:
        columns |= {name: kind for name, (kind, _) in _LOCAL.items()}
        parts += [f"{expression} AS {name}" for name, (_, expression) in _LOCAL.items()]
        query += _AT
    query = f"SELECT {', '.join(parts)} {query}"
    return View(name=name_of(schema.table), columns=columns, query=query, origin=origin)


class _Named(Visitor):
    """The columns that an expression names."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: set[str] = set()
        self.has_query = False

    def visit_ColumnRef(self, ancestors: Any, node: Any) -> None:  # noqa: N802  # pglast's naming
        parts = [str(part.sval) if isinstance(part, ast.String) else "*" for part in node.fields]
        self.columns.add(".".join(parts))

    def visit_SubLink(self, ancestors: Any, node: Any) -> None:  # noqa: N802  # pglast's naming
        self.has_query = True
