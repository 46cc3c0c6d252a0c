"""The loop's side of derived relations: which can be read, what is dirty, and what becomes of what was read.

Lives in the run's loop; threads that read come in through `Calls`. Items that wait for long, and
those that fail, are written to the state topic as owed, and are loaded from it when a run begins: the slot does not
wait for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from replicator.backfill_job import FanOut
from replicator.causes import WHOLE, Fingerprints, Reach
from replicator.causes import Cause as Touch
from replicator.changes import RenderedRow, Table
from replicator.derived import BaseTable, Derived, reaches
from replicator.digest_memory import DigestMemory
from replicator.digests import Seen
from replicator.dirty import DirtyKeys
from replicator.event import Cause, Origin, Position, pack_key
from replicator.memory import Memory
from replicator.outlet import Outlet
from replicator.progress import Batch, Progress
from replicator.readings import KEY, Errand, Item, Reading, Start
from replicator.relations import Captured

log = structlog.get_logger(__name__)

MOST_FAILED: Final = 1_000
"""Keys of one relation that may fail by themselves; beyond that the relation is broken, not its keys."""
MOST_FAILED_SHOWN: Final = 5
"""Keys that `status` names of those that can't be read."""
_DERIVED: Final = "derived/"
UNPUBLISHED: Final = "not in the publication, so their changes are not seen; `replicator setup` shows what adds them"
TOO_MANY: Final = "more keys are dirty than are remembered"
LOST_PATH: Final = "the path of a change is gone with the definition that it was of"
DURABLE: Final = Batch()
"""A batch of nothing: what was loaded from the state topic is in it."""


class Derivation:
    """Every derived relation of a run."""

    def __init__(
        self,
        captured: Captured,
        memory: Memory,
        outlet: Outlet,
        progress: Progress,
        announce: Callable[[Table], None],
        origin: Callable[[str], Origin],
        read_whole: Callable[[str, str, Batch], None],
        fan_out: Callable[[str, FanOut, Batch], None],
        digests: DigestMemory | None = None,
        *,
        most_dirty: int,
        fingerprints: int,
    ) -> None:
        """`read_whole(relation, reason, batch)` and `fan_out` ask for backfills, durable with their batch.

        `digests`: kept of what is published, where rows are read with their hashes.
        """
        self._captured = captured
        self._memory, self._outlet, self._progress = memory, outlet, progress
        self._announce, self._origin = announce, origin
        self._read_whole, self._fan_out = read_whole, fan_out
        self._digests = digests
        self._dirty = DirtyKeys(most_dirty)
        self.fingerprints = Fingerprints(fingerprints)
        self._available: dict[str, Derived] = {}
        self._tables: dict[str, Table] = {}
        self._read = 0
        self._between_transactions = True
        self._began_at = 0.0
        """When the first message of the transaction came that is being delivered: the time of all its changes."""
        self.problems: dict[str, str] = {}
        """By relation: why it can't be read."""
        self.unseen: dict[str, list[str]] = {}
        """By relation: base tables whose changes the stream does not bring."""
        self.reaches: dict[BaseTable, Reach] = {}

    # --- which relations there are

    def install(
        self,
        found: Mapping[str, Derived | str],
        keys: Mapping[BaseTable, tuple[str, ...]],
        unseen: Collection[BaseTable] = (),
    ) -> None:
        """What each relation is now, or why it can't be read. What is new or another is read as a whole.

        `keys`: the primary keys of the base tables. `unseen`: those of which the stream brings no changes.
        """
        batch = self._progress.batch
        self.problems = {name: said for name, said in found.items() if isinstance(said, str)}
        available = {name: derived for name, derived in found.items() if isinstance(derived, Derived)}
        for name, reason in self.problems.items():
            log.warning("relation.unavailable", relation=name, reason=reason)
        for name in self._available.keys() - available.keys():
            self._give_up(name, "it could not be read for a while", batch)
        self._lose(available.keys(), batch)
        self._tell_unseen(available.values(), unseen)
        returned = available.keys() - self._available.keys()
        self._available = available
        self._tables = {name: derived.table(self._origin(name)) for name, derived in available.items()}
        self.fingerprints.clear()
        self.reaches = reaches(available.values(), keys)
        for name, derived in available.items():
            self._announce(self._tables[name])
            known = self._memory.records.get(f"{_DERIVED}{name}", {})
            if known.get("digest") != derived.digest:
                log.info("relation.derived", relation=name, paths=len(derived.lineage.paths), digest=derived.digest)
                self._give_up(name, "it is new, or its definition is another", batch)
                self._memory.write(f"{_DERIVED}{name}", {"digest": derived.digest}, batch)
                self._load(name)
            elif name in returned:
                self._load(name)

    def _tell_unseen(self, available: Iterable[Derived], unseen: Collection[BaseTable]) -> None:
        """The relations are read all the same: `setup` publishes the tables, and a new epoch then reads everything."""
        before, self.unseen = self.unseen, {}
        for derived in available:
            name = derived.relation.name
            tables = sorted(".".join(table) for table in derived.lineage.sources if table in unseen)
            if tables:
                self.unseen[name] = tables
                if before.get(name) != tables:
                    log.warning("relation.not_followed", relation=name, tables=tables, reason=UNPUBLISHED)

    def _lose(self, available: Collection[str], batch: Batch) -> None:
        """What can't be read, or is not asked for, loses changes, perhaps over many runs: it returns as a new one."""
        for record, known in self._memory.under(_DERIVED).items():
            if record.removeprefix(_DERIVED) not in available and known["digest"]:
                self._memory.write(record, {"digest": ""}, batch)

    def exists(self, table: str) -> bool:
        """Whether there is such a relation now, be its rows readable or not; a streamed one there always is."""
        return table in self._available or not self._captured.derived_among([table])

    def can_read(self, table: str) -> bool:
        """Whether rows of this relation can be read now; of a streamed one always."""
        return self.exists(table) and self.failed(table) < MOST_FAILED

    def derived(self, relation: str) -> Derived | None:
        return self._available.get(relation)

    @property
    def available(self) -> tuple[str, ...]:
        """The relations that can be read, in their order."""
        return tuple(self._available)

    @property
    def readable(self) -> tuple[Derived, ...]:
        """As they are now."""
        return tuple(self._available.values())

    # --- what is dirty

    def begin_transaction(self) -> None:
        self._dirty.transaction += 1
        self._between_transactions = False
        self._began_at = time.monotonic()

    def end_transaction(self, lsn: int) -> None:
        """It is delivered whole, and was committed at this LSN."""
        self._dirty.delivered = lsn
        self._between_transactions = True

    def touch(self, causes: Iterable[Touch], lsn: int) -> None:
        """A change of the transaction that is being delivered, committed at this LSN."""
        now = self._began_at
        for relation, path, start, inboxes in causes:
            if path == WHOLE:
                self._give_up(relation, "a change could not be traced to its keys", self._progress.batch)
            elif self._dirty.is_full:
                self._give_up(relation, TOO_MANY, self._progress.batch)
            else:
                self._dirty.touch(relation, path, start, inboxes, lsn, now)

    def made_of(self, table: BaseTable) -> tuple[str, ...]:
        """The relations that use this base table."""
        return tuple(self.reaches[table].used) if table in self.reaches else ()

    def truncated(self, table: BaseTable) -> None:
        """A base table was emptied."""
        for relation in self.made_of(table):
            self._give_up(relation, f"{table[1]} was truncated", self._progress.batch)

    def ask(self, relation: str, keys: Iterable[Start], inbox: int) -> None:
        """Keys that somebody wants to be read; asked for again if they get lost."""
        now, table = time.monotonic(), self._tables.get(relation)
        for key in keys:
            if table is not None and table.could_have(key) and not self._dirty.is_full:
                self._dirty.touch(relation, KEY, key, [inbox], 0, now, transaction=0)

    @property
    def to_be_seen(self) -> tuple[int, ...]:
        """32-bit xids that a snapshot must see. The one that is being delivered is among them: its changes may have had
        a relation given up, and are then only in what is read as a whole.
        """
        return self._progress.to_be_seen

    def errand(self, relation: str, keys: Iterable[tuple[Start, frozenset[int]]]) -> Errand:
        """Keys to be read behind the live ones, each with the inboxes where it is expected."""
        errand = Errand(relation, list(keys))
        self._dirty.send(errand)
        return errand

    def hold(self) -> int | None:
        """The slot must not forget this commit, nor what comes after it."""
        return self._dirty.hold()

    def is_done(self, upto: float) -> bool:
        """Whether all that was touched before this moment is published (what can't be read is no part of it)."""
        return self._dirty.is_done(upto, [name for name in self._captured.names if not self.can_read(name)])

    def _give_up(self, relation: str, reason: str, batch: Batch) -> None:
        """The whole of a relation is read, and its items go, but for keys that could not be read."""
        self._read_whole(relation, reason, batch)
        self._dirty.release(relation, batch)
        if self._digests is not None:
            self._digests.forget(relation, batch)
        for name, record in self._memory.under(f"dirty/{relation}/").items():
            if not _is_unread(record):
                self._memory.forget(name, batch)

    # --- what is read

    def take(self, most: int, fewer: Mapping[str, int]) -> Reading | None:
        """The next reading that is due. `fewer`: of these relations not so many keys."""
        now, whole = time.monotonic(), self._between_transactions
        broken = [name for name in self._available if self.failed(name) >= MOST_FAILED]
        gone = [name for name in self._captured.names if name not in self._available]
        reading = self._dirty.take(now, most, self.to_be_seen, whole=whole, fewer=fewer, broken=broken, gone=gone)
        if reading is not None:
            # Now, not when it is published: a backfill that begins meanwhile may see that a row is gone, and its sweep
            # takes what stands before it.
            self._read += 1
            reading.number = self._read
        return reading

    def publish(self, reading: Reading, rows: Sequence[RenderedRow], hashes: Sequence[Seen], lsn: int) -> None:
        """What a reading of keys has found, of a snapshot at this LSN."""
        table = self._tables.get(reading.relation)
        batch = Batch()
        if table is None:  # the relation was lost meanwhile, and will be read as a whole
            self._dirty.published(reading, batch, 0, 0)
            return
        self._dirty.absolve(reading)
        if self._digests is not None:
            self._expect(reading, hashes, self._digests)
        now_ms = time.time_ns() // 1_000_000
        cause = Cause(0, lsn, now_ms, now_ms)
        read, absences = reading.number, 0
        at: dict[bytes, set[int]] = {}
        for row in rows:
            if row.inbox is not None:
                at.setdefault(row.key, set()).add(row.inbox)
                self._outlet.derived_row(table, row, read, cause, batch)
        for item in reading.items:
            key = pack_key(list(item.start))
            found = at.get(key, set())
            for inbox in item.inboxes - found:
                self._outlet.derived_absence(table, key, inbox, read, cause, batch)
                absences += 1
            if not found:
                self._outlet.derived_absence(table, key, None, read, cause, batch)
                absences += 1
        if self._digests is not None:
            self._digests.published(reading.relation, [_number(item) for item in reading.items], hashes, batch)
        self._dirty.published(reading, batch, len(rows), absences)

    def _expect(self, reading: Reading, hashes: Sequence[Seen], digests: DigestMemory) -> None:
        """A key is also expected where it was published last. What is kept of that is in doubt until this is."""
        keys = [_number(item) for item in reading.items]
        digests.doubt(reading.relation, keys, hashes)
        for item, key in zip(reading.items, keys, strict=True):
            item.inboxes |= digests.inboxes(reading.relation, key)

    def looked_up(self, reading: Reading, keys: Sequence[Start]) -> None:
        """The keys to which the starts of a reading lead."""
        batch = Batch()
        if self._dirty.is_full:
            self._give_up(reading.relation, TOO_MANY, batch)
        else:
            for item in self._dirty.looked_up(reading, keys, time.monotonic()):
                self._owe(reading.relation, KEY, item, batch)
        self._dirty.published(reading, batch, 0, 0)

    def fan_out(self, reading: Reading) -> None:
        """Its only start leads to too many keys to read them at once."""
        (item,) = reading.items
        batch = Batch()
        fan_out = FanOut(path=reading.path, start=item.start, inboxes=tuple(sorted(item.inboxes)))
        self._fan_out(reading.relation, fan_out, batch)
        self._dirty.published(reading, batch, 0, 0)

    def lose_path(self, reading: Reading) -> None:
        """Its path is of another definition: nobody can say any more where its starts lead."""
        batch = Batch()
        self._read_whole(reading.relation, LOST_PATH, batch)
        self._dirty.published(reading, batch, 0, 0)

    def split(self, reading: Reading) -> None:
        """Its halves are to be read each by itself."""
        self._dirty.split(reading)

    def set_aside(self, reading: Reading, starts: Collection[Start]) -> None:
        """Some of its items, not all, are to be read by themselves; the rest is still to be published."""
        self._dirty.set_aside(reading, starts)

    def pause(self, relation: str, seconds: float) -> None:
        """Other relations are not to wait for this one."""
        self._dirty.pause(relation, time.monotonic() + seconds)

    def fail(self, reading: Reading, reason: str) -> None:
        """Its only item can't be read."""
        (item,) = reading.items
        batch = Batch()
        failed = self._dirty.fail(reading, item, reason, time.monotonic())
        # At once: who had it read as one of many goes on as if it were read, and remembers that.
        self._owe(reading.relation, reading.path, failed, batch)
        self._dirty.published(reading, batch, 0, 0)

    def put_back(self, reading: Reading, pause_s: float) -> None:
        """It can't be read now, through no fault of its items."""
        if reading.relation not in self._available and reading.errand is None:
            self._dirty.give_up(reading)
            return
        self.pause(reading.relation, pause_s)
        self._dirty.put_back(reading, time.monotonic())

    def failed(self, relation: str) -> int:
        """Items that can't be read."""
        return len(self._dirty.failed(relation))

    def unread_inboxes(self, relation: str) -> frozenset[int] | None:
        """Where keys could not be read, or are owed since an earlier run; None: nobody knows where they belong."""
        owed = [record["inboxes"] for record in self._memory.under(f"dirty/{relation}/").values()]
        unread = [*owed, *(item.inboxes for item in self._dirty.failed(relation))]
        return frozenset(inbox for inboxes in unread for inbox in inboxes) if all(unread) else None

    def spared(self, relation: str) -> tuple[int, ...]:
        """Keys that could not be read, now or before their relation was lost: what the target has is not swept."""
        unread = set(self._dirty.unread(relation))
        records = self._memory.under(f"dirty/{relation}/").values()
        unread.update(tuple(record["start"]) for record in records if _is_unread(record))
        return tuple(sorted(key for (key,) in unread if type(key) is int))

    def next_position(self) -> Position:
        """Every row of a reading that is taken from now on stands at or beyond this."""
        return Position(self._outlet.run.epoch, self._outlet.run.generation, 2 * (self._read + 1))

    # --- by the clock

    def finish(self) -> None:
        """Takes in what is acknowledged."""
        batch = Batch()
        for relation, path, item in self._dirty.finish():
            self._forget(relation, path, item, batch)

    def write_down(self) -> None:
        """What waits for long, so that the slot need not."""
        batch = Batch()
        for relation, path, item in list(self._dirty.overdue(time.monotonic())):
            self._owe(relation, path, item, batch)

    def describe(self) -> dict[str, Any]:
        """By relation, for the status."""
        now = time.monotonic()
        return {relation.name: self._describe(relation.name, now) for relation in self._captured.derived}

    def _describe(self, relation: str, now: float) -> dict[str, Any]:
        counts, failed = self._dirty.counts.get(relation), self._dirty.failed(relation)
        return {
            "available": relation in self._available,
            "problem": self.problems.get(relation, ""),
            "not_followed_from": self.unseen.get(relation, []),
            "waiting": self._dirty.waiting(relation),
            "oldest_s": round(self._dirty.oldest(relation, now), 3),
            "keys_read": counts.keys if counts else 0,
            "rows": counts.rows if counts else 0,
            "absences": counts.absences if counts else 0,
            "failed": len(failed),
            "failed_keys": [list(item.start) for item in failed[:MOST_FAILED_SHOWN]],
            "failed_because": failed[0].reason if failed else "",
        }

    # --- what is owed

    def _owe(self, relation: str, path: str, item: Item, batch: Batch) -> None:
        name = _record(relation, path, item.start)
        # Another item of the same start may rely on what stands there: what is read, or on its way to Kafka, meanwhile.
        known = self._memory.records.get(name, {})
        inboxes = sorted(item.inboxes.union(known.get("inboxes", ())))
        item.tries = max(item.tries, known.get("tries", 0))
        record = {"relation": relation, "path": path, "start": item.start, "inboxes": inboxes, "tries": item.tries}
        self._memory.write(name, record, batch)
        item.owed, item.is_recorded = batch, True

    def _forget(self, relation: str, path: str, item: Item, batch: Batch) -> None:
        if item.is_recorded:
            item.is_recorded = False
            self._memory.forget(_record(relation, path, item.start), batch)

    def _load(self, relation: str) -> None:
        """Owed items of a relation that can be read again."""
        derived = self._available[relation]
        now = time.monotonic()
        for name, record in self._memory.under(f"dirty/{relation}/").items():
            if record["path"] != KEY and not derived.has_path(record["path"]):
                self._read_whole(relation, LOST_PATH, self._progress.batch)
                self._memory.forget(name, self._progress.batch)
                continue
            start = tuple(record["start"])
            item = self._dirty.touch(relation, record["path"], start, record["inboxes"], 0, now, transaction=0)
            if not item.is_recorded:  # one that is stays as it is: its record may still be on its way
                item.owed, item.is_recorded = DURABLE, True
                item.tries = record.get("tries", 0)


def derived_ever(memory: Memory) -> frozenset[str]:
    """Relations that were read as derived ones since the epoch began, be they captured now or not."""
    return frozenset(record.removeprefix(_DERIVED) for record in memory.under(_DERIVED))


def _is_unread(record: Mapping[str, Any]) -> bool:
    """Whether it is of a key that could not be read."""
    return bool(record["path"] == KEY and record.get("tries", 0))


def _number(item: Item) -> int:
    """The one integer that a derived relation's key is."""
    (key,) = item.start
    return int(key)  # type: ignore[arg-type]  # `definitions` refuses any other type


def _record(relation: str, path: str, start: Start) -> str:
    return f"dirty/{relation}/{path}/{orjson.dumps(start).decode()}"
