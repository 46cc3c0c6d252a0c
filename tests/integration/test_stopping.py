"""A worker that is asked to stop has ended within ten seconds, whatever its target does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager

from demo.servers import wait_until
from tests.integration.chatwoot import connect, fill
from tests.integration.whole import Whole

TENANT = 7


def loaded(path: Whole) -> None:
    with closing(connect(path.source_dsn)) as source:
        fill(source, conversations=6, messages=1)
    path.map({TENANT: range(1, 7)})
    path.replicator()


@contextmanager
def frozen(path: Whole) -> Iterator[None]:
    """The worker's sessions neither answer nor end."""
    applier = path.target.role("applier")
    pids = [pid for (pid,) in path.target.rows("SELECT pid FROM pg_stat_activity WHERE usename = %s", applier)]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_table_that_somebody_has_locked_does_not_hold_up_the_end(path: Whole) -> None:
    loaded(path)
    worker = path.worker(CONSUMERS_LOCK_TIMEOUT_S="60")
    path.wait_equal()
    with path.target.connected() as session, session.transaction():
        session.execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
        path.source("UPDATE conversations SET status = 1")
        waiting = "SELECT FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
        wait_until(lambda: path.target.rows(waiting, path.target.role("applier")), "the worker waits for it", 20)
        assert worker.stop() == 0
    assert worker.logged("stop.forced") == []


def test_a_target_that_does_not_answer_does_not_hold_up_the_end(path: Whole) -> None:
    loaded(path)
    worker = path.worker()
    path.wait_equal()
    with frozen(path):
        assert worker.stop() == 1
    assert len(worker.logged("stop.forced")) == 1
