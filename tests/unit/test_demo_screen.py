"""The demo's picture fits the terminal that it is drawn on, and says what is going on."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from demo.board import Board, ProgramLine
from demo.figures import Delays
from demo.reading import Reading
from demo.screen import Screen


def a_busy_board(events: int = 100) -> Board:
    programs = [ProgramLine(name=name, way=way) for name, way in (("replicator", "in"), ("worker 1", "out"))]
    board = Board(programs, [10, 20, 30], inboxes=12)
    board.phase, board.traffic = "live, worker 1 gone", 12_345_678
    for line in board.programs.values():
        line.state, line.rate, line.rows, line.memory = "not started", 123_456.7, 123_456_789, 1_234_567_890
    for tenant in board.tenants.values():
        tenant.lag, tenant.delays = 123.456, Delays(100, 0.1, 99.9, 123.4)
        tenant.history.extend([0.1, 1.0, 100.0] * 20)
    board.load.rows, board.load.expected, board.load.inboxes_done = 123_456_789, 200_000_000, 11
    board.reading = Reading(
        mode="polling",
        since=time.time() - 12.5,
        because="the replication slot was lost",
        back="the end of a pause",
        not_before=0.0,
        verified=time.time() - 3.25,
        polls=7,
        candidates=11,
        repaired=5,
        poll_seconds=0.01,
        source_seconds=1.5,
        at=time.time(),
    )
    board.events = [(n, f"event {n} with quite a long story to tell, {'word ' * 30}") for n in range(events)]
    return board


def drawn(board: Board, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    lines = console.render_lines(Screen(board), console.options.update(height=height), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10), (20, 5), (250, 80)])
def test_the_picture_fits(width: int, height: int) -> None:
    lines = drawn(a_busy_board(), width, height)
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (140, 30)])
def test_everything_is_to_be_seen(width: int, height: int) -> None:
    picture = "\n".join(drawn(a_busy_board(), width, height))
    for wanted in ("worker 1 gone", "123,457", "1,235 MB", "123,456", "99,900", "11 of 12 inboxes", "event 99 with"):
        assert wanted in picture


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40)])
def test_a_source_that_is_polled_is_seen_to_be(width: int, height: int) -> None:
    picture = "\n".join(drawn(a_busy_board(), width, height))
    assert re.search(r"polling for 1\d s: the replication slot was lost \(back by", picture)
    assert re.search(r"\d\d:\d\d:\d\d UTC, [34]\.\d s ago", picture)


def test_the_latest_events_are_shown_oldest_first() -> None:
    lines = drawn(a_busy_board(events=3), 80, 40)
    shown = [line.split()[3] for line in lines if " event " in line]
    assert shown == ["0", "1", "2"]
