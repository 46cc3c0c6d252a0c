"""The replicator's own memory: the compacted state topic.

One partition, so its records have one order. The first record of a run is its generation; what an older run writes
after that is a zombie's and is not believed; but compaction keeps the last record of a key, so the living run writes
its own again behind a zombie's. A record is durable when its batch is acknowledged.

The records:

| key | content |
|---|---|
| `generation` | the run, first of its records |
| `epoch` | the history of the source that positions belong to, and the transaction id that reads wait for |
| `captured` | relations that any epoch has begun to read |
| `confirmed` | the highest LSN that the slot was ever told to forget; written before it is told |
| `course` | the last commit that was read, and whether a later run looked for it in vain |
| `control` | the next offset of the control topic |
| `backfill/<id>` | a backfill that is asked for or under way, with its progress |
| `finished` | the ids of the backfills that ended last |
| `mode` | how the source is read, why, and since when |
| `poll/<relation>` | how far polling is |
| `digest/<relation>/<number>` | what was published last of a page of keys, as digests |
| `doubt/<relation>/<number>` | keys that were published since, and where |
| `identity/<table>` | a table whose replica identity names no old inbox, until it is mended and read again |
| `owed/<table>/<key>` | a row that must be read again, with its inbox |
| `derived/<relation>` | the digest of the definition that its rows were last read under |
| `dirty/<relation>/<path>/<start>` | a key of a derived relation that is owed, or the start of a look-up |
| `slots` | the names of the slots that were read, as long as they exist |
| `status` | what `replicator status` shows |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from replicator import clients
from replicator.errors import LogUnavailable, Superseded
from replicator.event import Headers, Run, Topics
from replicator.progress import Batch
from replicator.publisher import Publisher

Content = dict[str, Any]

READ_AHEAD_KBYTES = 1024
"""Of the state topic, before it is looked at; librdkafka's own default is 64 MB."""


class Records(MutableMapping[str, Content]):
    """By key. Each is kept as its bytes: there may be a hundred thousand owed keys, seldom looked at again."""

    def __init__(self, records: Iterable[tuple[str, Content]] = ()) -> None:
        self._packed: dict[str, bytes] = {}
        self.update(records)

    def keep(self, key: str, packed: bytes) -> None:
        """A record that is JSON already."""
        # A copy: orjson's own bytes hold on to the room that they were written in (measured: 4 kB each).
        self._packed[key] = bytes(memoryview(packed))

    def __getitem__(self, key: str) -> Content:
        content: Content = orjson.loads(self._packed[key])
        return content

    def __setitem__(self, key: str, content: Content) -> None:
        self.keep(key, orjson.dumps(content))

    def __delitem__(self, key: str) -> None:
        del self._packed[key]

    def __contains__(self, key: object) -> bool:
        return key in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class Remembered(NamedTuple):
    """What the state topic holds."""

    records: Records
    newest: Run
    """The latest run that wrote anything, be it one that ended before it had said all that begins an epoch."""
    end: int
    """The offset where the topic ended."""
    overruled: frozenset[str] = frozenset()
    """Keys whose last record is a zombie's: to be written again."""
    hidden: frozenset[str] = frozenset()
    """Those of them of which no other record is left: what a later run wrote there may have been compacted away."""


def read_memory(kafka: Mapping[str, Any], topics: Topics, seconds: float) -> Remembered:
    """All records, by key, as they stand at the end of the topic now. Raises LogUnavailable after that time."""
    records = Records()
    newest = Run(0, 0)
    believed: set[str] = set()
    overruled: set[str] = set()

    def take(key: str, run: Run, value: bytes | None) -> None:
        nonlocal newest
        if run < newest:
            overruled.add(key)
            return
        newest = run
        believed.add(key)
        overruled.discard(key)
        if value is None:
            records.pop(key, None)
        else:
            records[key] = orjson.loads(value)

    end = _read_compacted(kafka, topics.state, seconds, take)
    return Remembered(records, newest, end, frozenset(overruled), frozenset(overruled - believed))


def _read_compacted(
    kafka: Mapping[str, Any], topic: str, seconds: float, take: Callable[[str, Run, bytes | None], None]
) -> int:
    """One after another: of a key there may be thousands that are not compacted yet. Returns the offset of the end."""
    deadline = time.monotonic() + seconds
    options = {
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,  # the end is only told when a fetch has come back empty
        "queued.max.messages.kbytes": READ_AHEAD_KBYTES,
        "fetch.queue.backoff.ms": 10,  # a second by default, each time that so much is read ahead
    }
    consumer = _reader(kafka, topic, options)
    try:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=seconds)
        consumer.assign([TopicPartition(topic, 0, low)])
        while time.monotonic() < deadline:
            for message in consumer.consume(1000, timeout=0.05):
                error = message.error()
                if error is None:
                    take((message.key() or b"").decode(), _run_of(message), message.value())
                elif error.code() == KafkaError._PARTITION_EOF:  # librdkafka's own name
                    return message.offset() or 0
                else:
                    raise LogUnavailable(f"{topic} cannot be read: {error.str()}")
        raise LogUnavailable(f"{topic} was not read to its end within {seconds:g} s")
    except KafkaException as error:
        raise LogUnavailable(f"{topic} cannot be read: {error.args[0].str()}") from None
    finally:
        consumer.close()


def _reader(kafka: Mapping[str, Any], topic: str, options: Mapping[str, Any]) -> Consumer:
    return clients.reader({**kafka, "auto.offset.reset": "error", **options}, topic)


def _headers(run: Run) -> Headers:
    return [("run", b"%d:%d" % run)]


def _run_of(message: Message) -> Run:
    packed = dict(message.headers() or []).get("run")
    if not isinstance(packed, bytes):
        raise TypeError("a record of the state topic names no run")
    epoch, generation = packed.split(b":")
    return Run(int(epoch), int(generation))


MOST_FETCHES = 50
"""At one look at the state topic: more than a run writes between two."""


class Succession:
    """The state topic, read on while a run goes on: whether a later one has begun, and what a zombie still writes."""

    def __init__(self, kafka: Mapping[str, Any], topics: Topics, run: Run, end: int) -> None:
        """`end`: where `read_memory` found the end."""
        self._run, self._own = run, _headers(run)
        self._consumer = _reader(kafka, topics.state, {"queued.max.messages.kbytes": READ_AHEAD_KBYTES})
        self._consumer.assign([TopicPartition(topics.state, 0, end)])

    def check(self) -> set[str]:
        """Keys that an earlier run has written since. Raises Superseded if a later one has. Never waits."""
        overruled: set[str] = set()
        for _ in range(MOST_FETCHES):
            messages = self._consumer.consume(1000, timeout=0)
            for message in messages:
                # Nearly all is what this run wrote itself: under load, owed keys by the thousand.
                if message.error() is not None or message.headers() == self._own:
                    continue
                run = _run_of(message)
                if run > self._run:
                    raise Superseded("another replicator has begun a later run")
                if run < self._run:
                    overruled.add((message.key() or b"").decode())
            if len(messages) < 1000:
                break
        return overruled

    def close(self) -> None:
        self._consumer.close()


class Memory:
    """Writes records of one run. What was read at its start is in `records`, and kept up to date."""

    def __init__(self, publisher: Publisher, topics: Topics, run: Run, records: Records) -> None:
        self._publisher = publisher
        self._topic = topics.state
        self.run = run
        self._headers = _headers(run)
        self.records = records

    def write(self, key: str, content: Content, batch: Batch) -> None:
        """Durable once the batch is complete."""
        packed = orjson.dumps(content)
        self.records.keep(key, packed)
        self._publisher.send(self._topic, 0, key.encode(), packed, self._headers, batch)

    def forget(self, key: str, batch: Batch) -> None:
        """Writes a tombstone."""
        self.records.pop(key, None)
        self._publisher.send(self._topic, 0, key.encode(), None, self._headers, batch)

    def write_again(self, keys: Iterable[str], batch: Batch) -> None:
        """Behind a zombie's records of these keys, of which compaction would keep the last."""
        for key in keys:
            if key in self.records:
                self.write(key, self.records[key], batch)
            else:
                self.forget(key, batch)

    def under(self, prefix: str) -> dict[str, Content]:
        """The records whose key begins so."""
        return {key: self.records[key] for key in self.records if key.startswith(prefix)}
