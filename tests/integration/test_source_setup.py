"""`replicator setup` on a real source: plans, applies, is safe to repeat, gives way to others."""

import threading
import uuid

import psycopg
import pytest
from rich.console import Console

from replicator import check, setup
from replicator.config import Settings, load
from replicator.errors import SourceBusy, SourceRefused
from replicator.remedies import Step

TABLES = {
    "inboxes": "d",
    "conversations": "i",
    "contact_inboxes": "f",
    "messages": "i",
    "contacts": "d",
    "csat_survey_responses": "i",
    "users": "d",
    "teams": "d",
    "accounts": "d",
}


@pytest.fixture
def settings(source_dsn: str) -> Settings:
    return _settings(source_dsn)


def _settings(dsn: str, **more: object) -> Settings:
    return load(source_dsn=dsn, kafka_bootstrap_servers="127.0.0.1:1", _env_file=None, **more)


def _connect(settings: Settings) -> psycopg.Connection:
    return psycopg.connect(settings.source_dsn.get_secret_value(), autocommit=True)


def _applied(settings: Settings) -> list[Step]:
    done: list[Step] = []
    setup.apply(settings, setup.plan(settings), done.append)
    return done


def test_a_source_that_is_always_polled_needs_the_view_alone(source_dsn: str) -> None:
    settings = _settings(source_dsn, mode="poll")
    (made,) = _applied(settings)
    assert "vw_conversations_analytics_final" in made.sql
    assert setup.plan(settings) == []


def test_a_plan_changes_nothing(settings: Settings) -> None:
    steps = setup.plan(settings)
    assert [step.sql.split()[0:2] for step in steps] == [
        ["CREATE", "UNIQUE"],
        ["ALTER", "TABLE"],
        ["ALTER", "TABLE"],
        ["CREATE", "UNIQUE"],
        ["ALTER", "TABLE"],
        ["CREATE", "UNIQUE"],
        ["ALTER", "TABLE"],
        ["CREATE", "PUBLICATION"],
        *[["ALTER", "PUBLICATION"]] * 3,  # what the view is made of, one by one
        ["BEGIN;", "SET"],  # the analytics view
    ]
    assert setup.plan(settings) == steps
    assert setup.to_json(steps)[0]["sql"] == steps[0].sql


def test_applied_once_nothing_is_missing(settings: Settings) -> None:
    done = _applied(settings)
    assert len(done) == 12
    assert setup.plan(settings) == []
    check.refuse(settings)
    with _connect(settings) as connection:
        found = connection.execute(
            "SELECT relname, relreplident::text FROM pg_class WHERE relname = ANY(%s)", [list(TABLES)]
        ).fetchall()
        published = connection.execute("SELECT tablename FROM pg_publication_tables").fetchall()
    assert dict(found) == TABLES
    assert {name for (name,) in published} == set(TABLES)


def test_the_plan_can_be_read_and_copied(settings: Settings) -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(setup.render(setup.plan(settings)))
    assert "CONCURRENTLY conversations_replica_identity" in console.export_text()


def test_a_publication_that_lacks_tables_gets_them_and_keeps_the_others(settings: Settings) -> None:
    with _connect(settings) as connection:
        connection.execute("CREATE TABLE labels (id int PRIMARY KEY)")
        connection.execute("CREATE PUBLICATION inbox_replicator FOR TABLE inboxes, labels WITH (publish = 'insert')")
    _applied(settings)
    with _connect(settings) as connection:
        published = connection.execute("SELECT tablename FROM pg_publication_tables").fetchall()
        (deletes,) = connection.execute("SELECT pubdelete FROM pg_publication").fetchall()
    assert {name for (name,) in published} == {*TABLES, "labels"}
    assert deletes == (True,)


def test_an_index_that_exists_is_used(settings: Settings) -> None:
    with _connect(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX theirs ON conversations (id, inbox_id)")
    steps = setup.plan(settings)
    assert "USING INDEX theirs" in steps[0].sql
    _applied(settings)
    assert setup.plan(settings) == []


def test_an_index_that_a_failed_build_left_is_built_again(settings: Settings) -> None:
    name = "conversations_replica_identity"
    with _connect(settings) as connection:
        connection.execute(f"CREATE UNIQUE INDEX {name} ON conversations (inbox_id, id)")
        connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [name])
    assert setup.plan(settings)[0].sql == f"DROP INDEX CONCURRENTLY public.{name}"
    _applied(settings)
    assert setup.plan(settings) == []


def test_another_index_of_our_name_is_left_alone(settings: Settings) -> None:
    with _connect(settings) as connection:
        connection.execute("CREATE INDEX conversations_replica_identity ON conversations (status)")
    assert "conversations_replica_identity_2" in setup.plan(settings)[0].sql
    _applied(settings)
    with _connect(settings) as connection:
        assert connection.execute("SELECT 'conversations_replica_identity'::regclass").fetchone()


def test_accepted_default_identities_are_left_alone(source_dsn: str) -> None:
    settings = _settings(source_dsn, accept_default_identity=True, view="")
    assert [step.sql.split()[:2] for step in setup.plan(settings)] == [["CREATE", "PUBLICATION"]]
    _applied(settings)
    check.refuse(settings)


def test_a_locked_table_is_tried_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "QUEUED_SECONDS", 0.2)
    with _connect(settings) as connection:
        connection.execute("ALTER TABLE conversations REPLICA IDENTITY FULL")
        connection.execute("ALTER TABLE messages REPLICA IDENTITY FULL")
    busy = _connect(settings)
    busy.execute("BEGIN")
    busy.execute("SELECT count(*) FROM contact_inboxes")
    release = threading.Timer(1.5, busy.close)
    release.start()
    try:
        _applied(settings)
    finally:
        release.join()
    assert setup.plan(settings) == []


def test_a_table_that_stays_locked_is_given_up_and_what_was_done_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "QUEUED_SECONDS", 0.1)
    monkeypatch.setattr(setup, "TRIES", 2)
    with _connect(settings) as connection:
        connection.execute("ALTER TABLE inboxes REPLICA IDENTITY NOTHING")
        connection.execute("ALTER TABLE messages REPLICA IDENTITY FULL")
        connection.execute("ALTER TABLE conversations REPLICA IDENTITY FULL")
    steps, done = setup.plan(settings), list[Step]()
    with _connect(settings) as busy:
        busy.execute("BEGIN")
        busy.execute("SELECT count(*) FROM contact_inboxes")
        with pytest.raises(SourceBusy, match="contact_inboxes stays locked"):
            setup.apply(settings, steps, done.append)
        busy.execute("ROLLBACK")
    assert len(done) == 1
    assert setup.plan(settings) == steps[1:]


def test_a_plan_that_is_out_of_date_is_not_applied(settings: Settings) -> None:
    steps = setup.plan(settings)
    with _connect(settings) as connection:
        connection.execute("ALTER TABLE messages REPLICA IDENTITY FULL")
    with pytest.raises(SourceBusy, match="changed since"):
        setup.apply(settings, steps, lambda step: None)


def test_two_setups_exclude_each_other(settings: Settings) -> None:
    steps = setup.plan(settings)
    with _connect(settings) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('inbox_replicator setup', 0))")
        with pytest.raises(SourceBusy, match="under way"):
            setup.apply(settings, steps, lambda step: None)


def test_who_does_not_own_the_tables_is_refused(settings: Settings, source_dsn: str) -> None:
    role = f"setup_{uuid.uuid4().hex[:8]}"
    with _connect(settings) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        try:
            theirs = _settings(psycopg.conninfo.make_conninfo(source_dsn, user=role, password="x"))
            steps = setup.plan(theirs)
            with pytest.raises(SourceRefused, match="owner"):
                setup.apply(theirs, steps, lambda step: None)
        finally:
            connection.execute(f"DROP ROLE {role}")


def test_a_table_that_is_not_there_is_refused(settings: Settings) -> None:
    with _connect(settings) as connection:
        connection.execute("DROP TABLE messages")
    with pytest.raises(SourceRefused, match=r"public\.messages does not exist"):
        setup.plan(settings)
