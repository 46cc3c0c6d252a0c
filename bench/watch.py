"""What processes take while they are measured: CPU and resident memory, looked at ten times a second from outside.

A span is cut out afterwards, when it is known from the servers' clocks: so neither a start nor an end is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Self

import psutil

EVERY_S: Final = 0.1
STOP_SECONDS: Final = 10.0


class Look(NamedTuple):
    at: float
    """Seconds since 1970."""
    cpu: float
    """Seconds so far."""
    resident: int
    """Bytes."""


class Watch:
    """Of processes by name; `looks` grows until the context ends."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.looks: dict[str, list[Look]] = {name: [] for name in pids}
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(STOP_SECONDS)

    def cpu(self, first: float, last: float) -> float:
        """Seconds that all took together in this span."""
        return sum(cpu_between(looks, first, last) for looks in self.looks.values())

    def resident(self, first: float, last: float) -> int:
        """The most bytes that all had together in this span, each at its worst moment."""
        return sum(self.residents(first, last).values())

    def residents(self, first: float, last: float) -> dict[str, int]:
        """The most bytes that each had in this span."""
        return {name: most_resident(looks, first, last) for name, looks in self.looks.items()}

    def _run(self) -> None:
        while True:
            for name, process in self._processes.items():
                if (look := _look(process)) is not None:
                    self.looks[name].append(look)
            if self._ending.wait(EVERY_S):
                return


def _look(process: psutil.Process) -> Look | None:
    try:
        with process.oneshot():
            spent = process.cpu_times()
            return Look(time.time(), spent.user + spent.system, process.memory_info().rss)
    except psutil.Error:  # it has ended
        return None


def cpu_between(looks: Sequence[Look], first: float, last: float) -> float:
    """Seconds of CPU in a span, as if spent evenly between two looks; 0 where nobody looked."""
    return _cpu_at(looks, last) - _cpu_at(looks, first) if looks else 0.0


def most_resident(looks: Sequence[Look], first: float, last: float) -> int:
    """Bytes; of a span that is shorter than the time between two looks, what was seen next."""
    seen = [look.resident for look in looks if first <= look.at <= last + EVERY_S]
    return max(seen, default=0)


def _cpu_at(looks: Sequence[Look], at: float) -> float:
    if at <= looks[0].at:
        return looks[0].cpu
    for before, after in pairwise(looks):
        if at <= after.at:
            return before.cpu + (after.cpu - before.cpu) * (at - before.at) / (after.at - before.at)
    return looks[-1].cpu
