"""Two workers have a partition each of one tenant: who comes second waits a little, and no longer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from consumers.tenants import TENANT_LOCK
from demo.servers import Servers, wait_until
from tests.integration.sorted_out import Applied, applied
from tests.integration.targets import Target

TENANT, INBOX = 1, 1
PEERS_S, PAUSE_S = 1.2, 0.1
"""The first is longer than a pause and a time-out of a lock."""


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    with applied(servers, prepared, {TENANT: (INBOX,)}) as made:
        yield made


def test_what_both_waited_for_before_is_no_reason_to_stand_aside(log: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.apply._PEERS_S", PEERS_S)
    monkeypatch.setattr("consumers.apply._LOCK_PAUSE_S", PAUSE_S)
    failures: list[float] = []
    look = log.applier._is_peer_at_work

    def looked(tenant: int) -> bool:
        found = look(tenant)
        failures.append(time.monotonic())  # not before: the peer would let go unseen
        return found

    monkeypatch.setattr(log.applier, "_is_peer_at_work", looked)
    with log.target.connected() as owner, log.target.connected("applier") as peer, ThreadPoolExecutor(1) as threads:
        peer.execute("SET application_name = 'inbox-replicator worker'")
        with owner.transaction():
            owner.execute("LOCK TABLE conversations")
            change = log.streamed("c", "conversations", 1, INBOX, inbox_id=INBOX)
            batch = threads.submit(log.apply, change)
            wait_until(lambda: bool(failures) and failures[-1] > failures[0] + PEERS_S, "all wait for the table", 10)
            peer.execute("SELECT pg_advisory_lock(%s, %s)", [TENANT_LOCK, TENANT])
        met = len(failures)
        wait_until(lambda: len(failures) > met, "the peer is met", 10)
        peer.execute("SELECT pg_advisory_unlock_all()")
        batch.result(10)  # which asserts that the tenant is not stuck
    assert log.rows("conversations", "inbox_id") == [(TENANT, 1, INBOX)]
