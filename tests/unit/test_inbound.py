"""What a worker says of Kafka, as librdkafka tells it."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError

from consumers.config import load
from consumers.inbound import OUTSIDE_S, Inbound


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


def test_a_member_that_does_not_come_back_is_given_up_for_a_new_one(
    inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[list[int]] = []
    monkeypatch.setattr(inbound, "_on_lost", lost.append)
    first = inbound._consumer
    inbound._lose(first, [])
    inbound.take(1, 0)
    assert inbound._consumer is first, "it comes back by itself, as a rule"
    for patience_s in (OUTSIDE_S, 2 * OUTSIDE_S):
        before = inbound._consumer
        inbound._lost_at = time.monotonic() - patience_s + 1
        inbound.take(1, 0)
        assert inbound._consumer is before
        inbound._lost_at = time.monotonic() - patience_s - 1
        inbound.take(1, 0)
        assert inbound._consumer is not before
    left: Any = SimpleNamespace(incremental_unassign=lambda places: None)
    inbound._lose(left, [])
    inbound._assign(left, [])
    assert lost == [[]], "who was left behind has no say any more"
    inbound._assign(inbound._consumer, [])
    assert inbound._lost_at is None


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
