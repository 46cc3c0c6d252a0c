"""How the board reaches the user: one screen on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.live import Live

from demo.board import Board
from demo.figures import milliseconds
from demo.screen import Screen

LINE_SECONDS = 2.0
REFRESHES = 4  # a second
# Leaves the alternate screen and shows the cursor, for an end that cannot wait for the display.
RESTORE = "\x1b[?1049l\x1b[?25h"


class Display(Protocol):
    """Begins with `start`; `stop` leaves the terminal as it was and may be called twice."""

    def start(self) -> None: ...
    def event(self, what: str) -> None:
        """Something happened."""

    def tick(self) -> None:
        """The board may have changed."""

    def stop(self) -> None: ...


class ScreenDisplay:
    """Draws from a thread of its own, so that the clock goes on while others work."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board, self._console = board, console
        self._live = Live(
            Screen(board), console=console, screen=True, refresh_per_second=REFRESHES, vertical_overflow="crop"
        )

    def start(self) -> None:
        self._live.start()

    def event(self, what: str) -> None:
        self._board.events.append((self._board.elapsed, what))

    def tick(self) -> None:
        """The thread looks often enough."""

    def stop(self) -> None:
        if self._live.is_started:
            self._live.stop()
            for at, what in self._board.events:
                print(_dated(at, what))


class LineDisplay:
    """One line for each event, and one every two seconds."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._next = 0.0

    def start(self) -> None:
        """Nothing to prepare."""

    def event(self, what: str) -> None:
        self._board.events.append((self._board.elapsed, what))
        print(_dated(self._board.elapsed, what), flush=True)

    def tick(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            print(_dated(self._board.elapsed, _line(self._board)), flush=True)

    def stop(self) -> None:
        """Nothing to restore."""


def display_for(board: Board, *, plain: bool) -> Display:
    """What fits this standard output."""
    console = Console()
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return LineDisplay(board)
    return ScreenDisplay(board, console)


def restore_terminal() -> None:
    """At once, whatever the display is doing."""
    if sys.stdout.isatty():
        sys.stdout.write(RESTORE)
        sys.stdout.flush()


def _dated(at: float, what: str) -> str:
    return f"{at:6.1f} s  {what}"


def _line(board: Board) -> str:
    tenants = board.tenants.values()
    lags = "  ".join(f"{line.tenant}: {milliseconds(line.lag) if line.lag is not None else '-'}" for line in tenants)
    load, reading = board.load, board.reading
    parts = [f"in {board.rate('in'):,.0f} rows/s", f"out {board.rate('out'):,.0f} rows/s", f"lag ms {lags}"]
    if reading is not None and reading.is_polling:
        parts.append(f"{reading.mode}, verified through {reading.verified_sentence(time.time())}")
    if load.inboxes_done < load.inboxes:
        parts.append(f"initial load {load.share:.0%}, {load.inboxes_done} of {load.inboxes} inboxes complete")
    return " | ".join(parts)
