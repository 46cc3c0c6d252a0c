"""A replicated table of the target, and the forms in which its rows come.

Pure: what the catalogue said of a table, as values, and what follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Final

from replicator import TableSchema

OWN_COLUMNS: Final = frozenset({"tenant_id", "source_epoch", "source_point", "source_ordinal", "synced_at"})
"""What the target adds to the source's columns."""

LEAD_SIGNALS: Final = ("is_lead", "visit_scheduled", "crm_converted", "ai_probability_label", "ai_probability_score")
"""What dashboards read of a lead. The source may send them; what the table holds, `lead_columns` decides."""
LEAD_COLUMNS: Final = (*LEAD_SIGNALS, "lead_evidence", "lead_rules_digest")
MESSAGES: Final = "message_compiled"
"""What rules make them of."""
_TRUTH: Final = r"boolean|text|character varying(\((\d{2,}|[5-9])\))?"
_LEAD_TYPES: Final = {
    "is_lead": re.compile(_TRUTH),
    "visit_scheduled": re.compile(_TRUTH),
    "crm_converted": re.compile(_TRUTH),
    "ai_probability_label": re.compile(r"text|character varying(\((\d{2,}|[6-9])\))?"),
    "ai_probability_score": re.compile(
        r"numeric(\((\d{2,}|[3-9])(,0)?\))?|smallint|integer|bigint|real|double precision"
    ),
    "lead_evidence": re.compile(r"jsonb?"),
    "lead_rules_digest": re.compile(r"text|character varying(\((\d{3,}|[3-9]\d|2[1-9])\))?"),
}
"""Of an adopted table, whoever made it: types, as format_type prints them, that hold whatever we write."""

_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A replicated table of the target."""

    name: str
    columns: Mapping[str, str]
    """Type by name, as format_type prints it; none that is generated."""
    documents: frozenset[str]
    """Those of json or jsonb, or of a domain over one."""
    parents: tuple[tuple[str, str], ...]
    """Foreign keys as (own column, parent table), tenants left out."""
    children: tuple[tuple[str, str], ...]
    """(child table, its column) of every foreign key to this table."""
    key: str = "id"
    """The column that, after the tenant's, is unique."""
    inbox_column: str = ""
    """Where the name alone does not tell it."""
    parent_keys: Mapping[str, str] = field(default_factory=dict)
    """The key of each parent whose key is not `id`."""
    child_inboxes: Mapping[str, str] = field(default_factory=dict)
    """The inbox column of each child whose inbox column is not `inbox_id`; empty: it has none."""
    rules: str = ""
    """What else may refuse a row (constraints, unique indexes, triggers), as a digest: it tells of changes."""

    @property
    def inbox(self) -> str | None:
        """The column of the inbox; None: rows have no inbox of their own."""
        if self.inbox_column:
            return self.inbox_column
        if self.name == "inboxes":
            return "id"
        return "inbox_id" if "inbox_id" in self.columns else None

    @property
    def parent_names(self) -> frozenset[str]:
        return frozenset(parent for _, parent in self.parents)

    @property
    def has_leads(self) -> bool:
        """Whether rows have lead signals, which are not written as the event has them, in columns that take ours."""
        return all(fits.fullmatch(self.columns.get(name, "")) for name, fits in _LEAD_TYPES.items())

    @property
    def data(self) -> tuple[str, ...]:
        """The source's columns but the key."""
        return tuple(name for name in self.columns if name not in OWN_COLUMNS and name != self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Rows of one table that carry the same columns."""

    relation: Relation
    columns: tuple[str, ...]
    """Data columns that both the event and the target have."""
    is_partial: bool
    """The events leave columns out."""
    is_lost: bool
    """What they leave out is nowhere: it was too large to be sent."""
    skipped: tuple[tuple[str, str], ...]
    """(name, type) of what they carry and the target lacks."""
    rewritten: frozenset[str] = frozenset()
    """Those of integers that are of another type in the source, which may write 7 as 7.000."""
    with_leads: bool = False
    """Lead columns are staged beside each row; else what stands there stays."""

    @property
    def parents(self) -> tuple[tuple[str, str], ...]:
        return tuple((column, parent) for column, parent in self.relation.parents if column in self.columns)


def form(
    relation: Relation, schema: TableSchema, absent: Iterable[str], *, is_lost: bool = False, with_leads: bool = False
) -> Form:
    """The form of rows of this version that leave these columns out."""
    left_out = set(absent)
    carried = {name for name, _ in schema.columns} - left_out
    apart = LEAD_COLUMNS if relation.has_leads else ()
    columns = tuple(name for name in relation.data if name in carried and name not in apart)
    skipped = tuple((name, kind) for name, kind in schema.columns if name in carried and name not in relation.columns)
    rewritten = frozenset(
        name for name, kind in schema.columns if name in columns and is_rewritten(relation.columns[name], kind)
    )
    return Form(
        relation=relation,
        columns=columns,
        is_partial=bool(left_out),
        is_lost=is_lost,
        skipped=skipped,
        rewritten=rewritten,
        with_leads=with_leads,
    )


def without_inbox(relations: Mapping[str, Relation]) -> frozenset[str]:
    """Tables whose rows say none."""
    return frozenset(name for name, relation in relations.items() if relation.inbox is None)


def parents_first(relations: Mapping[str, Relation]) -> tuple[str, ...]:
    """Names so that every table stands after those that it references (a table may reference itself)."""
    graph = {
        name: sorted({parent for _, parent in relation.parents if parent != name})
        for name, relation in sorted(relations.items())
    }
    return tuple(TopologicalSorter(graph).static_order())


def is_rewritten(stored: str, kind: str) -> bool:
    """Whether the source may write an integer as its own type does."""
    return stored in _INTEGERS and kind not in _INTEGERS
