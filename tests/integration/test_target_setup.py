"""`consumers setup` and `consumers map` on a real server: exact plans, adoption without loss, all of it repeatable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from consumers import mapping_admin, migrations
from consumers.errors import Refused, TargetRefused, TargetUnavailable
from consumers.mapping_admin import Wish
from consumers.plan import Severity
from demo.servers import Servers
from tests.integration.targets import PASSWORD, Target, target_of

ADOPTED = """
    CREATE TABLE tenants (id serial PRIMARY KEY, name varchar(255) NOT NULL, slug varchar(100) NOT NULL UNIQUE,
        inbox_ids int[], account_id int, status varchar(20) DEFAULT 'active', plan varchar(20), deleted_at timestamp);
    CREATE TABLE inbox_tenant_mapping (inbox_id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants ON DELETE
        CASCADE, inbox_name varchar(255), channel_type varchar(50), is_active boolean DEFAULT true,
        created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now());
    CREATE TABLE etl_control (id serial PRIMARY KEY, tenant_id int REFERENCES tenants, execution_id uuid,
        started_at timestamp NOT NULL, finished_at timestamp, status varchar(10), openai_cost_brl numeric);
    CREATE TABLE messages (tenant_id int NOT NULL, id bigint NOT NULL, content text NOT NULL, conversation_id int,
        sender_type varchar(20), own_note text);
    INSERT INTO tenants (name, slug) VALUES ('One', 'one'), ('Two', 'two');
    INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id, inbox_name) VALUES (61, 1, 'WhatsApp'), (62, 2, 'Site');
    INSERT INTO etl_control (tenant_id, started_at, status) VALUES (1, now(), 'success');
    INSERT INTO messages VALUES (1, 10, 'kept', 7, 'User', 'mine'), (2, 11, 'kept too', 8, NULL, NULL);
"""
CATALOGUE = {
    "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
    " WHERE table_schema = 'public'",
    "relations": "SELECT relname, relkind, relowner, relrowsecurity, relforcerowsecurity, relacl::text FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace",
    "policies": "SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies",
    "functions": "SELECT oid::regprocedure::text, prosrc, proacl::text FROM pg_proc"
    " WHERE pronamespace = 'public'::regnamespace",
    "triggers": "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal",
    "roles": "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname LIKE '%%' || %s",
    "namespaces": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_'",
}
NO_KAFKA = "Kafka does not answer"


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as prepared:
        yield prepared


def catalogue(target: Target) -> dict[str, set[tuple[object, ...]]]:
    return {
        what: set(target.rows(query, *([target.mark] if what == "roles" else []))) for what, query in CATALOGUE.items()
    }


def consumers(target: Target, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "consumers", *arguments],
        env={**os.environ, **target.environment(**environment)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_plan_changes_nothing(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    before = catalogue(target)
    assert target.plan().steps
    assert catalogue(target) == before


def test_an_empty_database_gets_everything_and_then_nothing_more(target: Target) -> None:
    planned = target.plan()
    assert [found.says for found in planned.findings if not found.says.startswith(NO_KAFKA)] == []
    assert target.apply() == [step.does for step in planned.steps]
    after = catalogue(target)
    assert target.plan().steps == ()
    assert target.plan().findings == planned.findings
    assert target.apply() == []
    assert catalogue(target) == after
    recorded = target.rows("SELECT version FROM replication_migrations ORDER BY 1", what="applier")
    ours = migrations.load(schema="public", applier="a")
    assert [version for (version,) in recorded] == [migration.version for migration in ours]


def test_the_owner_needs_no_superuser_and_the_applier_is_bound(target: Target) -> None:
    target.apply()
    (row,) = target.rows(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcanlogin FROM pg_roles WHERE rolname = %s",
        target.role("applier"),
    )
    assert row == (False, False, False, True)
    owned = target.rows("SELECT 1 FROM pg_class WHERE relowner = %s::regrole", target.role("applier"))
    assert owned == []


def test_the_password_reaches_the_server_only_as_a_verifier(target: Target) -> None:
    target.apply()
    assert target.rows("SELECT current_user", what="applier") == [(target.role("applier"),)]
    ((verifier,),) = target.rows("SELECT rolpassword FROM pg_authid WHERE rolname = %s", target.role("applier"))
    assert verifier.startswith("SCRAM-SHA-256$")
    assert PASSWORD not in json.dumps([step.sql for step in target.plan().steps])


def test_another_schema_may_be_given(target: Target) -> None:
    target.apply(target_schema="analytics")
    assert target.plan(target_schema="analytics").steps == ()
    assert target.rows("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    with target.connected("applier") as connection:
        connection.execute("SET search_path = analytics")
        assert connection.execute("SELECT * FROM replication_holders('messages', NULL)").fetchall() == []


def test_tables_of_the_batch_etl_are_adopted_with_their_rows(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    kept = {
        "tenants": "SELECT id, name, slug FROM tenants ORDER BY 1",
        "inbox_tenant_mapping": "SELECT inbox_id, tenant_id, inbox_name, updated_at FROM inbox_tenant_mapping",
        "etl_control": "SELECT id, tenant_id, started_at, status FROM etl_control",
        "messages": "SELECT tenant_id, id, content, conversation_id, sender_type, own_note FROM messages ORDER BY 2",
    }
    before = {table: target.rows(query) for table, query in kept.items()}
    planned = target.plan()
    assert target.apply() == [step.does for step in planned.steps]
    assert {table: target.rows(query) for table, query in kept.items()} == before
    assert target.plan().steps == ()


def test_the_plan_for_adopted_tables_says_exactly_what_is_added(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    before = catalogue(target)
    planned = [step.does for step in target.plan().steps]
    target.apply()
    after = catalogue(target)

    added = {
        table: {c[1] for c in after["columns"] if c[0] == table} - {c[1] for c in before["columns"] if c[0] == table}
        for table in ("tenants", "inbox_tenant_mapping", "etl_control", "messages")
    }
    for table, columns in added.items():
        (says,) = [does for does in planned if does.startswith(f"adopt table {table}: add column ")]
        assert set(says.partition(": add column ")[2].split(", ")) == columns
    made = {name for name, kind, *_ in after["relations"] - before["relations"] if kind == "r"} - added.keys()
    assert {does.removeprefix("create table ") for does in planned if does.startswith("create table ")} == made
    policies = {(table, name) for table, name, *_ in after["policies"]}
    assert {tuple(does.split(" ")[2::2]) for does in planned if does.startswith("create policy ")} == {
        (name, table) for table, name in policies
    }
    widened = {("messages", "sender_type")}
    assert {each for each in before["columns"] if each[:2] not in widened} <= after["columns"]
    assert before["constraints"] <= after["constraints"]
    assert "adopt table messages: add primary key (tenant_id, id)" in planned
    assert "adopt table messages: add foreign key (tenant_id, conversation_id) to conversations" in planned
    assert not [
        does for does in planned if does.startswith(("adopt table tenants: add p", "adopt table tenants: add u"))
    ]


ANALYTICS = """
    CREATE TABLE conversations_analytics (id serial PRIMARY KEY, tenant_id int NOT NULL, conversation_id int NOT NULL,
        team_id int, contact_name varchar(255), message_compiled jsonb, is_lead boolean,
        UNIQUE (tenant_id, conversation_id));
    INSERT INTO conversations_analytics (tenant_id, conversation_id, team_id, contact_name, message_compiled, is_lead)
        SELECT 1, n, n, 'Contato ' || n, '[]', n % 2 = 0 FROM generate_series(1, 3) AS n;
"""


def test_columns_that_are_too_narrow_are_widened_with_their_rows(target: Target) -> None:
    target.execute(ADOPTED + ANALYTICS, what="owner")
    rows = "SELECT id, conversation_id, team_id, contact_name, is_lead FROM conversations_analytics ORDER BY id"
    before = target.rows(rows)
    narrow, wide = "character varying(255)", "character varying"
    assert [step.does for step in target.plan().steps if ": widen " in step.does] == [
        f"adopt table messages: widen sender_type (character varying(20) → {wide})",
        f"adopt table conversations_analytics: widen team_id (integer → bigint), contact_name ({narrow} → {wide})",
    ]
    target.apply()
    assert target.rows(rows) == before
    types = target.rows(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'conversations_analytics'::regclass"
        " AND attname IN ('team_id', 'contact_name') ORDER BY attname"
    )
    assert types == [("character varying",), ("bigint",)]
    assert not target.plan().steps


def test_a_column_that_others_use_is_not_widened_and_they_are_named(target: Target) -> None:
    target.execute(ADOPTED + ANALYTICS, what="owner")
    target.execute("CREATE VIEW teams_seen AS SELECT team_id FROM conversations_analytics", what="owner")
    target.execute("CREATE POLICY own ON messages USING (sender_type <> 'Contact')", what="owner")
    findings = [found.says for found in target.plan().of(Severity.FINDING)]
    assert any(".team_id is integer" in says and "view teams_seen must be dropped" in says for says in findings)
    assert any("sender_type" in says and "policy own must be dropped" in says for says in findings)
    (step,) = [does for does in target.apply() if ": widen " in does]
    assert "team_id" not in step


def test_columns_that_do_not_fit_are_findings_and_stay(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    findings = [found.says for found in target.plan().of(Severity.FINDING)]
    assert any("etl_control.status is character varying(10)" in says for says in findings)
    assert any(says.startswith("table messages requires content") for says in findings)
    assert not any("messages.id" in says for says in findings)  # bigint holds an integer
    target.apply()
    types = target.rows(
        "SELECT format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE (attrelid = 'messages'::regclass AND attname = 'content')"
        " OR (attrelid = 'etl_control'::regclass AND attname = 'status') ORDER BY attname"
    )
    assert types == [("text", True), ("character varying(10)", False)]


def test_what_may_refuse_the_audits_rows_is_said(target: Target) -> None:
    target.execute(
        "CREATE TABLE etl_control (id int PRIMARY KEY, tenant_id int, execution_id uuid NOT NULL, watermark_start"
        " timestamp NOT NULL, load_type text CONSTRAINT known CHECK (load_type IN ('full', 'incremental')))",
        what="owner",
    )
    says = [found.says for found in target.plan().of(Severity.FINDING)]
    assert any(each.startswith("table etl_control asks for id, watermark_start, what known says") for each in says)
    target.apply()


def test_a_table_whose_rows_have_no_tenant_is_refused(target: Target) -> None:
    target.execute("CREATE TABLE contacts (id int PRIMARY KEY, name text); INSERT INTO contacts VALUES (1, 'x')")
    target.execute(f"ALTER TABLE contacts OWNER TO {target.role('owner')}")
    before = catalogue(target)
    with pytest.raises(Refused, match="contacts has rows and no tenant_id"):
        target.apply()
    assert catalogue(target) == before


def test_an_empty_table_without_a_tenant_is_adopted_beside_its_own_key(target: Target) -> None:
    target.execute("CREATE TABLE contacts (id int PRIMARY KEY, name text)", what="owner")
    says = [found.says for found in target.plan().of(Severity.FINDING)]
    assert any("contacts has a unique key (id) without tenant_id" in line for line in says)
    assert "adopt table contacts: add unique (tenant_id, id)" in target.apply()
    assert target.plan().steps == ()


def test_rows_that_another_table_lacks_do_not_bar_a_foreign_key(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    target.apply()
    ((validated,),) = target.rows("SELECT convalidated FROM pg_constraint WHERE conname = 'messages_conversation'")
    assert validated is False


def test_a_statement_that_fails_is_named_and_leaves_its_file_undone(target: Target) -> None:
    target.execute("CREATE TABLE messages (tenant_id int NOT NULL, id int NOT NULL)", what="owner")
    target.execute("INSERT INTO messages VALUES (1, 4711), (1, 4711)", what="owner")
    with pytest.raises(TargetRefused, match=r"messages: add primary key \(tenant_id, id\).*23505") as raised:
        target.apply()
    assert "4711" not in str(raised.value)
    assert target.rows("SELECT to_regclass('conversations'), to_regclass('tenants') IS NOT NULL") == [(None, True)]
    target.execute("TRUNCATE messages", what="owner")
    target.apply()
    assert target.plan().steps == ()


def test_roles_that_would_see_less_are_listed(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    for what in ("dashboard", "stranger"):
        target.make_role(what)
    target.make_role("auditor", "LOGIN BYPASSRLS")
    target.execute(f"GRANT SELECT ON messages TO {target.role('dashboard')}, {target.role('auditor')}", what="owner")
    notes = [found.says for found in target.plan().of(Severity.NOTE) if found.says.startswith("on messages")]
    assert len(notes) == 1
    assert target.role("dashboard") in notes[0]
    assert target.role("owner") in notes[0]
    assert target.role("stranger") not in notes[0]
    assert target.role("auditor") not in notes[0]
    target.apply()
    assert not [found for found in target.plan().of(Severity.NOTE) if found.says.startswith("on messages")]


def test_policies_and_rights_of_others_are_shown(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    target.execute(
        "CREATE POLICY everyone ON messages USING (true); CREATE POLICY everyone ON tenants USING (true);"
        " GRANT SELECT ON etl_control TO PUBLIC",
        what="owner",
    )
    says = "\n".join(found.says for found in target.plan().findings)
    assert "policy everyone on messages stays, and lets PUBLIC" in says
    assert "policy everyone on tenants stays, and lets PUBLIC" in says
    assert "everybody may read etl_control" in says


def test_a_policy_of_our_name_with_another_meaning_is_refused(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    target.execute("CREATE POLICY tenant_rows ON messages USING (true)", what="owner")
    with pytest.raises(Refused, match="messages has another policy named tenant_rows"):
        target.apply()


def test_an_applier_whom_nothing_binds_is_refused(target: Target) -> None:
    before = len(catalogue(target)["relations"])
    for what, attributes in (("boss", "LOGIN SUPERUSER"), ("free", "LOGIN BYPASSRLS"), ("locked", "NOLOGIN")):
        target.make_role(what, attributes)
        with pytest.raises(Refused, match=f"{target.role(what)} .*CONSUMERS_TARGET_DSN"):
            target.apply(target_dsn=target.dsn(what))
    with pytest.raises(Refused, match=r"would own the tables.* CONSUMERS_SETUP_DSN"):
        target.apply(target_dsn=target.dsn("owner"), setup_dsn=None)
    assert len(catalogue(target)["relations"]) == before


def test_an_applier_who_owns_a_replicated_table_is_refused(target: Target) -> None:
    target.apply()
    target.execute(f"ALTER TABLE messages OWNER TO {target.role('applier')}")
    with pytest.raises(Refused, match="owns messages"):
        target.apply()


def test_a_second_applier_is_added_to_the_policies(target: Target) -> None:
    target.apply()
    target.apply(target_dsn=target.dsn("second"))
    roles = target.rows("SELECT DISTINCT roles::text[] FROM pg_policies WHERE policyname = 'applier_tenant_rows'")
    assert [set(found) for (found,) in roles] == [{target.role("applier"), target.role("second")}]
    assert target.plan().steps == ()
    assert target.plan(target_dsn=target.dsn("second")).steps == ()


def test_what_was_taken_away_is_put_back(target: Target) -> None:
    target.apply()
    target.execute(
        "DROP INDEX messages_stubs; DROP VIEW replication_freshness; ALTER TABLE messages DROP COLUMN sentiment"
    )
    target.execute(f"REVOKE UPDATE (backfill_id) ON inbox_tenant_mapping FROM {target.role('applier')}")
    assert set(target.apply()) == {
        "adopt table messages: add column sentiment",
        "create index messages_stubs on messages",
        "create view replication_freshness",
        f"grant select on replication_freshness to {target.role('applier')}, replication_readers",
        f"grant select, update on inbox_tenant_mapping to {target.role('applier')}",
    }
    assert target.plan().steps == ()


def test_setups_at_the_same_time_do_not_disturb_each_other(target: Target) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = [future.result(60) for future in [pool.submit(target.apply) for _ in range(4)]]
    steps = [does for each in done for does in each]
    assert len(steps) == len(set(steps))
    assert target.plan().steps == ()


def test_setups_of_two_databases_may_make_the_same_role(target: Target, servers: Servers) -> None:
    name = f"beside_{target.mark}"
    beside = replace(target, superuser_dsn=servers.target.create_database(name))
    try:
        beside.execute(f"ALTER DATABASE {name} OWNER TO {target.role('owner')}")
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(each.apply) for each in (target, beside)]:
                future.result(60)
        for each in (target, beside):
            assert each.plan().steps == ()
            assert each.rows("SELECT count(*) FROM messages", what="applier") == [(0,)]
    finally:
        servers.target.drop_database(name)


def test_a_target_of_a_newer_version_is_refused(target: Target) -> None:
    target.apply()
    target.execute("INSERT INTO replication_migrations (version, name, checksum) VALUES (999, 'later', 'x')")
    with pytest.raises(Refused, match="newer version"):
        target.apply()


def test_a_lock_that_is_held_does_not_make_setup_wait_for_long(target: Target) -> None:
    target.execute(ADOPTED, what="owner")
    with target.connected() as connection, connection.transaction():
        connection.execute("LOCK TABLE messages IN SHARE MODE")
        with pytest.raises(TargetRefused, match="55P03"):
            target.apply(lock_timeout_s=0.3)
    target.apply()


def test_a_target_that_is_away_is_one_sentence(target: Target) -> None:
    with pytest.raises(TargetUnavailable) as raised:
        target.plan(setup_dsn=f"postgresql://owner:{PASSWORD.replace(' ', '%20')}@127.0.0.1:1/x")
    assert PASSWORD not in str(raised.value)


def test_the_command_shows_then_applies_and_answers_machines(target: Target) -> None:
    shown = consumers(target, "setup")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "create table messages" in shown.stdout
    assert "--apply" in shown.stdout
    assert target.rows("SELECT to_regclass('messages')") == [(None,)]

    planned = json.loads(consumers(target, "setup", "--json").stdout)
    assert planned["applied"] is False
    done = consumers(target, "setup", "--apply", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == planned["steps"]
    again = consumers(target, "setup", "--apply")
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)

    target.execute("GRANT SELECT ON unmapped_inboxes TO PUBLIC")
    assert consumers(target, "setup").returncode == 1
    refused = consumers(target, "setup", "--apply", CONSUMERS_TARGET_DSN=target.superuser_dsn)
    assert refused.returncode == 1
    assert "superuser" in refused.stdout
    for output in (shown, done, refused):
        assert PASSWORD not in output.stdout + output.stderr


class TestMapping:
    """The inbox → tenant mapping and its triggers."""

    @pytest.fixture(autouse=True)
    def _is_set_up(self, target: Target) -> None:
        target.apply()

    def add(self, target: Target, **wish: object) -> list[str]:
        changes = mapping_admin.add(target.settings(), Wish(**wish), apply=True)  # type: ignore[arg-type]
        return [change.does for change in changes]

    def test_adding_makes_the_tenant_and_asks_for_a_backfill(self, target: Target) -> None:
        target.execute("INSERT INTO unmapped_inboxes (inbox_id, events) VALUES (61, 3), (62, 4)")
        wish = Wish(inbox=61, tenant=1, tenant_name="Escola Um")
        assert len(mapping_admin.add(target.settings(), wish, apply=False)) == 3
        assert mapping_admin.listing(target.settings()).mapped == ()
        assert len(self.add(target, inbox=61, tenant=1, tenant_name="Escola Um")) == 3
        found = mapping_admin.listing(target.settings())
        (mapped,) = found.mapped
        assert (mapped.inbox_id, mapped.tenant_id, mapped.tenant_name, mapped.is_active) == (61, 1, "Escola Um", True)
        assert mapped.backfilled_at is None
        assert [(unmapped.inbox_id, unmapped.events) for unmapped in found.unmapped] == [(62, 4)]
        assert self.add(target, inbox=61, tenant=1) == []

    def test_an_inbox_is_not_taken_from_its_tenant(self, target: Target) -> None:
        self.add(target, inbox=61, tenant=1, tenant_name="One")
        with pytest.raises(Refused, match=r"belongs to tenant 1.*map move"):
            self.add(target, inbox=61, tenant=2, tenant_name="Two")
        assert target.rows("SELECT id FROM tenants") == [(1,)]

    def test_a_tenant_is_not_guessed(self, target: Target) -> None:
        with pytest.raises(Refused, match="--tenant-name"):
            self.add(target, inbox=61, tenant=9)

    def test_a_slug_that_is_taken_is_one_sentence(self, target: Target) -> None:
        self.add(target, inbox=61, tenant=1, tenant_name="One")
        with pytest.raises(TargetRefused, match="make tenant 2"):
            self.add(target, inbox=62, tenant=2, tenant_name="one")

    def test_a_backfill_that_ended_stays_ended_until_the_inbox_begins_anew(self, target: Target) -> None:
        self.add(target, inbox=61, tenant=1, tenant_name="One")
        target.execute("INSERT INTO tenants (id, name, slug) VALUES (2, 'Two', 'two')")
        ended = "UPDATE inbox_tenant_mapping SET backfill_id = 'b', backfilled_at = now()"
        state = "SELECT backfill_id, backfilled_at IS NOT NULL FROM inbox_tenant_mapping"
        for change, resets in (
            ("SET inbox_name = 'renamed'", False),
            ("SET is_active = false", False),
            ("SET is_active = true", True),
            ("SET tenant_id = 2", True),
        ):
            target.execute(ended, what="applier")
            assert target.rows(state) == [("b", True)]
            target.execute(f"UPDATE inbox_tenant_mapping {change}")
            assert target.rows(state) == [(None, False) if resets else ("b", True)]

    def test_the_worker_does_not_touch_the_time_of_a_change(self, target: Target) -> None:
        self.add(target, inbox=61, tenant=1, tenant_name="One")
        when = "SELECT updated_at FROM inbox_tenant_mapping"
        before = target.rows(when)
        target.execute("UPDATE inbox_tenant_mapping SET backfill_id = 'b'", what="applier")
        assert target.rows(when) == before
        target.execute("UPDATE inbox_tenant_mapping SET inbox_name = 'x'")
        assert target.rows(when) > before

    def test_the_worker_may_change_nothing_else_of_the_mapping(self, target: Target) -> None:
        for statement in ("UPDATE inbox_tenant_mapping SET tenant_id = 1", "DELETE FROM inbox_tenant_mapping"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                target.execute(statement, what="applier")

    def test_every_change_is_told(self, target: Target) -> None:
        target.execute("INSERT INTO tenants (id, name, slug) VALUES (1, 'One', 'one')")
        with target.connected("applier") as listener:
            listener.execute("LISTEN inbox_tenant_mapping")
            target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (61, 1)")
            target.execute("UPDATE inbox_tenant_mapping SET is_active = false")
            target.execute("DELETE FROM inbox_tenant_mapping")
            assert [told.payload for told in listener.notifies(timeout=10, stop_after=3)] == ["61"] * 3

    def test_a_change_waits_for_the_transactions_of_both_tenants(self, target: Target) -> None:
        self.add(target, inbox=61, tenant=1, tenant_name="One")
        target.execute("INSERT INTO tenants (id, name, slug) VALUES (2, 'Two', 'two'), (3, 'Three', 'three')")
        move = b"SET lock_timeout = '200ms'; UPDATE inbox_tenant_mapping SET tenant_id = 2"
        for tenant, waits in ((1, True), (2, True), (3, False)):
            with target.connected("applier") as worker, worker.transaction(), target.connected() as person:
                worker.execute("SELECT pg_advisory_xact_lock(1229867864, %s)", [tenant])
                if waits:
                    with pytest.raises(psycopg.errors.LockNotAvailable):
                        person.execute(move)
                else:
                    person.execute(move)

    def test_the_numbering_of_an_adopted_table_goes_on(self, target: Target) -> None:
        target.execute("CREATE SEQUENCE numbers OWNED BY tenants.id", what="owner")
        target.execute("ALTER TABLE tenants ALTER COLUMN id SET DEFAULT nextval('numbers')", what="owner")
        self.add(target, inbox=61, tenant=7, tenant_name="Seven")
        assert target.rows("INSERT INTO tenants (name, slug) VALUES ('Next', 'next') RETURNING id") == [(8,)]

    def test_the_commands_speak_to_people_and_machines(self, target: Target) -> None:
        arguments = ("map", "add", "--inbox", "61", "--tenant", "1", "--tenant-name", "One")
        assert "--apply" in consumers(target, *arguments).stdout
        assert consumers(target, *arguments, "--apply").returncode == 0
        listed = json.loads(consumers(target, "map", "list", "--json").stdout)
        assert [(row["inbox_id"], row["tenant_id"]) for row in listed["mapped"]] == [(61, 1)]
        assert "asked for" in consumers(target, "map", "list").stdout
        refused = consumers(target, "map", "add", "--inbox", "61", "--tenant", "2", "--apply")
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
        assert consumers(target, "map", "add", "--inbox", "x", "--tenant", "2").returncode == 2
