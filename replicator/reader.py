"""Reading derived relations: what was made dirty, then what backfills, wide fan-outs and rolling passes ask for.

A reading is done in one REPEATABLE READ transaction whose snapshot sees everything that was delivered before it was
taken, look-ups included. What fails is split until the very key that can't be read is known; the rest goes on, and so
do other relations between the parts. Rows that are too large to be read with so many others are read with fewer, at
last alone: what is in memory has a bound. Where the source is at fault the reading is put back, and the error goes up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, Protocol

import structlog
from psycopg.errors import FeatureNotSupported

from replicator.calls import Calls
from replicator.changes import RenderedRow, Table
from replicator.config import Settings
from replicator.definitions import Definitions, read_definitions
from replicator.derivation import MOST_FAILED
from replicator.derived import READ_BYTES, Derived, Redefined, look_up, read_rows
from replicator.digests import Seen
from replicator.errors import SourceBusy, SourceRefused, SourceUnavailable
from replicator.event import Origin
from replicator.readings import KEY, Reading, Start
from replicator.relations import Captured
from replicator.row_hashes import read_hashed_rows
from replicator.settled import SettledReads
from replicator.source import Source

log = structlog.get_logger(__name__)

KEYS_AT_ONCE: Final = 500
"""At the most: fewer of a relation whose rows are large."""
FILLS: Final = READ_BYTES // 4
"""A reading of less than that could have been twice as large."""
WATCH_S: Final = 10.0
"""Between two looks whether a definition has changed."""
BROKEN_PAUSE_S: Final = 10.0


class Work(Protocol):
    """What the run's loop does for the reader. Every method is called through `Calls`, in the loop's thread."""

    def take(self, most: int, fewer: Mapping[str, int]) -> Reading | None: ...

    def derived(self, relation: str) -> Derived | None: ...

    def publish(self, reading: Reading, rows: list[RenderedRow], hashes: list[Seen], lsn: int) -> None: ...

    def looked_up(self, reading: Reading, keys: list[Start]) -> None: ...

    def fan_out(self, reading: Reading) -> None: ...

    def lose_path(self, reading: Reading) -> None: ...

    def split(self, reading: Reading) -> None: ...

    def set_aside(self, reading: Reading, starts: Collection[Start]) -> None: ...

    def pause(self, relation: str, seconds: float) -> None: ...

    def fail(self, reading: Reading, reason: str) -> None: ...

    def failed(self, relation: str) -> int: ...

    def put_back(self, reading: Reading, pause_s: float) -> None: ...


class Rows(NamedTuple):
    """Of keys."""

    rows: list[RenderedRow]
    hashes: list[Seen]
    """Of these rows, and of those that gave way to newer ones; empty where nobody asks for them."""
    crowded: frozenset[int]
    """Keys of which nothing is here: to be read with fewer others."""


class Keys(NamedTuple):
    """To which starts lead."""

    keys: list[Start]


Found = Rows | Keys


class Reader:
    """Of one thread and its session."""

    def __init__(
        self,
        settings: Settings,
        captured: Captured,
        calls: Calls,
        work: Work,
        install: Callable[[Definitions], None],
        origin: Callable[[str], Origin],
        settled: SettledReads,
        *,
        known: Definitions,
        hashed: bool,
    ) -> None:
        """`known`: the definitions that are installed. `hashed`: rows are read with their hashes."""
        self._settings, self._captured, self._calls, self._work = settings, captured, calls, work
        self._install, self._origin, self._settled, self._hashed = install, origin, settled, hashed
        self._known = known
        self._tables: dict[str, tuple[Derived, Table]] = {}
        self._watch_due = 0.0
        self._fewer: dict[str, int] = {}
        """Relations of which not so many keys are read at once."""

    def serve(self, source: Source) -> bool:
        """Looks at the definitions now and then, and reads what is due next; False if nothing is."""
        if time.monotonic() >= self._watch_due:
            self._look_at_definitions(source)
        reading = self._calls.run(lambda: self._work.take(KEYS_AT_ONCE, self._fewer))
        if reading is None:
            return False
        self.read(source, reading)
        return True

    def _look_at_definitions(self, source: Source) -> None:
        """What is another now is installed; a relation of another digest is then read as a whole."""
        found = read_definitions(source, self._captured, self._known)
        if found != self._known:
            self._calls.run(lambda: self._install(found))
            self._known = found
        self._watch_due = time.monotonic() + WATCH_S

    def read(self, source: Source, reading: Reading) -> None:
        """To its end: published, looked up, failed, or put back."""
        derived = self._calls.run(lambda: self._work.derived(reading.relation))
        if derived is None:
            self._calls.run(lambda: self._work.put_back(reading, BROKEN_PAUSE_S))
            return
        if reading.path != KEY and not derived.has_path(reading.path):
            self._calls.run(lambda: self._work.lose_path(reading))
            return
        try:
            found, lsn = self._read_settled(source, derived, reading)
        except (SourceUnavailable, SourceBusy) as error:
            if isinstance(error, SourceBusy) or source.connection.broken:
                self._calls.run(lambda: self._work.put_back(reading, 0.0))
                raise
            is_one = len(reading.items) == 1
            self._halve(reading, str(error))
            if is_one:  # too slow for even a single key: other relations are not to wait for each of the rest
                self._calls.run(lambda: self._work.pause(reading.relation, BROKEN_PAUSE_S))
        except Redefined:
            self._watch_due = 0.0
            self._calls.run(lambda: self._work.put_back(reading, 0.1))
            source.forget_plans()
        except SourceRefused as error:
            self._watch_due = 0.0  # the definition may be another by now
            self._halve(reading, str(error))
        else:
            self._hand_over(reading, found, lsn)

    def _halve(self, reading: Reading, reason: str) -> None:
        """Something in it can't be read."""
        is_one, is_known = len(reading.items) == 1, reading.items[0].tries > 0
        is_broken = self._calls.run(lambda: self._work.failed(reading.relation)) >= MOST_FAILED
        if is_broken and not (is_one and is_known):
            self._calls.run(lambda: self._work.put_back(reading, BROKEN_PAUSE_S))
        elif is_one:
            log.warning(
                "derived.key_failed", relation=reading.relation, reason=reason, tries=reading.items[0].tries + 1
            )
            self._calls.run(lambda: self._work.fail(reading, reason))
        else:
            self._calls.run(lambda: self._work.split(reading))

    def _hand_over(self, reading: Reading, found: Found, lsn: int) -> None:
        """Outside the transaction: the loop may be held up by Kafka, which must not hold a snapshot of the source."""
        match found:
            case Rows():
                self._take_measure(reading, found)
                self._calls.run(lambda: self._publish(reading, found, lsn))
            case Keys() if self._is_expected_little(reading, found):
                self._calls.run(lambda: self._work.looked_up(reading, found.keys))
            case Keys() if len(reading.items) == 1:
                self._calls.run(lambda: self._work.fan_out(reading))
            case Keys():
                self._calls.run(lambda: self._work.split(reading))

    def _is_expected_little(self, reading: Reading, found: Keys) -> bool:
        """Each key is expected wherever any start is: where it is not, that is an event too."""
        inboxes = frozenset[int]().union(*(item.inboxes for item in reading.items))
        places = max(1, len(inboxes)) if len(reading.items) > 1 else 1
        return len(found.keys) * places <= self._settings.fan_out_keys

    def _take_measure(self, reading: Reading, found: Rows) -> None:
        """How many keys are read at once follows the size of the rows."""
        keys, most = len(reading.items), self._fewer.get(reading.relation, KEYS_AT_ONCE)
        filled = sum(len(row.json) for row in found.rows)
        if 2 * len(found.crowded) >= keys or filled > READ_BYTES:
            self._fewer[reading.relation] = max(1, min(most, keys // 2))
        elif most < KEYS_AT_ONCE and filled < FILLS:
            self._fewer[reading.relation] = min(2 * most, KEYS_AT_ONCE)

    def _publish(self, reading: Reading, found: Rows, lsn: int) -> None:
        """In the loop's thread."""
        crowded: set[Start] = {(key,) for key in found.crowded}
        if crowded.issuperset(item.start for item in reading.items):
            self._work.split(reading)
            return
        if crowded:
            self._work.set_aside(reading, crowded)
        self._work.publish(reading, found.rows, found.hashes, lsn)

    def _read_settled(self, source: Source, derived: Derived, reading: Reading) -> tuple[Found, int]:
        """What is found, and an LSN of its snapshot, which sees everything that was delivered before."""
        return self._settled.read(
            source, reading.unsettled, lambda sample: (self._find(source, derived, reading), sample.flushed_lsn)
        )

    def _find(self, source: Source, derived: Derived, reading: Reading) -> Found:
        """Raises Redefined."""
        starts = [item.start for item in reading.items]
        try:
            if reading.path == KEY:
                table, largest = self._table(derived), self._settings.max_message_bytes
                keys = [int(key) for (key,) in starts]  # type: ignore[arg-type]  # an integer, by `definitions`
                if self._hashed:
                    read, hashes = read_hashed_rows(source.connection, derived, table, keys, largest)
                else:
                    read, hashes = read_rows(source.connection, derived, table, keys, largest), []
                return Rows(read.rows, hashes, read.crowded)
            most = self._settings.fan_out_keys + 1
            return Keys(look_up(source.connection, derived, reading.path, starts, most))
        except FeatureNotSupported as error:
            if error.diag.source_function == "RevalidateCachedQuery":  # "cached plan must not change result type"
                raise Redefined(f"{reading.relation} has other columns than before") from None
            raise

    def _table(self, derived: Derived) -> Table:
        known = self._tables.get(derived.relation.name)
        if known is None or known[0] is not derived:
            known = self._tables[derived.relation.name] = derived, derived.table(self._origin(derived.relation.name))
        return known[1]
