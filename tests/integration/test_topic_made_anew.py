"""The changes topic is deleted and made anew while workers read it: they find out, and go on by themselves."""

from __future__ import annotations

import signal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from consumers import lag
from consumers.errors import LogUnavailable
from demo.servers import wait_until
from demo.source.traffic import Traffic
from replicator import Topics
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.whole import PARTITIONS, Whole

OWNED = {1: (1, 2, 3), 2: (4, 5, 6)}


def test_a_topic_made_anew_under_load_is_read_from_its_start(path: Whole, source: Source) -> None:
    """Replicator and workers run on meanwhile."""
    fill(source, conversations=12, messages=1)
    path.map(OWNED)
    path.replicator()
    workers = [path.worker(), path.worker()]
    inboxes = [inbox for own in OWNED.values() for inbox in own]
    with Traffic(path.source_dsn, inboxes=inboxes, rate=100.0) as traffic:

        def go_by(rows: int) -> None:
            until = traffic.counts.rows + rows
            wait_until(lambda: traffic.counts.rows >= until, "traffic", 60)

        path.wait_backfilled()
        go_by(50)
        admin, topic = delete(path)
        make(admin, topic)
        go_by(200)
    path.wait_equal()
    gaps = [line for worker in workers for line in worker.logged("log.gap")]
    assert {line["partition"] for line in gaps if line.get("another_topic")} == set(range(PARTITIONS))


def test_a_topic_that_has_grown_beyond_the_old_ones_end_is_read_from_its_start(path: Whole, source: Source) -> None:
    """The offset that is due is there, and another event's."""
    fill(source, conversations=12, messages=1)
    path.map(OWNED)
    replicator, worker = path.replicator(), path.worker()
    path.wait_equal()
    before = ends(path)
    assert replicator.stop() == 0
    worker.send(signal.SIGSTOP)  # it must not see the new topic grow
    delete(path)
    for conversation in range(1, 13):
        for _ in range(max(before.values())):
            add_message(source, conversation, "of the new topic")
    path.replicator()
    wait_until(lambda: has_grown(path, before), "the new topic", 60)
    worker.send(signal.SIGCONT)
    path.wait_equal()
    assert all(line.get("another_topic") for line in worker.logged("log.gap"))


def delete(path: Whole) -> tuple[AdminClient, str]:
    """The changes topic; who did it, and its name."""
    topic = Topics(path.worker_environment["CONSUMERS_TOPIC_PREFIX"]).changes
    admin = AdminClient({"bootstrap.servers": path.worker_environment["CONSUMERS_KAFKA_BOOTSTRAP_SERVERS"]})
    admin.delete_topics([topic])[topic].result(30)
    return admin, topic


def make(admin: AdminClient, topic: str) -> None:
    """As soon as the old one's name is free."""

    def is_made() -> bool:
        try:
            admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
        return True

    wait_until(is_made, "the new topic", 30)


def ends(path: Whole) -> dict[int, int]:
    """By partition; none while the topic is not there."""
    names = ("kafka_bootstrap_servers", "topic_prefix")
    given = {name: path.worker_environment[f"CONSUMERS_{name.upper()}"] for name in names}
    try:
        return lag.ends(path.target.settings(**given))
    except LogUnavailable:
        return {}


def has_grown(path: Whole, beyond: dict[int, int]) -> bool:
    found = ends(path)
    return all(found.get(partition, 0) > end for partition, end in beyond.items())
