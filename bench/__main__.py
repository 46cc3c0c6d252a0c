"""`make bench`: figures that others can make again on their machine, in one run, side by side with what we replace.

Prints a table and writes `.cache/bench/<part>.json`. Exit code 0: measured; 1: not; 128 + signal: interrupted.
However it ends, nothing of it is left: processes and the temporary folder go with it.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from types import FrameType

import orjson
import psutil
from rich.console import Console

from bench import freshness, path, polling, reader, recovery, signals, view
from demo.programs import CommandFailed
from demo.servers import ServersUnavailable, server_folder, servers

PARTS = {
    "reader": reader.measure,
    "view": view.measure,
    "freshness": freshness.measure,
    "signals": signals.measure,
    "polling": polling.measure,
    "recovery": recovery.measure,
}
RESULTS = Path(__file__).parents[1] / ".cache" / "bench"
SERVER_SETTINGS = {"max_slot_wal_keep_size": "10GB"}


def main() -> int:
    """The exit code."""
    options = _parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console, began = Console(), time.monotonic()

    def say(words: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:7.1f} s[/dim]  {words}", highlight=False)

    try:
        with closing(server_folder()) as folder, servers(own=True, folder=folder, settings=SERVER_SETTINGS) as running:
            say(f"two PostgreSQL servers and Kafka run in {folder.path}")
            part = PARTS[options.part](running, folder, options, say)
    except KeyboardInterrupt as signalled:
        print("interrupted; everything that was started is gone", file=sys.stderr)
        return 128 + (signalled.args[0] if signalled.args else signal.SIGINT)
    except (ServersUnavailable, CommandFailed, path.NotMeasured) as error:
        print(error, file=sys.stderr)
        return 1
    console.print(part.table())
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = {
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }
    found = {"command": " ".join(sys.orig_argv), "machine": machine, **part.to_json()}
    (RESULTS / f"{part.name}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--conversations", type=int, help="in the source when it begins")
    parser.add_argument("--messages", type=int, default=12, help="of each conversation, on average")
    parser.add_argument("--rows", type=int, help="row changes, for reader")
    parser.add_argument("--rounds", type=int, default=3, help="of reads, polls and recoveries")
    parser.add_argument("--samples", type=int, default=100, help="of each kind of write, for freshness")
    parser.add_argument("--rate", type=int, default=100, help="row changes per second meanwhile, for freshness")
    return parser.parse_args()


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


sys.exit(main())
