"""The reference view on a real PostgreSQL: its 123 columns, what each of them says, and what a row costs the source."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.rows import dict_row

from demo.servers import Servers
from demo.source.seed import seed
from replicator.config import load as load_settings
from replicator.reference_view import load
from replicator.remedies import create_views
from tests.integration import four_conversations as four
from tests.integration.chatwoot import Source, connect

VIEW = "vw_conversations_analytics_final"
COLUMNS = """
    conversation_id int, display_id int, conversation_uuid uuid, account_id int, status int, priority int,
    snoozed_until ts, assignee_id int, team_id bigint, campaign_id bigint, contact_id bigint, inbox_id int,
    conversation_created_at ts, conversation_updated_at ts, last_activity_at ts, first_reply_created_at ts,
    waiting_since ts, contact_last_seen_at ts, agent_last_seen_at ts, contact_name varchar, contact_email varchar,
    contact_phone varchar, contact_identifier varchar, inbox_name varchar, inbox_channel_type varchar,
    inbox_timezone varchar, assignee_name varchar, assignee_email varchar, team_name varchar, account_name varchar,
    message_compiled jsonb, client_sender_id bigint, client_phone varchar, t_messages bigint, total_messages_public
    bigint, total_messages_private bigint, mc_first_message_at ts, mc_last_message_at ts, csat_response_id bigint,
    csat_rating int, csat_feedback text, csat_created_at ts, csat_nps_category text, csat_sentiment_category text,
    has_written_feedback bool, has_detailed_feedback bool, has_csat bool, first_response_time_seconds int,
    first_response_time_minutes numeric, resolution_time_seconds int, waiting_time_seconds int, is_assigned bool,
    has_team bool, is_resolved bool, is_open bool, is_pending bool, is_snoozed bool, has_contact bool, is_waiting
    bool, has_priority bool, is_high_priority bool, is_from_campaign bool, is_fast_response bool, is_slow_response
    bool, is_fast_resolution bool, is_waiting_long bool, contact_has_seen bool, agent_has_seen bool, priority_score
    int, priority_label text, status_label_pt text, user_messages_count bigint, contact_messages_count bigint,
    private_notes_count bigint, first_message_text text, last_message_text text, first_message_sender_type varchar,
    last_message_sender_type varchar, conversation_duration_seconds int, avg_time_between_messages_seconds numeric,
    avg_message_length int, max_message_length int, has_user_messages bool, has_contact_messages bool,
    has_private_notes bool, has_contact_reply bool, is_short_conversation bool, is_long_conversation bool,
    user_message_ratio numeric, contact_message_ratio numeric, has_human_intervention bool, is_bot_resolved bool,
    conversation_date date, conversation_year int, conversation_month int, conversation_day int,
    conversation_day_of_week int, conversation_hour int, conversation_minute int, conversation_week_of_year int,
    conversation_quarter int, conversation_day_name text, conversation_month_name text, conversation_period text,
    is_weekday bool, is_weekend bool, is_business_hours bool, is_night_time bool, days_since_creation int, is_today
    bool, is_yesterday bool, is_this_week bool, is_this_month bool, is_this_year bool, conversation_date_formatted
    text, conversation_datetime_formatted text, conversation_year_month text, conversation_year_week text,
    is_lead bool, visit_scheduled bool, crm_converted bool, ai_probability_label label, ai_probability_score numeric
"""
TYPES = {
    "int": "integer",
    "ts": "timestamp without time zone",
    "varchar": "character varying",
    "bool": "boolean",
    "label": "character varying(50)",
}
AGES = (
    *("waiting_time_seconds", "days_since_creation"),
    *("is_today", "is_yesterday", "is_this_week", "is_this_month", "is_this_year"),
)
"""What no fixed date can have a fixed value of."""
BY_KEYS = (
    "SELECT v.* FROM unnest({keys}::bigint[]) AS k (id)"
    f" CROSS JOIN LATERAL (SELECT * FROM {VIEW} WHERE conversation_id = k.id OFFSET 0) AS v"
)


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    """A Chatwoot with the view."""
    with connect(source_dsn) as connection:
        _make_view(connection, source_dsn)
        yield connection


@pytest.fixture(scope="module")
def history(servers: Servers, chatwoot_template: str) -> Iterator[Source]:
    """Some 2 000 conversations with 24 000 messages, to be read only."""
    name = f"history_{uuid.uuid4().hex[:12]}"
    dsn = servers.source.create_database(name, template=chatwoot_template)
    with connect(dsn) as connection:
        _make_view(connection, dsn)
        seed(dsn, conversations=2_000)
        connection.execute("SET jit = off")
        yield connection
    servers.source.drop_database(name)


def _make_view(source: Source, dsn: str) -> None:
    settings = load_settings(source_dsn=dsn, kafka_bootstrap_servers="127.0.0.1:1", _env_file=None)
    source.execute(create_views(settings, load(VIEW), {}).encode())


def _rows(source: Source, where: str = "true") -> list[dict[str, Any]]:
    with source.cursor(row_factory=dict_row) as cursor:
        query = f"SELECT * FROM {VIEW} WHERE {where} ORDER BY conversation_id, csat_response_id"
        return cursor.execute(query.encode()).fetchall()


def _names() -> list[str]:
    return [column.split()[0] for column in COLUMNS.split(",")]


def test_the_columns_are_those_that_dashboards_know(source: Source) -> None:
    """118, and the five of leads after them, by name, type and order."""
    wanted = [tuple(column.split()) for column in COLUMNS.split(",")]
    found = source.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        (VIEW,),
    ).fetchall()
    assert len(wanted) == 123
    assert found == [(name, TYPES.get(kind, kind)) for name, kind in wanted]


def test_every_column_is_told_apart_by_the_four() -> None:
    """A column with one value would be expected in vain."""
    assert [name for name, values in four.EXPECTED.items() if len(set(map(repr, values))) == 1] == []
    assert set(_names()) == {*four.EXPECTED, *AGES}


def test_every_column_of_four_conversations_is_as_written_by_hand(source: Source) -> None:
    four.write(source)
    rows = _rows(source)
    found = {name: tuple(row[name] for row in rows) for name in four.EXPECTED}
    assert {name: found[name] for name in found if found[name] != four.EXPECTED[name]} == {}
    assert {type(value) for name in found for value in found[name]} == {
        type(value) for expected in four.EXPECTED.values() for value in expected
    }


def test_columns_of_the_clock_are_right_in_a_utc_session(source: Source) -> None:
    """One transaction has one now(), so the ages are exact."""
    four.insert(source, "accounts", id=1, name="a")
    with source.transaction():
        ages = (("0", 1), ("1 day", 2), ("400 days", 3))
        for ago, number in ages:
            source.execute(
                "INSERT INTO conversations (id, account_id, inbox_id, status, created_at, updated_at, waiting_since,"
                " snoozed_until) SELECT %s, 1, 1, 3, now() - %s::interval, now(), now() - %s::interval * 1.5,"
                " now() + interval '1 second' - %s::interval",
                (number, ago, "30 minutes" if number == 1 else "2 hours", ago),
            )
        four.conversation(source, 4, status=3)
        four.conversation(source, 5, status=0, snoozed_until="2999-01-01")
        rows = _rows(source)
        found = {name: [row[name] for row in rows] for name in (*AGES, "is_snoozed", "is_waiting_long")}
        (fixed,) = source.execute(
            "SELECT CURRENT_DATE - date '2025-01-01', CURRENT_DATE = date_trunc('week', now()),"
            " CURRENT_DATE = date_trunc('month', now()), CURRENT_DATE = date_trunc('year', now()),"
            " extract(year FROM now()) = 2025"
        )
    since, new_week, new_month, new_year, still_2025 = fixed
    assert found == {
        "waiting_time_seconds": [2700, 10_800, 10_800, None, None],
        "is_waiting_long": [False, True, True, False, False],
        "is_snoozed": [True, False, False, True, False],
        "days_since_creation": [0, 1, 400, since, since],
        "is_today": [True, False, False, False, False],
        "is_yesterday": [False, True, False, False, False],
        "is_this_week": [True, not new_week, False, False, False],
        "is_this_month": [True, not new_month, False, False, False],
        "is_this_year": [True, not new_year, False, still_2025, still_2025],
    }


def test_priorities_are_chatwoot_s(source: Source) -> None:
    four.insert(source, "accounts", id=1, name="a")
    for number, priority in enumerate((None, 0, 1, 2, 3)):
        four.conversation(source, number, priority=priority)
    names = ("priority_label", "priority_score", "has_priority", "is_high_priority")
    assert [tuple(row[name] for name in names) for row in _rows(source)] == [
        ("None", 0, False, False),
        ("Low", 1, True, False),
        ("Medium", 2, True, False),
        ("High", 3, True, True),
        ("Urgent", 4, True, True),
    ]


def test_answers_are_classified(source: Source) -> None:
    four.insert(source, "accounts", id=1, name="a")
    for rating in (1, 2, 3, 4, 5):
        four.conversation(source, rating)
        four.answer(source, rating, rating, rating)
    assert [(row["csat_nps_category"], row["csat_sentiment_category"]) for row in _rows(source)] == [
        ("Detractor", "Negative"),
        ("Detractor", "Negative"),
        ("Detractor", "Neutral"),
        ("Passive", "Positive"),
        ("Promoter", "Positive"),
    ]


def test_periods_of_the_day_meet_at_their_hours(source: Source) -> None:
    four.insert(source, "accounts", id=1, name="a")
    hours = ("05:59", "06:00", "08:59", "09:00", "11:59", "12:00", "17:59", "18:00", "21:59", "22:00")
    for number, hour in enumerate(hours):
        four.conversation(source, number, created_at=f"2025-03-{3 + number % 5:02} {hour}:59")
    names = ("conversation_period", "is_business_hours", "is_night_time")
    assert [tuple(row[name] for name in names) for row in _rows(source)] == [
        ("Night", False, True),
        ("Morning", False, False),
        ("Morning", False, False),
        ("Morning", True, False),
        ("Morning", True, False),
        ("Afternoon", True, False),
        ("Afternoon", True, False),
        ("Evening", False, False),
        ("Evening", False, False),
        ("Night", False, True),
    ]


def test_two_answers_give_two_rows_that_differ_in_nothing_else(source: Source) -> None:
    four.write(source)
    four.answer(source, 60, four.BOTS, 1, feedback_message="Lento", created_at="2022-01-02 10:00:00")
    older, newer = _rows(source, f"conversation_id = {four.BOTS}")
    assert (older["csat_response_id"], newer["csat_response_id"]) == (60, 61)
    assert (older["has_detailed_feedback"], newer["has_detailed_feedback"]) == (False, True)
    assert all(older[name] == newer[name] for name in _names() if "csat" not in name and "feedback" not in name)


def test_messages_of_one_moment_are_told_apart_by_their_ids(source: Source) -> None:
    """Whatever order they lie in, and whatever way the planner goes."""
    four.insert(source, "accounts", id=1, name="a")
    four.conversation(source, 1)
    for number in (4, 2, 6, 1, 5, 3):
        sender = {"sender_type": "Contact", "sender_id": 100 + number}
        four.message(source, number, 1, "2025-01-01", content=f"text {number}", **sender)
    source.execute("UPDATE messages SET status = 1 WHERE id IN (1, 6)")
    for switched_off in ("", "enable_sort", "enable_indexscan", "enable_hashagg", "enable_presorted_aggregate"):
        known = source.execute("SELECT 1 FROM pg_settings WHERE name = %s", (switched_off,)).fetchone()
        if known:
            source.execute(f"SET {switched_off} = off".encode())
        (row,) = _rows(source)
        assert [said["message_id"] for said in row["message_compiled"]] == [1, 2, 3, 4, 5, 6]
        assert (row["first_message_text"], row["last_message_text"]) == ("text 1", "text 6")
        assert row["client_sender_id"] == 101
        if known:
            source.execute(f"RESET {switched_off}".encode())


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(f"SELECT * FROM {VIEW} WHERE conversation_id = 42", id="a constant"),
        pytest.param(BY_KEYS.format(keys="'{5,700,1900}'"), id="three keys"),
        pytest.param("EXECUTE reading ('{5,700,1900}')", id="three keys of a generic plan"),
    ],
)
def test_a_row_costs_its_own_messages_twice(history: Source, query: str) -> None:
    """Both aggregates look up what they need by the index; neither reads the table, or all of the index."""
    history.execute("SET plan_cache_mode = force_generic_plan")
    history.execute("DEALLOCATE ALL")
    history.execute(f"PREPARE reading (bigint[]) AS {BY_KEYS.format(keys='$1')}".encode())
    row = history.execute(f"EXPLAIN (FORMAT JSON, COSTS OFF) {query}".encode()).fetchone()
    assert row is not None
    scans = [node for node in _nodes(row[0][0]["Plan"]) if node.get("Relation Name") == "messages"]
    assert [node["Node Type"] for node in scans] == ["Index Scan", "Index Scan"], json.dumps(row[0])
    assert {node["Index Name"] for node in scans} == {"index_messages_on_conversation_id"}
    assert all("(conversation_id = " in node.get("Index Cond", "") for node in scans), json.dumps(row[0])


def test_a_row_read_by_its_key_is_the_row_of_the_whole_view(history: Source) -> None:
    """Said of every column, for each conversation that is left."""
    whole = f"SELECT to_jsonb(v) FROM {VIEW} v"
    keyed = BY_KEYS.format(keys="ARRAY(SELECT id FROM conversations)").replace("v.*", "to_jsonb(v)")
    with history.transaction():
        count = history.execute("SELECT count(*) FROM conversations").fetchone()
        for one, other in ((whole, keyed), (keyed, whole)):
            assert history.execute(f"{one} EXCEPT ALL {other} LIMIT 1".encode()).fetchall() == []
        rows = history.execute(f"SELECT count(DISTINCT conversation_id) FROM {VIEW}".encode()).fetchone()
    assert rows == count


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
