"""What goes wrong with one tenant is that tenant's alone: it is parked or passed over, and the others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import pytest
from psycopg import Connection

from consumers.apply import Applier, Result
from consumers.layout import Layout
from consumers.ordering import Event
from consumers.target import end_frozen, open_session
from consumers.tenants import TENANT_LOCK
from demo.servers import wait_until
from tests.histories import Source, Write, schema_of
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


def run(applier: Applier, events: Sequence[Event], tenant: int = TENANT) -> Result:
    return applier.run(tenant, TOPIC_ID, events, {}, threading.Event())


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
