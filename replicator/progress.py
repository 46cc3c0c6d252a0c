"""How far the slot may be told to forget: what is settled, what is acknowledged, and the confirmed LSN.

A commit is streamed when its WAL is flushed, before other sessions see it. So a delivered transaction counts only when
a snapshot taken later sees its xid (*settled*), and when Kafka has acknowledged every event of it. The confirmed LSN
is the greatest that passes neither; it only grows.

Pure: it is told what was sent, acknowledged and seen, and asks nobody.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_XID_SPACE = 1 << 32


class Snapshot(NamedTuple):
    """What `pg_current_snapshot()` prints: `xmin:xmax:xip,xip,…`, 64-bit transaction ids."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Raises ValueError if the text is not a snapshot."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    def sees(self, xid: int) -> bool:
        """Whether the transaction with this 32-bit xid had ended for this snapshot (pg_visible_in_snapshot)."""
        full = self.widen(xid)
        if full < self.xmin:
            return True
        return full < self.xmax and full not in self.in_progress

    def widen(self, xid: int) -> int:
        """The 64-bit id, nearest to xmax, whose low half is this xid."""
        near = self.xmax - (self.xmax % _XID_SPACE) + xid
        return min((near - _XID_SPACE, near, near + _XID_SPACE), key=lambda full: abs(full - self.xmax))


class Batch:
    """Events that were sent together. Complete when each of them is acknowledged."""

    __slots__ = ("acknowledged", "end_lsn", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged = 0
        self.end_lsn = 0
        """End of the last transaction whose events are all in this batch or an earlier one; 0: none ended here."""

    @property
    def complete(self) -> bool:
        return self.acknowledged == self.sent


class Delivered(NamedTuple):
    """A transaction that was delivered whole and is not known to be settled."""

    xid: int
    commit_lsn: int


class Progress:
    """One run's way through the stream."""

    def __init__(self, confirmed: int) -> None:
        self._confirmed = confirmed
        self._acknowledged = confirmed
        self._ended = confirmed
        self._open = Batch()
        self._sealed: deque[Batch] = deque()
        self._unsettled: deque[Delivered] = deque()
        self._delivering: int | None = None

    @property
    def batch(self) -> Batch:
        """Where the next event counts. Bounded by `seal`."""
        return self._open

    def begun(self, xid: int) -> None:
        """A transaction's BEGIN was delivered."""
        self._delivering = xid

    def committed(self, xid: int, commit_lsn: int, end_lsn: int) -> None:
        """A transaction's COMMIT was delivered; its events were all sent before."""
        self._delivering = None
        self._open.end_lsn = self._ended = end_lsn
        self._unsettled.append(Delivered(xid, commit_lsn))

    def seal(self) -> None:
        """Closes the open batch, so that it can complete."""
        if self._open.sent or self._open.end_lsn:
            self._sealed.append(self._open)
            self._open = Batch()

    def settle(self, snapshot: Snapshot) -> None:
        """A snapshot taken now: transactions that it sees are settled."""
        self._unsettled = deque(each for each in self._unsettled if not snapshot.sees(each.xid))

    @property
    def unsettled(self) -> tuple[int, ...]:
        """The 32-bit xids that were delivered and are not settled yet, oldest first."""
        return tuple(each.xid for each in self._unsettled)

    @property
    def to_be_seen(self) -> tuple[int, ...]:
        """These, and the one that is being delivered: what a read that any change has given rise to must see."""
        return self.unsettled if self._delivering is None else (*self.unsettled, self._delivering)

    @property
    def acknowledged_all(self) -> bool:
        """Nothing that was sent is unacknowledged."""
        return self._open.complete and all(batch.complete for batch in self._sealed)

    @property
    def idle(self) -> bool:
        """Nothing sent is unacknowledged, nothing delivered unsettled."""
        return not self._unsettled and self.acknowledged_all

    def idle_at(self, wal_end: int) -> None:
        """The server has nothing before `wal_end` that was not delivered, and no transaction is half delivered. What is
        dirty holds the slot all the same (`confirm`).
        """
        if self.idle:
            self._acknowledged = max(self._acknowledged, wal_end)

    def confirm(self, dirty: int | None = None) -> int:
        """The LSN up to which the slot may forget. Never less than what was returned before.

        `dirty`: the first commit of which a dirtied row is neither acknowledged nor durable as owed.
        """
        while self._sealed and self._sealed[0].complete:
            self._acknowledged = max(self._acknowledged, self._sealed.popleft().end_lsn)
        # The server sends a transaction again if its commit record does not lie before the confirmed LSN.
        bound = self._unsettled[0].commit_lsn if self._unsettled else self._acknowledged
        if dirty is not None:
            bound = min(bound, dirty)
        self._confirmed = max(self._confirmed, min(self._acknowledged, bound))
        return self._confirmed
