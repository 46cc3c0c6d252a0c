"""What goes wrong with one tenant is that tenant's alone: a dead letter, or it is parked, and the others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from psycopg import Connection

from consumers import config
from consumers.apply import Applier, Result
from consumers.blocking import end_frozen, is_table_locked
from consumers.errors import VersionUnknown
from consumers.layout import Layout
from consumers.ordering import Event
from consumers.parking import park
from consumers.reasons import Reason
from consumers.target import Session
from consumers.target_session import open_session
from consumers.tenants import CHANNEL, TENANT_LOCK
from demo.servers import wait_until
from replicator import TableSchema
from tests.histories import Erase, Source, Write, schema_of
from tests.integration.applied import TOPIC_ID, Applied

TENANT, OTHER = 1, 2
INBOX, OTHERS_INBOX = 12, 14
"""Both in partition 0."""
SECONDS = 15.0


@pytest.fixture(autouse=True)
def _tenants(applied: Applied) -> None:
    applied.add_tenant(TENANT, [INBOX])
    applied.add_tenant(OTHER, [OTHERS_INBOX])


@pytest.fixture
def applier(applied: Applied) -> Iterator[Applier]:
    """With short lock time-outs."""
    applier = Applier(applied.target.settings(lock_timeout_s=0.2), layout_of(applied), schema_of)
    with closing(applier):
        yield applier


def layout_of(applied: Applied) -> Layout:
    layout = Layout()
    layout.read(applied.session.connection)
    return layout


def messages(*ids: int, inbox: int = INBOX) -> list[Event]:
    source = Source()
    for row in ids:
        source.carry_out(Write("messages", row, inbox, None, long=True))
    return source.published


def run(applier: Applier, events: Sequence[Event]) -> Result:
    return applier.run(TENANT, TOPIC_ID, events, {}, threading.Event())


def kind(result: Result) -> str:
    """Why the tenant is stuck."""
    assert result.reason is not None
    return result.reason.kind


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each transaction was tried with."""
    tried: list[int] = []
    apply = Session.apply

    def counted(self: Session, *given: Any) -> Any:
        tried.append(sum(len(found) for step in given[0].steps for found in step.upserts.values()))
        return apply(self, *given)

    monkeypatch.setattr(Session, "apply", counted)
    return tried


# --- whose session is in the way


def test_of_all_idle_sessions_only_that_which_holds_the_tenants_lock_is_ended(applied: Applied) -> None:
    with ExitStack() as stack:

        def begun(session: Connection[Any], statement: str) -> int:
            session.execute("BEGIN")
            session.execute(statement.encode())
            return stack.enter_context(closing(session)).info.backend_pid

        def lock(tenant: int) -> int:
            session = open_session(applied.target.settings(), "worker")
            return begun(session, f"SELECT pg_advisory_xact_lock({TENANT_LOCK}, {tenant})")

        holder, innocent = lock(TENANT), lock(OTHER)
        person = begun(stack.enter_context(applied.target.connected()), "SELECT 1")

        def states() -> list[tuple[int, bool]]:
            return applied.target.rows(
                "SELECT pid, state_change < now() - interval '1 second' FROM pg_stat_activity WHERE pid = ANY (%s)",
                [holder, innocent, person],
            )

        wait_until(lambda: all(idle for _, idle in states()), "all have been idle for a while", SECONDS)
        assert end_frozen(applied.session.connection, TENANT) == [holder]
        wait_until(lambda: {pid for pid, _ in states()} == {innocent, person}, "it is gone", SECONDS)


# --- what concerns a tenant, and no row of it


def test_a_tenant_whose_lock_a_person_holds_is_parked_as_it_stands(
    applied: Applied, applier: Applier, tries: list[int]
) -> None:
    with applied.target.connected("owner") as person, person.transaction():
        person.execute("UPDATE inbox_tenant_mapping SET inbox_name = 'x' WHERE inbox_id = %s", [INBOX])
        stuck = run(applier, messages(1, 2, 3))
    assert (stuck.stuck, kind(stuck)) == ({0: 0}, "55P03")
    assert tries == [3], "at once, not by halves"
    assert run(applier, messages(1, 2, 3)).stuck == {}


def test_a_table_that_is_locked_is_waited_for_and_parks_nobody(
    applied: Applied, applier: Applier, tries: list[int]
) -> None:
    with ThreadPoolExecutor(1) as thread, applied.target.connected() as person, person.transaction():
        person.execute("LOCK TABLE messages IN SHARE MODE")
        running = thread.submit(run, applier, messages(1, 2))
        wait_until(lambda: len(tries) > 2, "it is tried again and again", SECONDS)
        assert applier.waits_for
        assert not running.done()
        person.execute("ROLLBACK")
        assert running.result(SECONDS).stuck == {}
    assert applier.waits_for == ""


def test_a_slow_statement_is_left_to_the_tenants_own_reading(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_BRIEF_STATEMENT_S", 0.3)
    applied.target.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END $$;"
        " CREATE TRIGGER slow BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    try:
        of_a_batch, own, without_more_time = (
            Applier(applied.target.settings(statement_timeout_s=limit), layout_of(applied), schema_of, is_beside=beside)
            for limit, beside in ((30, False), (30, True), (0.3, False))
        )
        with closing(of_a_batch), closing(own), closing(without_more_time):
            stuck = run(of_a_batch, messages(1, 2))
            assert (stuck.stuck, kind(stuck)) == ({0: 0}, "57014")
            assert applied.rows(TENANT, "SELECT id FROM messages") == [], "it is not tried by halves"
            assert run(without_more_time, messages(1)).stuck == {0: 0}
            assert run(own, messages(1, 2)).stuck == {}
    finally:
        applied.target.execute("DROP FUNCTION slow CASCADE")


def test_a_lock_that_lets_others_write_is_not_in_everybodys_way(applied: Applied) -> None:
    worker = applied.session.connection
    with applied.target.connected() as person:
        for mode, is_in_the_way in (
            ("LOCK TABLE messages IN ROW EXCLUSIVE MODE", False),
            ("LOCK TABLE messages IN SHARE UPDATE EXCLUSIVE MODE", False),
            ("CREATE INDEX ON messages (status)", True),
            ("ALTER INDEX messages_pkey SET (fillfactor = 90)", False),
            ("CREATE TABLE others AS SELECT 1 AS one", False),
            ("LOCK TABLE inbox_tenant_mapping", True),
        ):
            person.execute("BEGIN")
            person.execute(mode.encode())
            assert is_table_locked(worker) is is_in_the_way, mode
            person.execute("ROLLBACK")


def test_a_tenant_whose_tables_version_does_not_come_is_parked(applied: Applied) -> None:
    def unknown(table: str, version: str) -> Any:
        raise VersionUnknown(f"the schemas topic lacks version {version} of {table}")

    with closing(Applier(applied.target.settings(lock_timeout_s=0.1), layout_of(applied), unknown)) as applier:
        stuck = run(applier, messages(1, 2))
    assert (stuck.stuck, kind(stuck)) == ({0: 0}, "VersionUnknown")


# --- what the target refuses, and no table of ours knows


@contextmanager
def refusing(applied: Applied, sqlstate: str) -> Iterator[None]:
    """A trigger of the target refuses message 5."""
    applied.target.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'not %', NEW.content USING ERRCODE = '{sqlstate}'; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.id = 5) EXECUTE FUNCTION refuse()"
    )
    try:
        yield
    finally:
        applied.target.execute("DROP FUNCTION refuse CASCADE")


def dead(applied: Applied, columns: str = "log_offset, error_class") -> list[tuple[Any, ...]]:
    return applied.target.rows(f"SELECT {columns} FROM replication_dead_letters ORDER BY id")


@pytest.mark.parametrize("sqlstate", ["P0001", "0A000", "44000", "42804", "QQ123", "42P01", "42883", "26000", "23514"])
def test_a_row_that_the_target_refuses_for_a_reason_of_its_own_is_a_dead_letter(
    applied: Applied, applier: Applier, sqlstate: str
) -> None:
    with refusing(applied, sqlstate):
        result = run(applier, messages(1, 2, 3, 4, 5, 6))
        assert (result.stuck, result.reason) == ({}, None)
        assert dead(applied) == [(4, sqlstate)]
        ((says,),) = dead(applied, "error")
        assert "not" not in says, "what a function says may be a value"
        assert applied.rows(TENANT, "SELECT id FROM messages ORDER BY id") == [(1,), (2,), (3,), (4,), (6,)]


def test_a_right_that_a_trigger_lacks_is_no_rows_fault(applied: Applied, applier: Applier) -> None:
    with refusing(applied, "42501"):
        stuck = run(applier, messages(1, 2, 3, 4, 5, 6))
        assert (stuck.stuck, kind(stuck)) == ({0: 4}, "42501")
        assert dead(applied) == []
        assert applied.rows(TENANT, "SELECT id FROM messages ORDER BY id") == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("absent", [b"{", b"5", b'"content"', b"[[]]", b"[1]", b"{}"])
def test_absent_columns_that_are_no_list_of_names_are_found(applied: Applied, applier: Applier, absent: bytes) -> None:
    before, wrong, after = messages(1, 2, 3)
    assert run(applier, [before, wrong._replace(absent=absent), after]).stuck == {}
    assert dead(applied) == [(1, "BadEvent")]
    assert applied.rows(TENANT, "SELECT id FROM messages ORDER BY id") == [(1,), (3,)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"after":{"content":"\xff"}}',
        b'{"after":',
        b'{"after":{"content":"\\u0000"}}',
        b'{"after":{"content":"\0"}}',
    ],
)
def test_a_body_that_no_database_can_read_is_found(applied: Applied, applier: Applier, body: bytes) -> None:
    events = messages(1, 2, 3)
    events[1] = events[1]._replace(body=body)
    assert run(applier, events).stuck == {}
    assert dead(applied, "log_offset, body") == [(1, body)], "as it came"
    assert applied.rows(TENANT, "SELECT id FROM messages ORDER BY id") == [(1,), (3,)]


def test_a_key_that_is_too_large_for_its_column_is_named(applied: Applied) -> None:
    def of_source(table: str, version: str) -> TableSchema:
        known = schema_of(table, version)
        return replace(known, columns=tuple((name, "bigint" if name == "id" else kind) for name, kind in known.columns))

    with closing(Applier(applied.target.settings(), layout_of(applied), of_source)) as applier:
        assert run(applier, messages(1, 3_000_000_000, 2)).stuck == {}
    ((offset, sqlstate, says, advice),) = dead(applied, "log_offset, error_class, error, advice")
    assert (offset, sqlstate) == (1, "22003")
    assert says.endswith("messages.id (integer here, bigint in the source)")
    assert 'ALTER TABLE "messages" ALTER COLUMN "id" TYPE bigint;' in advice


# --- a tenant that goes, or is set aside


@pytest.mark.parametrize("broadcast", [False, True])
def test_a_tenant_that_went_while_its_events_were_on_their_way_is_looked_for_again(
    applied: Applied, applier: Applier, broadcast: bool
) -> None:
    source = Source()
    source.carry_out(Write("messages", 1, INBOX, None, long=True))
    source.carry_out(Erase("messages", 1, broadcast=True))
    events = source.published[1:2] if broadcast else source.published[:1]
    applied.target.execute("DELETE FROM tenants WHERE id = %s", TENANT)
    gone = run(applier, events)
    assert (gone.overtaken, gone.stuck) == (True, {})


def test_a_tenant_that_is_gone_is_not_parked(applied: Applied) -> None:
    reason = Reason(kind="22003", says="it does not fit", advice="Widen it.")
    for tenant in (TENANT, 99):
        park(applied.session.connection, "default", TOPIC_ID, (tenant, 0), 5, reason)
    assert applied.target.rows("SELECT tenant_id FROM replication_parked") == [(TENANT,)]


def test_what_says_no_inbox_is_applied_to_a_tenant_that_is_set_aside(applied: Applied, applier: Applier) -> None:
    applied.target.execute("UPDATE tenants SET deleted_at = now() WHERE id = %s", TENANT)
    source = Source()
    source.carry_out(Write("messages", 1, INBOX, None, long=True))
    source.carry_out(Erase("messages", 1, broadcast=True))
    assert not run(applier, source.published[1:2]).overtaken


def test_a_tenant_that_is_taken_back_is_backfilled_and_the_workers_are_told(applied: Applied) -> None:
    incomplete = "SELECT inbox_id FROM inbox_tenant_mapping WHERE backfilled_at IS NULL"
    applied.target.execute("UPDATE inbox_tenant_mapping SET backfill_id = 'b', backfilled_at = now()")
    with applied.target.connected("applier") as worker:
        worker.execute(f"LISTEN {CHANNEL}".encode())
        for change, wanted in (
            ("SET status = 'active', deleted_at = NULL", []),
            ("SET deleted_at = now()", []),
            ("SET deleted_at = NULL", [(INBOX,)]),
        ):
            applied.target.execute(f"UPDATE tenants {change} WHERE id = %s", TENANT)
            assert applied.target.rows(incomplete) == wanted
        told = [notice.payload for notice in worker.notifies(timeout=SECONDS, stop_after=3)]
        assert told == ["", str(INBOX), ""], "of the tenant that went, and with its mapping when it came back"


def test_a_tenant_is_set_aside_between_its_transactions(applied: Applied, applier: Applier) -> None:
    with applied.target.connected("owner") as person, person.transaction():
        person.execute("UPDATE tenants SET deleted_at = now() WHERE id = %s", [TENANT])
        assert kind(run(applier, messages(1))) == "55P03"
