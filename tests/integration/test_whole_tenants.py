"""Tenants come, are missing and get stuck while everything runs, and nobody else notices; and stops under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.programs import Program
from tests.integration.whole import Whole

POISON = 42
"""The status of a message that the test's constraint does not allow."""


def status(path: Whole) -> dict[str, Any]:
    """What `consumers status --json` says."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "status", "--json"],
        env={**os.environ, **path.worker_environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_inbox_mapped_while_everything_runs_is_backfilled_and_until_then_it_is_counted(path: Whole) -> None:
    seeded = seed(path.source_dsn, tenants=2, conversations=100, messages_per_conversation=3)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    early, (late, *_) = seeded.inboxes.values()
    path.map({1: early})
    replicator, worker = path.replicator(), path.worker()
    with Traffic(path.source_dsn, inboxes=inboxes, rate=100) as traffic:
        path.wait_backfilled()

        def counted() -> dict[int, int]:
            return dict(path.target.rows("SELECT inbox_id, events FROM unmapped_inboxes"))

        wait_until(lambda: set(seeded.inboxes[2]) <= counted().keys(), "the others' events are counted", 30)
        assert {unmapped["inbox_id"] for unmapped in status(path)["unmapped"]} == set(seeded.inboxes[2])
        assert not path.target.rows("SELECT 1 FROM messages WHERE inbox_id = ANY (%s)", list(seeded.inboxes[2]))

        path.map({2: [late]})
        path.wait_backfilled()
        rows = traffic.counts.rows
        wait_until(lambda: traffic.counts.rows > rows + 100, "traffic goes on", 30)
    path.wait_equal()
    assert path.target.rows("SELECT 1 FROM messages WHERE tenant_id = 2 AND inbox_id = %s LIMIT 1", late)
    wait_until(lambda: sum(counted().values()) == worker.metric("inbox_consumers_unmapped_events"), "all counted", 10)
    assert [worker.stop(), replicator.stop()] == [0, 0]


def test_a_row_that_cannot_be_applied_is_a_dead_letter_and_its_tenant_goes_on(path: Whole, source: Source) -> None:
    fill(source, conversations=24, messages=1)
    inbox = 1
    in_inbox = dict(source.execute("SELECT inbox_id, min(id) FROM conversations GROUP BY inbox_id").fetchall())
    path.map({1: (1, 2), 2: (3,)})
    replicator, worker = path.replicator(), path.worker()
    path.wait_equal()
    path.target.execute(f"ALTER TABLE messages ADD CONSTRAINT no_poison CHECK (status <> {POISON})")

    def holds(message: int) -> bool:
        return bool(path.target.rows("SELECT 1 FROM messages WHERE id = %s", message))

    poisoned = add_message(source, in_inbox[inbox], "a private word")
    source.execute("UPDATE messages SET status = %s WHERE id = %s", (POISON, poisoned))
    after = add_message(source, in_inbox[inbox], "after")
    wait_until(lambda: holds(after), "the tenant goes on in the same partition", 30)
    assert [line["table"] for line in worker.logged("event.dead_letter")] == ["messages"]
    assert [(each["tenant_id"], each["dead_letters"], each["parked"]) for each in status(path)["tenants"]] == [
        (1, 1, []),
        (2, 0, []),
    ]
    assert path.target.rows("SELECT error_class, concerns FROM replication_dead_letters") == [("23514", "no_poison")]
    assert path.target.rows("SELECT status FROM messages WHERE id = %s", poisoned) == [(0,)], "as it was before"
    assert "a private word" not in worker.log.read_text()

    # What a worker does when it starts: the row may have been mended meanwhile. This one was not.
    assert worker.stop() == 0
    tries = "SELECT tries FROM replication_dead_letters"
    ((before,),) = path.target.rows(tries)
    worker = path.worker()
    wait_until(lambda: path.target.rows(tries) == [(before + 1,)], "it was tried again", 30)

    path.target.execute("ALTER TABLE messages DROP CONSTRAINT no_poison")
    wait_until(lambda: not path.target.rows(tries), "the constraint is gone, and it is healed", 30)
    path.wait_equal()
    assert [worker.stop(), replicator.stop()] == [0, 0]


def reads(worker: Program) -> bool:
    return bool(worker.status().get("partitions"))


def test_stopped_under_load_everything_ends_in_time_and_goes_on_where_it_was(path: Whole) -> None:
    seeded = seed(path.source_dsn, conversations=1500, messages_per_conversation=6)
    path.map(seeded.inboxes)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    with Traffic(path.source_dsn, inboxes=inboxes, rate=400, writers=2) as traffic:
        for turn in (1, 2):
            # Workers first: there may be no topic yet.
            programs = [path.worker(), path.worker(), path.replicator(REPLICATOR_BACKFILL_CHUNK_ROWS="500")]
            wait_until(lambda workers=programs[:2]: all(map(reads, workers)), "the workers have partitions", 60)
            wait_until(lambda turn=turn: traffic.counts.rows > 1000 * turn, "traffic", 60)
            assert [program.stop() for program in programs] == [0, 0, 0]
            assert not [line for program in programs for line in program.logged("stop.cut_short")]
    replicator, worker = path.replicator(), path.worker()
    path.wait_equal(90)
    assert [worker.stop(), replicator.stop()] == [0, 0]


def test_a_stop_does_not_wait_for_a_lock_in_the_target(path: Whole, source: Source) -> None:
    fill(source, conversations=6, messages=1)
    path.map({1: range(1, 7)})
    replicator, worker = path.replicator(), path.worker(CONSUMERS_LOCK_TIMEOUT_S="60")
    path.wait_equal()
    with path.target.connected() as session, session.transaction():
        session.execute("LOCK TABLE messages")
        add_message(source, 1, "waits")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
        wait_until(lambda: path.target.rows(waiting, path.target.role("applier")), "the worker waits for the lock", 20)
        assert worker.stop() == 0
        wait_until(lambda: not path.target.rows(waiting, path.target.role("applier")), "its session is gone", 10)
    worker = path.worker()
    path.wait_equal()
    assert [worker.stop(), replicator.stop()] == [0, 0]
