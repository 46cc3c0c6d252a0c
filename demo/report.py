"""What is printed at the end: the comparison, the figures, the verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo import leads
from demo.compare import TABLES, render
from demo.figures import milliseconds
from demo.manner import Manner
from demo.play import Outcome
from demo.reading import Reading, Switch, clock
from demo.verdict import Verdict

MEGABYTE = 1_000_000


def report(console: Console, outcome: Outcome, verdict: Verdict, manner: Manner, seconds: float) -> None:
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
    if len(outcome.switches) > 1:
        console.print(_switches(outcome.switches))
        console.print()
    console.print(_figures(outcome, manner, seconds))
    for program, remarks in outcome.remarks.items():
        told = ", ".join(f"{event} ({count})" for event, count in remarks.items())
        console.print(Text(f"{program} warned: {told}", style="yellow"))
    if verdict.exit_code == 0:
        console.print(Text(_equal(manner.compared), style="bold green"))
        console.print(Text("every conversation has lead signals, the same when made anew", style="bold green"))
    for reason in verdict.reasons:
        console.print(Text(reason, style="bold red"))


def _equal(compared: Collection[str]) -> str:
    """What was not replicated is not claimed."""
    if set(compared) == set(TABLES):
        return "every row of every tenant is equal in source and target"
    return f"every row of every tenant of {', '.join(compared)} is equal in source and target (nothing else is polled)"


def _switches(switches: list[Switch]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for heading in ("UTC", "mode", "why"):
        table.add_column(heading, no_wrap=heading != "why")
    for switch in switches:
        why = f"{switch.why} (back by {switch.back})" if switch.why else "nothing stands in its way"
        table.add_row(clock(switch.at), switch.mode, why)
    return table


def _figures(outcome: Outcome, manner: Manner, seconds: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _lines(outcome, manner, seconds):
        table.add_row(name, value)
    return table


def _lines(outcome: Outcome, manner: Manner, seconds: float) -> Iterator[tuple[str, str]]:
    load = outcome.load
    yield "initial load, read", _speed(load.rows, load.read_seconds)
    yield "initial load, in the target", _speed(load.rows, load.seconds)
    if load.backfills > 1:
        yield "", f"(some rows more than once, in {load.backfills} backfills)"
    yield "live traffic", _speed(outcome.stream_rows, outcome.stream_seconds or None)
    if outcome.polled is not None:
        yield from _polling(outcome.polled, manner, outcome.ended)
    yield "memory, at the most", ", ".join(f"{n} {peak / MEGABYTE:,.0f} MB" for n, peak in outcome.peaks.items())
    yield "duration", f"{seconds:.0f} s"


def _polling(polled: Reading, manner: Manner, ended: float | None) -> Iterator[tuple[str, str]]:
    yield "polled with", "\n".join(f"{name}={value}" for name, value in manner.settings.items())
    lasted = max(polled.at - polled.since, 0.001)
    yield "polls", f"{polled.polls:,}, the last {polled.poll_seconds * 1000:,.0f} ms in queries on the source"
    yield "source time", f"{polled.source_seconds:.1f} s of {lasted:.0f} s: {polled.source_seconds / lasted:.0%}"
    yield "found", f"{polled.candidates:,} rows by their stamp, {polled.repaired:,} more by the rolling pass"
    if polled.verified is not None:
        beside = f"; the traffic had ended at {clock(ended)}" if ended is not None and ended < polled.verified else ""
        yield "verified through", f"{clock(polled.verified)} UTC{beside}"


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
