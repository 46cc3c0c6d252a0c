"""librdkafka's clients, made from the operator's options: what it refuses is the operator's fault, said by name."""

from __future__ import annotations

from collections.abc import Mapping
from operator import methodcaller
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from consumers.config import PREFIX, Settings
from consumers.errors import SettingsError

T = TypeVar("T")

headers_of: Final = methodcaller("headers")
"""Of a message: it may be asked once, and raises one of `NO_HEADERS` where one has a name that is no UTF-8, which Kafka
lets anybody write. The client then returns a list with a hole along with an error. Python looks for such an error after
any call but that of a method which its interpreter has found to be called often, as `message.headers()` is: the list
would come through, and the error out of whatever is called next."""
NO_HEADERS: Final = (SystemError, UnicodeDecodeError)


def consumer(settings: Settings, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Consumer:
    """`defaults`: what the operator's options may change. Raises SettingsError for options that librdkafka refuses."""
    return _made(Consumer, settings, options, defaults or {})


def producer(settings: Settings, options: Mapping[str, Any]) -> Producer:
    """Raises as `consumer` does."""
    return _made(Producer, settings, options, {})


def admin(settings: Settings) -> AdminClient:
    """Raises as `consumer` does."""
    return _made(AdminClient, settings, {}, {})


def _made(kind: type[T], settings: Settings, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> T:
    try:
        return kind({**defaults, **_base(settings), **options})  # type: ignore[call-arg]
    except KafkaException as error:
        raise SettingsError(f"{PREFIX}KAFKA_OPTIONS: {error.args[0].str()}") from None
    except TypeError as error:  # of an option that takes a function
        raise SettingsError(f"{PREFIX}KAFKA_OPTIONS: {error}") from None


def _base(settings: Settings) -> dict[str, Any]:
    """The options that every client of ours has.

    https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
    """
    return {
        "client.id": f"{settings.topic_prefix}.{settings.pool}",
        "log_level": 2,  # nothing: its lines are no JSON, twenty a second while Kafka is away; our own log says it
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 5000,
        **settings.kafka_options,
        "bootstrap.servers": settings.kafka_bootstrap_servers,
    }
