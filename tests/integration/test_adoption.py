"""Adopting the batch ETL's database with data: nothing lost, nothing narrowed, nobody sees more; and the way back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from tests.integration import batch_etl
from tests.integration.batch_etl import ANALYTICS, LOCAL, ROLES, TENANTS
from tests.integration.sorted_out import Applied
from tests.integration.targets import PASSWORD, Target, target_of

TABLES = ("tenants", "inbox_tenant_mapping", "etl_control", ANALYTICS)
OURS = (
    *("source_epoch", "source_point", "source_ordinal", "synced_at", "lead_evidence", "lead_rules_digest"),
    *("backfill_id", "backfilled_at"),
)
KEYS = {"inbox_tenant_mapping": "inbox_id"}
WAYS = ("", *map(str, TENANTS), "9", "nonsense")
"""What a session may say of its tenant."""


@pytest.fixture
def etl(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as target:
        batch_etl.make(target)
        batch_etl.fill(target)
        yield target


def consumers(target: Target, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "consumers", *arguments],
        env={**os.environ, **target.environment(**environment)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def done(target: Target, *arguments: str, code: int = 0, **environment: str) -> str:
    """What it printed; it says no value of a row and no secret."""
    result = consumers(target, *arguments, **environment)
    assert result.returncode == code, result.stdout + result.stderr
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    for word in (PASSWORD, "Contact 1", "text 1", "+0000", "analysis of"):
        assert word not in output
    return output


def seen(target: Target, *roles: str) -> dict[tuple[str, str, str], Any]:
    """Which rows of which table each role sees for each way to name a tenant; or why none."""
    found: dict[tuple[str, str, str], Any] = {}
    for role in roles:
        with target.connected(role) as session:
            for way in WAYS:
                session.execute("SELECT set_config('app.current_tenant_id', %s, false)", [way])
                for table in TABLES:
                    query = f"SELECT {KEYS.get(table, 'id')} FROM {table} ORDER BY 1"
                    try:
                        found[role, way, table] = [key for (key,) in session.execute(query.encode())]
                    except psycopg.Error as error:
                        found[role, way, table] = error.sqlstate
    return found


def rows(target: Target) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the ETL's columns, as text."""
    found = {}
    for table in TABLES:
        columns = target.rows(
            "SELECT string_agg(format('%%I::text', attname), ', ' ORDER BY attnum) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%s)",
            table,
            list(OURS),
        )
        found[table] = target.rows(f"SELECT {columns[0][0]} FROM {table} ORDER BY 1")
    return found


def test_no_row_is_lost_or_altered_and_nobody_sees_more(etl: Target) -> None:
    roles = (*ROLES, "outsider")
    before, kept = seen(etl, *roles), rows(etl)
    owned = seen(etl, "owner")
    done(etl, "setup", "--apply")
    assert rows(etl) == kept
    after = seen(etl, *roles)
    for place, found in after.items():
        assert found == before[place], place
    assert {found for (role, *_), found in after.items() if role == "outsider"} == {"42501"}
    # FORCE binds the owner too; what it sees of the others is as before.
    for (_, way, table), found in seen(etl, "owner").items():
        if table != ANALYTICS:
            assert found == owned["owner", way, table]
        elif way.isdigit():
            assert found == before["authenticated_users", way, table]
    done(etl, "adopt", "back", "--apply")
    assert seen(etl, *roles) == before
    assert seen(etl, "owner") == owned
    assert rows(etl) == kept


def test_no_column_becomes_narrower_and_no_key_or_policy_goes(etl: Target) -> None:
    shape = {
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace",
        "policies": "SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies",
        "triggers": "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE NOT tgisinternal",
        "defaults": "SELECT table_name, column_name, column_default, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public'",
        "grants": "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants"
        " WHERE table_schema = 'public'",
    }
    before = {what: set(etl.rows(query)) for what, query in shape.items()}
    lengths = "SELECT table_name, column_name, character_maximum_length FROM information_schema.columns"
    had = {(table, column): length for table, column, length in etl.rows(lengths)}
    done(etl, "setup", "--apply")
    after = {what: set(etl.rows(query)) for what, query in shape.items()}
    for what, found in before.items():
        assert found <= after[what], what
    now = {(table, column): length for table, column, length in etl.rows(lengths)}
    assert all(now[place] is None or now[place] >= (length or 0) for place, length in had.items())
    done(etl, "adopt", "back", "--apply")
    back = {what: set(etl.rows(query)) for what, query in shape.items()}
    for what in ("policies", "triggers"):
        ours = {each for each in back[what] if each[0] not in TABLES}
        assert back[what] - ours == before[what], what


def test_rights_without_a_policy_and_narrower_policies_stay_as_they_were(etl: Target) -> None:
    for role in ("forgotten", "seller"):
        etl.make_role(role)
    seller = etl.role("seller")
    etl.execute(
        f"GRANT ALL ON {ANALYTICS} TO {etl.role('forgotten')}, {etl.role('authenticated_users')}, {seller};"
        f" CREATE POLICY own_team ON {ANALYTICS} FOR SELECT TO {seller}"
        " USING (tenant_id = get_current_tenant_id() AND conversation_id <= 200)",
        what="owner",
    )

    def reached(role: str) -> tuple[int, int, int]:
        with etl.connected(role, 1) as session, session.transaction(force_rollback=True):
            return (
                session.execute(f"SELECT 1 FROM {ANALYTICS}".encode()).rowcount,
                session.execute(f"UPDATE {ANALYTICS} SET status = 9".encode()).rowcount,
                session.execute(f"DELETE FROM {ANALYTICS}".encode()).rowcount,
            )

    roles = ("forgotten", "seller", "authenticated_users")
    before = {role: reached(role) for role in roles}
    assert before == {"forgotten": (0, 0, 0), "seller": (68, 0, 0), "authenticated_users": (334, 0, 0)}
    for _ in range(2):
        done(etl, "setup", "--apply")
        assert {role: reached(role) for role in roles} == before
        assert reached("owner") == (334, 334, 334)
        done(etl, "adopt", "back", "--apply")


def test_our_own_roles_reach_an_adopted_table_and_so_does_a_second_applier(etl: Target) -> None:
    done(etl, "setup", "--apply")
    for role, right in (("reader", "replication_readers"), ("analyser", "replication_analysers")):
        etl.make_role(role)
        etl.execute(f"GRANT {right} TO {etl.role(role)}")
        assert len(etl.rows(f"SELECT 1 FROM {ANALYTICS}", what=role, tenant=1)) == 334
    etl.make_role("second")
    etl.apply(target_dsn=etl.dsn("second"))
    assert len(etl.rows(f"SELECT 1 FROM {ANALYTICS}", what="second", tenant=1)) == 334
    assert not etl.plan().steps


def test_messages_that_are_json_are_adopted_as_they_are(etl: Target) -> None:
    etl.execute(f"ALTER TABLE {ANALYTICS} ALTER COLUMN message_compiled TYPE json", what="owner")
    assert "message_compiled is json, narrower than or unlike jsonb" in done(etl, "setup", "--apply", code=1)
    assert not etl.plan().steps
    queued = "SELECT conversation_id FROM analysis_queue ORDER BY id"
    with closing(Applied(etl)) as log:
        said = ((1, '[{"text": "a"}]'), (7, '[{"text": "b"}]'), (1, '[{"text": "a"}]'))
        for n, (conversation, messages) in enumerate(said, start=1):
            row = log.read(ANALYTICS, conversation, 1, n, "conversation_id", inbox_id=1, message_compiled=messages)
            log.apply(row)
    assert etl.rows(queued) == [(1,), (7,)]


def test_a_number_from_a_sequence_that_belongs_to_no_column_is_had_all_the_same(etl: Target) -> None:
    etl.execute("ALTER SEQUENCE conversations_analytics_id_seq OWNED BY NONE", what="owner")
    done(etl, "setup", "--apply")
    with etl.connected("applier", 1) as applier:
        applier.execute(f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id) VALUES (1, 5001)".encode())


def test_a_column_that_a_trigger_names_stays_as_it_is_and_is_said(etl: Target) -> None:
    etl.execute(
        f"CREATE TRIGGER theirs BEFORE UPDATE OF team_id ON {ANALYTICS} FOR EACH ROW"
        " EXECUTE FUNCTION update_etl_timestamp()",
        what="owner",
    )
    assert "unlike bigint; trigger theirs must be dropped" in done(etl, "setup", "--apply", code=1)
    assert not etl.plan().steps


def test_a_list_of_tenants_that_its_own_owner_does_not_see_is_refused(etl: Target) -> None:
    etl.execute("ALTER TABLE tenants FORCE ROW LEVEL SECURITY", what="owner")
    assert "ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY" in done(etl, "setup", "--apply", code=1)
    assert etl.rows("SELECT to_regclass('messages')") == [(None,)]
    etl.execute(f"CREATE POLICY keeper ON tenants TO {etl.role('owner')} USING (true)", what="owner")
    done(etl, "setup", "--apply")
    assert etl.rows("SELECT count(*) FROM tenant_settings WHERE lead_signals = 'external'") == [(3,)]


def test_the_etl_can_write_again_after_going_back_and_not_before(etl: Target) -> None:
    upsert = (
        f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id, message_compiled, is_lead) VALUES (2, %s, '[1]', true)"
        " ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET message_compiled = EXCLUDED.message_compiled"
    )
    done(etl, "setup", "--apply")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        etl.execute(upsert, 3, what="owner")
    etl.execute("UPDATE inbox_tenant_mapping SET backfilled_at = now()", what="applier")
    etl.execute("INSERT INTO etl_control (tenant_id, status, triggered_by) VALUES (1, 'running', 'worker')")
    planned = json.loads(done(etl, "adopt", "back", "--json"))
    assert planned["applied"] is False
    with etl.connected("applier"):
        assert "stop the workers first" in done(etl, "adopt", "back", "--apply", code=1)
    done(etl, "adopt", "back", "--apply")
    for conversation in (3, 5001):
        etl.execute(upsert, conversation, what="owner")
        etl.execute(upsert, conversation, what="etl_service")
    etl.execute("UPDATE inbox_tenant_mapping SET inbox_name = 'x'", what="owner")
    etl.execute(f"DELETE FROM {ANALYTICS} WHERE conversation_id = 5001", what="owner")
    etl.execute("INSERT INTO tenants (name, slug) VALUES ('Four', 'four')", what="owner")
    assert etl.rows("SELECT count(*) FROM inbox_tenant_mapping WHERE backfilled_at IS NOT NULL") == [(0,)]
    assert etl.rows("SELECT count(*) FROM etl_control WHERE status = 'running'") == [(0,)]
    assert "nothing to do" in done(etl, "adopt", "back", "--apply")
    done(etl, "setup", "--apply")
    assert not etl.plan().steps


def test_an_etl_at_work_is_not_adopted(etl: Target) -> None:
    etl.execute("UPDATE etl_control SET status = 'running', started_at = now() WHERE tenant_id = 1", what="owner")
    assert "the batch ETL is at work (etl_control.id 1)" in done(etl, "setup", "--apply", code=1)
    assert etl.rows("SELECT to_regclass('messages')") == [(None,)]
    etl.execute("UPDATE etl_control SET started_at = now() - interval '3 hours' WHERE tenant_id = 1", what="owner")
    done(etl, "setup", "--apply")


def test_signals_that_the_etl_made_after_the_way_back_are_left_alone_too(etl: Target) -> None:
    done(etl, "setup", "--apply")
    done(etl, "adopt", "back", "--apply")
    batch_etl.add_tenants(etl, {4: (7,)})
    etl.execute(f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id, is_lead) VALUES (4, 5001, true)", what="owner")
    done(etl, "setup", "--apply")
    assert etl.rows("SELECT lead_signals FROM tenant_settings WHERE tenant_id = 4") == [("external",)]


def test_what_nobody_would_notice_is_said(etl: Target) -> None:
    etl.execute(f"ALTER TABLE {ANALYTICS} ADD COLUMN remark text DEFAULT ''", what="owner")
    said = done(etl, "setup", "--apply")
    assert f"views that read {ANALYTICS} as its owner will show no more than that either: vw_remarketing_queue" in said
    assert f"column remark of {ANALYTICS} is not known here" in said
    again = done(etl, "setup")
    assert "vw_remarketing_queue" not in again
    assert "remark" not in again


def test_analysers_of_the_etl_go_on_where_a_policy_or_the_setting_lets_them(etl: Target) -> None:
    done(etl, "setup", "--apply")
    analysis = f"UPDATE {ANALYTICS} SET analise_ia = 'anew' WHERE conversation_id = 1"
    reached = {}
    for role, tenant in (("etl_service", None), ("owner", None), ("owner", 1)):
        with etl.connected(role, tenant) as analyser:
            reached[role, tenant] = analyser.execute(analysis.encode()).rowcount
    assert reached == {("etl_service", None): 1, ("owner", None): 0, ("owner", 1): 1}


def test_how_row_level_security_was_is_asked_of_whoever_knows(etl: Target) -> None:
    etl.execute(f"ALTER TABLE {ANALYTICS} DISABLE ROW LEVEL SECURITY", what="owner")
    before = seen(etl, *ROLES, "owner")
    done(etl, "setup", "--apply")
    said = done(etl, "adopt", "back", "--apply")
    advice = re.findall(r"off before setup: (ALTER TABLE .\w+. DISABLE ROW LEVEL SECURITY)", said)
    assert [line.split('"')[1] for line in advice] == ["tenants", ANALYTICS]
    etl.execute(advice[1], what="owner")
    assert seen(etl, *ROLES, "owner") == before


def test_parts_are_given_back_with_their_table(etl: Target) -> None:
    etl.execute(f"CREATE TABLE older () INHERITS ({ANALYTICS}); GRANT SELECT ON older TO {etl.role('etl_service')}")
    etl.execute(
        f"ALTER TABLE older OWNER TO {etl.role('owner')}; INSERT INTO older (tenant_id, conversation_id) VALUES (1, 1)"
    )
    done(etl, "setup", "--apply")
    assert etl.rows("SELECT 1 FROM older", what="owner") == []
    assert "ALTER TABLE older DISABLE ROW LEVEL SECURITY" in done(etl, "adopt", "back", "--apply")
    assert etl.rows("SELECT 1 FROM older", what="owner") == [(1,)]


def test_what_others_forced_stays_forced(etl: Target) -> None:
    keeper = f"CREATE POLICY keeper ON tenants TO {etl.role('owner')} USING (true);"
    etl.execute(f"{keeper} ALTER TABLE tenants FORCE ROW LEVEL SECURITY", what="owner")
    done(etl, "setup", "--apply")
    done(etl, "adopt", "back", "--apply")
    assert etl.rows("SELECT relforcerowsecurity FROM pg_class WHERE oid = 'tenants'::regclass") == [(True,)]


def test_what_could_not_be_taken_back_is_not_said_to_be_done(etl: Target) -> None:
    done(etl, "setup", "--apply")
    with etl.connected("authenticated_users") as dashboard, dashboard.transaction():
        dashboard.execute(f"SELECT 1 FROM {ANALYTICS}".encode())
        said = done(etl, "adopt", "back", "--apply", code=1, CONSUMERS_LOCK_TIMEOUT_S="1")
    assert "lock timeout" in said
    assert "done:" not in said
    assert not etl.plan().steps


def test_back_is_only_for_what_was_set_up(etl: Target) -> None:
    assert "was not set up" in done(etl, "adopt", "back", code=1)


def test_local_columns_of_an_adopted_table_survive_what_happens_to_their_rows(etl: Target) -> None:
    done(etl, "setup", "--apply")
    local = (
        f"SELECT conversation_id, {', '.join(LOCAL)} FROM {ANALYTICS} WHERE tenant_id = 1 AND analise_ia IS NOT NULL"
    )
    before = etl.rows(local + " ORDER BY 1")
    assert before
    with etl.connected("applier", 1) as applier:
        applier.execute(f"UPDATE {ANALYTICS} SET status = 1, source_point = 10, synced_at = now()".encode())
        assert etl.rows(local + " ORDER BY 1") == before
        applier.execute(f"UPDATE {ANALYTICS} SET inbox_id = 2 WHERE inbox_id = 1".encode())
        applier.execute(f"CREATE TEMP TABLE gone AS SELECT * FROM {ANALYTICS}".encode())
        applier.execute(f"DELETE FROM {ANALYTICS}".encode())
        applier.execute(
            f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id) SELECT 1, conversation_id FROM gone".encode()
        )
    assert etl.rows(local + " ORDER BY 1") == before
