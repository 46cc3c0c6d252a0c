"""What a worker says of Kafka, as librdkafka tells it."""

from collections.abc import Iterator

import orjson
import pytest
from confluent_kafka import KafkaError

from consumers.config import load
from consumers.inbound import Inbound


@pytest.fixture
def inbound() -> Iterator[Inbound]:
    settings = load(
        target_dsn="postgresql://applier@127.0.0.1:1/nowhere",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_options={"log_level": 0},
    )
    made = Inbound(settings, lambda partitions: {}, lambda partitions: None, lambda partitions: None)
    yield made
    assert made.close(10)


def looks(inbound: Inbound, *states: str) -> str:
    brokers = {f"{number}": {"state": state, "source": "learned"} for number, state in enumerate(states)}
    brokers["own"] = {"state": "UP", "source": "internal"}
    inbound._on_statistics(orjson.dumps({"brokers": brokers}).decode())
    return inbound.waits_for


def test_brokers_that_are_all_away_are_missed_though_one_was_never_asked(inbound: Inbound) -> None:
    assert looks(inbound, "INIT", "UP") == ""
    assert looks(inbound, "INIT", "DOWN") == "", "one look may fall between two connections"
    assert "down" in looks(inbound, "INIT", "CONNECT")
    assert looks(inbound, "INIT", "UP") == ""


def test_one_broker_of_several_is_enough(inbound: Inbound) -> None:
    for _ in range(3):
        assert looks(inbound, "DOWN", "UP", "DOWN") == ""


def test_a_better_reason_stays(inbound: Inbound) -> None:
    inbound._on_error(KafkaError(KafkaError._AUTHENTICATION, "the login is refused"))
    for _ in range(3):
        assert "the login is refused" in looks(inbound, "DOWN")


def test_what_librdkafka_says_of_all_brokers_is_not_taken_for_true(inbound: Inbound) -> None:
    inbound._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert inbound.waits_for == ""
