"""A worker's transaction writes its own tenant's rows, once, or nothing: the database refuses the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import psycopg
import pytest

from consumers.errors import Overtaken, TargetRefused
from consumers.layout import read_relations
from consumers.script import Script
from consumers.shadow import Shadow
from consumers.target import Session, Work
from consumers.target_session import refuse_shared, refuse_unbound
from demo.servers import wait_until
from tests.histories import Erase, Source, Write, schema_of
from tests.integration.applied import Applied

MINE, OTHERS = 1, 2
INBOX, OTHERS_INBOX = 11, 12
SECONDS = 15.0


@pytest.fixture(autouse=True)
def _tenants(applied: Applied) -> None:
    applied.add_tenant(MINE, [INBOX])
    applied.add_tenant(OTHERS, [OTHERS_INBOX])


@pytest.fixture
def source() -> Source:
    """One message of the inbox."""
    source = Source()
    source.carry_out(Write("messages", 1, INBOX, None, long=True))
    return source


@pytest.fixture
def second(applied: Applied) -> Iterator[Session]:
    """Another worker's session."""
    with closing(Session(applied.target.settings(), applied.relations)) as session:
        yield session


def held(applied: Applied, tenant: int) -> list[int]:
    """Ids of the tenant's messages."""
    return [row for (row,) in applied.rows(tenant, "SELECT id FROM messages ORDER BY id")]


def watermarks(applied: Applied) -> list[tuple[Any, ...]]:
    return applied.target.rows("SELECT tenant_id, partition, next_offset FROM replication_watermarks ORDER BY 1, 2")


# --- a wrong tenant setting


@pytest.fixture
def astray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: the session's transactions name another tenant."""
    say = Script.say

    def wrong(self: Script, statement: str) -> None:
        setting = "set_config('app.current_tenant_id', '{}', true)"
        say(self, statement.replace(setting.format(MINE), setting.format(OTHERS)))

    monkeypatch.setattr(Script, "say", wrong)


@pytest.mark.usefixtures("astray")
def test_the_watermark_refuses_a_transaction_that_names_another_tenant(applied: Applied, source: Source) -> None:
    with pytest.raises(Overtaken):
        applied.apply(MINE, source.published, [INBOX])
    assert (held(applied, MINE), held(applied, OTHERS), watermarks(applied)) == ([], [], [])


def test_the_watermark_that_is_there_refuses_it_too(
    applied: Applied, source: Source, request: pytest.FixtureRequest
) -> None:
    applied.apply(MINE, source.published, [INBOX])
    before = watermarks(applied)
    request.getfixturevalue("astray")
    source.carry_out(Write("messages", 2, INBOX, None, long=True))
    with pytest.raises(Overtaken):
        applied.apply(MINE, source.published[1:], [INBOX])
    assert (held(applied, MINE), watermarks(applied)) == ([1], before)


@pytest.mark.usefixtures("astray")
def test_row_level_security_refuses_it_where_no_watermark_would(
    applied: Applied, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.watermark.advance_mark", lambda *_: None)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        applied.apply(MINE, source.published, [INBOX])
    assert (held(applied, MINE), held(applied, OTHERS)) == ([], [])


def test_a_transaction_that_names_another_tenant_deletes_nothing(
    applied: Applied, source: Source, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for tenant in (MINE, OTHERS):
        applied.apply(tenant, source.published)
    monkeypatch.setattr("consumers.watermark.advance_mark", lambda *_: None)
    request.getfixturevalue("astray")
    source.carry_out(Erase("messages", 1, broadcast=True))
    assert applied.apply(MINE, source.published[1:]).deletes == 0
    assert (held(applied, MINE), held(applied, OTHERS)) == ([1], [1])


def test_a_tenant_writes_and_deletes_its_own_row_of_an_id_that_another_has_too(
    applied: Applied, source: Source
) -> None:
    for tenant in (MINE, OTHERS):
        applied.apply(tenant, source.published)
    source.carry_out(Erase("messages", 1, broadcast=True))
    assert applied.apply(MINE, source.published[1:]).deletes == 1
    assert (held(applied, MINE), held(applied, OTHERS)) == ([], [1])


def test_after_its_transaction_a_session_sees_nobodys_rows(applied: Applied, source: Source) -> None:
    applied.apply(MINE, source.published)
    assert applied.session.connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)


# --- the mapping


@pytest.mark.parametrize(
    "changed",
    [
        f"UPDATE inbox_tenant_mapping SET tenant_id = {OTHERS} WHERE inbox_id = {INBOX}",
        f"UPDATE inbox_tenant_mapping SET is_active = false WHERE inbox_id = {INBOX}",
        f"DELETE FROM inbox_tenant_mapping WHERE inbox_id = {INBOX}",
        f"UPDATE tenants SET deleted_at = now() WHERE id = {MINE}",
        f"DELETE FROM tenants WHERE id = {MINE}",
    ],
)
def test_a_mapping_that_changed_since_the_events_were_sorted_is_noticed(
    applied: Applied, source: Source, changed: str
) -> None:
    work = applied.work(MINE, source.published, [INBOX])
    applied.target.execute(changed)
    with pytest.raises(Overtaken):
        applied.session.apply(work, schema_of)
    assert (held(applied, MINE), watermarks(applied)) == ([], [])


@contextmanager
def while_applying(monkeypatch: pytest.MonkeyPatch, does: Callable[[], None]) -> Iterator[None]:
    """Inside the next transaction, after the second look at the mapping."""
    claim, done = Session._claim, False

    def then(self: Session, work: Work) -> None:
        nonlocal done
        claim(self, work)
        self._script.send()
        if not done:
            done = True
            does()

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_claim", then)
        yield
    assert done


def test_a_change_of_the_mapping_waits_for_the_transaction_of_its_tenant(
    applied: Applied, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = threading.Thread(
        target=applied.target.execute,
        args=("UPDATE inbox_tenant_mapping SET tenant_id = %s WHERE inbox_id = %s", OTHERS, INBOX),
    )

    def begin_to_move() -> None:
        moves.start()
        wait_until(lambda: waiting(applied) == 1, "the change of the mapping waits", SECONDS)

    with while_applying(monkeypatch, begin_to_move):
        applied.apply(MINE, source.published, [INBOX])
    moves.join(SECONDS)
    owner = f"SELECT tenant_id FROM inbox_tenant_mapping WHERE inbox_id = {INBOX}"
    assert applied.target.rows(owner) == [(OTHERS,)]
    assert (held(applied, MINE), held(applied, OTHERS)) == ([], [1]), "what was written last goes along"


def waiting(applied: Applied) -> int:
    """Sessions of this database that wait for an advisory lock."""
    ((count,),) = applied.target.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    )
    return int(count)


def test_a_change_of_another_tenants_mapping_does_not_wait(
    applied: Applied, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames = f"UPDATE inbox_tenant_mapping SET inbox_name = 'x' WHERE inbox_id = {OTHERS_INBOX}"
    with while_applying(monkeypatch, lambda: applied.target.execute(renames)):
        applied.apply(MINE, source.published, [INBOX])
    assert held(applied, MINE) == [1]


# --- two workers


def test_a_second_worker_of_the_same_tenant_waits_and_finds_itself_overtaken(
    applied: Applied, source: Source, second: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have sorted out the same first event of the tenant."""
    work = applied.work(MINE, source.published, [INBOX])
    outcomes: list[BaseException | None] = []

    def too_late() -> None:
        try:
            second.apply(work, schema_of)
        except Overtaken as error:
            outcomes.append(error)
        else:
            outcomes.append(None)

    late = threading.Thread(target=too_late)

    def begin_too_late() -> None:
        if not late.ident:
            late.start()
            wait_until(lambda: waiting(applied) == 1, "the second worker waits", SECONDS)

    with while_applying(monkeypatch, begin_too_late):
        applied.session.apply(work, schema_of)
    late.join(SECONDS)
    assert isinstance(outcomes[0], Overtaken)
    assert held(applied, MINE) == [1]


def test_a_worker_that_read_the_watermark_before_another_moved_it_writes_nothing(
    applied: Applied, source: Source, second: Session
) -> None:
    applied.apply(MINE, source.published, [INBOX])
    source.carry_out(Write("messages", 2, INBOX, None, long=True))
    stale = applied.work(MINE, source.published[1:], [INBOX])
    source.carry_out(Erase("messages", 2, broadcast=False))
    applied.apply(MINE, source.published[1:], [INBOX])
    after = watermarks(applied)
    with pytest.raises(Overtaken):
        second.apply(stale, schema_of)
    assert (held(applied, MINE), watermarks(applied)) == ([1], after)


def test_the_watermark_of_another_topic_is_begun_anew(applied: Applied, source: Source) -> None:
    applied.apply(MINE, source.published, [INBOX])
    applied.target.execute("UPDATE replication_watermarks SET topic_id = 'an older one', next_offset = 900")
    applied.marks.clear()
    applied.apply(MINE, source.published, [INBOX])
    assert watermarks(applied) == [(MINE, 1, 1)]


def test_what_somebody_before_has_staged_in_the_servers_session_is_not_the_next_tenants(
    applied: Applied, source: Source, second: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pooler may hand it on."""
    second.apply(applied.work(MINE, source.published, [INBOX]), schema_of)
    monkeypatch.setattr("consumers.target_session.psycopg.connect", lambda *_given, **_options: second.connection)
    others = Source()
    others.carry_out(Write("messages", 2, OTHERS_INBOX, None, long=True))
    session = Session(applied.target.settings(), applied.relations)
    session.apply(applied.work(OTHERS, others.published, [OTHERS_INBOX]), schema_of)
    assert (held(applied, MINE), held(applied, OTHERS)) == ([1], [2])


# --- who may be a worker


@pytest.mark.parametrize(
    ("pids", "is_shared"),
    [("ABBA", False), ("AAAA", True), ("ABAB", True), ("ABCA", True), ("ABBC", True), ("AABB", True)],
)
def test_a_pooler_that_changes_sessions_is_refused(
    applied: Applied, monkeypatch: pytest.MonkeyPatch, pids: str, is_shared: bool
) -> None:
    seen = iter(pids)

    class Pooled:
        def execute(self, _: str) -> Pooled:
            return self

        def fetchone(self) -> tuple[str]:
            return (next(seen),)

        def close(self) -> None:
            pass

    monkeypatch.setattr("consumers.target_session.open_session", lambda *_given, **_options: Pooled())
    connection: Any = Pooled()
    with pytest.raises(TargetRefused, match="pooler") if is_shared else nullcontext():
        refuse_shared(applied.target.settings(), connection)


def test_a_replays_tables_are_not_made_where_they_would_be_others_too(
    applied: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TargetRefused("a pooler")

    monkeypatch.setattr("consumers.target_session.refuse_shared", refuse)
    with pytest.raises(TargetRefused, match="a pooler"):
        Shadow(applied.target.settings(), MINE, [INBOX])


def test_the_server_itself_is_not_taken_for_a_pooler(applied: Applied) -> None:
    refuse_shared(applied.target.settings(), applied.session.connection)


def test_the_appliers_role_is_bound(applied: Applied) -> None:
    with applied.target.connected("applier") as connection:
        refuse_unbound(connection, read_relations(connection))


@pytest.mark.parametrize(
    ("attributes", "granted", "reason"),
    [
        ("LOGIN SUPERUSER", "", "superuser or has BYPASSRLS"),
        ("LOGIN BYPASSRLS", "", "superuser or has BYPASSRLS"),
        ("LOGIN", "owner", "owns"),
    ],
)
def test_a_role_that_row_level_security_does_not_bind_is_refused(
    applied: Applied, attributes: str, granted: str, reason: str
) -> None:
    applied.target.make_role("unbound", attributes)
    if granted:
        applied.target.execute(f"GRANT {applied.target.role(granted)} TO {applied.target.role('unbound')}")
    try:
        with applied.target.connected("unbound") as connection, pytest.raises(TargetRefused, match=reason):
            refuse_unbound(connection, applied.relations)
    finally:
        applied.target.execute(f"DROP ROLE {applied.target.role('unbound')}")


def test_the_owner_is_refused_although_security_is_forced_on_it(applied: Applied) -> None:
    with applied.target.connected("owner") as connection, pytest.raises(TargetRefused, match="owns"):
        refuse_unbound(connection, read_relations(connection))


@pytest.mark.parametrize("undone", ["NO FORCE", "DISABLE"])
def test_a_table_without_forced_security_is_refused(applied: Applied, undone: str) -> None:
    applied.target.execute(f"ALTER TABLE messages {undone} ROW LEVEL SECURITY")
    try:
        with (
            applied.target.connected("applier") as connection,
            pytest.raises(TargetRefused, match="not forced on messages"),
        ):
            refuse_unbound(connection, read_relations(connection))
    finally:
        applied.target.execute("ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")


@pytest.mark.parametrize("left", ["", "AS PERMISSIVE TO PUBLIC", "AS RESTRICTIVE FOR SELECT TO PUBLIC"])
def test_a_table_whose_policy_would_not_bind_the_applier_alone_is_refused(applied: Applied, left: str) -> None:
    """What others have set up beside it may be as permissive as they like."""
    own = "USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))"
    applied.target.execute("DROP POLICY applier_tenant_rows ON messages")
    if left:
        applied.target.execute(f"CREATE POLICY another ON messages {left} {own}")
    try:
        with (
            applied.target.connected("applier") as connection,
            pytest.raises(TargetRefused, match=r"no restrictive policy binds .* on messages"),
        ):
            refuse_unbound(connection, read_relations(connection))
    finally:
        applied.target.execute("DROP POLICY IF EXISTS another ON messages")
        applied.target.execute(
            f"CREATE POLICY applier_tenant_rows ON messages AS RESTRICTIVE TO {applied.target.role('applier')} {own}"
        )
