"""The changes topic read outside of any group: from one offset to another, as often as one likes. Commits nothing.

For commands, and for what a worker reads beside its group. Every answer comes within seconds, or as LogUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, TopicPartition

from consumers import clients
from consumers.batch import Message
from consumers.config import Settings
from consumers.errors import LogGap, LogUnavailable
from replicator import Topics

_SECONDS: Final = 10.0
"""How long Kafka may take for one answer, or be silent while there is something to read."""
_POLL_S: Final = 0.2
"""Ctrl-C is noticed between two of these."""
_AT_ONCE: Final = 50
"""Messages of one call: a row may have a mebibyte."""
_MOST_BYTES: Final = 16 << 20
"""Of what is given on at once."""


class LogReader:
    """One consumer. Not for two threads."""

    def __init__(self, settings: Settings) -> None:
        self._topic = Topics(settings.topic_prefix).changes
        self._consumer = clients.consumer(
            settings,
            {
                "group.id": f"{self._topic}.replay",  # never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "queued.max.messages.kbytes": 16 << 10,
            },
        )

    def close(self) -> None:
        self._consumer.close()

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that the log still has, and the one after its last."""
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_SECONDS)
        except KafkaException as error:
            raise LogUnavailable(f"partition {partition} can't be read: {error.args[0].str()}") from None
        return low, high

    def offset_at(self, partition: int, milliseconds: int) -> int | None:
        """The first offset whose message was written then or later; None: no message was."""
        asked = TopicPartition(self._topic, partition, milliseconds)
        try:
            (found,) = self._consumer.offsets_for_times([asked], timeout=_SECONDS)
        except KafkaException as error:
            raise LogUnavailable(f"partition {partition} can't be read: {error.args[0].str()}") from None
        return found.offset if found.offset >= 0 else None

    def written_ms(self, partition: int, offset: int) -> int | None:
        """When the message at this offset was written, by Kafka's clock or the producer's; None: it is not there."""
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            record = self._consumer.poll(_POLL_S)
            if record is None:
                continue
            if (error := record.error()) is not None:
                if self._is_end(error, partition, offset):
                    return None
                continue
            kind, at = record.timestamp()
            return None if kind == TIMESTAMP_NOT_AVAILABLE else at
        raise LogUnavailable(f"partition {partition} can't be read from offset {offset}")

    def read(self, partition: int, start: int, end: int, most: int) -> Iterator[list[Message]]:
        """Messages from `start` to before `end`, at most so many at once. Raises LogGap if some are gone."""
        if start >= end:
            return
        self._consumer.assign([TopicPartition(self._topic, partition, start)])
        batch: list[Message] = []
        size, deadline = 0, time.monotonic() + _SECONDS
        while start < end:
            # No more than there can be: it would be waited for.
            for record in self._consumer.consume(min(_AT_ONCE, most, end - start), timeout=_POLL_S):
                if (error := record.error()) is not None:
                    if self._is_end(error, partition, start):
                        start = end  # what is left holds no message: offsets of records that Kafka keeps for itself
                    continue
                deadline = time.monotonic() + _SECONDS
                start = (record.offset() or 0) + 1
                if start > end:
                    break
                try:
                    headers = clients.headers_of(record) or []
                except clients.NO_HEADERS:
                    headers = []
                body = record.value() or b""
                batch.append(Message(partition, start - 1, record.key(), headers, body))
                size += len(body)
            if len(batch) >= most or size >= _MOST_BYTES:
                yield batch
                batch, size, deadline = [], 0, time.monotonic() + _SECONDS
            elif start < end and time.monotonic() > deadline:
                raise LogUnavailable(f"partition {partition} can't be read from offset {start}")
        if batch:
            yield batch

    def _is_end(self, error: KafkaError, partition: int, offset: int) -> bool:
        """Whether the log ends here. Trouble that passes is librdkafka's own; what doesn't, is raised."""
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        if error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise LogGap(f"partition {partition} no longer has offset {offset}")
        if error.fatal():
            raise LogUnavailable(f"partition {partition} can't be read: {error.str()}")
        return False
