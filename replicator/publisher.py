"""Events to Kafka, without gaps.

`acks=all`, idempotent, gapless, no delivery time-out: an event is either acknowledged in order or the producer fails
for good, the run ends, and the next one starts at the confirmed LSN. Sizes are checked before `produce`, because one
refused message would end the producer (librdkafka, CONFIGURATION.md, `enable.gapless.guarantee`).

Batches follow the load. While events come without a pause they gather for `LINGER_MS`, because every request costs the
broker more than what is in it; who has nothing else to send says so (`hasten`), and what is queued leaves at once.

The queue in memory is bounded; when it is full, `send` waits and lets the caller keep the source's connection alive.
Never knows what an event means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from replicator import clients
from replicator.errors import DeliveryFailed, LogUnavailable
from replicator.event import Headers
from replicator.progress import Batch

log = structlog.get_logger(__name__)

QUEUE_MESSAGES = 12_000
"""Events waiting for Kafka, in memory: a quarter of a second of the fastest stream measured. Most of what a small one
takes is librdkafka's own, for itself and each header, which the bound in bytes knows nothing of."""
QUEUE_KBYTES = 8 << 10
"""Their keys and bodies. More if one message is larger."""
LINGER_MS = 50
"""Longest wait of an event for others of its partition: a request for each partition, 20 times a second."""
HASTE_S = 0.005
"""Longest wait for what was hastened: what arrives meanwhile is sent together. Mostly Kafka acknowledges sooner."""
HASTE_SLICE_S = 0.001
"""How late a call of another thread is seen meanwhile: where Kafka is far away, one would wait at every call."""
SILENT_S = 10.0
"""Kafka counts as unreachable if it has acknowledged nothing for so long. librdkafka does not always say so: brokers
that it never had to connect to are not counted as down, and a broker that hangs keeps its connections."""
ENVELOPE_BYTES = 512
"""What Kafka's record batch adds to a message, generously."""
NAMES_BYTES = 256 << 10
"""All that headers hold beside a key: fewer than 1 600 columns, whose names have 63 bytes at the most."""

GAPLESS: Mapping[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,  # never given up
    "compression.type": "lz4",
    "linger.ms": LINGER_MS,
    "batch.size": 256 << 10,
    "queue.buffering.max.messages": QUEUE_MESSAGES,
}

Delivered = Callable[[KafkaError | None, Message], None]
"""Called for a message that arrived, or was refused."""


class Publisher:
    """One run's producer."""

    def __init__(self, kafka: Mapping[str, Any], max_message_bytes: int, on_wait: Callable[[], None]) -> None:
        """`on_wait` is called at least every 100 ms while `send` waits; what it raises ends the wait."""
        self._max_message_bytes = max_message_bytes
        # Beside its body a message has its row's key, which the body holds too, and names of columns.
        self._surely_fits = (max_message_bytes - ENVELOPE_BYTES - NAMES_BYTES) // 2
        self._on_wait = on_wait
        self._failure: str | None = None
        self._unreachable_since: float | None = None
        self._heard, self._heard_at = False, time.monotonic()
        self._told: set[int] = set()
        self._last: tuple[Batch | None, Delivered] = None, self._counting(Batch())
        """The batch of the last message, and what is called for each of its messages."""
        self._producer = clients.producer(
            {
                **kafka,
                **GAPLESS,
                "message.max.bytes": max_message_bytes + ENVELOPE_BYTES,
                # A message that the queue can't hold would be waited for without end.
                "queue.buffering.max.kbytes": max(QUEUE_KBYTES, (max_message_bytes >> 10) + 1),
                "error_cb": self._on_error,
            }
        )

    @property
    def waiting(self) -> int:
        """Messages that Kafka has not acknowledged."""
        return len(self._producer)

    @property
    def unreachable(self) -> bool:
        """No broker answers at the moment."""
        return self._unreachable_since is not None

    @property
    def unreachable_s(self) -> float:
        """For how many seconds no broker has answered."""
        since = self._unreachable_since
        return time.monotonic() - since if since is not None else 0.0

    def fits(self, key: bytes, value: bytes, headers: Headers) -> bool:
        """Whether the topic takes a message of this size."""
        if len(value) <= self._surely_fits:  # the rule: counting headers takes a microsecond
            return True
        size = len(key) + len(value) + sum(len(name) + len(content) + 4 for name, content in headers)
        return size + ENVELOPE_BYTES <= self._max_message_bytes

    def send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        batch: Batch,
    ) -> None:
        """Queues one message; it counts in `batch`. Raises DeliveryFailed once the producer has failed."""
        if self._failure is not None:
            raise DeliveryFailed(self._failure)
        last, delivered = self._last
        if last is not batch:
            delivered = self._counting(batch)
            self._last = batch, delivered
        while True:
            try:
                # Arguments by place: finding them by name takes a quarter of the call.
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    delivered,
                    None,
                    0,
                    headers,  # type: ignore[arg-type]  # a list that is only read
                )
            except BufferError:
                self._take_in(self._producer.poll, 0.1)
                self._notice_silence()
                self._on_wait()
            except KafkaException as error:
                raise DeliveryFailed(f"Kafka did not take an event: {error.args[0].str()}") from None
            else:
                batch.sent += 1
                return

    def _counting(self, batch: Batch) -> Delivered:
        """What the producer calls once for each message of a batch.

        One for all: one for each message would be kept as long as the message waits, a hundred thousand of them, and
        the garbage collector would go through them (a third of a microsecond a message).
        """

        def delivered(error: KafkaError | None, message: Message) -> None:
            del message
            if error is None:
                batch.acknowledged += 1
                self._heard = True
                self._unreachable_since = None
            elif self._failure is None:
                self._failure = f"Kafka did not take an event: {error.str()} ({error.name()})"

        return delivered

    def poll(self) -> None:
        """Takes in acknowledgements. Raises DeliveryFailed once one came back as refused."""
        self._take_in(self._producer.poll, 0)
        self._notice_silence()

    def hasten(self, is_called: Callable[[], bool] = lambda: False) -> None:
        """Sends what is queued without waiting for more, and takes in what is acknowledged within `HASTE_S`.

        Less if there is something else to do, which `is_called` says. Raises DeliveryFailed.
        """
        end = time.monotonic() + HASTE_S
        while len(self._producer) and time.monotonic() < end:
            self._take_in(self._producer.flush, HASTE_SLICE_S)
            if is_called():
                return

    def wait_for(self, batch: Batch, seconds: float) -> None:
        """Until every message of the batch is acknowledged. Raises LogUnavailable after that time."""
        slice_s = 0.1
        for _ in range(int(seconds / slice_s) + 1):
            if batch.complete:
                return
            self._take_in(self._producer.flush, slice_s)
            self._on_wait()
        raise LogUnavailable(f"Kafka has not acknowledged within {seconds:g} s")

    def close(self, seconds: float) -> None:
        """Waits so long for what is queued, then drops the rest: it was never confirmed, so it will come again."""
        self._flush(seconds)
        if left := len(self._producer):
            log.info("publisher.dropped_unconfirmed", messages=left)
            self._producer.purge()
            self._flush(1)

    def _take_in(self, serve: Callable[[float], int], seconds: float) -> None:
        """Whatever the producer has to tell. That it has failed for good is raised by whichever call hears it first."""
        try:
            serve(seconds)
        except KafkaException as error:
            self._failure = f"Kafka's producer failed: {error.args[0].str()}"
        if self._failure is not None:
            raise DeliveryFailed(self._failure)

    def _flush(self, seconds: float) -> None:
        """A producer that has failed for good, as one does of which messages in flight are dropped, is only left."""
        with suppress(KafkaException):
            self._producer.flush(seconds)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = f"Kafka's producer failed: {error.str()}"
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # librdkafka's own name
            self._miss(error.str())
        elif error.code() != KafkaError._TRANSPORT and error.code() not in self._told:
            self._told.add(error.code())  # a refused login comes again at every attempt
            log.warning("kafka.error", error=error.name(), reason=error.str())

    def _notice_silence(self) -> None:
        if self._heard or not len(self._producer):
            self._heard, self._heard_at = False, time.monotonic()
        elif time.monotonic() - self._heard_at > SILENT_S:
            self._miss(f"nothing acknowledged for {SILENT_S:g} s")

    def _miss(self, reason: str) -> None:
        if not self.unreachable:
            log.warning("kafka.unreachable", waiting=len(self._producer), reason=reason)
            self._unreachable_since = time.monotonic()
