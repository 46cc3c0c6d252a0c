"""A clock expression is rewritten into UTC's own wall clock, and nothing else of it changes."""

from __future__ import annotations

import pytest

from replicator.lineage.utc import in_utc

TYPES = {
    "zoned": "timestamp with time zone",
    "waiting_since": "timestamp(6) without time zone",
    "a": "timestamp without time zone",
    "day": "date",
    "told": "text",
    "zone": "character varying",
    "n": "integer",
}
LOCAL = "'America/Sao_Paulo'"
CASES = {
    "now() - waiting_since": "timezone('UTC', now()) - waiting_since",
    "snoozed_until > NOW()": "snoozed_until > timezone('UTC', now())",
    "created_at::date = CURRENT_DATE": "CAST(created_at AS date) = CAST(timezone('UTC', now()) AS date)",
    "CURRENT_DATE - 1": "CAST(timezone('UTC', now()) AS date) - 1",
    "now() - waiting_since::timestamptz": "timezone('UTC', now()) - CAST(waiting_since AS timestamp)",
    "zoned < CURRENT_TIMESTAMP": "timezone('UTC', zoned) < timezone('UTC', now())",
    "LOCALTIMESTAMP - a": "timezone('UTC', now()) - a",
    "COALESCE(a < now() - interval '1 hour', false)": (
        "COALESCE(a < timezone('UTC', now()) - CAST('1 hour' AS interval), FALSE)"
    ),
    "extract(epoch FROM clock_timestamp() - t.a)": "EXTRACT(EPOCH FROM timezone('UTC', now()) - t.a)",
    "a + 1": "a + 1",
    "a < now() AT TIME ZONE 'UTC'": "a < pg_catalog.timezone('UTC', now())",
    "a < CURRENT_TIMESTAMP(3)": "a < timezone('UTC', now())",
    f"(now() AT TIME ZONE {LOCAL})::date": f"CAST(pg_catalog.timezone({LOCAL}, now()) AS date)",
    f"timezone({LOCAL}, now() - interval '1 day')": (
        f"timezone({LOCAL}, timezone('UTC', timezone('UTC', now()) - CAST('1 day' AS interval)))"
    ),
    f"timezone({LOCAL}, zoned) < now()": f"timezone({LOCAL}, zoned) < timezone('UTC', now())",
    f"timezone({LOCAL}, a) < now()": f"timezone('UTC', timezone({LOCAL}, a)) < timezone('UTC', now())",
    f"timezone({LOCAL}, timezone('UTC', a))": f"timezone({LOCAL}, timezone('UTC', a))",
    "timezone(zone, date_trunc('day', now()))": (
        "timezone(zone, timezone('UTC', date_trunc('day', timezone('UTC', now()))))"
    ),
    f"date_trunc('day', now(), {LOCAL})": f"timezone('UTC', date_trunc('day', now(), {LOCAL}))",
    "now() - to_timestamp(n)": "timezone('UTC', now()) - timezone('UTC', to_timestamp(n))",
    "age(a)": "age(CAST(CAST(timezone('UTC', now()) AS date) AS timestamp), a)",
    "now() - day::timestamptz": "timezone('UTC', now()) - CAST(day AS timestamp)",
    "now() - '2024-01-01 00:00:00+00'::timestamptz": (
        "timezone('UTC', now()) - CAST('2024-01-01 00:00:00+00' AS timestamp)"
    ),
}


@pytest.mark.parametrize(("expression", "expected"), CASES.items())
def test_rewritten(expression: str, expected: str) -> None:
    assert in_utc(expression, TYPES) == expected


@pytest.mark.parametrize(
    "expression",
    [
        f"timezone({LOCAL}, day) < now()",
        f"timezone({LOCAL}, unknown) < now()",
        "timezone(now())",
        "now() - told::timestamptz",
        "now() - '2024-01-01 00:00:00-03'::timestamptz",
        "now() - to_timestamp(told, 'YYYY')",
        "a < 'now'::timestamp",
    ],
)
def test_what_the_sessions_zone_has_a_part_in_is_left_to_the_source(expression: str) -> None:
    assert in_utc(expression, TYPES) is None
