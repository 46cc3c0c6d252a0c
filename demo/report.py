"""What is printed at the end: the comparison, the figures, the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo import leads
from demo.compare import render
from demo.figures import milliseconds
from demo.play import Outcome
from demo.verdict import Verdict

MEGABYTE = 1_000_000


def report(console: Console, outcome: Outcome, verdict: Verdict, seconds: float) -> None:
    """Everything, in the order in which one asks."""
    console.print()
    console.print(render(outcome.comparisons))
    console.print()
    if outcome.leads:
        console.print(leads.render(outcome.leads))
        for each in outcome.leads:
            console.print(Text(f"tenant {each.tenant}, {each.example}"))
        console.print()
    console.print(_delays(outcome))
    console.print()
    console.print(_figures(outcome, seconds))
    for program, remarks in outcome.remarks.items():
        told = ", ".join(f"{event} ({count})" for event, count in remarks.items())
        console.print(Text(f"{program} warned: {told}", style="yellow"))
    if verdict.exit_code == 0:
        console.print(Text("every row of every tenant is equal in source and target", style="bold green"))
        console.print(Text("every conversation has lead signals, the same when made anew", style="bold green"))
    for reason in verdict.reasons:
        console.print(Text(reason, style="bold red"))


def _figures(outcome: Outcome, seconds: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _lines(outcome, seconds):
        table.add_row(name, value)
    return table


def _lines(outcome: Outcome, seconds: float) -> Iterator[tuple[str, str]]:
    yield "initial load, read", _speed(outcome.load_rows, outcome.load_read_seconds)
    yield "initial load, in the target", _speed(outcome.load_rows, outcome.load_seconds)
    if outcome.backfills > 1:
        yield "", f"(some rows more than once, in {outcome.backfills} backfills)"
    yield "live traffic", _speed(outcome.stream_rows, outcome.stream_seconds or None)
    yield "memory, at the most", ", ".join(f"{n} {peak / MEGABYTE:,.0f} MB" for n, peak in outcome.peaks.items())
    yield "duration", f"{seconds:.0f} s"


def _speed(rows: int, seconds: float | None) -> str:
    if seconds is None or seconds <= 0:
        return f"{rows:,} rows, not finished"
    return f"{rows:,} rows in {seconds:.1f} s: {rows / seconds:,.0f} rows/s"


def _delays(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("commit → visible, ms", no_wrap=True)
    for heading in ("p50", "p99", "worst", "probes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for phase, delays in outcome.delays.items():
        figures = map(milliseconds, (delays.p50, delays.p99, delays.worst))
        table.add_row(phase, *figures, f"{delays.samples:,}")
    return table
