"""A worker's loop against a Kafka and a target that are not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from consumers import flight, requests, schemas, worker
from consumers.batch import Batch, Message
from consumers.config import Settings, load
from consumers.errors import LogUnavailable, TargetRefused
from consumers.flight import Flight
from consumers.ordering import Event
from consumers.parking import Parked
from consumers.relation import LEAD_COLUMNS, Relation
from consumers.requests import Requests
from consumers.schemas import Schemas
from consumers.tenants import Owner
from consumers.watermark import Progress
from consumers.worker import Worker
from replicator import NOWHERE, Request, partition_of
from replicator.runtime import Stop


@pytest.fixture
def settings() -> Settings:
    return load(
        target_dsn="postgresql://applier@127.0.0.1:1/nowhere",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_options={"log_level": 0},
        http_port=0,
    )


def test_whoever_waits_for_a_version_of_a_table_does_not_hold_up_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "_SECONDS", 3600)
    versions, asks = Schemas(settings), threading.Event()
    raised: list[LogUnavailable] = []

    def ask() -> None:
        asks.set()
        try:
            versions("messages", "never")
        except LogUnavailable as error:
            raised.append(error)

    asking, closing = (threading.Thread(target=work, daemon=True) for work in (ask, versions.close))
    asking.start()
    assert asks.wait(10)
    closing.start()
    for thread in (closing, asking):
        thread.join(10)
        assert not thread.is_alive()
    assert len(raised) == 1


class Failing:
    """Kafka's side of a worker. Each reading fails; the worker is asked to stop after some."""

    def __init__(self, stop: Stop, error: Exception, times: int) -> None:
        self._stop, self._error, self._left = stop, error, times

    def take(self, most: int, wait_s: float) -> list[Message]:
        self._left -= 1
        if not self._left:
            self._stop.ask()
        raise self._error


class Ending:
    """A log that ends there in every partition."""

    waits_for = ""

    def __init__(self, at: int) -> None:
        self._at = at

    def end(self, partition: int) -> int:
        return self._at


def working(settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Worker:
    """A worker that has joined its group, and whose second reading is made while it waits after the first."""
    stop = Stop()
    loop = Worker(settings, stop)
    monkeypatch.setattr(loop, "_inbound", Failing(stop, error, times=3))
    monkeypatch.setattr(loop, "_begin", lambda: None)
    return loop


def test_what_fails_again_while_a_fault_is_waited_out_is_waited_out_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    working(settings, monkeypatch, LogUnavailable("away")).work()


def test_what_was_taken_when_a_reading_failed_is_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance that fails takes along messages that had come; later ones would follow as if there were none."""
    loop = working(settings, monkeypatch, LogUnavailable("away"))
    loop._ledger.progress = {partition: Progress("topic", 5) for partition in (0, 3)}
    with pytest.raises(LogUnavailable):
        loop._read()
    assert loop._recover == {0, 3}


def test_what_only_a_person_can_mend_ends_the_waiting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = working(settings, monkeypatch, LogUnavailable("away"))
    monkeypatch.setattr(loop, "_turn", lambda: loop._wait_out(LogUnavailable("away")))
    monkeypatch.setattr(loop, "_inbound", Failing(Stop(), TargetRefused("no right"), times=-1))
    with pytest.raises(TargetRefused):
        loop.work()


def test_a_worker_whose_sessions_do_not_last_does_not_begin(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TargetRefused("a pooler")

    loop = Worker(settings, Stop())
    monkeypatch.setattr(loop, "_open_control", lambda: None)
    monkeypatch.setattr(worker.target_session, "refuse_shared", refuse)
    monkeypatch.setattr(worker, "TopicShape", lambda _: pytest.fail("it goes on"))
    with pytest.raises(TargetRefused, match="a pooler"):
        loop._begin()


def test_a_loop_that_completes_no_turn_is_not_healthy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Worker(settings, Stop())
    monkeypatch.setattr(loop, "_inbound", SimpleNamespace(waits_for=""))
    assert loop._status()["healthy"]
    monkeypatch.setattr(loop, "_well_at", time.monotonic() - worker.UNHEALTHY_S - 1)
    assert not loop._status()["healthy"]


def test_a_loop_whose_batch_waits_for_the_target_is_not_healthy_for_ever(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turns go on: a full disk, or a table that is locked, is in the way of what they have sent off."""
    stop = Stop()
    loop = Worker(settings, stop)
    monkeypatch.setattr(loop, "_inbound", SimpleNamespace(waits_for="", close=lambda _: True))
    monkeypatch.setattr(loop, "_begin", lambda: None)
    waits = iter(["the disk is full", ""])

    def turn() -> None:
        loop._well_at = time.monotonic() - worker.UNHEALTHY_S - 1
        loop._applier.waits_for = next(waits)
        if not loop._applier.waits_for:
            stop.ask()

    healthy: list[object] = []
    monkeypatch.setattr(loop, "_turn", turn)
    monkeypatch.setattr(loop._pause, "reset", lambda: healthy.append(loop._status()["healthy"]))
    loop.work()
    assert healthy == [False, True]


def test_what_a_batch_waited_for_is_forgotten_with_it(settings: Settings) -> None:
    """Or a worker that has nothing to do any more would never be called well again."""
    applier, ended = Worker(settings, Stop())._applier, threading.Event()
    applier.waits_for = "the disk is full"
    ended.set()
    assert applier.run(1, "topic", [], {}, ended).abandoned
    assert applier.waits_for == ""


def test_nothing_is_asked_for_a_tenant_where_it_is_parked(settings: Settings) -> None:
    loop = Worker(settings, Stop())
    partitions = 2
    here = [inbox for inbox in range(1, 50) if partition_of(inbox, partitions) == 0]
    there = [inbox for inbox in range(1, 50) if partition_of(inbox, partitions) == 1]
    loop._mapping.owners = {
        here[0]: Owner(1, "", False),
        there[0]: Owner(1, "", False),
        here[1]: Owner(2, "", False),
    }
    loop._ledger.partitions = partitions
    loop._ledger.progress = {partition: Progress("topic", 5) for partition in range(partitions)}
    loop._ledger.parked = {(1, 0): Parked(3)}
    assert loop._upkeep.served(Ending(at=9)) == {there[0]: (5, 9), here[1]: (5, 9)}


def test_an_inbox_that_comes_back_to_the_mapping_is_asked_for_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Requests(settings)
    asked: list[Request] = []
    monkeypatch.setattr(asking, "send", asked.append)
    monkeypatch.setattr(requests, "_FIRST_S", 0.0)
    mapped = {11: Owner(1, "", False)}
    for owners in (mapped, mapped, {}, mapped):
        asking.ask_for_backfills(owners, {11: (5, 5)})
    assert len(asked) == 2


def test_stubs_of_many_tenants_are_looked_for_some_at_a_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Requests(settings)
    looked: list[int] = []

    def overdue(_control: object, _relation: object, tenant: int, _inboxes: object) -> list[Request]:
        looked.append(tenant)
        return []

    monkeypatch.setattr(asking._stubs, "overdue", overdue)
    owners = {inbox: Owner(inbox, "", True) for inbox in range(60)}
    over = [asking.ask_for_stubs(cast(Any, None), cast(Any, {"t": None}), owners, owners) for _ in range(4)]
    assert over == [False, False, True, False]
    assert looked == [*range(60), *range(25)]


def test_a_tenant_whose_stubs_cannot_be_looked_for_keeps_the_turn_of_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Requests(settings)
    looked: list[int] = []

    def overdue(_control: object, _relation: object, tenant: int, _inboxes: object) -> list[Request]:
        if tenant == 1:
            raise psycopg.errors.QueryCanceled
        looked.append(tenant)
        return []

    monkeypatch.setattr(asking._stubs, "overdue", overdue)
    owners = {inbox: Owner(inbox, "", True) for inbox in range(4)}
    for _ in range(2):
        with pytest.raises(psycopg.errors.QueryCanceled):
            asking.ask_for_stubs(cast(Any, None), cast(Any, {"t": None}), owners, owners)
        assert asking.ask_for_stubs(cast(Any, None), cast(Any, {"t": None}), owners, owners)
    assert looked == [0, 2, 3, 0, 2, 3]


def test_what_is_looked_after_beside_stubs_has_its_turns_while_a_lock_keeps_these_from_being_looked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep, audited = Worker(settings, Stop())._upkeep, list[object]()

    def locked(*_: object) -> bool:
        raise psycopg.errors.LockNotAvailable

    monkeypatch.setattr(upkeep._requests, "ask_for_stubs", locked)
    monkeypatch.setattr(upkeep._audit, "write", audited.append)
    monkeypatch.setattr(upkeep, "_topic", SimpleNamespace(topic_id=lambda: ""))
    monkeypatch.setattr(upkeep._layout, "read", lambda _: False)
    monkeypatch.setattr(upkeep, "_known_relations", upkeep._layout.relations)
    monkeypatch.setattr(upkeep._mapping, "_read_at", time.monotonic())
    control, inbound = SimpleNamespace(notifies=lambda timeout: []), cast(Any, Ending(at=0))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        upkeep.look_after(cast(Any, control), inbound)
    upkeep._due = 0.0
    upkeep.look_after(cast(Any, control), inbound)
    assert audited == [control]


def messages(partition: int, offsets: Iterable[int]) -> list[Message]:
    return [Message(partition, offset, b"11", [], b"{}") for offset in offsets]


def test_a_batch_that_does_not_begin_where_the_last_one_ended_is_read_again(settings: Settings) -> None:
    loop = Worker(settings.model_copy(update={"batch_wait_ms": 0}), Stop())
    loop._ledger.progress = {0: Progress("topic", 5), 1: Progress("topic", 5)}
    loop._ahead.add(messages(0, [7, 8]) + messages(1, [3, 4, 5, 6]))
    batch = loop._next_batch()
    assert batch is not None
    assert batch.messages == messages(1, [5, 6]), "what was fetched before a seek may still come"
    assert loop._recover == {0}


def test_what_waits_for_its_turn_is_not_kept_waiting_by_a_silent_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def take(_: int, wait_s: float) -> list[Message]:
        waits.append(wait_s)
        return messages(0, [5]) if len(waits) == 1 else []

    loop = Worker(settings, Stop())
    loop._ledger.progress = {0: Progress("topic", 5)}
    monkeypatch.setattr(loop, "_inbound", SimpleNamespace(gaps=set(), take=take))
    loop._read()
    loop._read()
    assert waits == [worker.POLL_S, worker.BRISK_S]


def test_a_batch_that_could_not_be_sent_off_is_not_taken_as_applied(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Worker(settings, Stop())
    columns = dict.fromkeys(LEAD_COLUMNS, "text") | {"ai_probability_score": "numeric", "lead_evidence": "jsonb"}
    loop._layout.relations = {
        "t": Relation(name="t", columns=columns, documents=frozenset(), parents=(), children=()),
    }
    event = Event(0, 5, "c", "t", b"[1]", 1, NOWHERE, False, "", b"", b"{}", "", None, ())
    monkeypatch.setattr(flight, "sort_out", lambda *_: Batch(events={1: [event]}))

    def unreadable(*_: object) -> None:
        raise TargetRefused("no right to read the rules")

    monkeypatch.setattr(loop._leads, "of", unreadable)
    batch = Flight(messages(0, [5]))
    with pytest.raises(TargetRefused):
        loop._departures.send_off(cast(Any, None), batch, loop._applier, loop._threads)
    assert not batch.is_done
    assert batch.batch is None, "it is made again"


def test_a_target_that_was_taken_back_is_read_again_in_every_partition(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in those of the flight alone: the others' watermarks, which were read again too, would meet later events."""
    loop = Worker(settings, Stop())
    loop._ledger.progress.update({0: Progress("topic", 100), 1: Progress("topic", 200)})
    monkeypatch.setattr(loop._ledger, "read_again", lambda *_: None)
    monkeypatch.setattr(loop._mapping, "read", lambda _: None)
    monkeypatch.setattr(flight, "read_progress", lambda *_: {0: Progress("topic", 100), 1: Progress("topic", 50)})
    batch = Flight(messages(0, [100]), batch=cast(Batch, object()))
    loop._start_over(cast(Any, None), batch)
    assert batch.batch is None, "its own partition stands where it stood: it is sent off again"
    loop._ahead.add(messages(1, [200]))
    assert loop._next_batch() is None
    assert loop._recover == {1}
