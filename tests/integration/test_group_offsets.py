"""Kafka forgets how far the group was: the target knows, and nothing is read twice or passed over."""

from __future__ import annotations

from contextlib import closing

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from demo.servers import wait_until
from tests.integration.chatwoot import Source, add_message, connect, fill
from tests.integration.whole import Whole


def live(source: Source) -> None:
    for conversation in (1, 2, 5):
        add_message(source, conversation, "live")
    source.execute("DELETE FROM messages WHERE conversation_id = 4")


def test_the_watermarks_decide_where_reading_goes_on(path: Whole, kafka_bootstrap: str, topic_prefix: str) -> None:
    with closing(connect(path.source_dsn)) as source:
        fill(source, conversations=12, messages=2)
        path.map({1: (1, 2, 3), 2: (4, 5, 6)})
        path.replicator()
        worker = path.worker()
        path.wait_equal()
        live(source)
        path.wait_equal()
        admin, group = AdminClient({"bootstrap.servers": kafka_bootstrap}), f"{topic_prefix}.default"

        def mirrored() -> bool:
            asked = [ConsumerGroupTopicPartitions(group)]
            found = admin.list_consumer_group_offsets(asked)[group].result(10).topic_partitions
            return any(place.offset > 0 for place in found or ())

        wait_until(mirrored, "Kafka has a mirror of the offsets", 30)
        assert worker.stop() == 0
        admin.delete_consumer_groups([group])[group].result(10)
        live(source)
        worker = path.worker()
        path.wait_equal()
    (assigned, *_) = [line for line in worker.logged("partitions.assigned") if line["offsets"]]
    assert all(offset > 0 for offset in assigned["offsets"].values()), "not from the log's start"
    assert worker.logged("log.gap") == []
    assert worker.metric("inbox_consumers_repeated_events") == 0
    assert worker.stop() == 0
