"""The whole path while Kafka, the target or the source is away, and a stop meanwhile: it waits, and says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.servers import Servers, wait_until
from demo.servers import servers as start_servers
from demo.source.installation import install
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.targets import target_of
from tests.integration.whole import Whole, whole
from tests.server_settings import QUICK

pytestmark = pytest.mark.xdist_group("whole_outages")

RATE = 80
AWAY_S = 10.0


@pytest.fixture(scope="module")
def outage_servers() -> Iterator[Servers]:
    """Servers that only the tests of this file use, one after another."""
    with start_servers(own=True, settings=QUICK, brief=True) as running:
        yield running


@pytest.fixture
def outage(
    outage_servers: Servers, topic_prefix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Whole]:
    """The whole path on servers that may go away."""
    for server in (outage_servers.source, outage_servers.target, outage_servers.kafka):
        server.start()  # unless it runs: a test that failed may have left it away
    name = f"outage_{topic_prefix[-8:]}"
    source_dsn = outage_servers.source.create_database(name)
    install(source_dsn)
    target_dsn = outage_servers.target.create_database(name)
    failed_before = request.session.testsfailed
    with (
        target_of(target_dsn) as target,
        whole(source_dsn, target, outage_servers.kafka.bootstrap, topic_prefix, tmp_path) as made,
    ):
        target.apply()
        yield made
        if request.session.testsfailed > failed_before:
            made.show_logs()
    outage_servers.source.drop_database(name)
    outage_servers.target.drop_database(name)


def fill(path: Whole) -> list[int]:
    """A history that is mapped; all inboxes."""
    seeded = seed(path.source_dsn, conversations=200, messages_per_conversation=3)
    path.map(seeded.inboxes)
    return [inbox for own in seeded.inboxes.values() for inbox in own]


def through_outage(path: Whole, outage: Callable[[Traffic], None]) -> None:
    """Traffic before, during and after; then both sides are the same, and the programs are those of the beginning."""
    inboxes = fill(path)
    replicator, workers = path.replicator(), [path.worker(), path.worker()]
    with Traffic(path.source_dsn, inboxes=inboxes, rate=RATE) as traffic:
        path.wait_backfilled()
        outage(traffic)
        rows = traffic.counts.rows
        wait_until(lambda: traffic.counts.rows > rows + RATE, "traffic afterwards", 60)
    path.wait_equal()
    assert [program.stop() for program in (replicator, *workers)] == [0, 0, 0]


def test_kafka_is_away_for_a_while(outage: Whole, outage_servers: Servers) -> None:
    def kafka_away(traffic: Traffic) -> None:
        replicator, *workers = outage.programs
        outage_servers.kafka.stop()
        since, rows = time.monotonic(), traffic.counts.rows
        wait_until(lambda: replicator.logged("kafka.unreachable"), "the replicator says what it waits for", 30)
        wait_until(
            lambda: time.monotonic() - since > AWAY_S and traffic.counts.rows > rows + AWAY_S * RATE / 2,
            "a while without Kafka",
            4 * AWAY_S,
        )
        assert all("down" in worker.status()["waits_for"] for worker in workers)
        assert all(worker.logged("log.waits") for worker in workers)
        assert not [line for program in outage.programs for line in program.lines() if "text" in line], "all JSON"
        outage_servers.kafka.start()

    through_outage(outage, kafka_away)


def test_the_target_is_restarted(outage: Whole, outage_servers: Servers) -> None:
    def target_away(traffic: Traffic) -> None:
        workers = outage.programs[1:]
        outage_servers.target.stop()
        wait_until(lambda: all(worker.logged("worker.waits") for worker in workers), "the workers say so", 30)
        rows = traffic.counts.rows
        wait_until(lambda: traffic.counts.rows > rows + 2 * RATE, "traffic without a target", 60)
        outage_servers.target.start()

    through_outage(outage, target_away)


def test_the_source_is_restarted(outage: Whole, outage_servers: Servers) -> None:
    def source_away(traffic: Traffic) -> None:
        outage_servers.source.stop()
        wait_until(lambda: outage.programs[0].logged("run.ended"), "the replicator says what it waits for", 30)
        outage_servers.source.start()
        assert traffic.counts.failed, "the traffic was cut off too"

    through_outage(outage, source_away)


def test_a_stop_waits_neither_for_kafka_nor_for_the_target(outage: Whole, outage_servers: Servers) -> None:
    """Stopped while everything is away, and started again while it still is: nothing has to be done by hand."""
    inboxes = fill(outage)
    replicator, workers = outage.replicator(), [outage.worker(), outage.worker()]
    with Traffic(outage.source_dsn, inboxes=inboxes, rate=RATE):
        outage.wait_backfilled()
        outage_servers.kafka.stop()
        wait_until(lambda: replicator.logged("kafka.unreachable"), "the replicator misses Kafka", 30)
        wait_until(lambda: all(worker.logged("log.waits") for worker in workers), "the workers miss Kafka", 30)
        assert [workers[0].stop(), replicator.stop()] == [0, 0]
        outage_servers.target.stop()
        wait_until(lambda: workers[1].logged("worker.waits"), "the worker misses the target", 30)
        assert workers[1].stop() == 0
        replicator, worker = outage.replicator(), outage.worker()
        wait_until(lambda: replicator.logged("replicator.starts"), "a fresh replicator begins", 60)
        wait_until(lambda: worker.logged("worker.waits"), "a fresh worker waits for the target", 60)
        outage_servers.target.start()
        wait_until(lambda: "Kafka" in str(worker.status().get("waits_for")), "then for Kafka", 60)
        assert [worker.stop(), replicator.stop()] == [0, 0]
        replicator, worker = outage.replicator(), outage.worker()
        outage_servers.kafka.start()
    outage.wait_equal(90)
    assert [worker.stop(), replicator.stop()] == [0, 0]
