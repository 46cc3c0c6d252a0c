"""`make bench`: figures that others can make again on their machine, in one run, side by side with what we replace.

Prints a table and writes `.cache/bench/<part>.json`; what has the standard sizes goes on docs/benchmarks.md too. A part
that was interrupted goes on where it was; where none is named, all are measured that have no result of this code, these
sizes and this machine yet. However it ends, nothing is left running: processes and the temporary folder go with it.
Exit code 0: measured, and no finding of the guard; 1: not; 128 + signal: interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Final

import orjson
import structlog
from rich.console import Console

from bench import guard, options, path, publishing, surroundings
from bench.journal import Journal
from bench.measured import Part
from bench.parts import GUARD, PARTS
from demo.programs import CommandFailed
from demo.servers import ServersUnavailable, server_folder, servers

RESULTS: Final = Path(__file__).parents[1] / ".cache" / "bench"
SERVER_SETTINGS: Final = {
    "max_slot_wal_keep_size": "10GB",
    "track_commit_timestamp": "on",  # when a row came is asked of the server
}


def main() -> int:
    """The exit code."""
    given = options.parse(sys.argv[1:], list(PARTS))
    os.environ["INBOX_TEST_SERVERS"] = "local"  # containers are reached through proxies, and can't reach each other
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    wanted = [name for name in PARTS if name != GUARD] if given.part is None else [given.part]
    try:
        return max([_bring(name, given) for name in wanted])
    except KeyboardInterrupt as signalled:
        print("interrupted; everything that was started is gone, what was measured is kept", file=sys.stderr)
        return 128 + (signalled.args[0] if signalled.args else signal.SIGINT)


def _bring(name: str, given: argparse.Namespace) -> int:
    """Measure a part, unless all are wanted and it has its figures, and put it on the page; 1 if it has none then."""
    is_known = given.part is None and _is_measured(name, given)
    if code := 0 if is_known else _measure(name, given):
        return code
    if name == GUARD:
        return _judge(given)
    if options.are_standard(given):
        publishing.publish(_result(name))
    else:
        print(f"{name} is not put on {publishing.PAGE}: the sizes are not the standard ones")
    return 0


def _measure(name: str, given: argparse.Namespace) -> int:
    """Measure one part, on servers of its own, and keep the result; 1 if that can't be done."""
    console, began = Console(), time.monotonic()

    def say(words: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:7.1f} s[/dim]  {words}", highlight=False, soft_wrap=True)

    circumstances = _circumstances(name, given)
    journal = Journal(RESULTS / f"{name}.journal", circumstances)
    try:
        with closing(server_folder()) as folder, servers(own=True, folder=folder, settings=SERVER_SETTINGS) as running:
            say(f"{name}: two PostgreSQL servers and Kafka run in {folder.path}")
            ground = path.Ground(servers=running, folder=folder, options=given, say=say, journal=journal)
            part, versions = PARTS[name](ground), surroundings.versions(running)
    except (ServersUnavailable, CommandFailed, path.NotMeasured, TimeoutError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    console.print(part.table())
    for note in part.notes:
        console.print(note, soft_wrap=True)
    found = {"command": _command(name, given), "versions": versions, **circumstances, **part.to_json()}
    (RESULTS / f"{name}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    journal.end()
    return 0


def _judge(given: argparse.Namespace) -> int:
    """1 for a finding."""
    part = Part.from_json(_result(GUARD))
    if given.record:
        guard.record(part)
    return 0 if given.record or guard.is_passed(part) else 1


def _result(name: str) -> dict[str, Any]:
    """What was measured last; empty if nothing was."""
    kept = RESULTS / f"{name}.json"
    found: dict[str, Any] = orjson.loads(kept.read_bytes()) if kept.exists() else {}
    return found


def _command(name: str, given: argparse.Namespace) -> str:
    """What measures this again."""
    return f"make bench PART={name}" if options.are_standard(given) else " ".join(sys.orig_argv)


def _circumstances(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """What makes a figure another one."""
    machine, code = surroundings.machine(), surroundings.code()
    return {"name": name, "sizes": options.sizes(given), "machine": machine, "code": code}


def _is_measured(name: str, given: argparse.Namespace) -> bool:
    found = _result(name)
    return all(found.get(key) == value for key, value in _circumstances(name, given).items())


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


sys.exit(main())
