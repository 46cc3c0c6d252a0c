"""Commits that are streamed before anybody sees them: neither a read nor the slot may get ahead of them.

Synchronous replication makes that moment as long as we like: a commit is in the WAL, and streamed, while its session
still waits for a standby that is never there, and until then no snapshot sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from demo.servers import Servers, wait_until
from demo.source.installation import install
from replicator import BackfillRequest
from replicator.control import send
from replicator.event import Topics
from tests.integration.chatwoot import Source, add_message, confirmed, connect, fill, make_large, rows, wait_until_alike
from tests.integration.programs import RUN, Program, started
from tests.integration.replayed import Replayed

NOT_VISIBLE = "not yet visible on the source"


@pytest.fixture
def source_dsn(own_servers: Callable[..., Servers]) -> str:
    """A source whose commits wait for a standby that does not exist, unless a session asks for `local`."""
    settings = {"synchronous_standby_names": "nobody"}
    dsn: str = own_servers(kafka=False, postgres=("source",), settings=settings).source.dsn
    install(f"{dsn}?options=-csynchronous_commit%3Dlocal")
    return dsn


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    with closing(connect(source_dsn)) as connection:
        connection.execute("SET synchronous_commit = local")
        yield connection


@contextmanager
def hanging_commit(dsn: str, statement: bytes) -> Iterator[Callable[[], None]]:
    """Runs a statement whose commit hangs; what is yielded lets it become visible."""
    with closing(connect(dsn)) as session, closing(connect(dsn)) as other, ThreadPoolExecutor(1) as pool:
        done = pool.submit(session.execute, statement)
        pid = session.info.backend_pid

        def hangs() -> bool:
            found = other.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
            return found == ("SyncRep",)

        def release() -> None:
            other.execute("SELECT pg_cancel_backend(%s)", (pid,))  # cancels the wait; committed it is
            done.result(10)

        try:
            wait_until(hangs, "the commit hangs", 20)
            yield release
        finally:
            if not done.done():
                release()


def wait_until_it_waits(replicator: Program) -> None:
    def waits() -> bool:
        assert replicator.running, replicator.tail()
        return NOT_VISIBLE in str(replicator.status().get("backfill_waits_for", ""))

    wait_until(waits, "the chunk waits for the commit", 30)


def test_a_commit_that_nobody_sees_yet_holds_up_chunk_and_slot_also_after_a_crash(
    environment: dict[str, str],
    source_dsn: str,
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    slot = environment["REPLICATOR_SLOT"]
    fill(source, conversations=12, messages=1)
    with started(RUN, environment, tmp_path / "first") as first:
        replayed.wait_for_end()
        with hanging_commit(source_dsn, b"UPDATE messages SET content = 'late' WHERE id = 1") as release:
            replayed.wait_for("the change", lambda: replayed.rows("messages")[1]["content"] == "late")
            late = replayed.events_of("messages", 1, "u")[0].head
            assert source.execute("SELECT content FROM messages WHERE id = 1").fetchone() == ("text 1",)

            request = BackfillRequest(id="again", tables=("messages",), inboxes=None)
            send({"bootstrap.servers": kafka_bootstrap}, Topics(topic_prefix), request)
            wait_until_it_waits(first)
            younger = add_message(source, 1, "younger")
            replayed.wait_for("what is younger", lambda: younger in replayed.rows("messages"))
            wait_until(lambda: confirmed(source, slot) == late.position.point, "the slot stands before the commit", 20)
            replayed.read()
            heard = len(replayed.markers("heartbeat"))
            since = first.status()["at_ms"]
            wait_until(lambda: first.status()["at_ms"] > since + 6_000, "it has had time to confirm more", 20)
            assert confirmed(source, slot) == late.position.point
            replayed.read()
            assert len(replayed.markers("heartbeat")) == heard, "what is derived of the commit can't be read yet"

            first.kill()
            with started(RUN, environment, tmp_path / "second") as second:
                wait_until_it_waits(second)
                assert confirmed(source, slot) == late.position.point
                release()
                replayed.wait_for_end("again")
                wait_until_alike(replayed, source)
                wait_until(lambda: confirmed(source, slot) > late.position.point, "the slot goes on", 20)
                replayed.wait_for("heartbeats again", lambda: len(replayed.markers("heartbeat")) > heard)
                assert second.stop() == 0


@pytest.mark.parametrize(
    "change",
    [b"UPDATE messages SET status = 5 WHERE id = 1", b"UPDATE messages SET inbox_id = 5 WHERE id = 1"],
    ids=["update", "move"],
)
def test_a_change_without_its_large_text_while_a_chunk_reads_the_row(
    environment: dict[str, str],
    source_dsn: str,
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    change: bytes,
) -> None:
    """The stream leaves the text out, the chunk leaves the row out, and yet a tenant that is new gets both."""
    fill(source, conversations=12, messages=1)
    make_large(source, 1)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replayed.wait_for_end()
        with hanging_commit(source_dsn, b"UPDATE messages SET status = 7 WHERE id = 2") as release:
            replayed.wait_for("the commit is delivered", lambda: replayed.events_of("messages", 2, "u"))
            request = BackfillRequest(id="again", tables=("messages",), inboxes=None)
            send({"bootstrap.servers": kafka_bootstrap}, Topics(topic_prefix), request)
            wait_until_it_waits(replicator)  # between its watermarks
            source.execute(change)
            release()
        with closing(Replayed(kafka_bootstrap, topic_prefix, since="again")) as newcomer:
            newcomer.wait_for(
                "every message", lambda: newcomer.rows("messages") == rows(source, "messages"), seconds=30
            )
            (partial,) = newcomer.events_of("messages", 1, "u")
            assert partial.head.absent == b'["content"]'
            (read,) = newcomer.events_of("messages", 1, "r")
            (neighbour,) = newcomer.events_of("messages", 3, "r")
            assert partial.head.position < neighbour.head.position < read.head.position, "read after its chunk"
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0


def test_a_commit_that_hangs_while_the_slot_is_born_is_not_missed(
    environment: dict[str, str], source_dsn: str, source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=6, messages=1)
    environment |= {"REPLICATOR_LOCK_TIMEOUT_S": "1"}
    with (
        hanging_commit(source_dsn, b"UPDATE messages SET content = 'late' WHERE id = 1") as release,
        started(RUN, environment, tmp_path / "log") as replicator,
    ):
        wait_until(
            lambda: replicator.logged("run.ended") or replicator.status().get("backfill_waits_for"),
            "slot or chunk waits for the commit",
            30,
        )
        assert not replayed.markers("backfill", "end")
        release()
        replayed.wait_for_end()
        wait_until_alike(replayed, source)
