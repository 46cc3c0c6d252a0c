"""How fast rows get from Kafka into a target, beside Debezium's JDBC sink, PostgreSQL's own subscription and a COPY.

Everything is in Kafka, or in the subscription's slot, before the clock starts. Ours writes under forced row-level
security, with foreign keys, a position in each row and a watermark in each transaction; the others into tables with
keys and indexes alone. A rate is counted from when a fifth of the rows is there, for a JVM compiles while it works, to
the last commit. A COPY is one statement for each table, and only inserts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

import psycopg
from psycopg import sql

from bench import appended, appliers, arrived, changes, pairs, path, plain_target, streams
from bench.changes import CHANGED, WRITTEN, Written
from bench.measured import Part, ratio
from bench.pairs import Pair
from bench.path import Ground
from bench.peers.debezium import TABLES
from bench.watch import Watch
from demo.stage import Stage

ROWS: Final = 500_000
TENANTS, INBOXES = 3, 12
LOOK_SHARE: Final = 0.1
WARM_SHARE: Final = 0.2
"""Of the rows: until so many are there, nothing is counted."""
KINDS: Final = {WRITTEN: "inserts", CHANGED: "updates"}
KEYS: Final = {"conversations": "id", "messages": "conversation_id"}
SUBSCRIPTION, COPY = "subscription", "COPY"


class Applying(NamedTuple):
    rows_per_second: float
    cpu_us: float | None
    """For each row, of a program of its own; what works inside the server is not told apart from it."""


class Contender(Protocol):
    """One that writes to a target."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> Collection[int]:
        """What it can do, by the status that rows have then."""

    def apply(self, written: Written, status: int) -> Applying:
        """Raises NotMeasured."""


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(ground, 100, 2)
    both, notes = pairs.set_up(ground, stage)
    rows = ground.options.rows or ROWS
    contenders: list[Contender] = [*map(Applied, both), _Subscription(ground), Copy(ground)]
    race(ground, stage, both, contenders, rows, ground.long_rounds)
    measured = ground.journal.measured
    ours, theirs = appliers.OURS, appliers.DEBEZIUM
    return Part(
        name="apply",
        on=f"{rows:,} rows that were inserted, then updated; Kafka → target",
        measured=measured,
        ratios=[
            each
            for kind in KINDS.values()
            for each in (
                *ratio(measured, of(ours, kind), of(theirs, kind), 3),
                *ratio(measured, of(ours, kind), of(SUBSCRIPTION, kind), 0.5),
                *ratio(measured, of(ours, kind), of(COPY, kind)),
                *ratio(measured, cpu_of(ours, kind), cpu_of(theirs, kind), 0.25, at_most=True),
            )
        ],
        notes=notes,
    )


def race(
    ground: Ground,
    stage: Stage,
    both: Sequence[Pair],
    contenders: Sequence[Contender],
    rows: int,
    rounds: Sequence[str],
    kinds: Mapping[int, str] = KINDS,
) -> None:
    """All rounds, into the journal. Raises NotMeasured."""
    for pair in both:
        pair.stream.service.start()
        path.wait(pair.stream.service, pair.stream.is_ready, f"{pair.stream.name} at work")
    for step in ground.journal.steps(rounds):
        written: Written | None = None
        for status, kind in kinds.items():
            able = [contender for contender in contenders if status in contender.kinds]
            written = _publish(ground, stage, both, rows, written)
            for contender in able:
                found = contender.apply(written, status)
                step.add(of(contender.name, kind), "rows/s", found.rows_per_second)
                if found.cpu_us is not None:
                    step.add(cpu_of(contender.name, kind), "µs/row", found.cpu_us)
                ground.say(f"{step.name}: {kind}, {contender.name}, {found.rows_per_second:,.0f} rows/s")
    path.stop(*(pair.stream.service for pair in both))


def of(name: str, kind: str) -> str:
    return f"{name}, {kind}"


def cpu_of(name: str, kind: str) -> str:
    return f"{name}, {kind}, CPU"


def _publish(ground: Ground, stage: Stage, both: Sequence[Pair], rows: int, written: Written | None) -> Written:
    """Insert rows, or update those that were written, and wait until all of it is in Kafka."""
    before = [appended.ends(ground.servers.kafka.bootstrap, pair.stream.topics) for pair in both]
    if written is None:
        written = changes.insert(stage.source_dsn, rows, tenants=TENANTS, inboxes=INBOXES)
    else:
        changes.update(stage.source_dsn, written)
    with psycopg.connect(stage.source_dsn, autocommit=True) as source:
        end = streams.written_up_to(source)
    for pair, ends in zip(both, before, strict=True):
        is_there = partial(pair.stream.has_all, ends, end, written.rows)
        path.wait(pair.stream.service, is_there, f"all rows of {pair.stream.name}", share=LOOK_SHARE)
    return written


class Applied:
    """The half of a pair that writes."""

    kinds: Final = tuple(KINDS)

    def __init__(self, pair: Pair) -> None:
        self.name: Final = pair.applier.name
        self._applier = pair.applier

    def apply(self, written: Written, status: int) -> Applying:
        self._applier.service.start()
        with Watch({self.name: self._applier.service.pid}) as watch:
            applier = self._applier
            found = arrived.wait(applier.service, applier.dsn, written, status, uncounted=WARM_SHARE)
        path.stop(self._applier.service)
        return Applying(found.rows_per_second, 1e6 * watch.cpu(found.first, found.last) / found.later)


class _Subscription:
    """PostgreSQL's own, without Kafka: from a slot of its own into plain tables."""

    name: Final = SUBSCRIPTION
    kinds: Final = tuple(KINDS)

    def __init__(self, ground: Ground) -> None:
        source = ground.servers.source.dsn_of("chatwoot")
        self._dsn = plain_target.make(ground.servers, SUBSCRIPTION)
        tables = sql.SQL(", ").join(map(sql.Identifier, TABLES))
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.Identifier(self.name), tables))
        streams.make_slot(source, self.name)
        with psycopg.connect(self._dsn, autocommit=True) as target:
            made = sql.SQL(
                "CREATE SUBSCRIPTION {name} CONNECTION {source} PUBLICATION {name}"
                " WITH (copy_data = false, create_slot = false, enabled = false)"
            )
            target.execute(made.format(name=sql.Identifier(self.name), source=sql.Literal(source)))

    def apply(self, written: Written, status: int) -> Applying:
        with psycopg.connect(self._dsn, autocommit=True) as target:
            target.execute(f"ALTER SUBSCRIPTION {self.name} ENABLE")
            found = arrived.wait(None, self._dsn, written, status, uncounted=WARM_SHARE)
            target.execute(f"ALTER SUBSCRIPTION {self.name} DISABLE")
        return Applying(found.rows_per_second, None)


class Copy:
    """The rows as text, one COPY a table, in one transaction."""

    name: Final = COPY
    kinds: Final = (WRITTEN,)

    def __init__(self, ground: Ground) -> None:
        self._source = ground.servers.source.dsn_of("chatwoot")
        self._dsn = plain_target.make(ground.servers, "copied")

    def apply(self, written: Written, status: int) -> Applying:
        texts = {table: self._text(table, column, written) for table, column in KEYS.items()}
        with psycopg.connect(self._dsn) as target:
            began = time.perf_counter()
            for table, text in texts.items():
                with target.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                    for piece in text:
                        copy.write(piece)
            target.commit()
            took = time.perf_counter() - began
        return Applying(written.rows / took, None)

    def _text(self, table: str, column: str, written: Written) -> list[bytes]:
        rows = f"SELECT * FROM {table} WHERE {column} BETWEEN {written.first} AND {written.last} ORDER BY id"
        with psycopg.connect(self._source) as source, source.cursor().copy(f"COPY ({rows}) TO STDOUT") as copy:
            return [bytes(piece) for piece in copy]
