"""The rolling pass: whatever the source holds is compared with what was published last, by hashes, page after page.

It finds what nothing else tells of: rows that are gone, that moved, or that changed without a stamp (renames, survey
answers, edits). Hashes are made by the source, of a page's keys in one snapshot; only rows whose hashes differ are
read. At the end of a pass everything that was committed before it began is published.

Used by the poller, and by the verifier as a proof beside the stream. Runs in their threads; what is known of what was
published belongs to the loop, and is asked through `Calls`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from replicator import metrics
from replicator.calls import Calls
from replicator.derivation import Derivation
from replicator.derived import Derived
from replicator.digest_memory import DigestMemory, Look
from replicator.digests import Seen
from replicator.errors import SourceRefused, SourceUnavailable
from replicator.marks import Marks, Walked
from replicator.progress import Batch
from replicator.row_hashes import read_hashes
from replicator.source import Source
from replicator.walk import Walk

log = structlog.get_logger(__name__)

HASHED = 512
"""Keys at once: as many as a page has."""
IDLE_S = 1.0
"""Between two passes at the least."""

Keys = Mapping[int, frozenset[int]]
"""Keys to be read, each with the inboxes where it is expected."""


@dataclass(slots=True)
class Checked:
    """Of one relation, for the status."""

    passes: int = 0
    keys: int = 0
    """Compared in this pass so far."""
    repaired: int = 0
    """Rows that were not as they had been published, in all passes of this run."""
    source_s: float = 0.0
    """In queries on the source, by the last whole pass..."""
    took_s: float = 0.0
    """...and how long it took, rests included."""


class RollingPass:
    """Of one run: relation after relation, again and again."""

    def __init__(
        self,
        calls: Calls,
        derivation: Derivation,
        digests: DigestMemory,
        *,
        have_read: Callable[[Source, str, Keys], None],
        published_upto: Callable[[int], None],
        verified: Callable[[str, int, frozenset[int]], Batch],
        keys_per_second: int,
        rest: Callable[[Source], None] = lambda source: None,
        marks: Marks | None = None,
    ) -> None:
        """`have_read` returns when these keys were read and published, `published_upto(lsn)` when everything was that
        a snapshot of this LSN sees, as far as others publish it. `verified(relation, microseconds, inboxes)`: all that
        was committed before is published, but for these inboxes. `rest` is called after each query for hashes. `marks`:
        where it is noted how far a pass is, for a later run to go on with.
        """
        self._calls, self._derivation, self._digests = calls, derivation, digests
        self._have_read, self._published_upto, self._verified = have_read, published_upto, verified
        self._keys_per_second, self._rest, self._marks = keys_per_second, rest, marks
        self._is_first = True
        self._walk: Walk | None = None
        self._began_us = 0
        self._began_s = self._spent_s = 0.0
        self._turn = 0
        self._due = 0.0
        self.checked: dict[str, Checked] = {}

    def serve(self, source: Source) -> bool:
        """The next page; False if none is due."""
        if time.monotonic() < self._due:
            return False
        walk = self._walk or self._begin(source)
        derived = self._calls.run(lambda: self._derivation.derived(walk.relation)) if walk is not None else None
        if walk is None or derived is None:
            self._walk = None
            self._due = time.monotonic() + IDLE_S
            return False
        self._walk = None  # a page that can't be read ends the pass, which has then verified nothing
        before = source.busy_s
        look = next_page(source, self._calls, self._digests, walk, derived)
        if look is None:
            self._end(walk)
        else:
            self._due = time.monotonic() + self._compare(source, derived, walk, look) / self._keys_per_second
            self._spent_s += source.busy_s - before
            self._walk = walk
        return True

    def _begin(self, source: Source) -> Walk | None:
        relations = self._calls.run(lambda: self._derivation.available)
        if not relations:
            return None
        with source.reading():
            now_us = source.poll_sample().at_us
        if (walk := self._calls.run(lambda: self._left_off(relations, now_us)) if self._is_first else None) is None:
            self._began_us, walk = now_us, Walk(relations[self._turn % len(relations)])
        self._is_first = False
        self._turn = relations.index(walk.relation) + 1
        self._began_s, self._spent_s = time.monotonic(), 0.0
        self.checked.setdefault(walk.relation, Checked()).keys = 0
        return walk

    def _left_off(self, relations: Sequence[str], now_us: int) -> Walk | None:
        """Where an earlier run has left a pass: what it could not read on the way is owed.

        Not of one that began later than now: a standby may be further behind than the one that was read then.
        """
        if self._marks is None:
            return None
        for relation in relations:
            if (walked := self._marks.of(relation).walked) is not None and walked.began_us <= now_us:
                log.info("pass.goes_on", relation=relation)
                self._began_us = walked.began_us
                return Walk(relation, walked.after)
        return None

    def _end(self, walk: Walk) -> None:
        self._due = time.monotonic() + IDLE_S
        checked = self.checked[walk.relation]
        checked.passes += 1
        checked.source_s, checked.took_s = self._spent_s, time.monotonic() - self._began_s
        began = self._began_us

        def ended() -> None:
            if self._marks is not None:
                self._marks.end_walk(walk.relation)
            if (held := self._derivation.unread_inboxes(walk.relation)) is not None:
                self._verified(walk.relation, began, held)

        self._calls.run(ended)

    def _compare(self, source: Source, derived: Derived, walk: Walk, look: Look) -> int:
        """How many keys were looked at."""
        keys = sorted({*walk.take(look.keys), *look.known})
        seen, unread, lsn = self.hashes(source, derived, keys)
        self._published_upto(lsn)
        differing: dict[int, frozenset[int]] = dict.fromkeys(unread, frozenset())
        differing |= self._calls.run(lambda: self._digests.compare(look, seen))
        checked = self.checked[walk.relation]
        checked.keys += len(keys)
        if differing:
            if look.is_known:
                checked.repaired += len(differing)
                log.info("digest.differs", relation=walk.relation, keys=len(differing))
            self._have_read(source, walk.relation, differing)

        def settle() -> None:
            self._digests.settle(look)
            if self._marks is not None:
                self._marks.walk(walk.relation, Walked(self._began_us, look.keys.stop - 1))

        self._calls.run(settle)
        return len(keys)

    def hashes(self, source: Source, derived: Derived, keys: Sequence[int]) -> tuple[list[Seen], list[int], int]:
        """Hashes, keys that can't be read, and an LSN that every snapshot in which they were read has seen."""
        if len(keys) <= HASHED:
            try:
                with source.reading():
                    sample = source.poll_sample()
                    return list(read_hashes(source.connection, derived, keys)), [], sample.lsn
            except (SourceRefused, SourceUnavailable):
                if source.connection.closed or source.connection.broken:
                    raise
                if len(keys) <= 1:
                    return [], list(keys), 0
            finally:
                self._rest(source)
        middle = len(keys) // 2
        halves = [self.hashes(source, derived, half) for half in (keys[:middle], keys[middle:])]
        return (
            [each for seen, _, _ in halves for each in seen],
            [key for _, unread, _ in halves for key in unread],
            max(lsn for *_, lsn in halves),
        )


def next_page(source: Source, calls: Calls, digests: DigestMemory, walk: Walk, derived: Derived) -> Look | None:
    """Begins to look at the page that a walk comes to next; None: it has come to its end."""
    of = calls.run(lambda: digests.of(walk.relation))
    with source.reading():
        walk.fill(source.connection, derived, of.page_of)
    key = walk.next_key(calls.run(lambda: of.first_known(walk.after)))
    if key is None:
        return None
    return calls.run(lambda: digests.look(walk.relation, key))


def expected_nowhere(keys: Iterable[int]) -> Keys:
    """Keys of which only the digests know where they were."""
    return dict.fromkeys(keys, frozenset())


def describe(checked: Mapping[str, Checked], verified_us: Mapping[str, int]) -> dict[str, Any]:
    """Of rolling passes, for the status: by relation. The metrics are set to the same."""
    metrics.observe_pass({relation: each.repaired for relation, each in checked.items()}, verified_us)
    return {
        relation: {
            "passes": each.passes,
            "keys": each.keys,
            "repaired": each.repaired,
            "source_s": round(each.source_s, 3),
            "took_s": round(each.took_s, 1),
            "verified_through": as_time(verified_us.get(relation, 0)),
        }
        for relation, each in checked.items()
    }


def as_time(us: int) -> str | None:
    """Microseconds since 1970 as ISO 8601; None for 0, which is never."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds") if us else None
