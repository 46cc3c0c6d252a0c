"""Updates that come without their large text: the log, folded, still says what the source holds.

The stream leaves out a value that is stored out of line and did not change. Whoever has not got it already, because
the row has just come to its inbox, must get it by another reading. (While a chunk reads the row: `test_settled`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from demo.servers import wait_until
from tests.integration.chatwoot import Source, confirmed, connect, fill, make_large, wait_until_alike
from tests.integration.programs import RUN, started
from tests.integration.replayed import Replayed

A_MOVE = b"UPDATE messages SET inbox_id = 5 WHERE id = 1"


@pytest.fixture
def source(source: Source) -> Source:
    fill(source, conversations=12, messages=1)
    make_large(source, 1)
    return source


def wait_until_locked_out(source: Source, application: str) -> None:
    """Until a session of that name waits for a lock."""
    wait_until(
        lambda: source.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'", (application,)
        ).fetchone(),
        f"{application} waits for a lock",
        30,
    )


@contextmanager
def locked(dsn: str) -> Iterator[None]:
    """Nobody reads messages meanwhile."""
    with closing(connect(dsn)) as session, session.transaction():
        session.execute("SET application_name = 'keeper'")
        session.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        yield


def test_a_move_without_its_text_brings_the_whole_row(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    with started(RUN, environment, tmp_path / "log"):
        replayed.wait_for_end()
        source.execute(A_MOVE)
        wait_until_alike(replayed, source)
        (arriving,) = replayed.events_of("messages", 1, "u")
        assert (arriving.inbox, arriving.head.absent) == (5, b'["content"]')


def test_a_row_that_is_still_owed_at_a_crash_is_read_after_it(
    environment: dict[str, str], source_dsn: str, source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """The slot does not wait for it: the state topic remembers it."""
    slot = environment["REPLICATOR_SLOT"]
    with closing(connect(source_dsn)) as mover, ThreadPoolExecutor(1) as pool:
        with started(RUN, environment, tmp_path / "first") as first:
            replayed.wait_for_end()
            with mover.transaction():
                mover.execute(A_MOVE)
                # Queued behind the move, so that the lock is there before anybody can read the row.
                lock = locked(source_dsn)
                taken = pool.submit(lock.__enter__)
                wait_until_locked_out(source, "keeper")
            taken.result(10)
            replayed.wait_for("the move", lambda: replayed.events_of("messages", 1, "u"))
            moved = replayed.events_of("messages", 1, "u")[0].head.position.point
            wait_until(lambda: confirmed(source, slot) > moved, "the slot goes on without the row", 20)
            first.kill()
        lock.__exit__(None, None, None)
    with started(RUN, environment, tmp_path / "second"):
        wait_until_alike(replayed, source)
