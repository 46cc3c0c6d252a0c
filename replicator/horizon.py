"""Up to where polling may trust what it sees: the safe upper bound of a query for changes.

A transaction that is still open may have stamped its rows long ago; whoever passed that time would never see them. So
samples of earlier moments are kept, each with the id that the next transaction was to have. A sample whose id is not
above the xmin of the snapshot that is read now is safe: every transaction that had an id when it was taken has ended,
so what is still to be committed began to write after it. (A snapshot's xmax would not do: it is beyond the last
transaction that has ended, and those that began since then may be writing.)
A margin is taken off for writers whose clocks are behind, and for the moment between stamping a row and writing it.

Pure: it is told what snapshots say, and asks nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MOST_SAMPLES: Final = 1_000
"""A transaction that stays open for long keeps samples waiting; then every second one goes."""


class Sampled(NamedTuple):
    """One moment."""

    at_us: int
    """When its statement began, by the source's clock: microseconds since 1970."""
    next_xid: int
    """Transactions from this 64-bit id on had not begun to write."""
    greatest: Mapping[str, int]
    """By relation that is polled by its keys: the greatest that was visible."""


@dataclass(slots=True)
class Horizon:
    """Of one run."""

    margin_us: int
    _samples: deque[Sampled] = field(default_factory=deque)
    _safe: Sampled | None = None
    """The newest that is known to be safe."""

    def note(self, sample: Sampled) -> None:
        """The moment that is read now."""
        self._samples.append(sample)
        if len(self._samples) > MOST_SAMPLES:
            self._samples = deque(list(self._samples)[::2])

    def see(self, xmin: int) -> None:
        """A snapshot of this xmin is read: transactions below it have ended."""
        for sample in self._samples:
            if sample.next_xid <= xmin and (self._safe is None or sample.at_us > self._safe.at_us):
                self._safe = sample
        if self._safe is not None:
            enough = self._safe.at_us - self.margin_us
            while len(self._samples) > 1 and self._samples[1].at_us <= enough:
                self._samples.popleft()

    @property
    def safe_us(self) -> int | None:
        """Rows that were stamped up to here are all visible; None: nothing is known yet."""
        return self._safe.at_us - self.margin_us if self._safe is not None else None

    @property
    def reached_us(self) -> int:
        """The bound, or the first moment of all as long as there is none."""
        return self._samples[0].at_us if self.safe_us is None else self.safe_us

    def safe_key(self, relation: str) -> int | None:
        """So are rows of keys up to here: who took a smaller one has had the margin's time to write it."""
        if (upto := self.safe_us) is None:
            return None
        older = [sample for sample in self._samples if sample.at_us <= upto]
        return older[-1].greatest.get(relation) if older else None
