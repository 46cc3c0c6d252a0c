"""Who reads a slot and writes to Kafka, ours and Debezium's: each with a slot and topics of its own, on one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import psycopg
from confluent_kafka import Message

from bench import appended, path
from bench.path import Ground, Service
from bench.peers import connect, debezium
from demo.programs import Program
from demo.stage import Stage
from replicator import Topics

PUBLICATION: Final = "inbox_replicator"
OURS, DEBEZIUM = "replicator", "Debezium source"
TABLES: Final = (b"conversations", b"messages")
Ends = Mapping[tuple[str, int], int]


class Stream(Protocol):
    """One of them."""

    @property
    def name(self) -> str: ...

    @property
    def service(self) -> Service: ...

    @property
    def topics(self) -> Sequence[str]: ...

    def take_slot(self) -> None:
        """From here on the WAL is kept for it, and its topics are there. Done once, however often it is asked for."""

    def is_ready(self) -> bool:
        """Whether it streams."""

    def is_row(self, message: Message) -> bool:
        """Whether this is a row change that was streamed."""

    def has_all(self, before: Ends, end: str, rows: int) -> bool:
        """Whether Kafka has what stands in the WAL up to `end`: so many rows since the topics ended there."""


class Ours:
    """The replicator, with the stage's slot and topic; without the analytics view, which no peer has."""

    name: Final = OURS

    def __init__(self, ground: Ground, stage: Stage, **settings: str) -> None:
        self._kafka, self._dsn = ground.servers.kafka.bootstrap, stage.source_dsn
        given = {**stage.replicator, "REPLICATOR_VIEW": "", **settings}
        self._slot = given["REPLICATOR_SLOT"]
        self.topics = (Topics(given["REPLICATOR_TOPIC_PREFIX"]).changes,)
        self.service = self._program = Program(ground.folder, self.name, ["replicator", "run"], given)
        self._is_set_up = False

    def take_slot(self) -> None:
        """Reads what there is so far, and leaves the slot where it is."""
        if self._is_set_up:
            return
        self._program.start()
        path.wait(self._program, self.is_ready, "the initial load")
        path.stop(self._program)
        appended.stamp_appends(self._kafka, *self.topics)
        self._is_set_up = True

    def is_ready(self) -> bool:
        self._program.news()
        status = self._program.status()
        return bool(status.get("healthy")) and "backfills" in status and not status["backfills"]

    def is_row(self, message: Message) -> bool:
        head = dict(message.headers() or ())
        return head.get("table") in TABLES and head.get("op") in (b"c", b"u") and "snapshot" not in head

    def has_all(self, before: Ends, end: str, rows: int) -> bool:
        reached = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        with psycopg.connect(self._dsn, autocommit=True) as source:
            return bool(path.one(source, reached, end, self._slot))


class Debezium:
    """Its source connector in Kafka Connect."""

    name: Final = DEBEZIUM

    def __init__(
        self, ground: Ground, jars: connect.Jars, prefix: str = "debezium", *, snapshot: str = "no_data"
    ) -> None:
        self._kafka, self._dsn = ground.servers.kafka.bootstrap, ground.servers.source.dsn_of("chatwoot")
        self._slot = prefix
        self.topics = debezium.topics_of(prefix)
        settings = debezium.source(self._dsn, prefix, prefix, PUBLICATION, snapshot=snapshot)
        self.service = self._connect = connect.Connect(ground.folder, jars, self._kafka, f"{prefix}-source", settings)
        self._is_set_up = False

    def take_slot(self) -> None:
        if not self._is_set_up:
            appended.make_topics(self._kafka, self.topics, debezium.PARTITIONS)
            make_slot(self._dsn, self._slot)
        self._is_set_up = True

    def is_ready(self) -> bool:
        return self._connect.is_ready

    def is_row(self, message: Message) -> bool:
        return message.value() is not None

    def has_all(self, before: Ends, end: str, rows: int) -> bool:
        return appended.grown(before, appended.ends(self._kafka, self.topics)) >= rows


def make_slot(dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


def written_up_to(source: psycopg.Connection[Any]) -> str:
    """The end of the WAL as a reader of a slot will meet it."""
    return str(path.one(source, "SELECT pg_current_wal_insert_lsn()::text"))
