"""The changes topic is deleted and made anew while a worker reads it: the worker finds out, and goes on by itself."""

from __future__ import annotations

import signal

import pytest
from confluent_kafka.admin import AdminClient

from consumers import lag
from consumers.errors import LogUnavailable
from demo.servers import wait_until
from replicator import Topics
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.whole import Whole


@pytest.mark.parametrize("longer", [False, True], ids=["shorter", "longer"])
def test_a_topic_made_anew_is_read_from_its_start(path: Whole, source: Source, longer: bool) -> None:
    """Also if it has grown beyond the old one's end by then: the offset that is due is there, and another event's."""
    fill(source, conversations=12, messages=1)
    path.map({1: (1, 2, 3), 2: (4, 5, 6)})
    replicator, worker = path.replicator(), path.worker()
    path.wait_equal()
    before = ends(path)
    assert replicator.stop() == 0
    worker.send(signal.SIGSTOP)  # it must not see the new topic grow
    topic = Topics(path.worker_environment["CONSUMERS_TOPIC_PREFIX"]).changes
    admin = AdminClient({"bootstrap.servers": path.worker_environment["CONSUMERS_KAFKA_BOOTSTRAP_SERVERS"]})
    admin.delete_topics([topic])[topic].result(30)
    for conversation in range(1, 13):
        for _ in range(max(before.values()) if longer else 1):
            add_message(source, conversation, "of the new topic")
    path.replicator()
    wait_until(lambda: has_grown(path, before if longer else dict.fromkeys(before, 0)), "the new topic", 60)
    worker.send(signal.SIGCONT)
    path.wait_equal()
    assert all(line["another_topic"] for line in worker.logged("log.gap"))


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
