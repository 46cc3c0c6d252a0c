"""The rows that a worker keeps of its run: for people, and never in the way of the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import Connection
from structlog.testing import capture_logs

from consumers.audit import Audit
from tests.integration.applied import Applied

REFUSED, TENANT = 1, 2


@pytest.fixture
def session(applied: Applied) -> Iterator[Connection[Any]]:
    """Of the applier. The audit's rows are gone afterwards."""
    for tenant in (REFUSED, TENANT):
        applied.add_tenant(tenant)
    with applied.target.connected("applier") as session:
        session.execute("SET lock_timeout = '200ms'")
        yield session
    applied.target.execute("DELETE FROM etl_control")


def kept(applied: Applied) -> list[tuple[Any, ...]]:
    return applied.target.rows("SELECT tenant_id, status, records_extracted FROM etl_control ORDER BY tenant_id")


def counting() -> Audit:
    audit = Audit()
    audit.add(REFUSED, 3, 1)
    audit.add(TENANT, 2, 0)
    return audit


def test_rows_that_the_table_refuses_are_left_out_and_said_once(applied: Applied, session: Connection[Any]) -> None:
    applied.target.execute(f"ALTER TABLE etl_control ADD CONSTRAINT mine CHECK (tenant_id <> {REFUSED})")
    audit = counting()
    try:
        with capture_logs() as logs:
            audit.write(session)
            audit.add(TENANT, 5, 0)
            audit.write(session, finished=True)
    finally:
        applied.target.execute("ALTER TABLE etl_control DROP CONSTRAINT mine")
    assert kept(applied) == [(TENANT, "success", 7)]
    assert [entry["event"] for entry in logs] == ["audit.not_written"]


def test_a_tenant_that_is_gone_is_forgotten(applied: Applied, session: Connection[Any]) -> None:
    audit = counting()
    applied.target.execute("DELETE FROM tenants WHERE id = %s", REFUSED)
    with capture_logs() as logs:
        audit.write(session)
        audit.write(session, finished=True)
    assert kept(applied) == [(TENANT, "success", 2)]
    assert logs == []


def test_a_table_that_is_locked_is_waited_for_once(applied: Applied, session: Connection[Any]) -> None:
    audit = counting()
    with applied.target.connected() as person, person.transaction():
        person.execute("LOCK TABLE etl_control")
        audit.write(session)
    audit.write(session)
    assert kept(applied) == []


def test_a_lost_connection_is_the_loops_affair(applied: Applied, session: Connection[Any]) -> None:
    applied.target.execute("SELECT pg_terminate_backend(%s)", session.info.backend_pid)
    with pytest.raises(Exception, match="terminat"):
        counting().write(session)


def test_many_tenants_are_written_in_as_few_statements_as_one(
    applied: Applied, session: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, statements = session.execute, list[object]()

    def counted(*given: Any, **options: Any) -> Any:
        statements.append(given[0])
        return execute(*given, **options)

    monkeypatch.setattr(session, "execute", counted)
    audit = counting()
    audit.write(session)
    assert (kept(applied), len(statements)) == ([(REFUSED, "running", 4), (TENANT, "running", 2)], 2)
    audit.add(TENANT, 5, 0)
    audit.write(session)
    audit.write(session, finished=True)
    assert (kept(applied), len(statements)) == ([(REFUSED, "success", 4), (TENANT, "success", 7)], 4)
