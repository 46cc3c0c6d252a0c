"""What a program brought to Kafka, and how fast: counted in the topics afterwards, by the broker's own clock.

The topics are to stamp messages when they are appended (`message.timestamp.type=LogAppendTime`), which is when they are
acknowledged; so no program is asked about itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bench.path import NotMeasured

SECONDS: Final = 60.0
STAMPS: Final = "message.timestamp.type"


class Appended(NamedTuple):
    """Of one run."""

    rows: int
    later: int
    """Those that did not come with the first append."""
    first_ms: int
    last_ms: int

    @property
    def seconds(self) -> float:
        return (self.last_ms - self.first_ms) / 1000


def stamp_appends(bootstrap: str, *topics: str) -> None:
    """From now on messages of these have the broker's time."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    entry = ConfigEntry(STAMPS, "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    wanted = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
    for done in admin.incremental_alter_configs(wanted).values():
        done.result(SECONDS)


def make_topics(bootstrap: str, topics: Collection[str], partitions: int) -> None:
    """Topics whose messages have the broker's time."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wanted = [NewTopic(topic, partitions, config={STAMPS: "LogAppendTime"}) for topic in topics]
    for made in admin.create_topics(wanted).values():
        made.result(SECONDS)


def ends(bootstrap: str, topics: Collection[str]) -> dict[tuple[str, int], int]:
    """The offset after the last message, by topic and partition; of topics that exist."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench.ends"})
    try:
        known = consumer.list_topics(timeout=SECONDS).topics
        return {
            (topic, partition): consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=SECONDS)[1]
            for topic in topics
            if topic in known
            for partition in known[topic].partitions
        }
    finally:
        consumer.close()


def grown(before: Mapping[tuple[str, int], int], after: Mapping[tuple[str, int], int]) -> int:
    """How many offsets came in between."""
    return sum(end - before.get(place, 0) for place, end in after.items())


def messages(bootstrap: str, before: Mapping[tuple[str, int], int], topics: Collection[str]) -> Iterator[Message]:
    """All that came after `before`, up to now. Raises NotMeasured if the log goes silent."""
    until = ends(bootstrap, topics)
    left = {place for place, end in until.items() if end > before.get(place, 0)}
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"bench.{uuid.uuid4().hex}", "enable.partition.eof": True}
    )
    try:
        consumer.assign([TopicPartition(topic, part, before.get((topic, part), 0)) for topic, part in left])
        deadline = time.monotonic() + SECONDS
        while left:
            if time.monotonic() > deadline:
                raise NotMeasured("the log could not be read to its end")
            for message in consumer.consume(5000, timeout=1.0):
                error = message.error()
                if error is None:
                    deadline = time.monotonic() + SECONDS
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard((message.topic() or "", message.partition() or 0))
    finally:
        consumer.close()


def count(
    bootstrap: str,
    before: Mapping[tuple[str, int], int],
    topics: Collection[str],
    is_row: Callable[[Message], bool],
) -> Appended:
    """The rows that came after `before`, and when. Raises NotMeasured if none did."""
    times = [appended_ms(message) for message in messages(bootstrap, before, topics) if is_row(message)]
    if not times:
        raise NotMeasured(f"nothing came to {', '.join(topics)}")
    first = min(times)
    return Appended(len(times), sum(time > first for time in times), first, max(times))


def appended_ms(message: Message) -> int:
    """When the broker took it."""
    return message.timestamp()[1]
