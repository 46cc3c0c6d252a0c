"""The board as one picture that fits the terminal, whatever its size: what does not fit is cut, never wrapped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from demo.board import Board, ProgramLine, TenantLine
from demo.figures import bars, milliseconds

WIDE = 128  # columns from which on the two tables stand beside each other
MEGABYTE = 1_000_000
STYLES = {"running": "green", "killed": "bold red", "starting": "yellow"}
LOUD_WORDS = ("killed", "unexpectedly", "gave up", "differ", "lost")


class Screen:
    """Drawn anew several times a second."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or options.max_height
        free = options.update(height=None)
        lines = console.render_lines(self._upper(options.max_width), free, pad=True)[:height]
        room = height - len(lines)
        if room > 0 and self._board.events:
            lines += console.render_lines(Group(*self._latest(room)), free, pad=True)[:room]
        for index, line in enumerate(lines):
            yield from line
            if index + 1 < len(lines):
                yield Segment.line()

    def _upper(self, width: int) -> RenderableType:
        board = self._board
        programs, tenants = _programs(board.programs.values()), _tenants(board.tenants.values())
        tables: RenderableType = Group(programs, Text(), tenants)
        if width >= WIDE:
            beside = Table.grid(padding=(0, 4))
            beside.add_row(programs, tenants)
            tables = beside
        return Group(_head(board), Text(), tables, Text(), *_reading(board), _load(board, width), Text())

    def _latest(self, room: int) -> Iterable[Text]:
        for at, what in self._board.events[-room:]:
            loud = any(word in what for word in LOUD_WORDS)
            line = Text.assemble((f"{at:6.1f} s  ", "dim"), (what, "bold red" if loud else ""))
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line


def _head(board: Board) -> RenderableType:
    row = Table.grid(expand=True)
    row.add_column(no_wrap=True)
    row.add_column(justify="right", no_wrap=True)
    minutes, seconds = divmod(int(board.elapsed), 60)
    left = Text.assemble(("inbox-replicator ", "bold"), (board.phase, "cyan"))
    row.add_row(left, f"traffic {board.traffic:,} rows   {minutes}:{seconds:02}")
    return row


def _programs(lines: Iterable[ProgramLine]) -> Table:
    table = _table("program", "", "state", ">rows/s", ">rows", ">memory")
    for line in lines:
        state = Text(line.state, style=STYLES.get(line.state, "dim"))
        memory = f"{line.memory / MEGABYTE:,.0f} MB" if line.memory else "-"
        table.add_row(line.name, line.way, state, f"{line.rate:,.0f}", f"{line.rows:,}", memory)
    return table


def _tenants(lines: Iterable[TenantLine]) -> Table:
    table = _table("tenant", ">lag ms", ">p50", ">p99", "commit → visible")
    for line in lines:
        known = line.delays
        figures = ("-", "-") if known is None else (milliseconds(known.p50), milliseconds(known.p99))
        lag = "-" if line.lag is None else milliseconds(line.lag)
        table.add_row(str(line.tenant), lag, *figures, Text(bars(line.history), style="cyan"))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        width = {">rows/s": 7, ">rows": 9, ">memory": 7, ">lag ms": 7, ">p50": 7, ">p99": 7, "state": 11}.get(heading)
        right = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if right else "left", min_width=width, no_wrap=True)
    return table


def _reading(board: Board) -> Iterator[Text]:
    """One line, or two while the source is polled."""
    now = time.time()
    known = board.reading
    told = {"source": known.sentence(now), "verified": known.verified_sentence(now)} if known else {"source": "-"}
    for name, sentence in told.items():
        if sentence:
            polled = known is not None and known.is_polling
            line = Text.assemble(f"{name:<12} ", (sentence, "yellow" if polled else ""))
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line


def _load(board: Board, width: int) -> RenderableType:
    load = board.load
    row = Table.grid(padding=(0, 1))
    for _ in range(3):
        row.add_column(no_wrap=True)
    told = f"{load.rows:,} rows read, {load.inboxes_done} of {load.inboxes} inboxes complete"
    bar = ProgressBar(total=1.0, completed=load.share, width=min(30, max(8, width - len(told) - 14)))
    row.add_row(Text("initial load"), bar, Text(told, overflow="ellipsis"))
    return row
