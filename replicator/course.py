"""Whether the stream goes on in the history that was read before: it must come by the last commit that was read.

A source that was taken back to a copy of its volume has the same identity, and our slot. Once it has been used again
its WAL may even be longer than it was: then other changes stand where the stream had been, and whoever compares LSNs
takes them for those that are known. But the slot went back too. So the stream comes by the place of the last commit,
and another one stands there, or none.

Pure.
"""

from __future__ import annotations

from replicator.errors import SourceWentBack
from replicator.lsn import format_lsn
from replicator.pgoutput import Begin


class Course:
    """Of one run's stream."""

    def __init__(self, known: Begin | None, slot_at: int) -> None:
        """`known`: the last commit that earlier runs of this epoch read. `slot_at`: what lies before does not come."""
        self.last = known
        """The last commit that was read in this history. Not before the known one was found again."""
        self._awaited = known if known is not None and known.commit_lsn >= slot_at else None

    def follow(self, begin: Begin) -> None:
        """Transactions in the order of their commits. Raises SourceWentBack."""
        awaited = self._awaited
        if awaited is None or begin == awaited:
            self.last, self._awaited = begin, None
        elif begin.commit_lsn >= awaited.commit_lsn:
            raise _taken_back(awaited)

    def reach(self, lsn: int) -> None:
        """Everything before was delivered, also where nobody commits any more. Raises SourceWentBack."""
        if self._awaited is not None and lsn > self._awaited.commit_lsn:
            raise _taken_back(self._awaited)


def _taken_back(awaited: Begin) -> SourceWentBack:
    place = format_lsn(awaited.commit_lsn)
    return SourceWentBack(f"the source was taken back: the commit at {place} is not there any more")
