"""A worker that runs while a user's own relation gets its table: it says what is missing, and then takes it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported silently

from consumers.status import gather
from demo.servers import wait_until
from replicator import BackfillMarker, Head, Position, Run, TableSchema, Topics, partition_of
from replicator.envelope import encode
from replicator.event import Cause, Origin, encode_marker, pack_head, pack_key
from tests.integration.programs import started
from tests.integration.targets import Target, target_of

PARTITIONS = 2
INBOX = 1
RUN = Run(1, 100)
LABELS = TableSchema(
    table="conversation_labels",
    columns=(("id", "bigint"), ("inbox_id", "integer"), ("title", "text")),
    key=("id",),
    inbox="inbox_id",
    is_derived=True,
)


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as prepared:
        prepared.apply()
        prepared.execute("INSERT INTO tenants (id, slug) VALUES (1, 't1')")
        prepared.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, 1)", INBOX)
        yield prepared


class Replicator:
    """Writes what a replicator would."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._topics = Topics(prefix)
        admin = AdminClient({"bootstrap.servers": kafka})
        wanted = {self._topics.changes: PARTITIONS, self._topics.schemas: 1, self._topics.control: 1}
        topics = [NewTopic(name, num_partitions=count) for name, count in wanted.items()]
        for made in admin.create_topics(topics).values():
            made.result(30)
        self._producer = Producer({"bootstrap.servers": kafka})

    def name(self, schema: TableSchema) -> None:
        self._send(self._topics.schemas, 0, schema.table, [], schema.encode())

    def row(self, key: int, n: int) -> None:
        head = Head("r", LABELS.table, pack_key([key]), Position(1, 100, n), 100, LABELS.version, b"", True, "")
        origin = Origin(topic_prefix="t", database="d", schema="public", table=LABELS.table).render()
        after = b'{"id":%d,"inbox_id":%d,"title":"vip"}' % (key, INBOX)
        body = encode(head, origin, Cause(1, 1, 1, 1), b"null", after)
        self._send(self._topics.changes, partition_of(INBOX, PARTITIONS), str(INBOX), pack_head(head), body)

    def begin(self) -> None:
        marker = BackfillMarker(
            id="asked",
            boundary="begin",
            tables=(LABELS.table,),
            derived=(LABELS.table,),
            is_complete=False,
            inboxes=(INBOX,),
            start=Position(1, 1, 0),
            start_read=Position(1, 100, 1),
        )
        headers, body = encode_marker(marker, RUN, 100)
        self._send(self._topics.changes, partition_of(INBOX, PARTITIONS), None, headers, body)

    def _send(self, topic: str, partition: int, key: str | None, headers: list[tuple[str, bytes]], body: bytes) -> None:
        self._producer.produce(topic, body, key=key, partition=partition, headers=headers)
        assert self._producer.flush(30) == 0


def missing(target: Target, **kafka: str) -> list[tuple[str, int]]:
    """Relations without a table, with the changes that came to nothing, as `consumers status` has them."""
    return [(found.relation, found.changes) for found in gather(target.settings(**kafka)).missing]


def test_a_worker_names_a_relation_without_a_table_and_fills_it_once_it_is_there(
    target: Target, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    replicator = Replicator(kafka_bootstrap, topic_prefix)
    kafka = {"kafka_bootstrap_servers": kafka_bootstrap, "topic_prefix": topic_prefix}
    environment = target.environment(
        CONSUMERS_KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, CONSUMERS_TOPIC_PREFIX=topic_prefix, CONSUMERS_HTTP_PORT="0"
    )
    with started(["consumers", "run"], environment, tmp_path / "worker") as worker:
        replicator.name(LABELS)
        replicator.row(1, 1)
        wait_until(lambda: worker.status().get("without_table") == [LABELS.table], "the worker names the relation", 60)
        assert [line["table"] for line in worker.logged("relation.has_no_table")] == [LABELS.table]
        wait_until(lambda: missing(target, **kafka) == [(LABELS.table, 1)], "`consumers status` shows it", 30)
        assert f"create table {LABELS.table}" in target.apply(**kafka)
        replicator.begin()
        replicator.row(1, 3)
        replicator.row(2, 5)
        filled = f"SELECT id, title FROM {LABELS.table} ORDER BY id"
        wait_until(lambda: target.rows(filled) == [(1, "vip"), (2, "vip")], "the table is filled", 60)
        wait_until(lambda: worker.status().get("without_table") == [], "nothing is missing any more", 30)
        assert missing(target, **kafka) == []
        assert worker.stop() == 0


def test_somebodys_copy_of_a_table_stops_no_worker(
    target: Target, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    """It has no row-level security, which a table that a worker writes to must have."""
    replicator = Replicator(kafka_bootstrap, topic_prefix)
    environment = target.environment(
        CONSUMERS_KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, CONSUMERS_TOPIC_PREFIX=topic_prefix, CONSUMERS_HTTP_PORT="0"
    )
    target.execute("CREATE TABLE inboxes_of_yesterday (LIKE inboxes INCLUDING ALL)")
    with started(["consumers", "run"], environment, tmp_path / "worker") as worker:
        worker.wait_healthy()
        target.execute("CREATE TABLE messages_before (LIKE messages INCLUDING ALL)")
        replicator.name(LABELS)
        replicator.row(1, 1)
        wait_until(lambda: worker.status().get("without_table") == [LABELS.table], "the worker reads on", 60)
        assert worker.stop() == 0
