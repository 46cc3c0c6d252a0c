"""What the benchmark is told: a part, and sizes. The standard sizes are those of docs/benchmarks.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

WHAT: Final = ("part", "record")
"""What is no size."""


def parse(arguments: Sequence[str], parts: Sequence[str]) -> argparse.Namespace:
    """Leaves the program with 2 if that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("part", choices=parts, nargs="?", help="all but the guard, unless one is named")
    parser.add_argument("--record", action="store_true", help="commit what the guard finds as what it compares with")
    parser.add_argument("--conversations", type=_count, help="in the source when it begins")
    parser.add_argument("--messages", type=_count, default=12, help="of each conversation, on average")
    parser.add_argument("--rows", type=_count, help="row changes of each round")
    parser.add_argument("--before", type=_count, default=5_000_000, help="rows that the target has at most, for scale")
    parser.add_argument("--rounds", type=_count, default=3, help="of turns; a third where each takes minutes")
    parser.add_argument("--seconds", type=float, default=60.0, help="at each rate, at rest, without Kafka")
    parser.add_argument("--samples", type=_count, default=100, help="of each kind of write, for freshness")
    parser.add_argument("--rate", type=_count, default=100, help="row changes per second meanwhile, for freshness")
    return parser.parse_args(arguments)


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(options).items() if key not in WHAT}


def are_standard(options: argparse.Namespace) -> bool:
    """Whether what is measured so may stand beside what others measured."""
    return sizes(options) == sizes(parse([], ()))


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return number
