"""What a worker makes of a log that says things twice: a replicator that crashed before it confirmed, and a zombie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from demo.servers import wait_until
from replicator import Head, Topics, unpack_head
from tests.integration.chatwoot import TABLES as STREAMED
from tests.integration.chatwoot import Source, add_message, confirmed, connect, fill
from tests.integration.whole import PARTITIONS, Whole
from tests.integration.written import Written

REPEATED, ZOMBIES = "inbox_consumers_repeated_events", "inbox_consumers_zombie_events"
TENANT = 5


@pytest.fixture
def source(path: Whole) -> Iterator[Source]:
    """Rows in every partition, all of one tenant, and a session."""
    with closing(connect(path.source_dsn)) as connection:
        fill(connection, conversations=12, messages=1)
        path.map({TENANT: range(1, 7)})
        yield connection


def test_a_stretch_that_is_published_twice_is_applied_once(path: Whole, source: Source) -> None:
    worker = path.worker()
    slot = path.replicator_environment["REPLICATOR_SLOT"]
    written: Written | None = None
    for _ in range(10):  # what is confirmed once a second may just come between the target and the kill
        replicator = path.replicator()
        path.wait_equal()
        written = written or Written(path.target)
        ((before,),) = source.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
        message, other = add_message(source, 1, "draft"), add_message(source, 2, "stays")
        source.execute("UPDATE messages SET content = 'sent' WHERE id = %s", (message,))
        source.execute("UPDATE messages SET inbox_id = 1 + inbox_id %% 6 WHERE id = %s", (message,))
        source.execute("DELETE FROM messages WHERE id = %s", (message,))
        last = add_message(source, 1, "last")
        wait_until(lambda row=last, notes=written: notes.ops(row), "applied", 20)
        replicator.kill()
        path.wait_equal(tables=STREAMED)  # what is derived of them may not have been read before the kill
        if confirmed(source, slot) <= before:
            break
    else:
        pytest.fail("every run had confirmed before it was killed")
    seen = [written.of(row) for row in (message, other, last)]
    repeated = worker.metric(REPEATED)
    replicator = path.replicator()
    wait_until(lambda: worker.metric(REPEATED) >= repeated + 6, "the worker has met all of them again", 30)
    path.wait_equal()
    assert [written.of(row) for row in (message, other, last)] == seen
    assert [worker.stop(), replicator.stop()] == [0, 0]


class Kept(NamedTuple):
    """A message as it stands in the log."""

    partition: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    head: Head


def everything(kafka: str, topic: str) -> list[Kept]:
    """The changes topic from its start to its end of now."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "kept", "enable.auto.commit": False})
    with closing(consumer):
        places = [TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)]
        ends = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.assign(places)
        found: list[Kept] = []

        def read() -> bool:
            for record in consumer.consume(1000, timeout=0.1):
                headers: Any = record.headers()
                place, value = record.partition() or 0, record.value() or b""
                found.append(Kept(place, record.key(), value, headers, unpack_head(headers)))
            return len(found) >= ends

        wait_until(read, "the log read to its end", 30)
    return found


def test_what_a_zombie_publishes_late_is_dropped_and_counted(
    path: Whole, source: Source, kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Rows that it had read before they were deleted would come back for good: nothing else stands against them."""
    topic = Topics(topic_prefix).changes
    replicator, worker = path.replicator(), path.worker()
    path.wait_equal()
    message = add_message(source, 1, "streamed")
    path.wait_equal()
    late = [kept for kept in everything(kafka_bootstrap, topic) if kept.head.op in "crud"]
    assert {kept.head.op for kept in late} == set("cr")
    replicator.kill()
    source.execute("DELETE FROM messages WHERE id IN (1, 2, %s)", (message,))
    source.execute("UPDATE conversations SET status = 3")
    replicator = path.replicator()
    path.wait_equal()
    written = Written(path.target)

    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for kept in late:
        producer.produce(topic, kept.value, kept.key, partition=kept.partition, headers=kept.headers)
    assert producer.flush(20) == 0
    wait_until(lambda: worker.metric(ZOMBIES) == len(late), "each is counted as a zombie's", 30)
    afterwards = add_message(source, 1, "afterwards")
    wait_until(lambda: written.ops(afterwards) == "i", "and the worker goes on", 20)
    path.wait_equal()
    assert [written.ops(row) for row in (1, 2, message)] == ["", "", ""]
    assert worker.logged("events.of_an_older_run_dropped")

    # Also for a worker that begins after the marker of the run that made them a zombie's.
    assert worker.stop() == 0
    for kept in late:
        producer.produce(topic, kept.value, kept.key, partition=kept.partition, headers=kept.headers)
    assert producer.flush(20) == 0
    worker = path.worker()
    wait_until(lambda: worker.metric(ZOMBIES) == len(late), "each is counted again", 30)
    path.wait_equal()
    assert [worker.stop(), replicator.stop()] == [0, 0]
