"""The schemas topic: the columns of every version of every table, read from its start and then on.

The replicator has a version acknowledged before it sends rows of it, so a version that an event names is there or not
far.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from consumers import clients
from consumers.config import Settings
from consumers.errors import LogUnavailable, VersionUnknown
from replicator import TableSchema, Topics

log = structlog.get_logger(__name__)

_SECONDS: Final = 5.0
_SECONDS_ONCE: Final = 5.0
"""For a command, at which somebody looks."""


class Schemas:
    """Versions that were read so far. May be asked by several threads."""

    def __init__(self, settings: Settings) -> None:
        self._topic = Topics(settings.topic_prefix).schemas
        self._known: dict[tuple[str, str], TableSchema] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._consumer = clients.consumer(
            settings,
            {
                "group.id": f"{self._topic}.reader",  # never used: nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            },
        )
        self._consumer.assign([TopicPartition(self._topic, 0, 0)])

    def __call__(self, table: str, version: str) -> TableSchema:
        """Raises VersionUnknown if the version does not come within some seconds, or LogUnavailable."""
        found = self._known.get((table, version))
        if found is not None:
            return found
        deadline = time.monotonic() + _SECONDS
        with self._lock:
            while (table, version) not in self._known:
                if self._closed.is_set() or time.monotonic() > deadline:
                    raise VersionUnknown(f"{self._topic} lacks version {version} of {table}")
                self._read()
            return self._known[table, version]

    def close(self) -> None:
        """Whoever waits for a version waits no longer."""
        self._closed.set()
        with self._lock:
            self._consumer.close()

    def _read(self) -> None:
        try:
            records = self._consumer.consume(100, timeout=0.1)
        except KafkaException as error:
            raise LogUnavailable(f"{self._topic} can't be read: {error.args[0].str()}") from None
        for record in records:
            if record.error() is None and (schema := _schema_of(record)) is not None:
                self._known[schema.table, schema.version] = schema


def _schema_of(record: Record) -> TableSchema | None:
    """None: it is not ours. The topic is compacted, so whoever reads it from its start meets it again."""
    try:
        return TableSchema.decode(record.value() or b"")
    except ValueError as error:
        log.warning(
            "schema.unreadable",
            topic=record.topic(),
            partition=record.partition(),
            offset=record.offset(),
            error=type(error).__name__,
            advice="Something else writes to the topic.",
        )
        return None


def latest(settings: Settings) -> dict[str, TableSchema]:
    """The newest version of each table, none if the topic is not there. Raises LogUnavailable after some seconds."""
    topic = Topics(settings.topic_prefix).schemas
    faults: list[KafkaError] = []
    consumer = clients.consumer(
        settings,
        {
            "log_level": 0,  # librdkafka would print each failed connection over the plan
            "group.id": f"{topic}.setup",  # never used: nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "error_cb": faults.append,
        },
    )
    try:
        deadline = time.monotonic() + _SECONDS_ONCE
        while (known := _topics(consumer)) is None:
            if time.monotonic() > deadline or any(f.code() == KafkaError._ALL_BROKERS_DOWN for f in faults):
                raise LogUnavailable("Kafka does not answer")
        return _newest(consumer, topic, deadline) if topic in known else {}
    finally:
        consumer.close()


def _topics(consumer: Consumer) -> set[str] | None:
    """All: to ask for one by its name may make it. None: no answer yet."""
    try:
        return set(consumer.list_topics(timeout=0.2).topics)
    except KafkaException:
        consumer.poll(0)  # serves the errors that librdkafka keeps
        return None


def _newest(consumer: Consumer, topic: str, deadline: float) -> dict[str, TableSchema]:
    found: dict[str, TableSchema] = {}
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    while time.monotonic() < deadline:
        for record in consumer.consume(500, timeout=0.1):
            error = record.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return found
            if error is None and (schema := _schema_of(record)) is not None:
                found[schema.table] = schema
    raise LogUnavailable(f"{topic} can't be read")
