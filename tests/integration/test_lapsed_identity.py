"""A row that moved while the replica identity named no old inbox does not stay at the old one."""

from __future__ import annotations

import pytest

from demo.servers import wait_until
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.programs import Program, prepare_source
from tests.integration.whole import Whole

MINE, OTHERS = (1, 2, 3), (4, 5, 6)
TABLES = ("conversations", "messages")


@pytest.fixture
def path(path: Whole, source: Source) -> Whole:
    fill(source, conversations=12, messages=1)
    path.map({1: MINE, 2: OTHERS})
    return path


@pytest.fixture
def replicator(path: Whole) -> Program:
    """It, and a worker, that have done the initial load."""
    program = path.replicator()
    path.worker()
    path.wait_equal()
    return program


def lapse(source: Source) -> None:
    for table in TABLES:
        source.execute(f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT".encode())


def move(source: Source, conversation: int) -> None:
    """To an inbox of the other tenant, with its messages."""
    source.execute("UPDATE conversations SET inbox_id = 4 WHERE id = %s", (conversation,))
    source.execute("UPDATE messages SET inbox_id = 4 WHERE conversation_id = %s", (conversation,))


def mine(source: Source) -> list[int]:
    """Conversations of the first tenant."""
    found = source.execute("SELECT id FROM conversations WHERE inbox_id = ANY(%s) ORDER BY id", (list(MINE),))
    return [conversation for (conversation,) in found.fetchall()]


def test_while_it_runs(path: Whole, source: Source, replicator: Program) -> None:
    first, second, *_ = mine(source)
    lapse(source)
    move(source, first)
    wait_until(lambda: replicator.status()["lapsed_identities"] == list(TABLES), "it says so", 20)
    path.wait_equal()
    assert not replicator.status()["healthy"]
    move(source, second)
    arrived = "SELECT 1 FROM messages WHERE tenant_id = 2 AND conversation_id = %s AND synced_at IS NOT NULL"
    wait_until(lambda: bool(path.target.rows(arrived, second)), "it has come where it went", 20)
    prepare_source(path.replicator_environment)
    path.wait_equal()
    replicator.wait_healthy()
    assert len(replicator.logged("identity.lapsed")) == len(TABLES)
    assert not replicator.logged("epoch.begins")[1:]


def test_while_the_replicator_was_away(path: Whole, source: Source, replicator: Program) -> None:
    """What the stream says of that time comes to a source that is well again."""
    assert replicator.stop() == 0
    lapse(source)
    move(source, mine(source)[0])
    prepare_source(path.replicator_environment)
    again = path.replicator()
    path.wait_equal()
    again.wait_healthy()
    add_message(source, mine(source)[1], "after")
    path.wait_equal()
    assert len(again.logged("identity.lapsed")) == len(TABLES)
    assert not again.logged("epoch.begins")
