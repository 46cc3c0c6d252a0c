"""How long a commit in the source takes to be a row in the target, at rest and at steady rates.

Ours, and Debezium's source with its JDBC sink, one after the other. Nobody looks while it happens: each server keeps
the time of its commits, on one machine and so by one clock. What is counted begins before the source's flush and ends
before the target's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import psycopg

from bench import arrived, changes, pairs, path, steady
from bench.changes import WRITTEN
from bench.measured import Curve, Measured, Part, Ratio
from bench.pairs import OURS, Pair
from bench.path import Ground, NotMeasured
from bench.steady import Span

CONVERSATIONS: Final = 1200
TENANTS, INBOXES = 3, 12
AT_REST: Final = 10
"""A second: each finds nothing under way."""
RATES: Final = (AT_REST, 100, 1_000, 3_000)
SHARES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
AIMS: Final = {(AT_REST, "p50"): 20, (1_000, "p99"): 100}
PLOT: Final = "delay"
_STAMPS: Final = """
SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM messages WHERE id BETWEEN %s AND %s
"""


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    seconds = ground.options.seconds
    stage = path.stage(ground, 100, 2)
    both, notes = pairs.set_up(ground, stage)
    conversations = changes.insert(
        stage.source_dsn, CONVERSATIONS * (1 + changes.MESSAGES), tenants=TENANTS, inboxes=INBOXES
    )
    spans: list[Span] = []
    for step in ground.journal.steps(pair.name for pair in both):
        (pair,) = (pair for pair in both if pair.name == step.name)
        pair.start()
        arrived.wait(pair.applier.service, pair.applier.dsn, conversations, WRITTEN)
        for span in spans:
            steady.wait(pair.applier.service, pair.applier.dsn, span)
        curves: dict[str, list[tuple[float, float]]] = {share: [] for share in SHARES}
        for rate in RATES:
            span = steady.write(
                stage.source_dsn, conversations, rate=rate, seconds=seconds, tenants=TENANTS, inboxes=INBOXES
            )
            spans.append(span)
            steady.wait(pair.applier.service, pair.applier.dsn, span)
            took = Measured(what="", unit="ms", values=tuple(_took(stage.source_dsn, pair, span)))
            for share, point in SHARES.items():
                step.add(_what(pair.name, rate, share), "ms", took.at(point))
                curves[share].append((rate, took.at(point)))
            ground.say(f"{pair.name}, {_circumstances(rate)}: p50 {took.median:,.1f} ms, p99 {took.at(0.99):,.1f} ms")
        pair.stop()
        for share, points in curves.items():
            label = f"{pair.name}, {share}"
            step.draw(Curve(plot=PLOT, label=label, x="row changes/s", y="ms, commit → commit", points=tuple(points)))
    measured = ground.journal.measured
    return Part(
        name="latency",
        on=f"messages at steady rates, {seconds:g} s each; commit in the source → commit in the target",
        measured=measured,
        ratios=list(_aims(measured)),
        curves=ground.journal.curves,
        notes=notes,
    )


def _took(source_dsn: str, pair: Pair, span: Span) -> Iterator[float]:
    """Milliseconds, of each message."""
    with psycopg.connect(source_dsn) as source, psycopg.connect(pair.applier.dsn) as target:
        begun: dict[int, float] = dict(source.execute(_STAMPS, span).fetchall())
        for message, at in target.execute(_STAMPS, span):
            yield 1000 * (at - begun.pop(message))
    if begun:
        raise NotMeasured(f"{pair.name}: {len(begun):,} messages are not in the target")


def _aims(measured: list[Measured]) -> Iterator[Ratio]:
    median = {each.what: each.median for each in measured}
    for (rate, share), aim in AIMS.items():
        what = _what(OURS, rate, share)
        yield Ratio(what=f"{what}, ms", value=median[what], aim=aim, at_most=True)


def _what(name: str, rate: int, share: str) -> str:
    return f"{name}, {_circumstances(rate)}, {share}"


def _circumstances(rate: int) -> str:
    return "at rest" if rate == AT_REST else f"{rate:,}/s"
