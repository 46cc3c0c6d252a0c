"""How fast the stream gets from a slot into Kafka, beside the walsender's own limit and Debezium's source connector.

Each contender reads the same WAL from a slot of its own, made before the rows were written, in turn. `pg_recvlogical`
throws away what it reads: no reader can be faster than what the server sends. CPU is the reader's own, from its first
row in Kafka to its last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from confluent_kafka import Message

from bench import appended, changes, path
from bench.measured import Part, ratio
from bench.path import Ground, NotMeasured
from bench.peers import connect, debezium
from bench.watch import Watch
from demo.programs import Program
from demo.servers import ServersUnavailable
from demo.servers.starting import last_lines
from demo.stage import Stage
from replicator import Topics

ROWS: Final = 500_000
TENANTS, INBOXES = 3, 12
DRAIN_SECONDS: Final = 600.0
TABLES: Final = (b"conversations", b"messages")
PUBLICATION: Final = "inbox_replicator"
BARE, OURS, DEBEZIUM = "pg_recvlogical", "replicator", "Debezium source"


class Drained(NamedTuple):
    """What a contender made of the WAL."""

    rows_per_second: float
    cpu_seconds: float


class Contender(Protocol):
    """One that reads slots."""

    name: str

    def take_slot(self) -> None:
        """From here on the WAL is kept for it; before each round."""

    def drain(self, end: str, rows: int) -> Drained:
        """Read up to there. Raises NotMeasured."""


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(ground, 100, 2)
    contenders: list[Contender] = [Bare(ground), Ours(ground, stage)]
    try:
        contenders.append(_Debezium(ground, connect.installed(ground.folder)))
        notes = []
    except ServersUnavailable as error:
        notes = [f"{DEBEZIUM} is left out: {error}"]
    rows = ground.options.rows or ROWS
    race(ground, stage, contenders, rows, ground.rounds)
    measured = ground.journal.measured
    return Part(
        name="reader",
        on=f"{rows:,} row changes, slot → Kafka acknowledged",
        measured=measured,
        ratios=[
            *ratio(measured, OURS, BARE, 0.6),
            *ratio(measured, OURS, DEBEZIUM, 3.5),
            *ratio(measured, cpu_of(OURS), cpu_of(DEBEZIUM), 0.25, at_most=True),
        ],
        notes=notes,
    )


def race(ground: Ground, stage: Stage, contenders: Sequence[Contender], rows: int, rounds: Sequence[str]) -> None:
    """All rounds, into the journal. Raises NotMeasured."""
    for step in ground.journal.steps(rounds):
        for contender in contenders:
            contender.take_slot()
        written = changes.insert(stage.source_dsn, rows, tenants=TENANTS, inboxes=INBOXES)
        with psycopg.connect(stage.source_dsn, autocommit=True) as source:
            end = path.one(source, "SELECT pg_current_wal_insert_lsn()::text")
        for contender in contenders:
            found = contender.drain(end, written.rows)
            step.add(contender.name, "rows/s", found.rows_per_second)
            step.add(cpu_of(contender.name), "µs/row", 1e6 * found.cpu_seconds / written.rows)
            ground.say(f"{step.name}: {contender.name}, {found.rows_per_second:,.0f} rows/s")


def cpu_of(name: str) -> str:
    return f"{name}, CPU"


class Ours:
    """The replicator, with the stage's slot and topic."""

    name = OURS

    def __init__(self, ground: Ground, stage: Stage) -> None:
        self._kafka, self._dsn = ground.servers.kafka.bootstrap, stage.source_dsn
        settings = {**stage.replicator, "REPLICATOR_VIEW": ""}
        self._slot, self._topic = settings["REPLICATOR_SLOT"], Topics(settings["REPLICATOR_TOPIC_PREFIX"]).changes
        self._program = Program(ground.folder, "reader", ["replicator", "run"], settings)
        self._is_set_up = False

    def take_slot(self) -> None:
        """The first time: reads what there is so far, and leaves the slot where the rows will begin."""
        if self._is_set_up:
            return
        self._program.start()
        path.wait(self._program, self._is_loaded, "the initial load")
        path.stop(self._program)
        appended.stamp_appends(self._kafka, self._topic)
        self._is_set_up = True

    def drain(self, end: str, rows: int) -> Drained:
        before = appended.ends(self._kafka, [self._topic])
        self._program.start()
        with (
            Watch({self.name: self._program.pid}) as watch,
            psycopg.connect(self._dsn, autocommit=True) as source,
        ):
            path.wait(self._program, lambda: self._is_confirmed(source, end), "all is confirmed")
        path.stop(self._program)
        found = appended.count(self._kafka, before, [self._topic], _is_streamed_row)
        return _drained(found, rows, watch)

    def _is_loaded(self) -> bool:
        self._program.news()
        status = self._program.status()
        return bool(status.get("healthy")) and "backfills" in status and not status["backfills"]

    def _is_confirmed(self, source: psycopg.Connection[Any], end: str) -> bool:
        reached = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        return bool(path.one(source, reached, end, self._slot))


class _Debezium:
    """Its source connector, with a slot and topics of its own."""

    name = DEBEZIUM
    slot = "debezium"

    def __init__(self, ground: Ground, jars: connect.Jars) -> None:
        self._kafka, self._dsn = ground.servers.kafka.bootstrap, ground.servers.source.dsn_of("chatwoot")
        self._topics = debezium.topics_of(self.slot)
        settings = debezium.source(self._dsn, self.slot, self.slot, PUBLICATION)
        self._connect = connect.Connect(ground.folder, jars, self._kafka, "debezium-source", settings)
        self._is_set_up = False

    def take_slot(self) -> None:
        if not self._is_set_up:
            appended.make_topics(self._kafka, self._topics, debezium.PARTITIONS)
            make_slot(self._dsn, self.slot)
        self._is_set_up = True

    def drain(self, end: str, rows: int) -> Drained:
        before = appended.ends(self._kafka, self._topics)

        def is_there() -> bool:
            return appended.grown(before, appended.ends(self._kafka, self._topics)) >= rows

        self._connect.start()
        with Watch({self.name: self._connect.pid}) as watch:
            path.wait(self._connect, is_there, "all rows", share=0.1)
        path.stop(self._connect)
        found = appended.count(self._kafka, before, self._topics, lambda message: message.value() is not None)
        return _drained(found, rows, watch)


def _drained(found: appended.Appended, rows: int, watch: Watch) -> Drained:
    if found.rows != rows:
        raise NotMeasured(f"{found.rows:,} rows came to Kafka, {rows:,} were written")
    return Drained(rows / found.seconds, watch.cpu(found.first_ms / 1000, found.last_ms / 1000))


def _is_streamed_row(message: Message) -> bool:
    head = dict(message.headers() or ())
    return head.get("table") in TABLES and head.get("op") in (b"c", b"u") and "snapshot" not in head


class Bare:
    """`pg_recvlogical`; each round has a slot of its own."""

    name = BARE

    def __init__(self, ground: Ground) -> None:
        self._folder, self._source = ground.folder, ground.servers.source
        self._dsn = self._source.dsn_of("chatwoot")
        self._log = ground.folder.path / "pg_recvlogical.log"
        self._rounds = 0

    def take_slot(self) -> None:
        self._rounds += 1
        make_slot(self._dsn, self._slot)

    def drain(self, end: str, rows: int) -> Drained:
        program = (self._source.bin_dir or Path("/usr/bin")) / "pg_recvlogical"
        command: list[str | Path] = [program, "--dbname", self._dsn, "--slot", self._slot, "--start", "--endpos", end]
        plugin = ("proto_version=1", f"publication_names={PUBLICATION}", "messages=true")
        options = [word for option in plugin for word in ("--option", option)]
        began = time.time()
        child = self._folder.spawn([*command, "--file", "/dev/null", *options], log=self._log)
        with Watch({self.name: child.pid}) as watch:
            code = child.wait(DRAIN_SECONDS)
            ended = time.time()
        if code != 0:
            raise NotMeasured(f"{self.name}: {last_lines(self._log)}")
        return Drained(rows / (ended - began), watch.cpu(began, ended))

    @property
    def _slot(self) -> str:
        return f"bare_{self._rounds}"


def make_slot(dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as source:
        source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
