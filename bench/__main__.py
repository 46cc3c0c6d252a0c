"""`make bench`: figures that others can make again on their machine, in one run, side by side with what we replace.

Prints a table and writes `.cache/bench/<part>.json`. A part that was interrupted goes on where it was; where none is
named, all are measured that have no result of this code, these sizes and this machine yet. However it ends, nothing is
left running: processes and the temporary folder go with it. Exit code 0: measured; 1: not; 128 + signal: interrupted.
"""

from __future__ import annotations

import argparse
import logging
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

from bench import path, surroundings
from bench.journal import Journal
from bench.parts import PARTS
from demo.programs import CommandFailed
from demo.servers import ServersUnavailable, server_folder, servers

RESULTS: Final = Path(__file__).parents[1] / ".cache" / "bench"
SERVER_SETTINGS: Final = {
    "max_slot_wal_keep_size": "10GB",
    "track_commit_timestamp": "on",  # when a row came is asked of the server
}


def main() -> int:
    """The exit code."""
    options = _parse()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        wanted = [options.part] if options.part else [name for name in PARTS if not _is_measured(name, options)]
        return max((_measure(name, options) for name in wanted), default=0)
    except KeyboardInterrupt as signalled:
        print("interrupted; everything that was started is gone, what was measured is kept", file=sys.stderr)
        return 128 + (signalled.args[0] if signalled.args else signal.SIGINT)


def _measure(name: str, options: argparse.Namespace) -> int:
    """Measure one part, on servers of its own; 1 if that can't be done."""
    console, began = Console(), time.monotonic()

    def say(words: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:7.1f} s[/dim]  {words}", highlight=False, soft_wrap=True)

    circumstances = _circumstances(name, options)
    journal = Journal(RESULTS / f"{name}.journal", circumstances)
    try:
        with closing(server_folder()) as folder, servers(own=True, folder=folder, settings=SERVER_SETTINGS) as running:
            say(f"{name}: two PostgreSQL servers and Kafka run in {folder.path}")
            ground = path.Ground(servers=running, folder=folder, options=options, say=say, journal=journal)
            part, versions = PARTS[name](ground), surroundings.versions(running)
    except (ServersUnavailable, CommandFailed, path.NotMeasured, TimeoutError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    console.print(part.table())
    for note in part.notes:
        console.print(note)
    found = {"command": " ".join(sys.orig_argv), "versions": versions, **circumstances, **part.to_json()}
    (RESULTS / f"{name}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    journal.end()
    return 0


def _circumstances(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What makes a figure another one."""
    sizes = {key: value for key, value in vars(options).items() if key != "part"}
    return {"name": name, "sizes": sizes, "machine": surroundings.machine(), "code": surroundings.code()}


def _is_measured(name: str, options: argparse.Namespace) -> bool:
    path = RESULTS / f"{name}.json"
    found = orjson.loads(path.read_bytes()) if path.exists() else {}
    return all(found.get(key) == value for key, value in _circumstances(name, options).items())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", choices=PARTS, nargs="?", help="all of them, unless one is named")
    parser.add_argument("--conversations", type=int, help="in the source when it begins")
    parser.add_argument("--messages", type=int, default=12, help="of each conversation, on average")
    parser.add_argument("--rows", type=int, help="row changes of each round")
    parser.add_argument("--before", type=int, default=5_000_000, help="rows that the target has at the most, for scale")
    parser.add_argument("--rounds", type=int, default=3, help="of whatever takes turns")
    parser.add_argument("--seconds", type=float, default=60, help="at each rate, at rest, without Kafka")
    parser.add_argument("--samples", type=int, default=100, help="of each kind of write, for freshness")
    parser.add_argument("--rate", type=int, default=100, help="row changes per second meanwhile, for freshness")
    return parser.parse_args()


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


sys.exit(main())
