"""Kafka's side of a worker: the group's assignment, and messages in.

Where reading starts is the caller's affair (`on_assign` answers with offsets): Kafka's own group offsets are only a
mirror for lag tools. Relies on librdkafka to reconnect by itself; an error that it reports as passing is passing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import orjson
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from consumers import clients
from consumers.batch import Message
from consumers.config import Settings
from consumers.errors import LogUnavailable
from replicator import Topics

log = structlog.get_logger(__name__)

SECONDS: Final = 10.0
"""How long Kafka may take for one answer."""
OUTSIDE_S: Final = 60.0
"""A member that the group has left out, and that has not come back for so long, is given up for a new one: seen once,
after a broker had stopped under load, that one never asked to join again. Then twice as long, up to..."""
MOST_OUTSIDE_S: Final = 600.0
PATIENT_S: Final = 5.0
"""Whoever has no room for so long stops to fetch, and what was fetched is thrown away. Not sooner: a batch is written
soon, and to fetch all of it again took twice as long."""
SERVE_S: Final = 0.2
"""How often rebalances are served until then, each time with a message that there is no room for."""
MOST_LEAVING: Final = 3
"""Members that were given up, and that librdkafka is not done with yet: each has threads and a buffer of its own."""
_TELL_S: Final = 10.0
"""The same trouble is told that often."""
_LOOK_MS: Final = 1000
"""How often librdkafka says how its connections are; told is what it said twice in a row."""
_ALL_DOWN: Final = "all brokers are down"
_CONNECTED: Final = frozenset({"UP", "UPDATE"})
_DEFAULTS: Final = {
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
    "topic.metadata.refresh.interval.ms": 30_000,  # a topic that went, and is there again, is joined then
}
_FETCHED: Final = {
    # What is fetched ahead waits uncompressed, in blocks that stay as long as one message of theirs. `ReadAhead` holds
    # a batch besides.
    # Of each partition. Deep, because a transaction of a few rows costs as much as the rows: of 1000 tenants one had 22
    # by 128 kB, and 58 by 512. Not too deep, because a batch is to have rows of several tenants, whose transactions go
    # side by side: of three tenants 512 kB wrote a tenth less than 128.
    "fetch.message.max.bytes": 256 << 10,
    "fetch.max.bytes": 1 << 20,
    "queued.max.messages.kbytes": 4 << 10,
    # librdkafka looks again after so long whether there is room, by default a second: this much is gone before.
    "fetch.queue.backoff.ms": 20,
}
"""Bounds of librdkafka's own memory (https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md). What is
larger comes all the same, alone."""
_GAPS: Final = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})


class Inbound:
    """The worker's membership in its pool's group."""

    def __init__(
        self,
        settings: Settings,
        on_assign: Callable[[list[int]], Mapping[int, int]],
        on_revoke: Callable[[list[int]], None],
        on_lost: Callable[[list[int]], None],
    ) -> None:
        self._settings, self._topic = settings, Topics(settings.topic_prefix).changes
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._paused = False
        self._full_since: float | None = None
        self._served_at = float("-inf")
        self._told = float("-inf")
        self._was_connected = True
        self._lost_at: float | None = None
        """When the group gave our partitions to others; None: it has given us some since."""
        self._patience_s = OUTSIDE_S
        self._leaving: list[threading.Thread] = []
        self.waits_for = ""
        """Why nothing can be read at the moment; empty while a broker answers."""
        self.gaps: set[int] = set()
        """Partitions whose log does not have the offset that was asked for."""
        self._consumer = self._join()

    def _join(self) -> Consumer:
        settings = self._settings
        consumer = clients.consumer(
            settings,
            {
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                **_FETCHED,
                "group.id": f"{settings.topic_prefix}.{settings.pool}",
                "partition.assignment.strategy": "cooperative-sticky",
                "error_cb": self._on_error,
                "stats_cb": self._on_statistics,
                "statistics.interval.ms": _LOOK_MS,
            },
            _DEFAULTS,
        )
        consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lose)
        return consumer

    def take(self, most: int, wait_s: float) -> list[Message]:
        """What has arrived, waiting for the first so long. Serves rebalances. Raises KafkaException if it is fatal.

        `most` 0: there is no room. One message may come all the same, five times a second and for a few seconds.
        """
        if most:
            self._full_since = None
            self._pause(False)
        elif self._waits_for_room(time.monotonic()):
            time.sleep(wait_s)
            return []
        if self._lost_at is not None and time.monotonic() - self._lost_at > self._patience_s:
            self._join_anew()
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        records = [first, *self._consumer.consume(most - 1, timeout=0)] if most > 1 else [first]
        return [message for record in records if (message := self._message(record)) is not None]

    def _join_anew(self) -> None:
        """As another member: whatever the old one waits for, it waits for alone."""
        outside_s, self._lost_at = round(self._patience_s), time.monotonic()
        self._patience_s = min(2 * self._patience_s, MOST_OUTSIDE_S)
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        if len(self._leaving) >= MOST_LEAVING:
            log.warning("group.left_out", outside_s=outside_s, advice="Start the worker anew if Kafka is well.")
            return
        log.warning("group.joined_anew", outside_s=outside_s)
        # Replaced first: what the old one is still given, while it leaves, is not ours.
        old, self._consumer = self._consumer, self._join()
        self._leaving.append(_leave(old))

    def _waits_for_room(self, now: float) -> bool:
        """Whether nothing need be served yet."""
        if self._full_since is None:
            self._full_since = self._served_at = now
        self._pause(now - self._full_since > PATIENT_S)
        if not self._paused and now - self._served_at < SERVE_S:
            return True
        self._served_at = now
        return False

    def _pause(self, paused: bool) -> None:
        """Stops or starts fetching of all partitions; the membership goes on."""
        if paused != self._paused:
            (self._consumer.pause if paused else self._consumer.resume)(self._consumer.assignment())
            self._paused = paused

    def seek(self, partition: int, offset: int) -> None:
        """Reads on from there. Raises KafkaException, also while an assignment is being taken up: try again."""
        place = TopicPartition(self._topic, partition, offset)
        if partition in self.gaps:  # librdkafka has given it up, and would refuse every seek
            self._consumer.incremental_unassign([place])
            self._take_up([place])
            self.gaps.discard(partition)
        else:
            self._consumer.seek(place)

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that the log still has, and the one after its last. Raises LogUnavailable."""
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=SECONDS)
        except KafkaException as error:
            raise LogUnavailable(f"partition {partition} can't be read: {error.args[0].str()}") from None
        return low, high

    def end(self, partition: int) -> int:
        """Where the log ended when something was last fetched from it; 0 before that. Never waits."""
        bounds = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return max(0, bounds[1]) if bounds is not None else 0

    def mirror(self, offsets: Mapping[int, int]) -> None:
        """Tells Kafka how far the pool is, for lag tools."""
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        with contextlib.suppress(KafkaException):  # a mirror: the next one says more
            self._consumer.commit(offsets=places, asynchronous=True)

    def close(self, seconds: float) -> bool:
        """Leaves the group; what was assigned is revoked. False: something of it is not done within that time."""
        deadline = time.monotonic() + seconds
        leaving = [_leave(self._consumer), *self._leaving]
        for thread in leaving:
            thread.join(max(0.1, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in leaving)

    def _message(self, record: Record) -> Message | None:
        error = record.error()
        if error is None:
            self.waits_for = ""
            try:
                headers = clients.headers_of(record) or []
            except clients.NO_HEADERS:
                headers = []
            return Message(record.partition() or 0, record.offset() or 0, record.key(), headers, record.value() or b"")
        if error.code() in _GAPS:
            self.gaps.add(record.partition() or 0)
        elif error.fatal():
            raise KafkaException(error)
        else:
            self._tell(error.str())
        return None

    def _on_error(self, error: KafkaError) -> None:
        """What concerns no partition, as a login that is refused."""
        # Fatal: `take` raises it. One connection: made anew. All of them: a member of a group may never hear of it
        # (https://github.com/confluentinc/librdkafka/issues/2259), or hear of it though one is there.
        if error.fatal() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            return
        self.waits_for = f"Kafka: {error.str()}"
        self._tell(error.str())

    def _on_statistics(self, statistics: str) -> None:
        """Whether any broker is connected (https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md)."""
        brokers = orjson.loads(statistics)["brokers"].values()
        is_connected = any(each["state"] in _CONNECTED for each in brokers if each["source"] != "internal")
        reason = f"Kafka: {_ALL_DOWN}"
        if is_connected and self.waits_for == reason:
            self.waits_for = ""
        elif not is_connected and not self._was_connected and self.waits_for in ("", reason):  # no better one
            self.waits_for = reason
            self._tell(_ALL_DOWN)
        self._was_connected = is_connected

    def _tell(self, reason: str) -> None:
        if (now := time.monotonic()) > self._told + _TELL_S:
            self._told = now
            log.warning("log.waits", reason=reason, advice="Waiting for Kafka; the target keeps the offsets.")

    def _assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is not self._consumer:  # one that was left behind
            return
        self._lost_at, self._patience_s = None, OUTSIDE_S
        starts = self._on_assign([place.partition for place in places])
        self._take_up([TopicPartition(self._topic, partition, offset) for partition, offset in starts.items()])

    def _take_up(self, places: list[TopicPartition]) -> None:
        self._consumer.incremental_assign(places)
        if self._paused and places:
            self._consumer.pause(places)

    def _revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is self._consumer:
            self._on_revoke([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _lose(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is self._consumer:
            self._lost_at = time.monotonic()
            self._on_lost([place.partition for place in places])
        consumer.incremental_unassign(places)


def _leave(consumer: Consumer) -> threading.Thread:
    """In a thread of its own, which may never end: librdkafka waits for whatever is under way."""
    leaving = threading.Thread(target=consumer.close, name="leave", daemon=True)
    leaving.start()
    return leaving
