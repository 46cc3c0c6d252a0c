"""A tenant that could not follow its pool: the others go on, and it comes back whatever the log still has."""

from __future__ import annotations

from contextlib import closing

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.tenants import TENANT_LOCK
from demo.servers import wait_until
from replicator import Topics, partition_of
from tests.integration.chatwoot import connect, fill
from tests.integration.whole import PARTITIONS, Whole

TENANT, OTHER = 7, 8


def test_what_the_log_no_longer_has_for_a_parked_tenant_is_read_from_the_source(
    path: Whole, kafka_bootstrap: str, topic_prefix: str
) -> None:
    with closing(connect(path.source_dsn)) as source:
        fill(source, conversations=6, messages=1)
    path.map({TENANT: [1], OTHER: range(2, 7)})
    path.replicator()
    worker = path.worker()
    path.wait_equal()
    parked = "SELECT partition, from_offset FROM replication_parked"
    of_its_inbox = f"{parked} WHERE partition = {partition_of(1, PARTITIONS)}"  # a broadcast may stand in the others
    with path.target.connected() as person, person.transaction():
        person.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TENANT_LOCK, TENANT])
        path.source("UPDATE conversations SET status = 3 WHERE inbox_id = 1")
        ((partition, offset),) = wait_until(lambda: path.target.rows(of_its_inbox), "the tenant is parked", 30)
        assert worker.stop() == 0, "what it has read already would do"
        gone = TopicPartition(Topics(topic_prefix).changes, partition, offset + 1)
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        admin.delete_records([gone])[gone].result(10)
    worker = path.worker()
    wait_until(lambda: not path.target.rows(parked), "the tenant is parked no longer", 30)
    path.wait_equal()
    assert [line["tenants"] for line in worker.logged("log.gap")] == [[TENANT]]
    assert worker.logged("worker.waits") == [], "nobody else was held up"
    assert worker.stop() == 0
