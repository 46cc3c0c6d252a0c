"""What each role sees and may write after `consumers setup`, on a real server."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.targets import Target

KEYS = {
    "inboxes": "id",
    "contacts": "id",
    "conversations": "id",
    "contact_inboxes": "id",
    "messages": "id",
    "csat_survey_responses": "id",
    "conversations_analytics": "conversation_id",
}
REPLICATED = tuple(KEYS)
CONTROL = (
    *("inbox_tenant_mapping", "etl_control", "replication_progress", "replication_watermarks", "replication_parked"),
    "replication_dead_letters",
    *("replication_generations", "unmapped_inboxes", "replication_migrations", "replication_skipped_columns"),
    "replication_missing_tables",
)
ONE_OF_EACH = """
    INSERT INTO inboxes (tenant_id, id, name, synced_at) VALUES ({t}, {t}1, 'inbox', now());
    INSERT INTO contacts (tenant_id, id) VALUES ({t}, {t}2);
    INSERT INTO conversations (tenant_id, id, inbox_id, contact_id, synced_at) VALUES ({t}, {t}3, {t}1, {t}2, now());
    INSERT INTO contact_inboxes (tenant_id, id, inbox_id, contact_id, synced_at) VALUES ({t}, {t}4, {t}1, {t}2, now());
    INSERT INTO messages (tenant_id, id, inbox_id, conversation_id, synced_at) VALUES ({t}, {t}5, {t}1, {t}3, now());
    INSERT INTO csat_survey_responses (tenant_id, id, inbox_id, conversation_id) VALUES ({t}, {t}6, {t}1, {t}3);
    INSERT INTO conversations_analytics (tenant_id, conversation_id, inbox_id) VALUES ({t}, {t}7, {t}1);
"""


@pytest.fixture
def target(ready_target: Target) -> Target:
    """Tenants 1 and 2, each with one row in every replicated table, and a reader."""
    ready_target.make_reader()
    ready_target.execute("INSERT INTO tenants (id, name, slug) VALUES (1, 'One', 'one'), (2, 'Two', 'two')")
    for tenant in (1, 2):
        with ready_target.connected("applier", tenant) as applier:
            applier.execute(ONE_OF_EACH.format(t=tenant).encode())
    return ready_target


def tenants_seen(target: Target, table: str, what: str, tenant: int | None) -> list[int]:
    return [found for (found,) in target.rows(f"SELECT DISTINCT tenant_id FROM {table}", what=what, tenant=tenant)]


@pytest.mark.parametrize("what", ["reader", "applier", "owner"])
@pytest.mark.parametrize("table", REPLICATED)
def test_a_role_sees_the_tenant_that_is_set_and_nothing_without(target: Target, table: str, what: str) -> None:
    assert tenants_seen(target, table, what, 1) == [1]
    assert tenants_seen(target, table, what, 2) == [2]
    assert tenants_seen(target, table, what, None) == []
    assert target.rows(f"SELECT * FROM {table} WHERE tenant_id = 2", what=what, tenant=1) == []


def test_after_a_transaction_of_a_tenant_the_session_sees_nothing_again(target: Target) -> None:
    with target.connected("reader") as reader:
        with reader.transaction():
            reader.execute("SELECT set_config('app.current_tenant_id', '1', true)")
            assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (0,)


@pytest.mark.parametrize("what", ["applier", "owner"])
@pytest.mark.parametrize("table", REPLICATED)
def test_nothing_is_written_for_another_tenant(target: Target, table: str, what: str) -> None:
    key = KEYS[table]
    with target.connected(what, tenant=1) as connection:
        for statement in (
            f"INSERT INTO {table} (tenant_id, {key}) VALUES (2, 99)",
            f"UPDATE {table} SET tenant_id = 2",
            f"INSERT INTO {table} (tenant_id, {key}) VALUES (2, 99) ON CONFLICT (tenant_id, {key}) DO NOTHING",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                connection.execute(statement.encode())
        assert connection.execute(f"UPDATE {table} SET source_epoch = 1 WHERE tenant_id = 2".encode()).rowcount == 0
        assert connection.execute(f"DELETE FROM {table} WHERE tenant_id = 2".encode()).rowcount == 0
    with target.connected(what) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"INSERT INTO {table} (tenant_id, {key}) VALUES (1, 98)".encode())


def test_a_row_of_one_tenant_cannot_hang_on_a_parent_of_another(target: Target) -> None:
    with target.connected("applier", tenant=1) as applier, pytest.raises(psycopg.errors.ForeignKeyViolation):
        applier.execute("INSERT INTO messages (tenant_id, id, conversation_id) VALUES (1, 77, 23)")


def test_an_adopted_permissive_policy_does_not_widen_the_applier(target: Target) -> None:
    for table in REPLICATED:
        target.execute(f"CREATE POLICY everything ON {table} USING (true) WITH CHECK (true)", what="owner")
        assert tenants_seen(target, table, "applier", 1) == [1]
        assert tenants_seen(target, table, "applier", None) == []
        with target.connected("applier", tenant=1) as applier, pytest.raises(psycopg.errors.InsufficientPrivilege):
            applier.execute(f"INSERT INTO {table} (tenant_id, {KEYS[table]}) VALUES (2, 99)".encode())


def test_readers_only_read(target: Target) -> None:
    with target.connected("reader", tenant=1) as reader:
        for table in REPLICATED:
            for statement in (
                f"INSERT INTO {table} (tenant_id, {KEYS[table]}) VALUES (1, 9)",
                f"DELETE FROM {table}",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(statement.encode())


@pytest.mark.parametrize("table", CONTROL)
def test_control_tables_are_closed_to_readers(target: Target, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        target.rows(f"SELECT * FROM {table}", what="reader", tenant=1)
    assert isinstance(target.rows(f"SELECT * FROM {table}", what="applier"), list)


def test_a_reader_sees_its_own_tenant_only_and_the_applier_all(target: Target) -> None:
    assert target.rows("SELECT id FROM tenants", what="reader", tenant=2) == [(2,)]
    assert target.rows("SELECT id FROM tenants", what="reader") == []
    assert target.rows("SELECT id FROM tenants ORDER BY 1", what="applier") == [(1,), (2,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        target.execute("INSERT INTO tenants (id) VALUES (3)", what="applier")


def test_only_the_applier_is_told_who_holds_a_row(target: Target) -> None:
    holding = "SELECT tenant_id, held FROM replication_holders(%s, %s::jsonb)"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        target.rows(holding, "messages", "[15]", what="reader", tenant=1)
    for table, number in zip(REPLICATED, range(1, 8), strict=True):
        mine, others = 10 + number, 20 + number
        assert target.rows(holding, table, f"[{mine}]", what="applier") == [(1, mine)]
        both = [(1, mine), (2, others)]
        assert target.rows(holding, table, f"[{mine}, {others}, 99]", what="applier", tenant=1) == both
        assert target.rows(holding, table, "[99]", what="applier") == []
        assert target.rows(holding, table, "[]", what="applier") == []
        assert target.rows(holding, table, None, what="applier") == [(1, None), (2, None)]
    with pytest.raises(psycopg.errors.UndefinedTable):
        target.rows(holding, "tenants", "[1]", what="applier")


def test_asking_who_holds_a_row_leaves_the_setting_as_it_was(target: Target) -> None:
    with target.connected("applier", tenant=2) as applier, applier.transaction():
        applier.execute("SELECT * FROM replication_holders('messages', NULL)")
        assert applier.execute("SELECT current_setting('app.current_tenant_id')").fetchone() == ("2",)


def test_freshness_is_shown_for_the_own_tenant_only(target: Target) -> None:
    target.execute(
        "INSERT INTO replication_progress (pool, topic_id, partition, next_offset, source_at)"
        " VALUES ('default', 't', 0, 5, '2026-01-01 10:00Z'), ('default', 't', 1, 5, '2026-01-01 11:00Z');"
        "INSERT INTO replication_watermarks (tenant_id, topic_id, partition, next_offset, applied_at, source_at)"
        " VALUES (1, 't', 0, 3, '2026-01-01 09:00Z', '2026-01-01 08:00Z');"
        "INSERT INTO replication_parked (tenant_id, pool, topic_id, partition, from_offset)"
        " VALUES (1, 'default', 't', 0, 3);"
        "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (21, 2)"
    )
    shown = (
        "SELECT tenant_id, extract(hour FROM last_applied_at AT TIME ZONE 'UTC')::int,"
        " extract(hour FROM last_change_at AT TIME ZONE 'UTC')::int,"
        " extract(hour FROM fresh_at AT TIME ZONE 'UTC')::int, is_parked, backfilling FROM replication_freshness"
    )
    assert target.rows(shown, what="reader", tenant=1) == [(1, 9, 8, 8, True, False)]
    assert target.rows(shown, what="reader", tenant=2) == [(2, None, None, 10, False, True)]
    assert target.rows(shown, what="reader") == []
    target.execute(
        "UPDATE replication_progress SET read_at = now();"
        "INSERT INTO replication_progress (pool, topic_id, partition, next_offset, source_at, read_at)"
        " VALUES ('given up', 't', 0, 5, '2026-01-01 02:00Z', '2026-01-01 02:00Z'),"
        " ('given up', 'the topic before', 2, 5, '2026-01-01 01:00Z', '2026-01-01 01:00Z')"
    )
    assert target.rows(shown, what="reader", tenant=2) == [(2, None, None, 10, False, True)]
    target.execute("UPDATE replication_progress SET source_at = NULL WHERE partition = 1")
    assert target.rows(shown, what="reader", tenant=2) == [(2, None, None, None, False, True)]


def test_a_tenant_goes_with_all_its_rows(target: Target) -> None:
    target.execute("DELETE FROM tenants WHERE id = 1", what="owner")
    for table in REPLICATED:
        assert target.rows(f"SELECT DISTINCT tenant_id FROM {table}") == [(2,)]


def test_the_policy_is_evaluated_once_and_finds_rows_by_the_key(target: Target) -> None:
    with target.connected("reader", tenant=1) as reader:
        reader.execute("SET enable_seqscan = off")
        plan = "\n".join(line for (line,) in reader.execute("EXPLAIN SELECT * FROM messages"))
    assert "InitPlan" in plan
    assert "Index" in plan
    assert "tenant_id =" in plan
