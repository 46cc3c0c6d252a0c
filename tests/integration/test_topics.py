"""Topics on a real broker: made as they must be, verified, never altered."""

import time

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from demo.servers import wait_until
from demo.servers.starting import free_port
from replicator import topics
from replicator.config import Settings, load
from replicator.errors import LogRefused, LogUnavailable
from replicator.event import Topics

MIB = 1 << 20


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return _settings(kafka_bootstrap, topic_prefix)


def _settings(bootstrap: str, prefix: str, **more: object) -> Settings:
    given = {"partitions": 3, "max_message_bytes": 2 * MIB, "_env_file": None} | more
    return load(source_dsn="postgresql://nowhere", kafka_bootstrap_servers=bootstrap, topic_prefix=prefix, **given)


def _config(settings: Settings, topic: str) -> dict[str, str]:
    admin = AdminClient(topics.kafka_base(settings))
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result(10).items()}


def _make(settings: Settings, topic: str, partitions: int, **config: str) -> None:
    admin = AdminClient(topics.kafka_base(settings))
    new = NewTopic(topic, num_partitions=partitions, config={k.replace("_", "."): v for k, v in config.items()})
    admin.create_topics([new])[topic].result(10)
    wait_until(lambda: topic in admin.list_topics(timeout=10).topics, "the topic is there", 10)


def test_missing_topics_are_made_and_a_second_time_nothing_happens(settings: Settings) -> None:
    conf, names = topics.kafka_base(settings), Topics(settings.topic_prefix)
    topics.ensure(conf, settings)
    topics.ensure(conf, settings)

    found = topics.inspect(conf, settings)
    assert {name: topic.partitions for name, topic in found.topics.items()} == {
        names.changes: 3,
        names.schemas: 1,
        names.state: 1,
        names.control: 1,
    }
    assert found.unreachable == ()
    assert found.request_max_bytes == 100 * MIB
    changes, state = _config(settings, names.changes), _config(settings, names.state)
    assert changes["cleanup.policy"] == "delete"
    assert changes["retention.ms"] == str(14 * 86_400_000)
    assert changes["max.message.bytes"] == str(2 * MIB)
    assert changes["compression.type"] == "producer"
    assert state["cleanup.policy"] == "compact"
    assert int(state["segment.bytes"]) == 16 * MIB


@pytest.mark.parametrize("topic", ["changes", "schemas", "state", "control"])
def test_a_clock_that_is_wrong_has_no_say(settings: Settings, topic: str) -> None:
    """One that is ahead would have events refused, one that is behind would let them expire early."""
    conf, name = topics.kafka_base(settings), getattr(Topics(settings.topic_prefix), topic)
    topics.ensure(conf, settings)
    producer, now_ms = Producer(conf), time.time() * 1000
    delivered: list[tuple[KafkaError | None, Message]] = []
    for days in (-300, 300):
        producer.produce(
            name,
            b"value",
            b"key",
            timestamp=int(now_ms + days * 86_400_000),
            on_delivery=lambda error, message: delivered.append((error, message)),
        )
    assert producer.flush(10) == 0
    assert [error for error, _ in delivered] == [None, None]
    for _, message in delivered:
        kind, at_ms = message.timestamp()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        assert abs(at_ms - now_ms) < 60_000


def test_partitions_are_never_added(settings: Settings) -> None:
    changes = Topics(settings.topic_prefix).changes
    _make(settings, changes, 2)
    with pytest.raises(LogRefused, match="REPLICATOR_PARTITIONS=2"):
        topics.ensure(topics.kafka_base(settings), settings)
    assert topics.inspect(topics.kafka_base(settings), settings).topics[changes].partitions == 2


def test_a_topic_that_takes_less_than_the_setting_is_refused(settings: Settings) -> None:
    _make(settings, Topics(settings.topic_prefix).changes, 3, max_message_bytes=str(MIB))
    with pytest.raises(LogRefused, match=r"max\.message\.bytes"):
        topics.ensure(topics.kafka_base(settings), settings)


def test_a_state_topic_that_forgets_is_refused(settings: Settings) -> None:
    _make(settings, Topics(settings.topic_prefix).state, 1, cleanup_policy="delete", max_message_bytes=str(2 * MIB))
    with pytest.raises(LogRefused, match=r"alter it to compact"):
        topics.ensure(topics.kafka_base(settings), settings)


def test_brokers_that_are_too_few_for_the_copies_are_waited_for(kafka_bootstrap: str, topic_prefix: str) -> None:
    """The others may still be starting."""
    settings = _settings(kafka_bootstrap, topic_prefix, replication_factor=3)
    with pytest.raises(LogUnavailable, match=r"could not be made: .*[Rr]eplication factor"):
        topics.ensure(topics.kafka_base(settings), settings)


def test_kafka_away_is_waited_out_with_one_reason(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(topics, "SECONDS", 1.0)
    settings = _settings(f"127.0.0.1:{free_port()}", "nobody")
    with pytest.raises(LogUnavailable, match="Connection refused"):
        topics.ensure(topics.kafka_base(settings), settings)
    assert capfd.readouterr().err == "", "librdkafka itself is quiet"


def test_a_wrong_librdkafka_option_is_refused_by_name(kafka_bootstrap: str) -> None:
    settings = _settings(kafka_bootstrap, "nobody", kafka_options={"no.such.option": 1})
    with pytest.raises(LogRefused, match=r"no\.such\.option"):
        topics.ensure(topics.kafka_base(settings), settings)


def test_options_become_librdkafka_strings(kafka_bootstrap: str) -> None:
    settings = _settings(kafka_bootstrap, "x", kafka_options={"enable.ssl.certificate.verification": False, "a": 5})
    base = topics.kafka_base(settings)
    assert base["enable.ssl.certificate.verification"] == "false"
    assert base["a"] == "5"
    assert base["bootstrap.servers"] == kafka_bootstrap
