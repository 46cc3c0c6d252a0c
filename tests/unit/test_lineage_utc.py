"""A clock expression is rewritten into UTC's own wall clock, and nothing else of it changes."""

from __future__ import annotations

import pytest

from replicator.lineage.utc import in_utc

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
}


@pytest.mark.parametrize(("expression", "expected"), CASES.items())
def test_rewritten(expression: str, expected: str) -> None:
    assert in_utc(expression, {"zoned"}) == expected


@pytest.mark.parametrize("expression", ["timezone('UTC', a) < now()", "a AT TIME ZONE 'America/Sao_Paulo' < now()"])
def test_what_changes_zones_itself_is_left_to_the_source(expression: str) -> None:
    assert in_utc(expression, ()) is None
