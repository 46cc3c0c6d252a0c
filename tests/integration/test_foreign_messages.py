"""Whoever else writes to our topics: none of it stops a worker, a command, or what comes after it."""

from __future__ import annotations

import orjson
from confluent_kafka import Producer

from consumers import schemas
from demo.servers import wait_until
from replicator import BackfillMarker, Head, Position, Run, Topics, partition_of
from replicator.event import encode_marker, pack_head
from tests.integration import nameless
from tests.integration.chatwoot import Source, fill
from tests.integration.commands import answer, consumers
from tests.integration.programs import make_topics
from tests.integration.whole import PARTITIONS, Whole

HERE, THERE = 1, 2
UNREADABLE, ZOMBIES = "inbox_consumers_unreadable_messages", "inbox_consumers_zombie_events"
LAST = 2**63 - 1
"""No run is later."""
WRONG = ({"inboxes": "x"}, {"keys": 5}, {"spared": {"messages": [1.5]}}, {"start": [1, 2]}, {"tables": None})


def test_a_worker_goes_on_and_so_does_the_next(
    path: Whole, source: Source, kafka_bootstrap: str, topic_prefix: str
) -> None:
    fill(source, conversations=12, messages=1)
    path.map({1: [HERE], 2: [THERE]})
    make_topics(path.replicator_environment)
    write_schemas(kafka_bootstrap, Topics(topic_prefix).schemas)
    path.replicator()
    worker = path.worker()
    path.wait_equal()
    ((row,),) = source.execute("SELECT min(id) FROM conversations WHERE inbox_id = %s", (HERE,))

    count = write_changes(kafka_bootstrap, Topics(topic_prefix).changes, row)
    wait_until(lambda: worker.metric(UNREADABLE) == count, "each is counted", 30)
    source.execute("UPDATE conversations SET status = 1")
    path.wait_equal()
    assert len(worker.logged("schema.unreadable")) == 3
    assert worker.metric(ZOMBIES) == 1, "the change of no run that was, and none of ours"
    assert path.target.rows("SELECT 1 FROM replication_parked") == []

    found = answer(path, "trace", "--conversation", row)
    moments = {event["position"]: event["committed_at"] for event in found["events"]}
    assert moments["0:1:1"] is None
    assert all(moment for position, moment in moments.items() if position != "0:1:1")
    assert consumers(path, "trace", "--conversation", row).stdout
    consumers(path, "replay", "--tenant", 1)
    assert "conversations" in schemas.latest(path.target.settings(**kafka(kafka_bootstrap, topic_prefix)))

    assert worker.stop() == 0
    source.execute("UPDATE conversations SET status = 2")
    worker = path.worker()
    path.wait_equal()
    assert len(worker.logged("schema.unreadable")) == 3
    assert worker.stop() == 0


def write_changes(bootstrap: str, topic: str, row: int) -> int:
    """How many of them are nobody's. One more is of a conversation, of a time that is none."""
    producer = Producer({"bootstrap.servers": bootstrap})
    latest = Head("zzz", "messages", b"[1]", Position(LAST, LAST, 1), LAST, "v", b"", False, "")  # type: ignore[arg-type]
    bodies = []
    for wrong in WRONG:
        marker = BackfillMarker(
            id="x",
            boundary="end",
            tables=("messages", "conversations"),
            inboxes=None,
            start=Position(LAST, LAST, 0),
            start_read=Position(LAST, LAST, 0),
        )
        headers, body = encode_marker(marker, Run(LAST, LAST), 1)
        said = orjson.loads(body)
        bodies.append(orjson.dumps({**said, "message": {**said["message"], **wrong}}))
    for partition in range(PARTITIONS):
        producer.produce(topic, b"{}", partition=partition, headers=pack_head(latest))
        producer.produce(topic, b"{}", b"abc", partition=partition, headers=pack_head(latest._replace(op="u")))
        for body in bodies:
            producer.produce(topic, body, partition=partition, headers=headers)
    old = Head("u", "conversations", b"[%d]" % row, Position(0, 1, 1), 0, "v", b"", False, "")
    body = b'{"source":{"ts_ms":%d}}' % LAST
    producer.produce(topic, body, b"%d" % HERE, partition=partition_of(HERE, PARTITIONS), headers=pack_head(old))
    assert producer.flush(30) == 0
    ours = [(name.encode(), value) for name, value in pack_head(latest._replace(op="u"))]
    nameless.send(bootstrap, topic, range(PARTITIONS), [*ours, (b"\xff", b"x")])
    return PARTITIONS * (3 + len(bodies))


def write_schemas(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, None, b"\xff", partition=0)
    producer.produce(topic, b"xx", b"a", partition=0, headers=[("x", None)])
    producer.produce(topic, b'{"table":"messages","columns":["id"]}', b"b", partition=0)
    assert producer.flush(30) == 0


def kafka(bootstrap: str, prefix: str) -> dict[str, str]:
    return {"kafka_bootstrap_servers": bootstrap, "topic_prefix": prefix}
