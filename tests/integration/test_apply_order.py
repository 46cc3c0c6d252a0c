"""On a real server, with foreign keys and row-level security: whatever is read first, a tenant ends as its source."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from consumers.relation import Relation
from tests import histories
from tests.histories import SHAPES, Source
from tests.integration.applied import Applied

READINGS = 4
"""Of each history, by a tenant each."""
FEW = histories.histories(("conversations", "messages"), least=12)
"""Much happens to the same rows."""
ALL = histories.histories(tuple(SHAPES), least=8)


def rows(applied: Applied, tenant: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Every row that is no stub."""
    found = {}
    for table, shape in SHAPES.items():
        inbox = "id" if table == "inboxes" else "inbox_id"
        columns = ", ".join(("id", inbox, *shape.columns))
        for key, *values in applied.rows(tenant, f"SELECT {columns} FROM {table} WHERE synced_at IS NOT NULL"):
            found[table, key] = dict(zip(("inbox", *shape.columns), values, strict=True))
    return found


ANALYTICS = "conversations_analytics"
"""Has neither parents nor children, and no row in these histories."""


def truth(source: Source) -> dict[tuple[str, int], dict[str, Any]]:
    return {place: {"inbox": row.inbox, **row.columns} for place, row in source.rows.items()}


def stubs(applied: Applied, tenant: int) -> set[tuple[str, int]]:
    return {
        (relation.name, key)
        for relation in applied.relations.values()
        if relation.name != ANALYTICS
        for (key,) in applied.rows(tenant, f"SELECT {relation.key} FROM {relation.name} WHERE synced_at IS NULL")
    }


def useless(applied: Applied, tenant: int) -> list[tuple[str, int]]:
    """Stubs without a child, and stubs that hold more than inbox and position."""
    return [
        (relation.name, key)
        for relation in applied.relations.values()
        if relation.name != ANALYTICS
        for (key,) in applied.rows(
            tenant,
            f"SELECT {relation.key} FROM {relation.name} AS t WHERE synced_at IS NULL AND"
            f" (NOT ({_has_child(relation)}) OR num_nonnulls({_data(relation)}) > 0)",
        )
    ]


def _has_child(relation: Relation) -> str:
    found = (f"EXISTS (SELECT FROM {child} WHERE {column} = t.id)" for child, column in relation.children)
    return " OR ".join(found) or "false"


def _data(relation: Relation) -> str:
    return ", ".join(name for name in relation.data if name != relation.inbox)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # making a failing history smaller here takes minutes: the unit test does that
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(FEW | ALL, st.integers(0, 2**32))
def test_two_partitions_in_any_order_and_any_batches_end_as_the_source(
    applied: Applied, history: list[tuple[histories.Operation, bool]], seed: int
) -> None:
    source = Source.after(history)
    for nth in range(READINGS):
        ((tenant,),) = applied.target.rows("SELECT count(*) + 1 FROM tenants")
        applied.add_tenant(tenant)
        for batch in histories.reading(source.published, Random(seed + nth)):
            applied.apply(tenant, batch)
        assert rows(applied, tenant) == truth(source)
        assert useless(applied, tenant) == []
