"""Debezium's connectors, set as one would set them for this job: pure, settings of Kafka Connect.

Of the source two tables alone, without the analytics view. In the target tables with keys and indexes, but without
tenants, row-level security and foreign keys: the sink knows none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg.conninfo import conninfo_to_dict

TABLES: Final = ("conversations", "messages")
SINK_TASKS: Final = 2
PARTITIONS: Final = 4
"""Of each topic: enough for the sink's tasks, few enough for large batches."""


def topics_of(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.public.{table}" for table in TABLES)


def source(dsn: str, prefix: str, slot: str, publication: str, *, snapshot: str = "no_data") -> dict[str, str]:
    """As superuser of `dsn`. Without a snapshot it begins where the slot was made."""
    at = conninfo_to_dict(dsn)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": str(at["host"]),
        "database.port": str(at["port"]),
        "database.user": str(at["user"]),
        "database.password": str(at["password"]),
        "database.dbname": str(at["dbname"]),
        "topic.prefix": prefix,
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "publication.name": publication,
        "publication.autocreate.mode": "disabled",
        "table.include.list": ",".join(f"public.{table}" for table in TABLES),
        "snapshot.mode": snapshot,
        "message.prefix.exclude.list": ".*",  # our own markers: it would wait for a topic of theirs
        "max.batch.size": "8192",
        "max.queue.size": "32768",
    }


def sink(dsn: str, topics: Sequence[str]) -> dict[str, str]:
    at = conninfo_to_dict(dsn)
    return {
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": str(SINK_TASKS),
        "topics": ",".join(topics),
        "connection.url": f"jdbc:postgresql://{at['host']}:{at['port']}/{at['dbname']}?reWriteBatchedInserts=true",
        "connection.username": str(at["user"]),
        "connection.password": str(at["password"]),
        "insert.mode": "upsert",
        "delete.enabled": "true",
        "primary.key.mode": "record_key",
        "schema.evolution": "none",
        "collection.name.format": "${source.table}",
        "batch.size": "5000",
        "use.reduction.buffer": "true",
    }
