"""Reading in a snapshot that sees everything that the stream has delivered.

A commit is streamed before other sessions see it, so a read that the stream gives rise to waits until its snapshot
sees it. Which transactions that are is the caller's to know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from replicator.calls import Ended
from replicator.runtime import GrowingPause
from replicator.source import Sample, Source

T = TypeVar("T")


@dataclass(slots=True)
class SettledReads:
    """Of one thread and its session."""

    born: int
    """A snapshot's xmin must have reached this 64-bit transaction id: a commit that hung while the slot was made is in
    neither stream nor snapshot before."""
    stop: threading.Event
    waits_for: str = ""
    """What reading waits for at the moment, in words; empty when it does not wait."""

    def read(
        self,
        source: Source,
        unsettled: Sequence[int],
        read: Callable[[Sample], T],
        *,
        first: Callable[[], None] = lambda: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> T:
        """What `read` returns of a REPEATABLE READ snapshot that sees these 32-bit xids; asked again until one does.

        `first` runs in the transaction before its snapshot is taken, `meanwhile` outside, before each further try.
        Raises Ended when `stop` is set.
        """
        pause = GrowingPause(first=0.005, longest=1.0)
        while True:
            with source.reading():
                first()
                sample = source.sample()
                unseen = [xid for xid in unsettled if not sample.snapshot.sees(xid)]
                if not unseen and sample.snapshot.xmin >= self.born:
                    self.waits_for = ""
                    return read(sample)
            self.waits_for = (
                f"{len(unseen)} delivered transactions are not yet visible on the source (synchronous replication?)"
                if unseen
                else "transactions older than the replication slot are still open on the source"
                f" ({self.born - sample.snapshot.xmin} ids back)"
            )
            meanwhile()
            if self.stop.wait(pause.next()):
                raise Ended
