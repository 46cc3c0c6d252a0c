"""Judges the analytics view as dashboards will find it: its columns, and what reading it costs.

Pure: facts in, findings out. How its rows are followed is judged in `derived_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from replicator.config import Settings
from replicator.facts import ServerFacts, ViewReading
from replicator.findings import Finding, note, ok, warning
from replicator.remedies import table_name
from replicator.view_columns import COLUMNS, LEAD_SIGNALS, kind_of

_EXPENSIVE_MS: Final = 50.0
"""A conversation is read some fifty times in its life."""
_OURS: Final = "replicator setup --replace-view shows what our definition would change, column by column"


def judge_view(view: ViewReading, server: ServerFacts, settings: Settings, *, records_leads: bool) -> Iterable[Finding]:
    """Of a view that can be read. `records_leads`: conversations have custom_attributes."""
    name = table_name(settings, settings.view)
    kinds = {column: kind_of(type_name) for column, type_name in view.columns.items()}
    yield from _judge_columns(name, view.columns, kinds)
    if absent := [column for column in LEAD_SIGNALS if column not in kinds]:
        reason = (
            f"has no {', '.join(absent)}: where it says nothing of a lead, the target derives it from what was written"
        )
        if records_leads:
            reason += "; replicator setup adds what conversations.custom_attributes say (--keep-view leaves it alone)"
        yield note("view", name, reason)
    if view.surveyed_twice:
        reason = f"{view.surveyed_twice:,} conversations were surveyed more than once: the newest answer is taken"
        yield note("view", name, reason)
    if server.time_zone != "UTC":
        reason = (
            f"sessions of our role would have TimeZone {server.time_zone}, which alters the view's clock columns:"
            " ours set UTC, and who compares has to do so too"
        )
        yield note("view", name, reason)
    yield from _judge_cost(name, view.one_read_ms)


def _judge_columns(name: str, types: Mapping[str, str], kinds: Mapping[str, str]) -> Iterable[Finding]:
    wanted = {column: kind for kind, columns in COLUMNS.items() for column in columns}
    lacking = [column for column in wanted if column not in kinds]
    leads = {column: kind_of(type_name) for column, type_name in LEAD_SIGNALS.items()}
    unlike = [
        f"{column} ({types[column]})"
        for column, kind in {**wanted, **leads}.items()
        if column in kinds and kinds[column] != kind
    ]
    if lacking:
        yield warning("view", name, f"lacks {', '.join(lacking)}: dashboards find NULL there", _OURS)
    if unlike:
        reason = f"has columns of another kind than dashboards read: {', '.join(unlike)}"
        yield warning("view", name, reason, _OURS)
    if not lacking and not unlike:
        yield ok("view", name, f"has the {len(wanted)} columns that dashboards read")


def _judge_cost(name: str, one_read_ms: float | None) -> Iterable[Finding]:
    if one_read_ms is None:
        return
    reason = f"one conversation is read in {one_read_ms:.1f} ms"
    if one_read_ms > _EXPENSIVE_MS:
        yield warning("view", name, reason, "EXPLAIN ANALYZE of one conversation_id shows what is read as a whole")
    else:
        yield note("view", name, reason)
