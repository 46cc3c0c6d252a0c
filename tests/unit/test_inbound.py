"""What a worker says of Kafka, as librdkafka tells it."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from consumers import inbound as module
from consumers.batch import Message
from consumers.config import load
from consumers.inbound import MOST_LEAVING, OUTSIDE_S, Inbound


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


def wait_in_vain(inbound: Inbound) -> None:
    """The group has left us out for longer than we wait for it."""
    inbound._lost_at = time.monotonic() - inbound._patience_s - 1
    inbound.take(1, 0)


def test_a_member_that_is_given_up_is_given_nothing_while_it_leaves(
    inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[int]] = []
    left: list[Consumer] = []
    leave = module._leave

    def assigned_meanwhile(member: Consumer) -> threading.Thread:
        left.append(member)
        inbound._assign(member, [TopicPartition("changes", 0)])
        return leave(member)

    monkeypatch.setattr(module, "_leave", assigned_meanwhile)
    monkeypatch.setattr(inbound, "_on_assign", lambda partitions: given.append(partitions) or {})
    first = inbound._consumer
    wait_in_vain(inbound)
    assert (left, given) == ([first], [])


def test_no_more_than_a_few_members_are_left_behind_at_once(inbound: Inbound, monkeypatch: pytest.MonkeyPatch) -> None:
    may_leave = threading.Event()
    leaving: list[threading.Thread] = []

    def leave(member: Consumer) -> threading.Thread:
        def end() -> None:
            assert may_leave.wait(60)
            member.close()

        leaving.append(threading.Thread(target=end, daemon=True))
        leaving[-1].start()
        return leaving[-1]

    monkeypatch.setattr(module, "_leave", leave)
    for _ in range(MOST_LEAVING + 2):
        wait_in_vain(inbound)
    assert len(leaving) == MOST_LEAVING
    may_leave.set()
    for thread in leaving:
        thread.join(30)
    last = inbound._consumer
    wait_in_vain(inbound)
    assert inbound._consumer is not last, "there is room for one again"


def test_the_end_waits_for_members_that_were_given_up(inbound: Inbound, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving: list[threading.Thread] = []
    all_leave = threading.Event()
    leave = module._leave

    def last_first(member: Consumer) -> threading.Thread:
        if leaving:  # the one that is not given up
            leaving.append(leave(member))
            all_leave.set()
        else:
            leaving.append(threading.Thread(target=after_the_other, args=[member], daemon=True))
            leaving[0].start()
        return leaving[-1]

    def after_the_other(member: Consumer) -> None:
        assert all_leave.wait(60)
        leaving[1].join(60)
        member.close()

    monkeypatch.setattr(module, "_leave", last_first)
    wait_in_vain(inbound)
    assert inbound.close(60)


def test_whoever_has_no_room_is_served_now_and_then_and_keeps_what_was_fetched_for_a_while(
    inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    told: list[str] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module.time, "sleep", lambda _: told.append("waits"))
    quiet: Any = SimpleNamespace(
        poll=lambda _: told.append("serves"),
        assignment=list,
        pause=lambda _: told.append("pauses"),
        resume=lambda _: told.append("resumes"),
        close=lambda: None,
    )
    monkeypatch.setattr(inbound, "_consumer", quiet)

    def takes(most: int, after: float) -> list[str]:
        nonlocal now
        told.clear()
        now += after
        assert inbound.take(most, 0.1) == []
        return told

    assert takes(0, 0) == ["waits"]
    assert takes(0, module.SERVE_S / 2) == ["waits"]
    assert takes(0, module.SERVE_S) == ["serves"]
    assert takes(0, module.PATIENT_S) == ["pauses", "serves"]
    assert takes(0, 0) == ["serves"], "nothing comes of it any more"
    assert takes(1, 0) == ["resumes", "serves"]
    assert takes(0, 0) == ["waits"], "it has just had room"


@pytest.mark.parametrize("fault", [UnicodeDecodeError, SystemError])
def test_a_message_with_a_header_whose_name_is_no_text_is_one_without_headers(
    inbound: Inbound, fault: type[Exception]
) -> None:
    """Which is not ours."""
    assert inbound._message(nameless(fault)) == Message(2, 7, b"5", [], b"body")


def nameless(fault: type[Exception]) -> Any:
    def headers() -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "") if fault is UnicodeDecodeError else fault

    return SimpleNamespace(
        error=lambda: None,
        headers=headers,
        partition=lambda: 2,
        offset=lambda: 7,
        key=lambda: b"5",
        value=lambda: b"body",
    )


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
