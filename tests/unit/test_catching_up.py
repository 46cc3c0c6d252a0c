"""Parked tenants' own readings, against a log and a target that are not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consumers import catching_up
from consumers.apply import Applier, Result
from consumers.batch import Batch, Message
from consumers.catching_up import MOST_AT_ONCE, STRETCH, CatchingUp, read
from consumers.config import Settings, load
from consumers.errors import LogUnavailable, TargetRefused
from consumers.flight import Flight
from consumers.ledger import Ledger
from consumers.parking import Parked
from consumers.reasons import Reason
from consumers.watermark import Place, Progress

CONTROL = cast(Any, SimpleNamespace(broken=False))
STUCK = Reason(kind="55P03", says="its rows are locked", advice="Wait.")
A, B, C, D = (1, 0), (2, 0), (3, 0), (1, 1)
"""Places: A and D of one tenant."""


@pytest.fixture
def settings() -> Settings:
    return load(
        _env_file=None,
        target_dsn="postgresql://applier@127.0.0.1:1/nowhere",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_options={"log_level": 0},
    )


class Beside:
    """A worker with these tenants parked; the test says when a stretch is read, and what its applying comes to."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, *places: Place) -> None:
        self.asked: list[tuple[int, int, int]] = []
        """(partition, start, end) of each stretch that was begun."""
        self.may_read = threading.Semaphore(0)
        self.fault: Exception | None = None
        self.outcome = Result(0)
        self.torn: set[int] = set()
        """What the truth, read again, comes to."""
        self.serves = True
        self.ledger = Ledger("default")
        self.ledger.progress = {partition: Progress("topic", 100) for partition in (0, 1)}
        self.ledger.parked = {place: Parked(10) for place in places}
        self.caught_up: list[tuple[Place, int]] = []
        self.sent: list[Flight] = []
        monkeypatch.setattr(self.ledger, "caught_up", self._caught_up)
        monkeypatch.setattr(catching_up, "read", self._read)
        applier = Applier(settings, cast(Any, None), cast(Any, None), is_beside=True)
        self.it = CatchingUp(
            settings,
            applier,
            ledger=self.ledger,
            mapping=cast(Any, SimpleNamespace(serves=lambda _: self.serves, expire=lambda: None)),
            departures=cast(
                Any,
                SimpleNamespace(
                    prepare=lambda *_: None,
                    send_off=self._send_off,
                    read_again=lambda _: self.torn,
                    read_mapping=lambda _: None,
                ),
            ),
            harvest=cast(Any, SimpleNamespace(take=lambda _: None)),
        )

    def _read(self, _: Settings, partition: int, start: int, end: int) -> list[Message]:
        self.asked.append((partition, start, end))
        assert self.may_read.acquire(timeout=10)
        if self.fault is not None:
            raise self.fault
        return [Message(partition, end - 1, b"11", [], b"{}")]

    def _send_off(self, _: Any, flight: Flight, *__: Any) -> None:
        job: Future[Result] = Future()
        job.set_result(self.outcome)
        flight.batch, flight.jobs = Batch(), [job]
        self.sent.append(flight)

    def _caught_up(self, _: Any, place: Place, result: Result, start: int, end: int) -> None:
        assert start == self.ledger.parked[place].from_offset
        self.caught_up.append((place, end))
        if result.reason is not None:
            self.ledger.parked[place].failed(end, is_locked=True)
        elif end >= self.ledger.progress[place[1]].next_offset:
            del self.ledger.parked[place]
        else:
            self.ledger.parked[place].moved(end)

    def go_on(self, end: int = 100, *, may_be_awaited: bool = True) -> set[int]:
        return self.it.go_on(CONTROL, {0: end, 1: end}, may_be_awaited=may_be_awaited)

    def until(self, condition: Callable[[], object]) -> None:
        """The loop goes on, a batch of the pool's always under way."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.go_on()
            time.sleep(0.001)

    def carry_out(self) -> None:
        """One stretch, to where it is applied."""
        sent = len(self.sent)
        self.may_read.release()
        self.until(lambda: len(self.sent) > sent)


@pytest.fixture
def beside(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Beside]]:
    made: list[Beside] = []

    def make(*places: Place) -> Beside:
        made.append(Beside(settings, monkeypatch, *places))
        return made[-1]

    yield make
    for each in made:
        for _ in range(10):
            each.may_read.release()
        each.it.end()
        assert each.it.close(time.monotonic() + 10)


def test_a_few_at_a_time_and_of_one_tenant_one(beside: Callable[..., Beside]) -> None:
    found = beside(A, D, B, C)
    found.until(lambda: len(found.asked) == MOST_AT_ONCE)
    found.go_on()
    assert sorted(found.asked) == [(0, 10, 100)] * MOST_AT_ONCE, "of A and B"
    found.carry_out()
    found.it.settle(CONTROL)
    found.until(lambda: len(found.asked) > MOST_AT_ONCE)


def test_who_is_through_joins_between_two_batches(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    found.until(lambda: found.asked)
    found.carry_out()
    found.go_on()
    assert found.caught_up == [], "a batch is under way that was sorted out without the tenant"
    assert found.it.settle(CONTROL) == set()
    assert found.caught_up == [(A, 100)]
    assert found.ledger.parked == {}


def test_a_tenant_that_cannot_be_read_leaves_the_others_alone(beside: Callable[..., Beside]) -> None:
    found = beside(A, B)
    found.fault = LogUnavailable("no leader")
    found.may_read.release()
    found.may_read.release()
    found.until(lambda: len(found.asked) == 2)
    deadline = time.monotonic() + 10
    while any(not parked.due for parked in found.ledger.parked.values()):
        assert time.monotonic() < deadline
        found.it.settle(CONTROL)
    assert [(each.from_offset, each.due > time.monotonic()) for each in found.ledger.parked.values()] == [
        (10, True)
    ] * 2


def test_what_only_a_person_can_mend_stops_the_worker(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    found.fault = TargetRefused("no right")
    found.may_read.release()
    found.until(lambda: found.asked)
    with pytest.raises(TargetRefused):
        found.until(lambda: found.it.settle(CONTROL))


def test_only_who_follows_and_is_near_is_waited_for(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    found.until(lambda: found.asked)
    assert not found.it.is_awaited, "what it is stuck on may still be there"
    found.carry_out()
    found.ledger.progress[0] = Progress("topic", 200)
    found.it.settle(CONTROL)
    assert found.ledger.parked[A].follows
    found.go_on(100 + STRETCH + 1)
    assert not found.it.is_awaited, "too far"
    found.carry_out()
    found.ledger.progress[0] = Progress("topic", 100 + 2 * STRETCH)
    found.it.settle(CONTROL)
    found.go_on(100 + 2 * STRETCH)
    assert found.it.is_awaited
    found.carry_out()
    found.it.settle(CONTROL)
    assert not found.it.is_awaited
    assert found.ledger.parked == {}


def test_nobody_is_waited_for_twice_before_a_batch_goes_off(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    found.ledger.parked[A].follows = True
    found.go_on(may_be_awaited=False)
    assert not found.it.is_awaited


def test_a_wait_in_vain_is_not_soon_repeated(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    parked = found.ledger.parked[A]
    parked.follows, parked.wait_s = True, 0.01
    found.go_on()
    found.until(lambda: not found.it.is_awaited)
    found.carry_out()
    found.ledger.progress[0] = Progress("topic", 200)
    found.it.settle(CONTROL)
    found.go_on(200)
    assert not found.it.is_awaited
    assert parked.wait_s == 0.02, "but longer, the next time"


def test_who_is_locked_out_is_tried_again_soon(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    found.outcome = Result(1, stuck={0: 10}, reason=STUCK)
    found.until(lambda: found.asked)
    found.carry_out()
    found.it.settle(CONTROL)
    parked = found.ledger.parked[A]
    assert 0 < parked.due - time.monotonic() <= 1
    found.outcome = Result(1, overtaken=True)
    parked.due = 0.0
    found.torn = {1}
    found.until(lambda: len(found.asked) == 2)
    found.carry_out()
    assert found.it.settle(CONTROL) == {1}, "the truth is read again"
    assert parked.due > time.monotonic()


def test_tenants_that_run_after_their_pool_leave_one_that_waits_its_turn(beside: Callable[..., Beside]) -> None:
    found = beside(A, B, C)
    found.ledger.parked[C].from_offset = 20
    for end in (100, 200, 300):
        found.ledger.progress[0] = Progress("topic", end + 100)
        found.until(lambda: len(found.it._readings) == MOST_AT_ONCE)
        found.carry_out()
        found.it.settle(CONTROL)
    assert (0, 20, 100) in found.asked


def test_a_tenant_that_is_not_known_as_the_pools_own_is_not_read_at_once_again(beside: Callable[..., Beside]) -> None:
    found = beside(A)
    found.serves = False
    found.may_read.release()
    found.until(lambda: found.asked and not found.it._readings)
    assert (found.sent, found.caught_up) == ([], [])
    assert 0 < found.ledger.parked[A].due - time.monotonic() <= 1
    found.go_on()
    assert len(found.asked) == 1
    found.serves, found.ledger.parked[A].due = True, 0.0
    found.carry_out()


def test_what_is_another_workers_by_now_is_not_settled(beside: Callable[..., Beside]) -> None:
    found = beside(A, B)
    found.until(lambda: len(found.asked) == 2)
    found.carry_out()
    found.it.let_go([0])
    found.may_read.release()
    deadline = time.monotonic() + 10
    while found.it._readings:
        assert time.monotonic() < deadline
        found.it.settle(CONTROL)
    assert (found.caught_up, len(found.sent)) == ([], 1)
    assert found.sent[0].ended.is_set()


def test_a_broker_that_is_behind_does_not_make_a_stretch_shorter(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind:
        def __init__(self, _: Settings) -> None:
            pass

        def read(self, partition: int, start: int, end: int, most: int) -> Iterator[list[Message]]:
            yield [Message(partition, offset, b"11", [], b"{}") for offset in range(start, min(end, 8))]

        def close(self) -> None:
            pass

    monkeypatch.setattr(catching_up, "LogReader", Behind)
    assert [message.offset for message in read(settings, 0, 5, 8)] == [5, 6, 7]
    assert read(settings, 0, 8, 8) == []
    with pytest.raises(LogUnavailable):
        read(settings, 0, 5, 9)
