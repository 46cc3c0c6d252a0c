"""The source wins: of the time that passes, only a share is spent in queries on it.

Pure: it is told the time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TimeShare:
    """`share`: from above 0 to 1."""

    share: float
    spent_s: float = 0.0
    """In all."""
    _rests_until: float = 0.0

    def spent(self, seconds: float, now: float) -> None:
        """A query took so long, and ended now."""
        self.spent_s += seconds
        self._rests_until = max(self._rests_until, now) + seconds * (1 / self.share - 1)

    def rest_s(self, now: float) -> float:
        """How long nothing may be asked."""
        return max(0.0, self._rests_until - now)
