"""A target that is restored from an older backup: its watermarks go back with its rows, the log is read from there."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from demo.servers import Servers, wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from replicator import Topics
from tests.integration.whole import PARTITIONS, Whole

RATE = 150
LATE = 3
"""A tenant that comes after the backup."""


class Backup:
    """A copy of a test's target, to be put in its place."""

    def __init__(self, servers: Servers, path: Whole) -> None:
        self._server, self._dsn = servers.target, servers.target.dsn
        self._name = str(conninfo_to_dict(path.target.superuser_dsn)["dbname"])
        self._copy, self._former = f"{self._name}_copy", f"{self._name}_former"
        servers.target.create_database(self._copy, template=self._name)
        path.target.execute(f"ALTER DATABASE {self._copy} OWNER TO {path.target.role('owner')}")
        path.target.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {self._copy} TO {path.target.role('applier')}")

    def restore(self) -> None:
        """Whoever is connected is thrown out."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            name, copy, former = map(sql.Identifier, (self._name, self._copy, self._former))
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [self._name]
            )
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(name, former))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(copy, name))

    def drop(self) -> None:
        for name in (self._copy, self._former):
            self._server.drop_database(name)


@pytest.fixture
def backups() -> Iterator[list[Backup]]:
    made: list[Backup] = []
    yield made
    for backup in made:
        backup.drop()


def delete_records(path: Whole) -> None:
    """All that the log has by now."""
    admin = AdminClient({"bootstrap.servers": path.worker_environment["CONSUMERS_KAFKA_BOOTSTRAP_SERVERS"]})
    topic = Topics(path.worker_environment["CONSUMERS_TOPIC_PREFIX"]).changes
    everything = [TopicPartition(topic, partition, -1) for partition in range(PARTITIONS)]
    for deleted in admin.delete_records(everything).values():
        deleted.result(30)


@pytest.mark.parametrize(
    "how",
    [pytest.param("while workers are stopped", marks=pytest.mark.soak), "while they run", "older than the log"],
)
def test_a_restored_target_catches_up(path: Whole, servers: Servers, backups: list[Backup], how: str) -> None:
    history = seed(path.source_dsn, conversations=100, messages_per_conversation=3)
    inboxes = [inbox for own in history.inboxes.values() for inbox in own]
    path.map({tenant: own for tenant, own in history.inboxes.items() if tenant != LATE})
    replicator, worker = path.replicator(), path.worker()
    with Traffic(path.source_dsn, inboxes=inboxes, rate=RATE) as traffic:

        def go_by(rows: int) -> None:
            until = traffic.counts.rows + rows
            wait_until(lambda: traffic.counts.rows >= until, "traffic", 30)

        path.wait_backfilled()
        go_by(50)
        assert worker.stop() == 0
        backups.append(Backup(servers, path))
        workers = [path.worker(), path.worker()]
        path.map({LATE: history.inboxes[LATE]})
        go_by(200)
        path.wait_backfilled()
        if how != "while they run":
            assert [worker.stop() for worker in workers] == [0, 0]
        backups[0].restore()
        if how == "older than the log":
            delete_records(path)
        if how != "while they run":
            workers = [path.worker(), path.worker()]
        go_by(100)
    path.wait_equal()
    assert not path.target.rows("SELECT 1 FROM messages WHERE tenant_id = %s", LATE), "it is unknown again"
    gaps = [line for worker in workers for line in worker.logged("log.gap")]
    assert bool(gaps) == (how == "older than the log")
    assert [program.stop() for program in (replicator, *workers)] == [0, 0, 0]
