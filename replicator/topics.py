"""The topics on the broker: made where they are missing, verified where they exist, never altered.

Every call has a time-out. Kafka away: LogUnavailable; a topic that cannot be used, or a missing right: LogRefused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports without saying so
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from replicator import clients
from replicator.clients import Admin
from replicator.config import Settings
from replicator.errors import LogRefused, LogUnavailable
from replicator.facts import KafkaFacts, TopicFacts
from replicator.topic_layout import Layout, deviations, layouts

log = structlog.get_logger(__name__)

SECONDS: Final = 15.0
"""How long Kafka may take for one answer."""

_LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]

_REFUSALS: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REQUEST,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError._AUTHENTICATION,
        KafkaError._INVALID_ARG,
    }
)


def kafka_base(settings: Settings) -> dict[str, Any]:
    """librdkafka's options that every client of ours has. Callbacks for errors are the caller's affair.

    https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
    """
    options = {name: _option(value) for name, value in settings.kafka_options.items()}
    return {
        "client.id": settings.slot,
        "log_level": "2",  # nothing: its lines are no JSON, twenty a second while Kafka is away; our own log says it
        "socket.keepalive.enable": "true",
        "reconnect.backoff.max.ms": "5000",
        **options,
        "bootstrap.servers": settings.kafka_bootstrap_servers,
    }


def ensure(admin_conf: Mapping[str, Any], settings: Settings) -> None:
    """Makes the topics that are missing and verifies the others."""
    admin = clients.admin(admin_conf)
    wanted = {layout.name: layout for layout in layouts(settings)}
    existing = _topics(admin, wanted)
    missing = [layout for name, layout in wanted.items() if name not in existing]
    if missing:
        made = _create(admin, missing, settings.replication_factor)
        _wait_until_served(admin_conf, {name: wanted[name].partitions for name in made})
        existing = _topics(admin, wanted)
    faults = [fault for name, facts in existing.items() for fault in deviations(wanted[name], facts)]
    if faults:
        raise LogRefused("; ".join(faults))
    if unread := [name for name, facts in existing.items() if facts.config is None]:
        log.warning("topics.settings_unverified", topics=unread, reason="no right to describe their configuration")


def inspect(admin_conf: Mapping[str, Any], settings: Settings) -> KafkaFacts:
    """What is there, for `check`; nothing is changed. Raises LogUnavailable or LogRefused if nothing answers."""
    admin = clients.admin(admin_conf)
    brokers = {str(broker.id): f"{broker.host}:{broker.port}" for broker in _metadata(admin).brokers.values()}
    unreachable, limits = [], []
    for number, address in brokers.items():
        try:
            config = _configs(admin, [ConfigResource(ResourceType.BROKER, number)])[number]
        except LogUnavailable:
            unreachable.append(address)
            continue
        if config is not None and "socket.request.max.bytes" in config:
            limits.append(int(config["socket.request.max.bytes"]))
    return KafkaFacts(
        brokers=len(brokers),
        unreachable=tuple(unreachable),
        request_max_bytes=min(limits, default=None),
        topics=_topics(admin, [layout.name for layout in layouts(settings)]),
    )


def _option(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metadata(admin: Admin) -> Any:
    # Asking for all topics: a broker may create a topic that is asked for by name.
    try:
        return admin.list_topics(timeout=SECONDS)
    except KafkaException as error:
        admin.poll(0)  # brings what it has heard
        heard = f" ({admin.heard})" if admin.heard else ""
        raise _fault(f"Kafka's metadata could not be read{heard}", error) from None


def _topics(admin: Admin, names: Iterable[str]) -> dict[str, TopicFacts]:
    known = _metadata(admin).topics
    existing = {name: known[name] for name in names if name in known and known[name].error is None}
    if not existing:
        return {}
    configs = _configs(admin, [ConfigResource(ResourceType.TOPIC, name) for name in existing])
    return {
        name: TopicFacts(
            partitions=len(topic.partitions),
            replicas=min((len(partition.replicas) for partition in topic.partitions.values()), default=0),
            config=configs[name],
        )
        for name, topic in existing.items()
    }


def _configs(admin: Admin, resources: list[ConfigResource]) -> dict[str, dict[str, str] | None]:
    """By name; None where we may not read it."""
    found: dict[str, dict[str, str] | None] = {}
    for resource, answer in admin.describe_configs(resources, request_timeout=SECONDS).items():
        try:
            entries = _result(answer)
        except KafkaException as error:
            fault = _fault(f"the configuration of {resource.name} could not be read", error)
            if isinstance(fault, LogUnavailable):
                raise fault from None
            found[resource.name] = None
        else:
            found[resource.name] = {name: entry.value for name, entry in entries.items() if entry.value is not None}
    return found


def _create(admin: Admin, missing: list[Layout], replication_factor: int) -> list[str]:
    """The names of those that we made; somebody else may have been first with others."""
    made = []
    new = [
        NewTopic(
            layout.name,
            num_partitions=layout.partitions,
            replication_factor=replication_factor,
            config=dict(layout.config),
        )
        for layout in missing
    ]
    for name, answer in admin.create_topics(new, operation_timeout=SECONDS, request_timeout=SECONDS).items():
        try:
            _result(answer)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _fault(f"topic {name} could not be made", error) from None
        else:
            made.append(name)
            log.info("topic.made", topic=name)
    return made


def _wait_until_served(admin_conf: Mapping[str, Any], partitions: Mapping[str, int]) -> None:
    """A topic that was just made is named in the metadata a moment before its brokers serve it."""
    wanted = {TopicPartition(name, n): _LATEST for name, count in partitions.items() for n in range(count)}
    deadline = time.monotonic() + SECONDS
    while wanted:
        # A client that asked too early goes on answering "no leaders found" from its own cache: a new one for each try.
        admin = clients.admin(admin_conf)
        answers = admin.list_offsets(wanted, request_timeout=SECONDS)
        wanted = {place: _LATEST for place, answer in answers.items() if not _is_served(answer)}
        if wanted and time.monotonic() > deadline:
            waiting = sorted({place.topic for place in wanted})
            raise LogUnavailable(f"after {SECONDS:g} s no broker serves the new topics: {', '.join(waiting)}")
        if wanted:
            time.sleep(0.1)


def _is_served(answer: Future[Any]) -> bool:
    try:
        _result(answer)
    except KafkaException:
        return False
    return True


def _result(answer: Future[Any]) -> Any:
    try:
        return answer.result(SECONDS + 1)
    except FutureTimeout:
        raise LogUnavailable(f"Kafka has not answered within {SECONDS:g} s") from None


def _fault(what: str, error: KafkaException) -> LogRefused | LogUnavailable:
    cause: KafkaError = error.args[0]
    kind = LogRefused if cause.code() in _REFUSALS else LogUnavailable
    return kind(f"{what}: {cause.str()}")
