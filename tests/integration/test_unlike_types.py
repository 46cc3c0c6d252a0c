"""Columns whose type in the target is another than in the source: values stay right, or are said not to fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import pytest

from consumers.apply import Applier
from consumers.layout import Layout
from consumers.ordering import Event
from consumers.target_session import open_session
from replicator import Position, TableSchema
from tests.integration.targets import Target

TENANT, INBOX = 1, 11
ANALYTICS = TableSchema(
    table="conversations_analytics",
    columns=(
        ("conversation_id", "integer"),
        ("inbox_id", "integer"),
        ("first_response_time_seconds", "numeric"),
        ("t_messages", "double precision"),
    ),
    key=("conversation_id",),
    inbox="inbox_id",
)
SCHEMAS = {ANALYTICS.table: ANALYTICS}


@pytest.fixture
def target(ready_target: Target) -> Target:
    ready_target.execute("INSERT INTO tenants (id, slug) VALUES (%s, 't')", TENANT)
    ready_target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", INBOX, TENANT)
    return ready_target


@pytest.fixture
def applier(target: Target) -> Iterator[Applier]:
    layout = Layout()
    with closing(open_session(target.settings(), "test")) as control:
        layout.read(control)
    with closing(Applier(target.settings(), layout, lambda table, _version: SCHEMAS[table])) as made:
        yield made


def apply(applier: Applier, schema: TableSchema, row: int, point: int, **columns: Any) -> None:
    body = orjson.dumps({"after": {schema.key[0]: row, "inbox_id": INBOX, **columns}})
    position, key = Position(1, point, 1), b"[%d]" % row
    event = Event(0, point, "u", schema.table, key, INBOX, position, False, "v", b"", body, "", None, ())
    assert applier.run(TENANT, "topic", [event], {}, threading.Event()).reason is None


@pytest.mark.parametrize(
    ("seconds", "messages", "stored"),
    [
        ("515.000000", 3, (515, 3)),
        ("-0.0", "1e+15", (0, 10**15)),
        (None, None, (None, None)),
        ("2147483647.000", "2", (2**31 - 1, 2)),
    ],
)
def test_whole_numbers_arrive_in_a_column_of_integers_however_they_are_written(
    target: Target, applier: Applier, seconds: Any, messages: Any, stored: tuple[Any, ...]
) -> None:
    apply(applier, ANALYTICS, 1, 10, first_response_time_seconds=seconds, t_messages=messages)
    assert target.rows("SELECT first_response_time_seconds, t_messages FROM conversations_analytics") == [stored]


@pytest.mark.parametrize("seconds", ["515.7", "2147483648.0", "NaN"])
def test_a_value_that_would_not_stay_what_it_is_is_a_dead_letter(
    target: Target, applier: Applier, seconds: str
) -> None:
    apply(applier, ANALYTICS, 1, 10, first_response_time_seconds=seconds, t_messages=1)
    ((says, concerns, advice),) = target.rows("SELECT error, concerns, advice FROM replication_dead_letters")
    named = "conversations_analytics.first_response_time_seconds (integer here, numeric in the source)"
    assert says.endswith(f"the value does not fit {named}")
    assert concerns == "first_response_time_seconds"
    assert 'ALTER COLUMN "first_response_time_seconds" TYPE numeric;' in advice
    assert target.rows("SELECT FROM conversations_analytics") == []
