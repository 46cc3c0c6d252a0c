"""The producer takes every message that the settings allow, and each counts where it belongs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from demo.servers import wait_until
from replicator import clients
from replicator.errors import DeliveryFailed, LogRefused
from replicator.progress import Batch
from replicator.publisher import ENVELOPE_BYTES, GAPLESS, HASTE_S, NAMES_BYTES, Publisher

NOBODY = {"bootstrap.servers": "127.0.0.1:1"}
LARGEST = 256 << 20
MIB = 1 << 20


def test_a_message_of_the_largest_size_never_waits_for_an_empty_queue() -> None:
    def waits() -> None:
        pytest.fail("the queue is empty, and yet it is waited for")

    publisher = Publisher(NOBODY, LARGEST, waits)
    value = bytes(LARGEST - 4096)
    assert publisher.fits(b"", value, [])
    batch = Batch()
    publisher.send("topic", 0, None, value, [], batch)
    assert batch.sent == 1
    publisher.close(0)


def test_what_fits_without_a_count_of_its_headers_fits() -> None:
    publisher = Publisher(NOBODY, MIB, lambda: None)
    least = (MIB - ENVELOPE_BYTES - NAMES_BYTES) // 2
    for size in (0, least - 1, least, least + 1, MIB // 2, MIB - ENVELOPE_BYTES, MIB):
        for key in (0, size):
            headers = [("key", bytes(key)), ("absent", bytes(NAMES_BYTES - 17))]
            whole = size + key + NAMES_BYTES + ENVELOPE_BYTES
            assert publisher.fits(b"", bytes(size), headers) == (whole <= MIB), (size, key)
    publisher.close(0)


def test_a_broker_that_takes_the_connection_and_says_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.publisher.SILENT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        kafka = {"bootstrap.servers": f"127.0.0.1:{mute.getsockname()[1]}", "log_level": 0}
        made = Publisher(kafka, LARGEST, lambda: None)
        made.send("topic", 0, None, b"x", [], Batch())
        assert not made.unreachable

        def is_missed() -> bool:
            made.poll()
            return made.unreachable

        wait_until(is_missed, "the silence is noticed", 5)  # librdkafka itself gives the broker 10 s
        made.close(0)


@pytest.fixture
def lingering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """One that gathers events for a quarter of an hour, before librdkafka's own broker."""
    monkeypatch.setattr("replicator.publisher.GAPLESS", {**GAPLESS, "linger.ms": 900_000})
    publisher = Publisher({**NOBODY, "test.mock.num.brokers": 1, "log_level": 0}, MIB, lambda: None)
    yield publisher
    publisher.close(0)


def test_what_is_hastened_does_not_linger(lingering: Publisher) -> None:
    batch = Batch()
    lingering.send("topic", 0, None, b"x", [], batch)

    def is_acknowledged() -> bool:
        lingering.hasten()
        return batch.complete

    wait_until(is_acknowledged, "the event is acknowledged", 10)


def test_what_is_waited_for_does_not_linger(lingering: Publisher) -> None:
    batch = Batch()
    lingering.send("topic", 0, None, b"x", [], batch)
    lingering.wait_for(batch, 10)
    assert batch.complete


def test_haste_with_nothing_to_send_costs_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, producer = Publisher(NOBODY, MIB, lambda: None), _Failed()
    monkeypatch.setattr(publisher, "_producer", producer)
    producer.left = 0
    publisher.hasten()
    assert producer.flushed == 0


class _FarAway:
    """A producer whose broker has not acknowledged yet."""

    flushed = 0

    def __len__(self) -> int:
        return 1

    def flush(self, seconds: float) -> int:
        assert seconds < HASTE_S
        self.flushed += 1
        return 1


def test_haste_ends_once_there_is_something_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, producer = Publisher(NOBODY, MIB, lambda: None), _FarAway()
    monkeypatch.setattr(publisher, "_producer", producer)
    publisher.hasten(lambda: producer.flushed == 2)
    assert producer.flushed == 2
    publisher.hasten()
    assert producer.flushed > 2


class _Failed:
    """A producer of which messages were in flight when they were dropped."""

    purged = flushed = 0
    left = 7

    def __len__(self) -> int:
        return self.left

    def flush(self, seconds: float) -> int:
        self.flushed += 1
        raise KafkaException(KafkaError(KafkaError._GAPLESS_GUARANTEE))

    def poll(self, seconds: float) -> int:
        return self.flush(seconds)

    def purge(self) -> None:
        self.purged += 1


def test_a_producer_that_has_failed_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made, failed = Publisher(NOBODY, LARGEST, lambda: None), _Failed()
    monkeypatch.setattr(made, "_producer", failed)
    made.close(0)
    assert failed.purged == 1


@pytest.mark.parametrize("take_in", [Publisher.poll, Publisher.hasten, lambda made: made.wait_for(waiting(), 1)])
def test_a_producer_that_has_failed_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, take_in: Callable[[Publisher], None]
) -> None:
    made = Publisher(NOBODY, LARGEST, lambda: None)
    monkeypatch.setattr(made, "_producer", _Failed())
    with pytest.raises(DeliveryFailed, match="Gap-less"):
        take_in(made)


def waiting() -> Batch:
    batch = Batch()
    batch.sent = 1
    return batch


@pytest.mark.parametrize("option", [{"max.in.flight": 10}, {"no.such": 1}, {"acks": "some"}])
def test_an_option_that_librdkafka_refuses_is_said_by_its_setting(option: dict[str, object]) -> None:
    with pytest.raises(LogRefused, match="REPLICATOR_KAFKA_OPTIONS: "):
        clients.producer({**NOBODY, "enable.idempotence": True, **option})


def test_so_it_is_for_a_reader() -> None:
    with pytest.raises(LogRefused, match="REPLICATOR_KAFKA_OPTIONS: "):
        clients.reader({**NOBODY, "session.timeout.ms": "soon"}, "topic")


class _Holding:
    """A producer that keeps what it is to call, until somebody says that the message arrived."""

    def __init__(self) -> None:
        self.delivered: list[Callable[[KafkaError | None, None], None]] = []

    def produce(
        self, topic: str, value: bytes, key: bytes, partition: int, callback: Callable[..., None], *_: object
    ) -> None:
        self.delivered.append(callback)

    def poll(self, seconds: float) -> None:
        """Nothing has come."""

    def __len__(self) -> int:
        return len(self.delivered)


def test_each_message_counts_in_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, producer = Publisher(NOBODY, MIB, lambda: None), _Holding()
    monkeypatch.setattr(publisher, "_producer", producer)
    batches = [Batch(), Batch()]
    for n in (0, 1, 0):
        publisher.send("topic", 0, None, b"x", [], batches[n])
    assert [batch.sent for batch in batches] == [2, 1]
    first, second, third = producer.delivered
    first(None, None)
    second(None, None)
    assert [batch.complete for batch in batches] == [False, True]
    third(None, None)
    assert all(batch.complete for batch in batches)


def test_a_message_that_is_refused_completes_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, producer = Publisher(NOBODY, MIB, lambda: None), _Holding()
    monkeypatch.setattr(publisher, "_producer", producer)
    batch = Batch()
    for _ in range(2):
        publisher.send("topic", 0, None, b"x", [], batch)
    producer.delivered[0](KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)
    producer.delivered[1](None, None)
    assert not batch.complete
    with pytest.raises(DeliveryFailed, match="MSG_SIZE_TOO_LARGE"):
        publisher.poll()
