"""The witness sees what it must see: a missing, an extra and a different row, and nothing else."""

import ast
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from demo import compare as witness
from demo.compare import Comparison, all_equal, compare, is_equal, render
from demo.leads import Leads
from demo.source.seed import seed
from demo.verdict import judge

TABLES = witness.TABLES
# A stand-in for the analytics view: a few columns of each kind. The target stores what the last two are made of.
SOURCE_VIEW = f"""
    CREATE VIEW {witness.VIEW} AS
    SELECT c.id AS conversation_id, c.inbox_id, c.status, answer.id AS csat_response_id,
        floor(EXTRACT(EPOCH FROM now() - c.waiting_since))::integer AS waiting_time_seconds,
        c.created_at::date = CURRENT_DATE AS is_today
    FROM conversations AS c LEFT JOIN csat_survey_responses AS answer ON answer.conversation_id = c.id"""
TARGET_VIEW = """
    CREATE TABLE conversations_analytics (tenant_id integer, conversation_id integer, inbox_id integer, status integer,
        csat_response_id bigint, waiting_since timestamp, created_at timestamp, synced_at timestamptz DEFAULT now());
    CREATE VIEW conversations_analytics_live AS
    SELECT tenant_id, conversation_id, inbox_id, status, csat_response_id,
        floor(EXTRACT(EPOCH FROM timezone('UTC', now()) - waiting_since))::integer AS waiting_time_seconds,
        created_at::date = timezone('UTC', now())::date AS is_today
    FROM conversations_analytics"""
INBOXES = {"inboxes": "id", "contacts": "(SELECT min(inbox_id) FROM contact_inboxes WHERE contact_id = t.id)"}

LEADS = [
    Leads(
        tenant=tenant,
        conversations=1,
        empty=0,
        leads=1,
        visits=1,
        conversions=0,
        high=0,
        example="conversation 1",
        zone="UTC",
        late_hours=0,
        changed=0,
    )
    for tenant in (10, 20)
]
"""Nothing amiss there."""


@pytest.fixture
def replicated(source_dsn: str, target_dsn: str) -> tuple[str, str]:
    """Two tenants with two inboxes each (3 is inactive), copied faithfully by hand."""
    seed(source_dsn, tenants=2, inboxes_per_tenant=2, conversations=120, messages_per_conversation=4)
    with psycopg.connect(source_dsn) as source, psycopg.connect(target_dsn) as target:
        target.execute(
            "CREATE TABLE inbox_tenant_mapping (inbox_id integer PRIMARY KEY, tenant_id integer, is_active bool)"
        )
        target.execute(
            "INSERT INTO inbox_tenant_mapping VALUES (1, 10, true), (2, 10, true), (3, 20, false), (4, 20, true)"
        )
        source.execute(SOURCE_VIEW)
        source.execute(SURVEYED_TWICE)
        for table in TABLES[:-1]:
            _copy(source, target, table, *witness.COMPARED[table].beside)
        target.execute(TARGET_VIEW)
        _copy_rows(source, target, "conversations_analytics", ANALYTICS, "inbox_id")
    return source_dsn, target_dsn


SURVEYED_TWICE = """
    UPDATE conversations SET waiting_since = timezone('UTC', now()) - interval '90 seconds' WHERE id % 2 = 0;
    INSERT INTO csat_survey_responses
        (account_id, conversation_id, message_id, rating, contact_id, created_at, updated_at)
    SELECT account_id, id, 900000 + n * 1000 + id, n, 1, now(), now() FROM conversations, generate_series(1, 2) AS n
    WHERE id IN (SELECT min(id) FROM conversations GROUP BY inbox_id)"""
ANALYTICS = """
    SELECT c.id AS conversation_id, c.inbox_id, c.status, c.waiting_since, c.created_at,
        (SELECT max(a.id) FROM csat_survey_responses AS a WHERE a.conversation_id = c.id) AS csat_response_id
    FROM conversations AS c"""


def _copy(source: psycopg.Connection, target: psycopg.Connection, table: str, *beside: str) -> None:
    columns = source.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        [table],
    ).fetchall()
    columns += [(name, "integer") for name in beside]
    # The order of the columns is not the source's, as after an ALTER TABLE ADD COLUMN.
    listed = ", ".join(f'"{name}" {kind}' for name, kind in reversed(columns))
    target.execute(f"CREATE TABLE {table} (tenant_id integer, {listed}, synced_at timestamptz DEFAULT now())")
    rows = f"SELECT * FROM {table}"
    if beside:
        rows = "SELECT a.*, c.inbox_id FROM csat_survey_responses a JOIN conversations c ON c.id = a.conversation_id"
    _copy_rows(source, target, table, rows, INBOXES.get(table, "inbox_id"))


def _copy_rows(source: psycopg.Connection, target: psycopg.Connection, table: str, rows: str, inbox: str) -> None:
    described = source.execute(f"{rows} LIMIT 0").description or ()
    names = ", ".join(f'"{column.name}"' for column in described)
    rows = f"SELECT CASE WHEN {inbox} < 3 THEN 10 ELSE 20 END, {names} FROM ({rows}) AS t WHERE {inbox} IS NOT NULL"
    with (
        source.cursor().copy(f"COPY ({rows}) TO STDOUT") as reading,
        target.cursor().copy(f"COPY {table} (tenant_id, {names}) FROM STDIN") as writing,
    ):
        for block in reading:
            writing.write(block)


def one(results: list[Comparison], tenant: int, table: str) -> Comparison:
    (found,) = [result for result in results if (result.tenant, result.table) == (tenant, table)]
    return found


def change(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1


def test_equal_sides_are_equal(replicated: tuple[str, str]) -> None:
    results = compare(*replicated)
    assert all_equal(results)
    assert is_equal(*replicated)
    assert judge(results, LEADS, [10, 20], []).exit_code == 0
    assert [(result.tenant, result.table) for result in results] == [(t, table) for t in (10, 20) for table in TABLES]
    assert one(results, 10, "messages").equal > 100
    assert one(results, 20, "inboxes").equal == 1  # the other one is not active
    for table in ("contacts", "csat_survey_responses", "conversations_analytics"):
        assert one(results, 10, table).equal > 1
        assert one(results, 20, table).equal > 0


def test_a_missing_an_extra_and_a_different_row_are_seen(replicated: tuple[str, str]) -> None:
    source, target = replicated
    with psycopg.connect(source) as connection:
        (mine,) = (
            connection.execute("SELECT array_agg(id ORDER BY id) FROM messages WHERE inbox_id = 1").fetchone() or ()
        )
    change(
        target,
        f"DELETE FROM messages WHERE id = {mine[0]}",
        f"UPDATE messages SET content = content || ' ' WHERE id = {mine[1]}",
        f"INSERT INTO messages SELECT * FROM messages WHERE id = {mine[3]}",
        f"UPDATE messages SET id = 999999 WHERE ctid = (SELECT max(ctid) FROM messages WHERE id = {mine[3]})",
    )
    results = compare(source, target)
    found = one(results, 10, "messages")
    assert (found.missing_ids, found.extra_ids, found.different_ids) == ((mine[0],), (999999,), (mine[1],))
    assert (found.missing, found.extra, found.different) == (1, 1, 1)
    assert found.equal == len(expected_ids(source)) - 2
    assert [result for result in results if not result.same] == [found]
    assert not all_equal(results)
    assert not is_equal(source, target)
    verdict = judge(results, LEADS, [10, 20], [])
    assert verdict.exit_code == 1
    assert verdict.reasons == ("messages of tenant 10: 1 missing, 1 extra, 1 different",)
    console = Console(record=True, width=140, force_terminal=False)
    console.print(render(results))
    assert f"missing {mine[0]}; extra 999999; different {mine[1]}" in console.export_text()


@pytest.mark.parametrize(
    ("table", "key", "difference"),
    [
        ("contacts", "id", "name = coalesce(name, '') || ' '"),
        ("csat_survey_responses", "id", "rating = rating + 1"),
        ("csat_survey_responses", "id", "inbox_id = 3 - inbox_id"),
        ("conversations_analytics", "conversation_id", "status = status + 1"),
        ("conversations_analytics", "conversation_id", "csat_response_id = csat_response_id - 1"),
        ("conversations_analytics", "conversation_id", "waiting_since = waiting_since - interval '2 minutes'"),
        ("conversations_analytics", "conversation_id", "waiting_since = NULL"),
        ("conversations_analytics", "conversation_id", "created_at = now()"),
    ],
)
def test_wrong_rows_of_what_is_derived_are_seen(
    replicated: tuple[str, str], table: str, key: str, difference: str
) -> None:
    source, target = replicated
    some = "csat_response_id IS NOT NULL AND waiting_since IS NOT NULL" if key == "conversation_id" else "true"
    with psycopg.connect(target, autocommit=True) as connection:
        mine = [
            row
            for (row,) in connection.execute(
                f"SELECT {key} FROM {table} WHERE tenant_id = 10 AND {some} ORDER BY {key}".encode()
            )
        ]
    assert len(mine) > 2
    change(
        target,
        f"DELETE FROM {table} WHERE {key} = {mine[0]}",
        f"UPDATE {table} SET {difference} WHERE {key} = {mine[1]}",
        f"INSERT INTO {table} SELECT * FROM {table} WHERE {key} = {mine[2]}",
        f"UPDATE {table} SET {key} = 999999 WHERE ctid = (SELECT max(ctid) FROM {table} WHERE {key} = {mine[2]})",
    )
    results = compare(source, target)
    found = one(results, 10, table)
    assert (found.missing_ids, found.extra_ids, found.different_ids) == ((mine[0],), (999999,), (mine[1],))
    assert [result for result in results if not result.same] == [found]


def test_a_contact_is_expected_where_a_conversation_alone_names_it(replicated: tuple[str, str]) -> None:
    source, target = replicated
    with psycopg.connect(source) as connection:
        statement = "INSERT INTO contacts (account_id, name, created_at, updated_at) VALUES (1, 'x', now(), now())"
        (new,) = connection.execute(f"{statement} RETURNING id".encode()).fetchone() or ()
    for dsn in replicated:
        change(dsn, f"UPDATE conversations SET contact_id = {new} WHERE id = (SELECT min(id) FROM conversations)")
    assert one(compare(source, target), 10, "contacts").missing_ids == (new,)


def test_a_source_without_the_view_is_named(replicated: tuple[str, str]) -> None:
    source, target = replicated
    with psycopg.connect(source) as connection:
        connection.execute(f"DROP VIEW {witness.VIEW}".encode())
    with pytest.raises(LookupError, match=f"the source has no {witness.VIEW}"):
        compare(source, target)


def expected_ids(source: str) -> list[tuple[object, ...]]:
    with psycopg.connect(source) as connection:
        return connection.execute("SELECT id FROM messages WHERE inbox_id IN (1, 2)").fetchall()


def test_null_is_not_the_empty_text(replicated: tuple[str, str]) -> None:
    source, target = replicated
    change(target, "UPDATE inboxes SET greeting_message = '' WHERE id = 2")
    assert one(compare(source, target), 10, "inboxes").different_ids == (2,)


def test_values_of_the_clock_may_lie_between_two_looks_at_the_source() -> None:
    assert all(witness._is_between(*each) for each in (("5", "5", "7"), ("5", "6", "7"), ("t", "f", "f"), (None,) * 3))
    assert not any(witness._is_between(*each) for each in (("5", "8", "7"), ("t", "f", "t"), ("5", None, "7")))


def test_a_row_under_the_wrong_tenant_is_extra_there(replicated: tuple[str, str]) -> None:
    source, target = replicated
    change(target, "UPDATE inboxes SET tenant_id = 30 WHERE id = 1")
    results = compare(source, target)
    assert one(results, 10, "inboxes").missing_ids == (1,)
    assert one(results, 30, "inboxes").extra_ids == (1,)


def test_a_stub_is_not_a_row(replicated: tuple[str, str]) -> None:
    source, target = replicated
    change(target, "UPDATE inboxes SET synced_at = NULL WHERE id = 4")
    assert one(compare(source, target), 20, "inboxes").missing_ids == (4,)


def test_a_column_that_the_target_lacks_is_named(replicated: tuple[str, str]) -> None:
    source, target = replicated
    with psycopg.connect(target) as connection:
        connection.execute("ALTER TABLE messages DROP COLUMN sentiment")
    with pytest.raises(LookupError, match=r"public\.messages lacks sentiment"):
        compare(source, target)


def test_what_the_source_says_of_leads_must_be_the_targets_and_the_rest_is_its_own(
    replicated: tuple[str, str],
) -> None:
    source, target = replicated
    said = (
        "CASE WHEN c.id % 3 = 0 THEN true END AS is_lead, CASE WHEN c.id % 3 = 0 THEN 70.5 END AS ai_probability_score"
    )
    with psycopg.connect(source) as connection:
        connection.execute(f"DROP VIEW {witness.VIEW}".encode())
        connection.execute(SOURCE_VIEW.replace("\n    FROM", f", {said}\n    FROM").encode())
    with psycopg.connect(target) as connection:
        connection.execute(
            "ALTER TABLE conversations_analytics ADD is_lead bool DEFAULT true,"
            " ADD ai_probability_score numeric DEFAULT 70.5"
        )
        shown = TARGET_VIEW[TARGET_VIEW.index("CREATE VIEW") :].replace("CREATE", "CREATE OR REPLACE")
        shown = shown.replace("\n    FROM", ", is_lead, ai_probability_score\n    FROM")
        connection.execute(shown.encode())
    assert all_equal(compare(source, target))
    change(target, "UPDATE conversations_analytics SET ai_probability_score = 70 WHERE conversation_id = 3")
    change(target, "UPDATE conversations_analytics SET is_lead = NULL WHERE conversation_id = 4")
    found = [result for result in compare(source, target) if not result.same]
    assert [(result.table, result.different_ids) for result in found] == [("conversations_analytics", (3,))]


def test_the_witness_knows_nothing_of_the_product() -> None:
    tree = ast.parse(Path(witness.__file__).read_text())
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in named if name.split(".")[0] in ("replicator", "consumers")]
