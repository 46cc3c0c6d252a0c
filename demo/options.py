"""How large the demo is, and what it does at its end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.manner import LOSES_SLOT, Mode, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be chosen."""

    mode: Mode
    """How the source is read."""
    scenario: Scenario
    tenants: int
    inboxes: int
    """Of each tenant."""
    conversations: int
    """In all, when the demo begins."""
    messages: int
    """Of each conversation, on average."""
    rate: float
    """Row changes per second of the live traffic."""
    seconds: float
    """How long the live part takes at least, after the initial load."""
    keep: bool
    """Leave everything running after the comparison, until Ctrl-C."""
    plain: bool
    """Lines even on a terminal."""
    logs: Path | None
    """Where to leave a copy of the programs' logs."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The command line over the environment (KEEP). Leaves the program with 2 if that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    add = parser.add_argument
    add("--mode", type=Mode, choices=list(Mode), default=Mode.STREAM, help="how the source is read: %(choices)s")
    add(
        "--scenario",
        type=Scenario,
        choices=list(Scenario),
        default=Scenario.WORKER_KILLED,
        help="what happens in the middle: %(choices)s",
    )
    add("--tenants", type=_count, default=3, help="schools, each with its own inboxes")
    add("--inboxes", type=_count, default=4, help="of each tenant")
    add(
        "--conversations",
        type=_count,
        help="in the source at first (5000; 2000 where tables are polled, or recovery toured)",
    )
    add("--messages", type=_count, default=12, help="of each conversation, on average")
    add("--rate", type=_count, default=200, help="row changes per second of the live traffic")
    add("--seconds", type=_count, default=25, help="of live traffic after the initial load, at least")
    add("--keep", action="store_true", help="leave everything running after the comparison (or set KEEP=1)")
    add("--plain", action="store_true", help="print lines, also on a terminal")
    add("--logs", type=Path, metavar="FOLDER", help="leave a copy of the programs' logs there")
    given = parser.parse_args(arguments)
    if given.scenario in LOSES_SLOT and given.mode is not Mode.STREAM:
        parser.error("a slot can only be lost in --mode stream")
    if given.conversations is None:  # a poller takes its time over tables, and a tour has many turns
        is_slow = given.mode is Mode.POLL_TABLES or given.scenario is Scenario.RECOVERY
        given.conversations = 2_000 if is_slow else 5_000
    if given.scenario is Scenario.RECOVERY and given.tenants < 2:
        parser.error("--scenario recovery needs two tenants: an inbox goes from one to another")
    kept = environment.get("KEEP", "").strip().lower() not in ("", "0", "no", "false")
    return Options(**{**vars(given), "keep": given.keep or kept})


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return number
