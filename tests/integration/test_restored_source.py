"""A source that is restored from a backup, or failed over: rows that it has no more go, its new ones come."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from demo.servers import servers as start_servers
from demo.servers import wait_until
from demo.servers.postgres import LocalPostgres
from demo.source.installation import install
from demo.source.seed import seed
from demo.source.traffic import Traffic
from replicator.lsn import parse_lsn
from tests.integration.programs import Program
from tests.integration.standby import Standby
from tests.integration.targets import Target
from tests.integration.whole import Whole, whole
from tests.server_settings import QUICK

pytestmark = pytest.mark.xdist_group("restored_source")

RATE = 150


@pytest.fixture(scope="module")
def source_server() -> Iterator[LocalPostgres]:
    """A server that only the tests of this file use, one after another."""
    with start_servers(own=True, kafka=False, postgres=("source",), settings=QUICK, brief=True) as running:
        if not isinstance(running.source, LocalPostgres):
            pytest.skip("a backup is a copy of a local process's folder")
        yield running.source


@pytest.fixture
def restored(
    source_server: LocalPostgres,
    ready_target: Target,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Whole]:
    """The whole path over a source that may be taken back."""
    source_server.start()
    name = f"source_{topic_prefix[-8:]}"
    dsn = source_server.create_database(name)
    install(dsn)
    failed_before = request.session.testsfailed
    with whole(dsn, ready_target, kafka_bootstrap, topic_prefix, tmp_path) as made:
        yield made
        if request.session.testsfailed > failed_before:
            made.show_logs()
    source_server.start()
    source_server.drop_database(name)


def fill(path: Whole) -> list[int]:
    """A history that is mapped; all inboxes."""
    seeded = seed(path.source_dsn, conversations=100, messages_per_conversation=3)
    path.map(seeded.inboxes)
    return [inbox for own in seeded.inboxes.values() for inbox in own]


def go_by(path: Whole, inboxes: list[int], rows: int, seed: int) -> None:
    """Traffic of that many rows."""
    with Traffic(path.source_dsn, inboxes=inboxes, rate=RATE, seed=seed) as traffic:
        wait_until(lambda: traffic.counts.rows > rows, "traffic", 30)


def backup(server: LocalPostgres) -> Path:
    """What a snapshot of its volume would hold: the slots too."""
    server.stop()
    copy = server.data.with_name("backup")
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["cp", "-a", server.data, copy], check=True, timeout=60)
    server.start()
    return copy


def restore(server: LocalPostgres, copy: Path) -> None:
    server.stop()
    shutil.rmtree(server.data)
    copy.rename(server.data)
    server.start()


def written(path: Whole) -> int:
    """Up to where the source has WAL."""
    ((lsn,),) = path.source("SELECT pg_current_wal_lsn()::text")
    return parse_lsn(lsn)


def write_beyond(path: Whole, lsn: int) -> None:
    """As a source does that is used again before anybody reads it."""
    while written(path) <= lsn:
        path.source("SELECT pg_logical_emit_message(true, 'other', 'x'), pg_switch_wal()")


def reasons(replicator: Program) -> list[str]:
    return [line["reason"] for line in replicator.logged("epoch.begins")]


@pytest.mark.parametrize("used", [False, True], ids=["at once", "once it is used again"])
def test_a_source_that_went_back_is_read_anew(restored: Whole, source_server: LocalPostgres, used: bool) -> None:
    """Also when its WAL is by then longer than it was: other changes stand where the stream had been."""
    path = restored
    inboxes = fill(path)
    replicator, worker = path.replicator(), path.worker()
    go_by(path, inboxes, 100, seed=1)
    path.wait_equal()
    assert replicator.stop() == 0
    copy = backup(source_server)
    replicator = path.replicator()
    go_by(path, inboxes, 200, seed=2)
    path.wait_equal()
    assert replicator.stop() == 0
    before = written(path)
    restore(source_server, copy)
    if used:
        go_by(path, inboxes, 200, seed=3)
        write_beyond(path, before)
    replicator = path.replicator()
    go_by(path, inboxes, 50, seed=4)
    path.wait_equal()
    (reason,) = reasons(replicator)
    assert ("is not there any more" if used else "WAL has gone back") in reason
    assert [worker.stop(), replicator.stop()] == [0, 0]


def test_a_source_that_went_back_while_it_was_read_is_read_anew(restored: Whole, source_server: LocalPostgres) -> None:
    path = restored
    inboxes = fill(path)
    replicator, worker = path.replicator(), path.worker()
    path.wait_backfilled()
    assert replicator.stop() == 0
    copy = backup(source_server)
    replicator = path.replicator()
    replicator.wait_healthy()
    go_by(path, inboxes, 200, seed=2)
    before = written(path)
    restore(source_server, copy)
    write_beyond(path, before)
    go_by(path, inboxes, 100, seed=3)
    wait_until(lambda: reasons(replicator), "it sees that", 60)
    path.wait_equal()
    assert [worker.stop(), replicator.stop()] == [0, 0]


def test_what_a_promoted_standby_never_had_goes(restored: Whole, source_server: LocalPostgres) -> None:
    """The rows that the primary committed last, and published, are lost; their ids are given to others."""
    path = restored
    inboxes = fill(path)
    standby = Standby(source_server)
    try:
        replicator, worker = path.replicator(), path.worker()
        go_by(path, inboxes, 100, seed=1)
        path.wait_equal()
        caught_up(standby, written(path))
        standby.stop()  # what follows never reaches it
        go_by(path, inboxes, 200, seed=2)
        path.wait_equal()
        source_server.stop()
        standby.take_its_place()
        go_by(path, inboxes, 200, seed=3)
        path.wait_equal()
        assert "timeline 2, was 1" in reasons(replicator)[-1]
        assert [worker.stop(), replicator.stop()] == [0, 0]
    finally:
        standby.stop()


def caught_up(standby: Standby, lsn: int) -> None:
    with psycopg.connect(standby.dsn, autocommit=True) as connection:

        def has_replayed() -> bool:
            ((reached,),) = connection.execute("SELECT pg_last_wal_replay_lsn()::text").fetchall()
            return parse_lsn(reached) >= lsn

        wait_until(has_replayed, "the standby has it all", 30)
