"""`make demo`: the whole path on real servers in a minute or two, watched on one screen, compared at its end.

Exit code 0: every row of every tenant is equal and nothing went wrong. 1: something did. 128 + signal: interrupted.
However it ends, nothing of it is left: processes and the temporary folder go with it (`demo.servers.guardian`).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo.board import Board, ProgramLine
from demo.display import display_for, restore_terminal
from demo.handover import advice, write_environment
from demo.options import Options, parse
from demo.play import Play
from demo.programs import CommandFailed
from demo.report import report
from demo.servers import ServersUnavailable, server_folder, servers
from demo.stage import Stage, prepare, tenants_of
from demo.verdict import judge

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SERVER_SETTINGS = {"max_slot_wal_keep_size": "10GB"}  # `replicator check` wants a limit
KEEP_PAUSE = 0.5  # seconds between two looks at what was left running


class Interrupted(KeyboardInterrupt):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        self.number = number


def main() -> int:
    """The exit code."""
    options = parse(sys.argv[1:], os.environ)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return _run(options)
    except Interrupted as signalled:
        print("interrupted; everything that was started is gone", file=sys.stderr)
        return 128 + signalled.number
    except (ServersUnavailable, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 1


def _interrupt(number: int, _: FrameType | None) -> None:
    """The first signal ends the demo in order, a second one at once: the guardian then cleans up alone."""
    for each in SIGNALS:
        signal.signal(each, _end_now)
    raise Interrupted(number)


def _end_now(number: int, _: FrameType | None) -> None:
    restore_terminal()
    os._exit(128 + number)


def _run(options: Options) -> int:
    programs = [ProgramLine(name="replicator", way="in")]
    programs += [ProgramLine(name=f"worker {number}", way="out") for number in (1, 2)]
    tenants = tenants_of(options)
    board = Board(programs, list(tenants), inboxes=sum(map(len, tenants.values())))
    display = display_for(board, plain=options.plain)
    with ExitStack() as stack:
        folder = server_folder()
        stack.callback(folder.close)
        if options.logs is not None:
            stack.callback(_copy_logs, folder.path, options.logs)
        display.start()
        try:
            display.event(f"starting two PostgreSQL servers and Kafka in {folder.path}")
            started = stack.enter_context(servers(own=True, folder=folder, settings=SERVER_SETTINGS))
            stage = prepare(started, folder, options, display.event)
            play = Play(stage, folder, options, board, display)
            stack.callback(play.close)
            outcome = play.run()
        finally:
            display.stop()  # before anything else ends, so that the last words stand on the user's own screen
        faults = outcome.faults + ([] if options.keep else play.stop_programs())
        verdict = judge(outcome.comparisons, outcome.leads, stage.tenants, faults, stage.manner.compared)
        report(Console(), outcome, verdict, stage.manner, board.elapsed)
        if options.keep:
            return _keep(stage, folder.path, play) or verdict.exit_code
        return verdict.exit_code


def _keep(stage: Stage, folder: Path, play: Play) -> int:
    """Until a signal; 1 if a program ends before, or does not end well then."""
    print("", *advice(stage, write_environment(stage, folder)), "Ctrl-C ends it all.", sep="\n", flush=True)
    told: set[str] = set()
    try:
        while True:
            for program in play.programs:
                if (fell := program.fell) and fell not in told:
                    told.add(fell)
                    print(fell, flush=True)
            time.sleep(KEEP_PAUSE)
    except Interrupted:
        faults = play.stop_programs()
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def _copy_logs(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, to)


sys.exit(main())
