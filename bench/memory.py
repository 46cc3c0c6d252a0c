"""How much memory each program holds: at rest, through a huge transaction, millions of rows, and without Kafka.

Ours, and Debezium's source with its JDBC sink, one after the other; resident size, looked at ten times a second. A
phase ends when everything is in the target. Debezium's have a fifth of the rows, each of which takes them much longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench import arrived, changes, pairs, path, steady
from bench.changes import CHANGED, WRITTEN, Written
from bench.journal import Step
from bench.measured import Curve, Measured, Part, Ratio
from bench.pairs import Pair
from bench.path import Ground
from bench.steady import Span
from bench.watch import Look, Watch
from demo.stage import Stage

ROWS: Final = 3_000_000
TRANSACTION_SHARE: Final = 3
"""The huge transaction has so many times fewer rows."""
RATE: Final = 1_000
"""Row changes a second while Kafka is away."""
TENANTS, INBOXES = 3, 12
PEERS_SHARE: Final = 5
"""A peer has so many times fewer rows."""
AIM_MB: Final = 150
POINTS: Final = 300
"""Of a curve."""


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(ground, 100, 2)
    both, notes = pairs.set_up(ground, stage)
    rows = ground.options.rows or ROWS
    so_far: tuple[Written, Span] | None = None
    for step in ground.journal.steps(pair.name for pair in reversed(both)):  # who is faster catches up with the other
        (pair,) = (pair for pair in both if pair.name == step.name)
        pair.start()
        if so_far is not None:
            arrived.wait(pair.applier.service, pair.applier.dsn, so_far[0], CHANGED)
            steady.wait(pair.applier.service, pair.applier.dsn, so_far[1])
        so_far = _phases(ground, stage, pair, rows if pair is both[0] else rows // PEERS_SHARE, step)
        pair.stop()
    measured = ground.journal.measured
    return Part(
        name="memory",
        on=f"{ground.options.seconds:g} s at rest; a transaction of {rows // TRANSACTION_SHARE:,} rows; {rows:,} rows"
        f" of mixed traffic, half of them updates (a peer: a {PEERS_SHARE}th of both); Kafka away for"
        f" {ground.options.seconds:g} s at {RATE:,} rows/s",
        measured=measured,
        ratios=_aims(measured, pairs.names(both[0])),
        curves=ground.journal.curves,
        notes=notes,
    )


def _phases(ground: Ground, stage: Stage, pair: Pair, rows: int, step: Step) -> tuple[Written, Span]:
    """Returns what was updated, and the messages after that."""
    updated: list[Written] = []
    last: list[Span] = []

    def write(rows: int, conversations_a_commit: int = changes.CONVERSATIONS_A_COMMIT) -> Written:
        written = changes.insert(
            stage.source_dsn,
            rows,
            tenants=TENANTS,
            inboxes=INBOXES,
            conversations_a_commit=conversations_a_commit,
        )
        arrived.wait(pair.applier.service, pair.applier.dsn, written, WRITTEN)
        return written

    def mix() -> None:
        updated.append(write(rows // 2))
        changes.update(stage.source_dsn, updated[0])
        arrived.wait(pair.applier.service, pair.applier.dsn, updated[0], CHANGED)

    phases: dict[str, Callable[[], object]] = {
        "at rest": lambda: time.sleep(ground.options.seconds),
        "one transaction": lambda: write(rows // TRANSACTION_SHARE, rows),
        "mixed traffic": mix,
        "Kafka away": lambda: last.append(_without_kafka(ground, stage, pair, updated[0])),
    }
    began = time.time()
    with Watch(pair.pids) as watch:
        for phase, run in phases.items():
            since = time.time()
            run()
            for name, most in watch.residents(since, time.time()).items():
                step.add(_what(name, phase), "MB", most / 1e6)
                ground.say(f"{name}, {phase}: {most / 1e6:,.0f} MB at the most")
    for name, looks in watch.looks.items():
        step.draw(Curve(plot="resident memory", label=name, x="s", y="MB", points=_thinned(looks, began)))
    return updated[0], last[0]


def _without_kafka(ground: Ground, stage: Stage, pair: Pair, conversations: Written) -> Span:
    seconds = ground.options.seconds
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(
            steady.write,
            stage.source_dsn,
            conversations,
            rate=RATE,
            seconds=seconds,
            tenants=TENANTS,
            inboxes=INBOXES,
        )
        ground.servers.kafka.stop()
        span = writing.result()
        ground.servers.kafka.start()
    steady.wait(pair.applier.service, pair.applier.dsn, span)
    return span


def _thinned(looks: Sequence[Look], began: float) -> tuple[tuple[float, float], ...]:
    every = max(1, len(looks) // POINTS)
    return tuple((round(look.at - began, 1), round(look.resident / 1e6, 1)) for look in looks[::every])


def _aims(measured: Sequence[Measured], ours: Sequence[str]) -> list[Ratio]:
    most = {
        name: max((each.median for each in measured if each.what.startswith(f"{name}, ")), default=0.0) for name in ours
    }
    return [Ratio(what=f"{name}, the most, MB", value=value, aim=AIM_MB, at_most=True) for name, value in most.items()]


def _what(name: str, phase: str) -> str:
    return f"{name}, {phase}"
