"""From a commit in the source to a row in the target, under as much load as the source can make.

Ours, and Debezium's source with its JDBC sink, in turn: both halves run and have nothing left to do, then rows are
written at full speed. The clock starts with the first commit in the source and stops with the last one in the target.
CPU and memory are those of both halves in that time; servers are not counted. Before that each of them has worked:
who comes first catches up with rows that were written for that, who comes later with those of the other, too.
"""

from __future__ import annotations

from typing import Final

import psycopg

from bench import arrived, changes, pairs, path
from bench.changes import WRITTEN, Written
from bench.measured import Part, ratio
from bench.pairs import DEBEZIUM, OURS
from bench.path import Ground
from bench.watch import Watch

ROWS: Final = 500_000
TENANTS, INBOXES = 3, 12
WARM_SHARE: Final = 5
"""So many times fewer rows come first: a JVM compiles while it works."""


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(ground, 100, 2)
    both, notes = pairs.set_up(ground, stage)
    rows = ground.options.rows or ROWS
    so_far = changes.insert(stage.source_dsn, rows // WARM_SHARE, tenants=TENANTS, inboxes=INBOXES)
    for step in ground.journal.steps(ground.long_rounds):
        for pair in reversed(both):  # who is faster catches up with the other
            pair.start()
            arrived.wait(pair.applier.service, pair.applier.dsn, so_far, WRITTEN)
            with Watch(pair.pids) as watch:
                written = changes.insert(stage.source_dsn, rows, tenants=TENANTS, inboxes=INBOXES)
                came = arrived.wait(pair.applier.service, pair.applier.dsn, written, WRITTEN)
            pair.stop()
            so_far = Written(so_far.first, written.last)
            with psycopg.connect(stage.source_dsn, autocommit=True) as source:
                began = arrived.commits(source, written, WRITTEN).first
            speed = written.rows / (came.last - began)
            step.add(pair.name, "rows/s", speed)
            step.add(cpu_of(pair.name), "µs/row", 1e6 * watch.cpu(began, came.last) / written.rows)
            step.add(memory_of(pair.name), "MB", watch.resident(began, came.last) / 1e6)
            ground.say(f"{step.name}: {pair.name}, {speed:,.0f} rows/s")
    measured = ground.journal.measured
    return Part(
        name="end-to-end",
        on=f"{rows:,} rows inserted at full speed; first commit in the source → last in the target",
        measured=measured,
        ratios=[
            *ratio(measured, OURS, DEBEZIUM, 3),
            *ratio(measured, cpu_of(OURS), cpu_of(DEBEZIUM), 0.25, at_most=True),
            *ratio(measured, memory_of(OURS), memory_of(DEBEZIUM), 0.125, at_most=True),
        ],
        notes=notes,
    )


def cpu_of(name: str) -> str:
    return f"{name}, CPU"


def memory_of(name: str) -> str:
    return f"{name}, memory"
