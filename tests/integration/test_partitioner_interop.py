"""Any other client with Kafka's default partitioner puts an inbox where we look for it."""

from __future__ import annotations

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from replicator.partitioner import partition_of

PARTITIONS = 24
INBOXES = [*range(1, 191), *(10**power + 7 for power in range(3, 13))]


def test_librdkafka_agrees_on_200_inboxes(kafka_bootstrap: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.partitions"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1)])[topic].result(30)
    chosen: dict[int, int | None] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        chosen[int(message.key() or b"")] = message.partition()

    producer = Producer({"bootstrap.servers": kafka_bootstrap, "partitioner": "murmur2_random"})
    for inbox in INBOXES:
        producer.produce(topic, key=b"%d" % inbox, value=b"", on_delivery=delivered)
    assert producer.flush(30) == 0
    assert chosen == {inbox: partition_of(inbox, PARTITIONS) for inbox in INBOXES}
    assert len(set(chosen.values())) == PARTITIONS
