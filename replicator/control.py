"""Requests to the replicator, from the control topic.

Read from where the state topic says; a request that cannot be understood is counted and named, never obeyed in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaException, TopicPartition

from replicator import clients
from replicator.errors import LogUnavailable
from replicator.event import Topics
from replicator.request import Request, decode_request, encode_request

log = structlog.get_logger(__name__)

AT_ONCE = 100


def send(kafka: Mapping[str, Any], topics: Topics, request: Request, seconds: float = 10.0) -> None:
    """Writes a request and waits until Kafka has it. Raises LogUnavailable after that time."""
    producer = clients.producer({**kafka, "acks": "all"})
    producer.produce(topics.control, encode_request(request))
    if producer.flush(seconds):
        producer.purge()
        raise LogUnavailable(f"Kafka has not taken the request within {seconds:g} s")


class Control:
    """The reading end of the control topic."""

    def __init__(self, kafka: Mapping[str, Any], topics: Topics, next_offset: int | None, seconds: float) -> None:
        """`next_offset` None, or below the topic's start: from its start."""
        self._consumer = clients.reader({**kafka, "auto.offset.reset": "earliest"}, topics.control)
        place = TopicPartition(topics.control, 0)
        try:
            low, high = self._consumer.get_watermark_offsets(place, timeout=seconds)
        except KafkaException as error:
            self._consumer.close()
            raise LogUnavailable(f"{topics.control} cannot be read: {error.args[0].str()}") from None
        start = low if next_offset is None or not low <= next_offset <= high else next_offset
        self._consumer.assign([TopicPartition(topics.control, 0, start)])
        self.next_offset = start
        self.refused = 0

    def poll(self) -> Iterator[Request]:
        """What has arrived; never waits."""
        for message in self._consumer.consume(AT_ONCE, timeout=0):
            if message.error() is not None:
                continue  # librdkafka goes on by itself; the publisher sees the same broker
            self.next_offset = (message.offset() or 0) + 1
            try:
                request = decode_request(message.value() or b"")
            except (ValueError, KeyError, TypeError) as error:
                self.refused += 1
                log.warning("control.refused", offset=message.offset(), reason=type(error).__name__)
                continue
            yield request

    def close(self) -> None:
        self._consumer.close()
