"""What the demo counts and how it sums it up. Pure: whoever calls brings the time along.

Times are seconds of one monotonic clock, durations are seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RATE_SECONDS = 4.0  # over which a rate is taken: the replicator counts anew every 2 s
BARS = "▁▂▃▄▅▆▇█"
BARS_FROM, BARS_TO = 0.03, 30.0  # the delays that the lowest and the highest bar stand for


class Arrival(NamedTuple):
    """A change that was seen in the target."""

    sent: float
    """Just before its COMMIT in the source."""
    took: float
    """Until a reader of the target had it."""
    tenant: int


class Delays(NamedTuple):
    """Commit to visible, summed up."""

    samples: int
    p50: float
    p99: float
    worst: float


class Rate:
    """How fast a counter grows. One that starts again from zero, as a restarted process does, is followed."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, at: float, count: int) -> None:
        """The counter at this moment; a second value for the same moment says nothing."""
        samples = self._samples
        if samples and count < samples[-1][1]:
            samples.clear()
        if not samples or at > samples[-1][0]:
            samples.append((at, count))
        while len(samples) > 2 and samples[1][0] < at - RATE_SECONDS:
            samples.popleft()

    @property
    def per_second(self) -> float:
        """0 until there are two samples."""
        if len(self._samples) < 2:
            return 0.0
        (first, before), (last, now) = self._samples[0], self._samples[-1]
        return (now - before) / (last - first)

    def forget(self) -> None:
        """The process is gone: its rate is 0."""
        self._samples.clear()


class Total:
    """A counter over the lives of a process: each new life counts from zero again."""

    def __init__(self) -> None:
        self._earlier = 0
        self._now = 0

    def add(self, count: int) -> None:
        if count < self._now:
            self._earlier += self._now
        self._now = count

    @property
    def value(self) -> int:
        return self._earlier + self._now


class Phases:
    """The named parts of a run, one after another; a name may come again."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._names: list[str] = []

    def begin(self, name: str, at: float) -> None:
        self._starts.append(at)
        self._names.append(name)

    @property
    def now(self) -> str:
        """The part under way; empty before the first."""
        return self._names[-1] if self._names else ""

    @property
    def names(self) -> list[str]:
        """In the order of their first beginning."""
        return list(dict.fromkeys(self._names))

    def at(self, moment: float) -> str:
        """The part to which a moment belongs."""
        index = bisect_right(self._starts, moment) - 1
        return self._names[index] if index >= 0 else ""


def summed_up(arrivals: Iterable[Arrival]) -> Delays | None:
    """None if there are none."""
    took = sorted(arrival.took for arrival in arrivals)
    if not took:
        return None
    return Delays(len(took), percentile(took, 0.5), percentile(took, 0.99), took[-1])


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def bars(delays: Iterable[float]) -> str:
    """One character for each delay, on a logarithmic scale: 100 ms and 10 s are both to be seen."""
    steps = math.log(BARS_TO / BARS_FROM)
    shares = (math.log(max(delay, BARS_FROM) / BARS_FROM) / steps for delay in delays)
    return "".join(BARS[min(len(BARS) - 1, int(share * len(BARS)))] for share in shares)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"
