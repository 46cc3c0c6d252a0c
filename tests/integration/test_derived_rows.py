"""Survey answers and the analytics view's rows in the target, and what is computed from them at reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from consumers.live import LOCAL_ONLY
from demo.servers import Servers
from tests.integration.sorted_out import Applied, Message, applied
from tests.integration.targets import Target

A, B, OF_ANOTHER = 1, 2, 4
"""Inboxes of one tenant in two partitions, and one of another tenant."""
ANALYTICS = "conversations_analytics"
LIVE = "conversations_analytics_live"
CLOCK = {
    "waiting_time_seconds": "floor(EXTRACT(EPOCH FROM now() - waiting_since))::integer",
    "is_snoozed": "status = 3 AND (snoozed_until IS NULL OR snoozed_until > now())",
    "is_waiting_long": "COALESCE(waiting_since < now() - interval '1 hour', false)",
    "days_since_creation": "CURRENT_DATE - conversation_created_at::date",
    "is_today": "conversation_created_at::date = CURRENT_DATE",
    "is_yesterday": "conversation_created_at::date = CURRENT_DATE - 1",
    "is_this_week": "date_trunc('week', conversation_created_at) = date_trunc('week', CURRENT_DATE::timestamp)",
    "is_this_month": "date_trunc('month', conversation_created_at) = date_trunc('month', CURRENT_DATE::timestamp)",
    "is_this_year": "date_trunc('year', conversation_created_at) = date_trunc('year', CURRENT_DATE::timestamp)",
}
"""As the reference view has them: right in a session whose TimeZone is UTC."""


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    with applied(servers, prepared, {1: (A, B), 2: (OF_ANOTHER,)}) as made:
        yield made


def answer(log: Applied, inbox: int, n: int, rating: int = 5) -> Message:
    return log.read("csat_survey_responses", 9, inbox, n, conversation_id=3, rating=rating, inbox_id=inbox)


def analysis(log: Applied, row: int, inbox: int, n: int, **columns: Any) -> Message:
    return log.read(ANALYTICS, row, inbox, n, key="conversation_id", inbox_id=inbox, **columns)


def test_an_answer_makes_its_conversation_as_a_stub_and_goes_with_it(log: Applied) -> None:
    log.apply(answer(log, A, 1))
    assert log.rows("csat_survey_responses", "rating, inbox_id") == [(1, 9, 5, A)]
    assert log.stubs("conversations") == [(1, 3)]
    log.apply(log.absent("csat_survey_responses", 9, A, 2))
    assert log.rows("csat_survey_responses", "rating") == []
    assert log.stubs("conversations") == []


@pytest.mark.parametrize("in_order", [True, False], ids=["absence first", "row first"])
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
@pytest.mark.parametrize("other", [B, OF_ANOTHER], ids=["one tenant", "two tenants"])
def test_an_answer_moves_with_its_conversation(log: Applied, other: int, together: bool, in_order: bool) -> None:
    log.apply(answer(log, A, 1, rating=2))
    move = [log.absent("csat_survey_responses", 9, A, 2), answer(log, other, 2, rating=3)]
    (log.apply if together else log.each)(*(move if in_order else reversed(move)))
    owner = 1 if other == B else 2
    assert log.rows("csat_survey_responses", "rating, inbox_id") == [(owner, 9, 3, other)]


def test_an_absence_at_an_inbox_is_of_rows_that_stand_there(log: Applied) -> None:
    log.apply(answer(log, B, 1))
    log.apply(log.absent("csat_survey_responses", 9, A, 2))
    assert log.rows("csat_survey_responses", "inbox_id") == [(1, 9, B)]


def test_rows_of_the_view_are_kept_by_their_conversation(log: Applied) -> None:
    log.apply(
        analysis(log, 3, A, 1, t_messages=2, message_compiled='[{"text": "olá"}]', first_response_time_minutes="1.50"),
        analysis(log, 4, OF_ANOTHER, 1, t_messages=7),
    )
    assert log.rows(ANALYTICS, "t_messages, inbox_id, message_compiled->0->>'text'", "conversation_id") == [
        (1, 3, 2, A, "olá"),
        (2, 4, 7, OF_ANOTHER, None),
    ]
    log.each(analysis(log, 3, A, 3, t_messages=4), analysis(log, 3, A, 2, t_messages=3))
    assert log.rows(ANALYTICS, "t_messages", "conversation_id")[0] == (1, 3, 4), "an older read came later"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_absence_deletes_a_row_that_is_not_newer(log: Applied, n: int) -> None:
    log.apply(analysis(log, 3, A, 2))
    log.apply(log.absent(ANALYTICS, 3, A, n))
    assert len(log.rows(ANALYTICS, "inbox_id", "conversation_id")) == (1 if n <= 2 else 0)


def test_absence_everywhere_finds_the_tenant_that_holds_the_row(log: Applied) -> None:
    log.apply(analysis(log, 3, A, 1), analysis(log, 4, OF_ANOTHER, 1))
    log.apply(*log.nowhere(ANALYTICS, 4, 2))
    assert log.rows(ANALYTICS, "inbox_id", "conversation_id") == [(1, 3, A)]


def test_a_row_too_large_for_the_topic_is_a_stub_at_its_inbox_until_a_later_one_fills_it(log: Applied) -> None:
    stubs = f"SELECT conversation_id, inbox_id FROM {ANALYTICS} WHERE synced_at IS NULL"
    log.apply(
        analysis(log, 3, A, 1, t_messages=1),
        *(log.too_large(ANALYTICS, row, A, 2, key="conversation_id") for row in (3, 4)),
    )
    log.apply(log.too_large(ANALYTICS, 4, A, 3, key="conversation_id"))
    assert sorted(log.target.rows(stubs)) == [(3, A), (4, A)]
    log.apply(*(analysis(log, row, A, 4, t_messages=row) for row in (3, 4)))
    assert log.rows(ANALYTICS, "t_messages", "conversation_id") == [(1, 3, 3), (1, 4, 4)]
    log.apply(log.too_large(ANALYTICS, 4, A, 5, key="conversation_id"))
    assert log.target.rows(stubs) == [(4, A)], "a row that is stale is not passed off as whole"


def test_a_sweep_takes_rows_of_the_inbox_that_were_not_read_again(log: Applied) -> None:
    log.apply(*(analysis(log, row, inbox, 1) for row, inbox in ((3, A), (4, A), (5, B))))
    log.apply(log.marker("begin", A, 10, (ANALYTICS,)))
    log.apply(analysis(log, 4, A, 11))
    log.apply(log.marker("end", A, 10, (ANALYTICS,)))
    assert log.rows(ANALYTICS, "inbox_id", "conversation_id") == [(1, 4, A), (1, 5, B)]


def test_the_times_of_writing_are_utc_and_the_first_one_stays(log: Applied) -> None:
    log.target.execute(f"ALTER DATABASE {log.control.info.dbname} SET TimeZone = 'America/Sao_Paulo'")
    written = f"SELECT etl_inserted_at, etl_updated_at FROM {ANALYTICS}"
    utc = "SELECT now() AT TIME ZONE 'UTC'"
    (before,) = log.target.rows(utc)[0]
    log.apply(analysis(log, 3, A, 1))
    (inserted, updated) = log.target.rows(written)[0]
    assert before <= inserted == updated
    (between,) = log.target.rows(utc)[0]
    log.apply(analysis(log, 3, A, 2))
    assert log.target.rows(written)[0][0] == inserted < between <= log.target.rows(written)[0][1]


def test_a_column_of_the_targets_own_is_left_alone(log: Applied) -> None:
    log.target.execute(f"ALTER TABLE {ANALYTICS} ADD COLUMN seen_by text")
    log.apply(analysis(log, 3, A, 1, t_messages=1))
    log.target.execute(f"UPDATE {ANALYTICS} SET seen_by = 'Ana', analise_ia = 'quer voltar'")
    log.apply(analysis(log, 3, A, 2, t_messages=2))
    own = "t_messages, seen_by, analise_ia"
    assert log.rows(ANALYTICS, own, "conversation_id") == [(1, 3, 2, "Ana", "quer voltar")]


@pytest.mark.parametrize("table", [ANALYTICS, LIVE, "csat_survey_responses"])
@pytest.mark.parametrize("what", ["reader", "applier"])
def test_a_role_sees_the_tenant_that_is_set_and_nothing_without(log: Applied, table: str, what: str) -> None:
    log.apply(*(answer(log, inbox, 1) for inbox in (A, OF_ANOTHER)))
    log.apply(analysis(log, 3, A, 1), analysis(log, 4, OF_ANOTHER, 1))
    seen = f"SELECT tenant_id FROM {table}"
    for tenant, found in ((1, [(1,)]), (2, [(2,)]), (None, [])):
        assert log.target.rows(seen, what=what, tenant=tenant) == found


def test_the_reading_view_is_of_the_reader_not_of_its_owner(log: Applied) -> None:
    log.target.execute(f"REVOKE SELECT ON {ANALYTICS} FROM replication_readers")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        log.target.rows(f"SELECT * FROM {LIVE}", what="reader", tenant=1)


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Pacific/Auckland"])
def test_clock_columns_are_those_of_the_view_whatever_the_readers_time_zone(log: Applied, zone: str) -> None:
    """Rows around now, and around midnight in UTC, so many hours and days ago."""
    (moments,) = log.target.rows(
        "WITH utc (now) AS (SELECT now() AT TIME ZONE 'UTC')"
        " SELECT array_agg((base - a::interval)::text) FROM utc"
        " CROSS JOIN unnest(ARRAY[now, date_trunc('day', now), date_trunc('day', now) - interval '1s']) base"
        " CROSS JOIN unnest(ARRAY['0s', '59min', '61min', '3h', '1day', '2days', '7days', '31days', '366days']) a"
    )[0]
    rows = [
        analysis(log, n, A, n, status=3, waiting_since=at, conversation_created_at=at, snoozed_until=at)
        for n, at in enumerate((*moments, None))
    ]
    log.apply(*rows, analysis(log, 900, A, 900, status=0, snoozed_until="2999-01-01"))
    with log.target.connected() as reader, reader.transaction():  # now() stands still
        reader.execute("SET LOCAL TimeZone = 'UTC'")
        expected = reader.execute(_in_order(", ".join(CLOCK.values()), ANALYTICS)).fetchall()
        reader.execute("SELECT set_config('TimeZone', %s, true)", [zone])
        found = reader.execute(_in_order(", ".join(CLOCK), LIVE)).fetchall()
        stored = reader.execute(f"SELECT DISTINCT {', '.join(CLOCK)} FROM {ANALYTICS}".encode()).fetchall()
    assert found == expected
    assert {each for row in expected for each in row[1:3]} == {True, False}
    assert stored == [(None,) * len(CLOCK)]


def _in_order(columns: str, table: str) -> bytes:
    return f"SELECT {columns} FROM {table} ORDER BY conversation_id".encode()


def test_the_reading_view_has_the_views_columns_in_its_order(log: Applied) -> None:
    columns = [
        name
        for (name,) in log.target.rows(
            f"SELECT attname FROM pg_attribute WHERE attrelid = '{LIVE}'::regclass AND attnum > 0 ORDER BY attnum"
        )
    ]
    assert (columns[0], columns[1], columns[118]) == ("tenant_id", "conversation_id", "conversation_year_week")
    assert set(columns[119:137]) == LOCAL_ONLY
    assert columns[137:139] == ["etl_inserted_at", "etl_updated_at"]
    assert all(name.startswith("local_") for name in columns[139:])
