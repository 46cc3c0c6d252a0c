"""How fast the stream gets from a slot into Kafka, beside the walsender's own limit and Debezium's source connector.

Each contender reads the same WAL from a slot of its own, made before the rows were written, in turn. `pg_recvlogical`
throws away what it reads: no reader can be faster than what the server sends. CPU is the reader's own, from its first
row in Kafka to its last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import psycopg

from bench import appended, changes, path, streams
from bench.measured import Part, ratio
from bench.path import Ground, NotMeasured
from bench.peers import connect
from bench.streams import DEBEZIUM, OURS, PUBLICATION, Stream, make_slot
from bench.watch import Watch
from demo.servers import ServersUnavailable
from demo.servers.starting import last_lines
from demo.stage import Stage

ROWS: Final = 500_000
TENANTS, INBOXES = 3, 12
DRAIN_SECONDS: Final = 600.0
LOOK_SHARE: Final = 0.1
BARE: Final = "pg_recvlogical"


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
    contenders: list[Contender] = [Bare(ground), Streamed(ground, streams.Ours(ground, stage))]
    try:
        peer = streams.Debezium(ground, connect.installed(ground.folder))
        contenders.append(Streamed(ground, peer))
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
            end = streams.written_up_to(source)
        for contender in contenders:
            found = contender.drain(end, written.rows)
            step.add(contender.name, "rows/s", found.rows_per_second)
            step.add(cpu_of(contender.name), "µs/row", 1e6 * found.cpu_seconds / written.rows)
            ground.say(f"{step.name}: {contender.name}, {found.rows_per_second:,.0f} rows/s")


def cpu_of(name: str) -> str:
    return f"{name}, CPU"


class Streamed:
    """One that brings what it reads to Kafka."""

    def __init__(self, ground: Ground, stream: Stream) -> None:
        self.name = stream.name
        self.take_slot = stream.take_slot
        self._stream, self._kafka = stream, ground.servers.kafka.bootstrap

    def drain(self, end: str, rows: int) -> Drained:
        stream = self._stream
        before = appended.ends(self._kafka, stream.topics)
        stream.service.start()
        with Watch({self.name: stream.service.pid}) as watch:
            path.wait(stream.service, lambda: stream.has_all(before, end, rows), "all rows", share=LOOK_SHARE)
        path.stop(stream.service)
        found = appended.count(self._kafka, before, stream.topics, stream.is_row)
        if found.rows != rows:
            raise NotMeasured(f"{self.name}: {found.rows:,} rows came to Kafka, {rows:,} were written")
        cpu = watch.cpu(found.first_ms / 1000, found.last_ms / 1000)
        return Drained(found.later / found.seconds, cpu * rows / found.later)


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
        assert self._source.bin_dir is not None
        command: list[str | Path] = [
            self._source.bin_dir / "pg_recvlogical",
            "--dbname",
            self._dsn,
            "--slot",
            self._slot,
            "--start",
            "--endpos",
            end,
        ]
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
