"""librdkafka's clients, made from the operator's options: what it refuses is the operator's fault, said by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from replicator.errors import LogRefused

T = TypeVar("T")


def producer(options: Mapping[str, Any]) -> Producer:
    """Raises LogRefused for options that librdkafka doesn't take."""
    return _made(Producer, options)


def reader(options: Mapping[str, Any], topic: str) -> Consumer:
    """One that is assigned its place and never commits. Raises as `producer` does."""
    ours = {"group.id": f"{topic}.reader", "enable.auto.commit": False}
    return _made(Consumer, {**options, **ours})


class Admin(AdminClient):
    """Keeps to itself what it hears of brokers; `heard` is the latest of it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.heard = ""
        own: dict[str, Any] = {**options, "error_cb": self._hear}
        super().__init__(own)

    def _hear(self, error: KafkaError) -> None:
        self.heard = error.str()


def admin(options: Mapping[str, Any]) -> Admin:
    """Raises as `producer` does."""
    return _made(Admin, options)


def _made(kind: type[T], options: Mapping[str, Any]) -> T:
    try:
        return kind(dict(options))  # type: ignore[call-arg]
    except KafkaException as error:
        raise LogRefused(f"REPLICATOR_KAFKA_OPTIONS: {error.args[0].str()}") from None
