"""The replicator's own memory is gone: it makes the topic anew, begins a new epoch, and reads everything again."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka.admin import AdminClient

from demo.servers import wait_until
from replicator import Topics
from tests.integration.chatwoot import Source, add_message, connect, fill
from tests.integration.whole import Whole


def live(source: Source, gone: int) -> None:
    for conversation in (1, 2, 5):
        add_message(source, conversation, "live")
    source.execute("DELETE FROM messages WHERE conversation_id = %s", (gone,))


@pytest.mark.parametrize(
    "runs", [pytest.param(False, marks=pytest.mark.soak), True], ids=["while the replicator is down", "while it runs"]
)
def test_a_state_topic_that_is_lost_loses_no_change(
    path: Whole, kafka_bootstrap: str, topic_prefix: str, runs: bool
) -> None:
    with closing(connect(path.source_dsn)) as source:
        fill(source, conversations=12, messages=2)
        path.map({1: (1, 2, 3), 2: (4, 5, 6)})
        replicator = path.replicator()
        worker = path.worker()
        path.wait_equal()
        if not runs:
            assert replicator.stop() == 0
        begun = len(replicator.logged("epoch.begins")) if runs else 0
        state = Topics(topic_prefix).state
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        admin.delete_topics([state])[state].result(30)
        live(source, 4)
        if not runs:
            replicator = path.replicator()
        wait_until(lambda: len(replicator.logged("epoch.begins")) > begun, "a new epoch", 60)
        live(source, 8)
        path.wait_equal()
    assert worker.logged("log.gap") == []
    assert replicator.stop() == 0
