"""A worker that stops in mid-air, is overtaken, and wakes up: nothing stale, nothing twice, and it goes on.

Frozen by SIGSTOP at a place that a lock in the target makes certain. A message is made before and deleted while the
worker sleeps: an insert that came late would stay for good.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from demo.servers import wait_until
from tests.integration.chatwoot import Source, add_message, connect, fill
from tests.integration.programs import Program
from tests.integration.replayed import Replayed
from tests.integration.whole import Whole
from tests.integration.written import Written

TENANT = 7
CONVERSATIONS = 12


@pytest.fixture
def source(path: Whole) -> Iterator[Source]:
    """A source with rows in every partition, all of one tenant, and a session on it."""
    with closing(connect(path.source_dsn)) as connection:
        fill(connection, conversations=CONVERSATIONS, messages=1)
        path.map({TENANT: range(1, 7)})
        yield connection


@contextmanager
def locked(path: Whole, statement: str) -> Iterator[None]:
    """A transaction of another session that holds a lock in the target."""
    with path.target.connected() as session, session.transaction():
        session.execute(statement.encode())
        yield


def sessions(path: Whole, condition: str) -> list[int]:
    """Process ids of the workers' sessions in the target of which this is true."""
    found = path.target.rows(
        f"SELECT pid FROM pg_stat_activity WHERE usename = %s AND {condition}", path.target.role("applier")
    )
    return [pid for (pid,) in found]


def wait_for_message(path: Whole, message: int, there: bool) -> None:
    def is_so() -> bool:
        return bool(path.target.rows("SELECT 1 FROM messages WHERE id = %s", message)) is there

    wait_until(is_so, f"message {message} is {'there' if there else 'gone'}", 40)


def wake(first: Program, second: Program, source: Source) -> None:
    """The sleeper comes back as a member: it is given partitions, and applies what comes in them."""
    first.send(signal.SIGCONT)

    def shared() -> bool:
        parts = [set(program.status().get("partitions", ())) for program in (first, second)]
        return all(parts) and len(parts[0] | parts[1]) == len(parts[0]) + len(parts[1]) == 6

    wait_until(shared, "both workers have partitions", 40)
    before = first.status()["applied_rows"]
    for conversation in range(1, CONVERSATIONS + 1):
        add_message(source, conversation, "after")
    wait_until(lambda: first.status()["applied_rows"] > before, "the sleeper applies again", 20)


def test_frozen_between_reading_and_writing_it_writes_nothing_of_what_it_had_read(
    path: Whole, source: Source, kafka_bootstrap: str, topic_prefix: str
) -> None:
    path.replicator()
    first = path.worker(CONSUMERS_LOCK_TIMEOUT_S="0.5")
    path.wait_equal()
    written = Written(path.target)
    with locked(path, "LOCK TABLE inbox_tenant_mapping IN ACCESS EXCLUSIVE MODE"):
        path.target.execute("NOTIFY inbox_tenant_mapping")  # so that the worker reads it before anything else
        wait_until(lambda: first.logged("worker.waits"), "the worker waits for the mapping", 20)
        message = add_message(source, 1, "before")
        with closing(Replayed(kafka_bootstrap, topic_prefix)) as log:
            log.wait_for("the message", lambda: log.events_of("messages", message, "c"))
        waits = len(first.logged("worker.waits"))
        wait_until(lambda: len(first.logged("worker.waits")) > waits + 1, "it has read on while it waited", 20)
        first.send(signal.SIGSTOP)
    assert written.ops(message) == ""
    assert sessions(path, "state LIKE 'idle in transaction%%'") == []
    second = path.worker()
    wait_for_message(path, message, there=True)
    source.execute("DELETE FROM messages WHERE id = %s", (message,))
    wait_for_message(path, message, there=False)
    wake(first, second, source)
    path.wait_equal()
    assert written.ops(message) == "id"
    assert first.stop() == 0
    assert second.stop() == 0


def test_frozen_inside_its_transaction_it_holds_up_nobody_and_writes_nothing(path: Whole, source: Source) -> None:
    path.replicator()
    first = path.worker(CONSUMERS_LOCK_TIMEOUT_S="60")
    path.wait_equal()
    written = Written(path.target)
    with locked(path, "SELECT FROM messages WHERE id = 1 FOR UPDATE"):
        with source.transaction():
            # First what is waited for: should each come in a batch of its own, the other is not written before.
            source.execute("UPDATE messages SET status = 1 WHERE id = 1")
            message = add_message(source, 1, "before")
        (inside,) = wait_until(
            lambda: sessions(path, "wait_event_type = 'Lock' AND xact_start IS NOT NULL"), "it waits inside", 20
        )
        first.send(signal.SIGSTOP)
    wait_until(lambda: sessions(path, "state = 'idle in transaction'") == [inside], "its transaction stays open", 20)
    second = path.worker(CONSUMERS_LOCK_TIMEOUT_S="1")
    wait_for_message(path, message, there=True)
    ended = [line["pids"] for line in second.logged("target.frozen_session_ended")]
    assert ended == [[inside]], "its successor has ended the session"
    source.execute("DELETE FROM messages WHERE id = %s", (message,))
    wait_for_message(path, message, there=False)
    wake(first, second, source)
    path.wait_equal()
    assert written.ops(message) == "id"
    assert written.ops(1) == "u"
    assert inside not in {write.pid for write in written.of(message)}
    assert first.stop() == 0
    assert second.stop() == 0
