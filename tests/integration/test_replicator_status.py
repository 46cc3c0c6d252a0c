"""What a running replicator says of itself is true."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from demo.servers import Servers, wait_until
from demo.source.installation import install
from replicator import BackfillRequest, Topics, topics
from replicator.config import load
from replicator.control import send
from replicator.lsn import parse_lsn
from replicator.source import Source as Session
from replicator.status import gather
from tests.integration.chatwoot import Source, connect
from tests.integration.programs import RUN, prepare_source, replicator_environment, settings_of, started
from tests.integration.replayed import Replayed


def test_one_that_was_stopped_does_not_run(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    settings = settings_of(environment)
    kafka = topics.kafka_base(settings)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        wait_until(lambda: gather(settings, kafka)["running"], "it runs", 20)
        assert replicator.stop() == 0
        assert gather(settings, kafka)["running"] is False


def test_what_the_source_has_not_sent_yet_is_what_it_is_behind(
    own_servers: Callable[..., Servers], kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    server = own_servers(kafka=False, postgres=("source",)).source
    install(server.dsn)
    environment = replicator_environment(server.dsn, kafka_bootstrap, topic_prefix)
    prepare_source(environment)
    with (
        closing(connect(server.dsn)) as source,
        started(RUN, environment, tmp_path / "log") as replicator,
        ExitStack() as frozen,
    ):
        replicator.wait_healthy()
        ((pid,),) = source.execute("SELECT active_pid FROM pg_replication_slots").fetchall()
        os.kill(pid, signal.SIGSTOP)
        frozen.callback(os.kill, pid, signal.SIGCONT)
        source.execute("CREATE TABLE elsewhere AS SELECT repeat('x', 300) FROM generate_series(1, 60000)")
        wait_until(lambda: replicator.status()["behind_bytes"] > 10_000_000, "it says how far it is behind", 30)
        wait_until(lambda: "has not answered" in replicator.status()["waits_for"], "it says what it waits for", 30)
        assert not replicator.status()["healthy"]
        source.execute("CREATE TABLE again AS SELECT * FROM elsewhere")
        wait_until(lambda: replicator.status()["behind_bytes"] > 30_000_000, "it says so anew", 30)
        frozen.close()
        wait_until(lambda: replicator.status()["behind_bytes"] < 1_000_000, "it has caught up", 60)
        replicator.wait_healthy()
        assert replicator.stop() == 0


def test_readers_that_read_again_wait_for_nothing(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    ours = "FROM pg_stat_activity WHERE application_name = %s AND backend_type = 'client backend'"
    slot = environment["REPLICATOR_SLOT"]
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        replayed.wait_for_end()
        counted = f"SELECT count(*) {ours}".encode()
        wait_until(lambda: source.execute(counted, (slot,)).fetchall() == [(3,)], "the loop and both readers", 20)
        source.execute(
            "SELECT pg_terminate_backend(pid)"
            f" FROM (SELECT pid {ours} ORDER BY backend_start OFFSET 1) AS of_the_readers".encode(),
            (slot,),
        )
        request = BackfillRequest(id="again", tables=("inboxes",), inboxes=None)
        send({"bootstrap.servers": kafka_bootstrap}, Topics(topic_prefix), request)
        wait_until(lambda: replicator.logged("backfill.waits"), "the backfill's session is gone", 20)
        replayed.wait_for_end("again")
        wait_until(lambda: replicator.logged("derived.waits"), "the deriver's too, at its next look", 20)
        wait_until(lambda: source.execute(counted, (slot,)).fetchall() == [(3,)], "both are back", 20)
        read_ms = time.time() * 1000
        wait_until(lambda: replicator.status()["at_ms"] > read_ms, "a status after that", 20)
        assert replicator.status()["backfill_waits_for"] == ""
        wait_until(lambda: replicator.status()["derived_waits_for"] == "", "nothing is said to be waited for", 10)
        assert not replicator.logged("run.ended")
        assert replicator.stop() == 0


def test_a_sample_says_nothing_of_commits_that_are_not_flushed(own_servers: Callable[..., Servers]) -> None:
    """What a heartbeat says to be complete must not lack an asynchronous commit."""
    dsn = own_servers(kafka=False, postgres=("source",), settings={"wal_writer_delay": "10s"}).source.dsn
    settings = load(source_dsn=dsn, kafka_bootstrap_servers="nowhere:1", _env_file=None)
    with closing(connect(dsn)) as writer, Session(settings) as reader:
        writer.execute("CREATE TABLE t (a int)")
        writer.execute("SET synchronous_commit = off")
        behind = 0
        for number in range(20):
            writer.execute("INSERT INTO t VALUES (%s)", (number,))
            ((committed_ms, lsn),) = writer.execute(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_current_wal_insert_lsn()"
            ).fetchall()
            sample = reader.sample()
            behind += sample.flushed_lsn < parse_lsn(lsn)
            assert sample.flushed_lsn >= parse_lsn(lsn) or sample.at_ms < committed_ms
        assert behind
