"""What a schema of the log may bring into the target: a type, an expression, and nothing else."""

from __future__ import annotations

import pytest

from consumers import derived, live
from replicator import ClockColumn, TableSchema

STORED = {"tenant_id": "integer", "id": "bigint", "since": "timestamp without time zone", "synced_at": "timestamptz"}


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("integer", "integer"),
        ("character varying(255)", "varchar(255)"),
        ("timestamp(6) without time zone", "timestamp(6)"),
        ("numeric(10,2)[]", "numeric(10, 2)[]"),
        ('own."Mood"', 'own."Mood"'),
        ("interval day to second", "interval day to second"),
    ],
)
def test_a_type_is_taken_as_postgresql_reads_it(given: str, printed: str) -> None:
    assert derived.as_type(given) == printed


@pytest.mark.parametrize(
    "given", ["", "integer; DROP TABLE x", "integer, 1", "integer + 1", "integer FROM x", "integer) , (SELECT 1", "1"]
)
def test_what_is_more_than_a_type_is_none(given: str) -> None:
    assert derived.as_type(given) is None


@pytest.mark.parametrize(
    "given",
    ["", "1; SELECT 2", "1), (2", "1) FROM x WHERE (true", "1) UNION SELECT (2", "1) LIMIT (1", "1 AS x", "-- "],
)
def test_what_is_more_than_an_expression_is_none(given: str) -> None:
    assert derived.as_expression(given) is None
    assert derived.as_expression("COALESCE(since < now() - interval '1 hour', false)") is not None


def schema(*clock: ClockColumn, order: tuple[str, ...] = ()) -> TableSchema:
    columns = (("id", "bigint"), ("since", "timestamp without time zone"))
    return TableSchema(table="queue", columns=columns, key=("id",), inbox="", is_derived=True, clock=clock, order=order)


@pytest.mark.parametrize("name", ["nothing", "r.since", "waits", "*"])
def test_an_expression_may_only_name_stored_columns(name: str) -> None:
    given = "r.*::text" if name == "*" else f"{name} IS NULL"
    assert list(live.faults(schema(ClockColumn("waits", "boolean", given)), STORED)) != []
    assert list(live.faults(schema(ClockColumn("waits", "boolean", "since IS NULL")), STORED)) == []


def test_the_reading_view_has_the_relations_order_and_then_the_targets_own_columns() -> None:
    clock = ClockColumn("waits", "interval", "now() - since")
    stored = {**STORED, "note": "text"}
    view = live.view(schema(clock, order=("waits", "gone", "since", "id")), stored, {"interval": "interval"}, "source")
    assert list(view.columns) == ["tenant_id", "waits", "since", "id", "note"]
    assert list(live.view(schema(clock), stored, {"interval": "interval"}, "source").columns) == [
        *("tenant_id", "id", "since", "waits", "note")
    ]
    assert view.keeps({"tenant_id": "integer", "waits": "interval"})
    assert not view.keeps({"tenant_id": "integer", "since": "timestamp without time zone"})
    assert not view.keeps({"tenant_id": "integer", "waits": "text"})


def test_the_shipped_clock_columns_can_be_computed() -> None:
    stored = dict.fromkeys(("waiting_since", "status", "snoozed_until", "conversation_created_at"), "")
    assert list(live.faults(schema(*live.CLOCK), stored)) == []
    assert len(live.CLOCK) == 9
