"""Beside the batch ETL: the copy of its tables, and what `adopt compare` says of each kind of difference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from consumers import beside, copying, trial
from consumers.errors import SettingsError
from tests.integration import batch_etl
from tests.integration.batch_etl import ANALYTICS
from tests.integration.targets import Target, target_of
from tests.integration.test_adoption import TABLES, done, rows

REPLICA = "replica"
COPY = ("adopt", "copy", "--from", "public")
COMPARE = ("adopt", "compare", "--with", "public", "--json")


@pytest.fixture
def etl(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as target:
        batch_etl.make(target)
        batch_etl.fill(target)
        yield target


def replica(target: Target, *arguments: str, code: int = 0) -> str:
    return done(target, *arguments, code=code, CONSUMERS_TARGET_SCHEMA=REPLICA)


def copied(target: Target) -> None:
    replica(target, *COPY, "--apply")
    replica(target, "setup", "--apply")


def followed(target: Target) -> None:
    """As if every row had come from the source just now."""
    target.execute(
        f"SET search_path = {REPLICA}; UPDATE {ANALYTICS} SET synced_at = now();"
        " UPDATE inbox_tenant_mapping SET backfilled_at = now();"
        " INSERT INTO conversations (tenant_id, id, synced_at)"
        f" SELECT tenant_id, conversation_id, now() FROM {ANALYTICS}"
    )


def here(target: Target, statement: str) -> None:
    target.execute(f"SET search_path = {REPLICA}; {statement}")


def compared(target: Target, code: int, *more: str) -> dict[tuple[int, str, str], list[int]]:
    found = json.loads(replica(target, *COMPARE, *more, code=code))
    return {(each["tenant_id"], each["what"], each["kind"]): each["examples"] for each in found["differences"]}


def test_the_copy_is_of_one_moment_and_disturbs_nobody(etl: Target) -> None:
    before = rows(etl)
    planned = replica(etl, *COPY)
    assert f"copy table {ANALYTICS} with 1000 rows" in planned
    assert "run again with --apply" in planned
    assert etl.rows("SELECT to_regnamespace('replica')") == [(None,)]
    with etl.connected("owner") as writing, writing.transaction():
        writing.execute(f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id) VALUES (1, 7777)".encode())
        replica(etl, *COPY, "--apply")
        writing.execute(f"UPDATE {ANALYTICS} SET status = 1 WHERE conversation_id = 7777".encode())
    etl.execute(f"DELETE FROM {ANALYTICS} WHERE conversation_id = 7777", what="owner")
    there = rows(etl)
    assert there == before
    for table in TABLES:
        expected = [] if table == "etl_control" else there[table]
        assert len(etl.rows(f"SELECT 1 FROM {REPLICA}.{table}")) == len(expected), table
    alike = f"SELECT count(*) FROM (TABLE public.{ANALYTICS} EXCEPT TABLE {REPLICA}.{ANALYTICS}) AS d"
    assert etl.rows(alike) == [(0,)]


def test_the_copy_counts_by_itself_and_nobody_sees_it(etl: Target) -> None:
    replica(etl, *COPY, "--apply")
    etl.execute(f"INSERT INTO {REPLICA}.{ANALYTICS} (tenant_id, conversation_id) VALUES (1, 5001)", what="owner")
    assert etl.rows(f"SELECT id FROM {REPLICA}.{ANALYTICS} WHERE conversation_id = 5001") == [(1001,)]
    assert etl.rows("SELECT last_value FROM public.conversations_analytics_id_seq") == [(1000,)]
    for role in batch_etl.ROLES:
        assert etl.rows(
            f"SELECT has_schema_privilege(%s, '{REPLICA}', 'USAGE'), has_table_privilege(%s,"
            f" '{REPLICA}.{ANALYTICS}', 'SELECT')",
            etl.role(role),
            etl.role(role),
        ) == [(False, False)]


def test_default_privileges_show_nobody_the_copy(etl: Target) -> None:
    everybody = etl.role("authenticated_users")
    etl.execute(
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {everybody};"
        f" ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {everybody}",
        what="owner",
    )
    replica(etl, *COPY, "--apply")
    counts = ", ".join(f"(SELECT count(*) FROM {REPLICA}.{table})" for table in TABLES)
    assert etl.rows(f"SELECT {counts}", what="authenticated_users", tenant=1) == [(0, 0, 0, 0)]
    replica(etl, "setup", "--apply")
    assert etl.rows(f"SELECT {counts}", what="authenticated_users", tenant=1) == [(0, 0, 0, 0)]


def test_the_copy_counts_apart_from_a_sequence_that_belongs_to_no_column(etl: Target) -> None:
    etl.execute("ALTER SEQUENCE conversations_analytics_id_seq OWNED BY NONE", what="owner")
    copied(etl)
    with etl.connected("applier", 1) as applier:
        applier.execute(f"INSERT INTO {REPLICA}.{ANALYTICS} (tenant_id, conversation_id) VALUES (1, 5001)".encode())
    assert etl.rows(f"SELECT id FROM {REPLICA}.{ANALYTICS} WHERE conversation_id = 5001") == [(1001,)]


def test_rows_of_tables_that_inherit_are_copied_too(etl: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PAGES_AT_ONCE", 1)
    etl.execute(
        f"CREATE TABLE older () INHERITS ({ANALYTICS}); INSERT INTO older (tenant_id, conversation_id, analise_ia)"
        " SELECT 1, g, repeat('analysis', 200) FROM generate_series(5001, 9000) AS g",
        what="owner",
    )
    copying.apply(etl.settings(target_schema=REPLICA), "public", lambda step: None, lambda does, rows: None)
    assert etl.rows(f"SELECT count(*) FROM {REPLICA}.{ANALYTICS}") == [(5000,)]


def test_it_can_be_tried_once_more_after_the_way_back(etl: Target) -> None:
    done(etl, "setup", "--apply")
    etl.execute(f"UPDATE {ANALYTICS} SET synced_at = now(), source_epoch = 9")
    etl.execute("UPDATE inbox_tenant_mapping SET backfilled_at = now()")
    done(etl, "adopt", "back", "--apply")
    copied(etl)
    assert compared(etl, 1).keys() == {(tenant, "only there", "awaited") for tenant in batch_etl.TENANTS}
    assert etl.rows(f"SELECT count(*) FROM {REPLICA}.{ANALYTICS} WHERE source_epoch > 0") == [(0,)]
    assert etl.rows(f"SELECT count(*) FROM {REPLICA}.tenant_settings WHERE lead_signals = 'external'") == [(3,)]
    followed(etl)
    assert compared(etl, 0) == {}


def test_the_copy_is_set_up_as_the_tables_themselves_would_be(etl: Target) -> None:
    replica(etl, *COPY, "--apply")
    planned = json.loads(replica(etl, "setup", "--json"))
    original = json.loads(done(etl, "setup", "--json"))
    for plan in (planned, original):
        plan["steps"] = [step["does"] for step in plan["steps"] if "create schema" not in step["does"]]
    # What a copy does not have: a schema that is everybody's, its keys to other tables, security without its policies.
    apart = ("grant usage on ", "add foreign key (tenant_id) to tenants", "enable row-level security on tenants")
    alike = [{does for does in plan["steps"] if not any(map(does.count, apart))} for plan in (planned, original)]
    assert alike[0] == alike[1]
    replica(etl, "setup", "--apply")
    assert not etl.plan(target_schema=REPLICA).steps


def test_a_copy_is_not_made_over_anything_nor_of_nothing(etl: Target) -> None:
    assert "the copy needs another schema" in done(etl, *COPY, "--apply", code=2)
    assert "has no table conversations_analytics" in replica(etl, "adopt", "copy", "--from", "nowhere", code=1)
    copied(etl)
    assert "DROP SCHEMA" in replica(etl, *COPY, "--apply", code=1)
    assert done(etl, "adopt", "copy", "--apply", code=2)
    done(etl, "setup", "--apply")
    etl.execute(f"DROP SCHEMA {REPLICA} CASCADE")
    assert "is ours already" in replica(etl, *COPY, "--apply", code=1)
    assert etl.rows("SELECT to_regnamespace('replica')") == [(None,)]


def test_a_copy_of_anothers_tables_is_refused(etl: Target) -> None:
    etl.execute(f"ALTER TABLE {ANALYTICS} OWNER TO CURRENT_USER")
    assert "CONSUMERS_SETUP_DSN must name its owner" in replica(etl, *COPY, "--apply", code=1)


def test_what_is_not_compared_yet_is_said(etl: Target) -> None:
    replica(etl, *COPY, "--apply")
    assert "is not set up" in replica(etl, *COMPARE, code=1)
    replica(etl, "setup", "--apply")
    found = compared(etl, 1)
    assert {(what, kind) for _, what, kind in found} == {("only there", "awaited")}


def test_rows_of_one_side_are_told_by_what_became_of_them(etl: Target) -> None:
    copied(etl)
    followed(etl)
    assert compared(etl, 0) == {}
    here(etl, f"DELETE FROM {ANALYTICS} WHERE conversation_id IN (1, 2); DELETE FROM conversations WHERE id = 1")
    etl.execute(f"DELETE FROM {ANALYTICS} WHERE conversation_id IN (7, 8)", what="owner")
    here(etl, "DELETE FROM conversations WHERE id = 8")
    etl.execute(f"UPDATE {ANALYTICS} SET inbox_id = 3 WHERE conversation_id = 13", what="owner")
    etl.execute(f"UPDATE {ANALYTICS} SET inbox_id = 99 WHERE conversation_id = 14", what="owner")
    here(etl, f"DELETE FROM {ANALYTICS} WHERE conversation_id IN (13, 14)")
    assert compared(etl, 1) == {
        (1, "only there", "gone"): [1],
        (1, "only there", "lost"): [2],
        (1, "only here", "missed"): [7],
        (1, "only here", "ghost"): [8],
        (1, "only there", "elsewhere"): [13],
        (1, "only there", "unmapped"): [14],
    }


def test_columns_are_told_by_who_read_later_and_by_what_they_mean(etl: Target) -> None:
    etl.execute(
        f"UPDATE {ANALYTICS} SET conversation_day_of_week = 6, first_message_text = 'x', user_messages_count = 1,"
        " user_message_ratio = 1, inbox_name = 'i', status = 0, avg_message_length = 3, conversation_updated_at ="
        " conversation_created_at",
        what="owner",
    )
    copied(etl)
    here(etl, f"UPDATE {ANALYTICS} SET conversation_day_of_week = 0")  # Sunday, by the view
    followed(etl)
    assert {(what, kind) for _, what, kind in compared(etl, 0)} == {("conversation_day_of_week", "otherwise")}
    tenants = json.loads(replica(etl, *COMPARE))["tenants"]
    assert [each["alike"] for each in tenants] == [each["there"] for each in tenants], "but for what means otherwise"
    here(etl, f"UPDATE {ANALYTICS} SET inbox_name = 'renamed' WHERE conversation_id = 3")
    here(etl, f"UPDATE {ANALYTICS} SET status = 1, conversation_updated_at = now() WHERE conversation_id = 4")
    here(etl, f"UPDATE {ANALYTICS} SET first_message_text = 'y' WHERE conversation_id IN (9, 10)")
    here(etl, f"UPDATE {ANALYTICS} SET status = 1 WHERE conversation_id = 15")
    here(
        etl, f"UPDATE {ANALYTICS} SET user_message_ratio = user_message_ratio + 0.0000000001 WHERE conversation_id = 21"
    )
    # The ETL comes by later.
    etl.execute(f"UPDATE {ANALYTICS} SET status = status WHERE conversation_id IN (9, 16)", what="owner")
    etl.execute(
        f"UPDATE {ANALYTICS} SET conversation_updated_at = now(), status = 2 WHERE conversation_id = 22", what="owner"
    )
    here(etl, f"UPDATE {ANALYTICS} SET inbox_name = 'renamed' WHERE conversation_id = 16")
    found = {key: some for key, some in compared(etl, 1).items() if key[1] != "conversation_day_of_week"}
    assert found == {
        (2, "inbox_name", "silent"): [3],
        (2, "status", "stale"): [4],
        (2, "conversation_updated_at", "stale"): [4],
        (2, "first_message_text", "ties"): [9],
        (2, "first_message_text", "silent"): [10],
        (2, "inbox_name", "different"): [16],
        (2, "status", "different"): [15],
        (2, "status", "behind"): [22],
        (2, "conversation_updated_at", "behind"): [22],
    }
    assert (2, "inbox_name", "expected") in compared(etl, 1, "--expect", "inbox_name")
    assert "fills no column" in replica(etl, *COMPARE, "--expect", "csat_rating", code=2)


def test_messages_of_the_same_moment_have_no_order_and_local_columns_no_other_side(etl: Target) -> None:
    etl.execute(f'UPDATE {ANALYTICS} SET message_compiled = \'[{{"a": 1}}, {{"a": 2}}]\'', what="owner")
    copied(etl)
    followed(etl)
    here(etl, f'UPDATE {ANALYTICS} SET message_compiled = \'[{{"a": 2}}, {{"a": 1}}]\', is_lead = NOT is_lead')
    assert compared(etl, 0) == {}
    here(etl, f"UPDATE {ANALYTICS} SET message_compiled = '[{{\"a\": 2}}]' WHERE conversation_id = 1")
    assert compared(etl, 0) == {(1, "message_compiled", "silent"): [1]}


def test_messages_in_another_order_than_that_of_their_times_differ(etl: Target) -> None:
    def messages(*written: tuple[int, int]) -> str:
        return json.dumps([{"message_id": message, "sent_at": f"2026-01-01T10:0{at}:00"} for message, at in written])

    etl.execute(f"UPDATE {ANALYTICS} SET message_compiled = %s", messages((1, 1), (2, 1), (3, 2)), what="owner")
    copied(etl)
    followed(etl)
    change = f"UPDATE {REPLICA}.{ANALYTICS} SET message_compiled = %s WHERE conversation_id = %s"
    etl.execute(change, messages((2, 1), (1, 1), (3, 2)), 1)
    assert compared(etl, 0) == {}
    etl.execute(change, messages((3, 2), (2, 1), (1, 1)), 2)
    assert compared(etl, 0) == {(1, "message_compiled", "silent"): [2]}


def test_an_inbox_that_the_etl_found_since_the_copy_is_named(etl: Target) -> None:
    copied(etl)
    followed(etl)
    etl.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (64, 2)", what="owner")
    etl.execute(f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id, inbox_id) VALUES (2, 4000, 64)", what="owner")
    assert compared(etl, 1) == {(2, "mapping", "remapped"): [64], (2, "only there", "unmapped"): [4000]}


def test_stretches_add_up_and_people_are_told_in_words(etl: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(etl)
    followed(etl)
    here(etl, f"DELETE FROM {ANALYTICS} WHERE conversation_id % 10 = 1; DELETE FROM conversations WHERE id % 10 = 1")
    whole: Any = trial.compare(etl.settings(target_schema=REPLICA), "public", frozenset())
    monkeypatch.setattr(beside, "STRETCH", 7)
    assert trial.compare(etl.settings(target_schema=REPLICA), "public", frozenset()) == whole
    assert sum(each.rows for each in whole.differences) == 100
    gone = [each.rows for each in whole.differences]
    assert [(each.there - each.here, each.here - each.alike) for each in whole.tenants] == [(n, 0) for n in gone]
    assert sum(each.there for each in whole.tenants) == 1000
    said = replica(etl, *COMPARE[:-1])
    assert "every difference is explained; no row is tested yet of tenant 1, 2, 3" in said
    assert "gone: the source has no such conversation" in said
    with pytest.raises(SettingsError, match="with itself"):
        trial.compare(etl.settings(), "public", frozenset())
