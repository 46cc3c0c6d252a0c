"""What the demo shows, as plain values: filled by the watch, drawn by a display."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from demo.figures import Delays
from demo.reading import Reading

HISTORY = 24  # delays that a tenant's bars show


@dataclass(slots=True, kw_only=True)
class ProgramLine:
    """One of the programs."""

    name: str
    way: str
    """"in" or "out"."""
    state: str = "not started"
    rate: float = 0.0
    rows: int = 0
    """Over all its lives."""
    memory: int = 0


@dataclass(slots=True, kw_only=True)
class TenantLine:
    """One of the tenants; seconds from commit to visible."""

    tenant: int
    lag: float | None = None
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    delays: Delays | None = None
    """Of the phase under way."""


@dataclass(slots=True, kw_only=True)
class Load:
    """The initial load."""

    inboxes: int
    rows: int = 0
    """Read by the replicator."""
    expected: int = 0
    inboxes_done: int = 0
    """Complete in the target."""

    @property
    def share(self) -> float:
        return min(1.0, self.rows / self.expected) if self.expected else 0.0


class Board:
    """Lines are there from the beginning, so that a display may draw from another thread."""

    def __init__(self, programs: list[ProgramLine], tenants: list[int], inboxes: int) -> None:
        self.programs = {line.name: line for line in programs}
        self.tenants = {tenant: TenantLine(tenant=tenant) for tenant in tenants}
        self.load = Load(inboxes=inboxes)
        self.reading: Reading | None = None
        """How the source is read; None: nobody does."""
        self.phase = "preparing"
        self.traffic = 0
        """Row changes that the traffic has written."""
        self.events: list[tuple[float, str]] = []
        """With the seconds since the beginning."""
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def rate(self, way: str) -> float:
        """Rows per second of all programs of a way."""
        return sum(line.rate for line in self.programs.values() if line.way == way)
