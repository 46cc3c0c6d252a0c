"""What a tenant has beside a conversation: kept through updates and returns, queued for analysers, by its own clock."""

from __future__ import annotations

from datetime import datetime

import psycopg
import pytest

from tests.integration.targets import Target

KEPT = "nivel_interesse, score_prioridade, dados_extraidos_ia"


@pytest.fixture
def target(ready_target: Target) -> Target:
    ready_target.execute("INSERT INTO tenants (id, slug) VALUES (1, 't1'), (2, 't2')")
    return ready_target


def _write(target: Target, statement: str, tenant: int = 1, what: str = "applier") -> None:
    with target.connected(what, tenant) as session:
        session.execute(statement.encode())


def _add(target: Target, conversation: int, tenant: int = 1, began: str = "2026-03-01 12:00") -> None:
    _write(
        target,
        "INSERT INTO conversations_analytics (tenant_id, conversation_id, inbox_id, message_compiled,"
        f" conversation_created_at, synced_at) VALUES ({tenant}, {conversation}, 1, '[]', '{began}', now())"
        " ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET message_compiled = EXCLUDED.message_compiled,"
        " synced_at = now()",
        tenant,
    )


def _analyse(target: Target, conversation: int, tenant: int = 1) -> None:
    _write(
        target,
        "UPDATE conversations_analytics SET nivel_interesse = 'alto', score_prioridade = 7,"
        f""" dados_extraidos_ia = '{{"a": null, "b": [1]}}' WHERE conversation_id = {conversation}""",
        tenant,
    )


def _kept(target: Target, conversation: int, tenant: int) -> list[tuple[object, ...]]:
    query = f"SELECT {KEPT} FROM conversations_analytics WHERE conversation_id = {conversation}"
    return target.rows(query, what="applier", tenant=tenant)


def test_what_a_tenant_wrote_returns_with_its_conversation_and_with_no_other(target: Target) -> None:
    _add(target, 5)
    _analyse(target, 5)
    _write(target, "DELETE FROM conversations_analytics WHERE conversation_id = 5")
    _add(target, 5, tenant=2)
    assert _kept(target, 5, tenant=2) == [(None, None, None)]
    _add(target, 5)
    assert _kept(target, 5, tenant=1) == [("alto", 7, {"a": None, "b": [1]})]
    assert target.rows("SELECT count(*) FROM replication_set_aside") == [(0,)]
    _add(target, 5)  # an update takes nothing back, and leaves what is there
    assert _kept(target, 5, tenant=1) == [("alto", 7, {"a": None, "b": [1]})]


def test_after_thirty_days_it_is_forgotten(target: Target) -> None:
    for conversation in (5, 6):
        _add(target, conversation)
        _analyse(target, conversation)
    _write(target, "DELETE FROM conversations_analytics WHERE conversation_id = 5")
    target.execute("UPDATE replication_set_aside SET set_aside_at = now() - interval '31 days'")
    _add(target, 5)
    assert _kept(target, 5, tenant=1) == [(None, None, None)]
    _write(target, "DELETE FROM conversations_analytics WHERE conversation_id = 6")
    target.execute("UPDATE replication_set_aside SET set_aside_at = now() - interval '31 days'")
    _add(target, 7)
    _analyse(target, 7)
    _write(target, "DELETE FROM conversations_analytics WHERE conversation_id = 7")
    assert target.rows("SELECT conversation_id FROM replication_set_aside") == [(7,)]


def test_a_tenants_end_and_other_roles_writes_pass(target: Target) -> None:
    _add(target, 5)
    _analyse(target, 5)
    target.make_role("etl")
    target.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON conversations_analytics TO {target.role('etl')}")
    with target.connected("etl", 1) as session:
        session.execute("INSERT INTO conversations_analytics (tenant_id, conversation_id) VALUES (1, 6)")
        session.execute("UPDATE conversations_analytics SET message_compiled = '[1]' WHERE conversation_id = 6")
        session.execute("DELETE FROM conversations_analytics WHERE conversation_id = 6")
    target.execute("DELETE FROM tenants WHERE id = 1")
    assert target.rows("SELECT count(*) FROM conversations_analytics") == [(0,)]


def test_a_conversation_is_queued_when_its_messages_change_and_never_waits_for_an_analyser(target: Target) -> None:
    target.make_role("analyser")
    target.execute(f"GRANT replication_analysers TO {target.role('analyser')}")
    take = "SELECT id, conversation_id FROM analysis_queue ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED"
    changed = "UPDATE conversations_analytics SET message_compiled = '[%d]' WHERE conversation_id = 5"
    with target.connected("analyser", 1) as analyser, target.connected("analyser", 1) as another:
        analyser.execute("LISTEN analysis_queue_1")
        _add(target, 5)
        assert [each.channel for each in analyser.notifies(timeout=10, stop_after=1)] == ["analysis_queue_1"]
        with analyser.transaction():
            ((taken, conversation),) = analyser.execute(take.encode()).fetchall()
            assert conversation == 5
            with target.connected("applier", 1) as applier:
                applier.execute("SET lock_timeout = '2s'")
                for number in range(3):
                    applier.execute((changed % number).encode())
            ((newer, _),) = another.execute(take.encode()).fetchall()
            assert newer > taken
            analyser.execute("UPDATE conversations_analytics SET analise_ia = 'x' WHERE conversation_id = 5")
            analyser.execute("DELETE FROM analysis_queue WHERE conversation_id = 5 AND id <= %s", [taken])
        assert another.execute("SELECT id FROM analysis_queue").fetchall() == [(newer,)]
    assert target.rows("SELECT id FROM analysis_queue", what="analyser", tenant=2) == []
    with target.connected("analyser", 1) as analyser, pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyser.execute("UPDATE conversations_analytics SET status = 1")


@pytest.mark.parametrize(
    ("zone", "began", "local"),
    [
        ("America/New_York", "2026-03-08 06:59", "2026-03-08 01:59"),
        ("America/New_York", "2026-03-08 07:00", "2026-03-08 03:00"),
        ("America/Sao_Paulo", "2018-12-31 01:30", "2018-12-30 23:30"),
        ("America/Sao_Paulo", "2019-12-31 01:30", "2019-12-30 22:30"),
        (None, "2026-01-01 02:59", "2025-12-31 23:59"),
    ],
)
def test_local_times_are_those_of_the_tenants_place(target: Target, zone: str | None, began: str, local: str) -> None:
    if zone is not None:
        target.execute("INSERT INTO tenant_settings (tenant_id, time_zone) VALUES (1, %s)", zone)
    _add(target, 5, began=began)
    target.make_reader()
    at = datetime.fromisoformat(local)
    query = "SELECT local_created_at, local_date, local_hour, local_is_weekend FROM conversations_analytics_live"
    assert target.rows(query, what="reader", tenant=1) == [(at, at.date(), at.hour, at.isoweekday() > 5)]
    assert target.rows(query, what="reader", tenant=2) == []


@pytest.mark.parametrize("zone", ["-03", "EST5EDT4", "Brazil", "America/Nowhere", "UTC+3"])
def test_an_offset_is_no_place(target: Target, zone: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no time zone of a place"):
        target.execute("INSERT INTO tenant_settings (tenant_id, time_zone) VALUES (1, %s)", zone)
