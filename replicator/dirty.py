"""Keys of derived relations that must be read again: coalesced, in a bounded set, each with what it holds up.

An item becomes due when nothing has touched it for a moment, or at the latest a while after it was first touched; and
only when the transaction that touched it was delivered whole. Until the rows of an item are acknowledged by Kafka, or
the item itself is durable as owed, it holds the slot at the commit that first touched it.

Pure: it is told the time, and asks nobody. Belongs to the run's loop.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from replicator.progress import Batch
from replicator.readings import KEY, Errand, Item, Reading, Start

COALESCE_S: Final = 0.2
"""An item waits so long for further changes of the same..."""
LONGEST_S: Final = 1.0
"""...but no longer than this in all."""
OWE_S: Final = 10.0
"""An item that can be read, and is not for so long, is written down as owed and lets the slot go. Most keys of a huge
transaction have been read by then: each would be a record to write, to keep and to forget."""
FIRST_RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 300.0

_OF_NONE: Final[Mapping[str, int]] = {}

Group = tuple[str, str]
"""(relation, path)."""


@dataclass(slots=True)
class Counts:
    """Of one relation, for the status."""

    keys: int = 0
    rows: int = 0
    absences: int = 0


@dataclass(slots=True)
class DirtyKeys:
    """The set. `limit`: items at the most; beyond it a relation is read as a whole instead."""

    limit: int
    transaction: int = 0
    """Serial number of the transaction that is being delivered."""
    delivered: int = 0
    """The commit of the last transaction that was delivered whole."""
    counts: dict[str, Counts] = field(default_factory=dict)
    _groups: dict[Group, dict[Start, Item]] = field(default_factory=dict)
    """Each in the order of the last touches. No OrderedDict, which would take a third more for an item."""
    _open: dict[Group, int] = field(default_factory=dict)
    """Groups of which every item is of this transaction, which is being delivered: to look through a hundred thousand
    takes 4 ms, fifty times a second."""
    _errands: deque[Errand] = field(default_factory=deque)
    _flying: list[Reading] = field(default_factory=list)
    _halves: dict[str, deque[Reading]] = field(default_factory=dict)
    """By relation: parts of readings that failed, or were too much at once; they are in `_flying` too."""
    _taken: tuple[str, float] | None = None
    """Of what relation the last reading is, and when it began; None: there was nothing to read."""
    _halves_due: float = 0.0
    """When halves come before the work of other relations."""
    _paused: dict[str, float] = field(default_factory=dict)
    """Relation → when it may be read again."""
    _failed: dict[str, OrderedDict[tuple[str, Start], Item]] = field(default_factory=dict)
    _broken: Collection[str] = ()
    _gone: Collection[str] = ()
    _has_healed: bool = False
    """The last reading was of what failed of a broken relation."""
    _has_retried: bool = False
    """The last of what failed and errands was the former."""
    _released: list[tuple[int, Batch]] = field(default_factory=list)
    _alike: dict[frozenset[int], frozenset[int]] = field(default_factory=dict)
    """Of each inbox, the set of it alone: one of its own for each item would be a third of what that takes."""
    _moment: tuple[float, float] = (0.0, COALESCE_S)
    """Of the last touch, and when it is over: items of one transaction share them, for the same reason."""
    _looks: deque[tuple[float, int]] = field(default_factory=deque)
    """When it was asked what is overdue, and what was delivered then; of the last `OWE_S`."""
    _overdue: int = 0
    """What this commit, or an earlier one, touched first has waited for long."""
    _size: int = 0

    def __len__(self) -> int:
        return self._size

    @property
    def is_full(self) -> bool:
        return self._size >= self.limit

    def touch(
        self,
        relation: str,
        path: str,
        start: Start,
        inboxes: Iterable[int],
        lsn: int,
        now: float,
        transaction: int | None = None,
    ) -> Item:
        """A change concerns this item; the change is of the transaction that is being delivered, or of an older one.

        Look at `is_full` before.
        """
        group = self._groups.get((relation, path))
        if group is None:
            group = self._groups[relation, path] = {}
        named = frozenset(inboxes)
        serial = self.transaction if transaction is None else transaction
        if serial < self.transaction:
            self._open.pop((relation, path), None)
        if now != self._moment[0]:
            self._moment = now, now + COALESCE_S
        moment, rested = self._moment
        item = group.get(start)
        if item is None:
            item = self._forgive(relation, path, start) or Item(start, frozenset(), moment, moment, lsn, serial)
            item.due = rested
            group[start] = item
            self._size += 1
        elif rested <= item.first + LONGEST_S:
            item.due = rested
            group[start] = group.pop(start)
        if item.owed is not None and not named <= item.inboxes:  # what is written down does not say them
            item.lsn = lsn if item.owed.complete or not item.lsn else item.lsn
            item.owed = None
        elif not item.lsn and item.owed is None:
            item.lsn = lsn
        if not item.inboxes and len(named) == 1:
            item.inboxes = self._alike.setdefault(named, named)
        elif not named <= item.inboxes:
            item.inboxes |= named
        item.transaction = max(item.transaction, serial)
        return item

    def _forgive(self, relation: str, path: str, start: Start) -> Item | None:
        """An item that failed is tried again at once when it changes."""
        failed = self._failed.get(relation)
        return failed.pop((path, start), None) if failed else None

    def send(self, errand: Errand) -> None:
        """To be read behind the live items."""
        self._errands.append(errand)

    def take(
        self,
        now: float,
        most: int,
        unsettled: Sequence[int],
        *,
        whole: bool,
        fewer: Mapping[str, int] = _OF_NONE,
        broken: Collection[str] = (),
        gone: Collection[str] = (),
    ) -> Reading | None:
        """The next reading, if one is due. `whole`: no transaction is half delivered. `fewer`: relations of which not
        so many keys are read at once. `broken`: of which only what failed is tried again, one by one: whatever else is
        read of them is likely to fail too. `gone`: of which that is not tried either.

        A relation that has readings to finish in halves may be slow: while others have work they are given as much time
        as each of its readings took.
        """
        if self._taken is not None and self._taken[0] in self._halves:
            self._halves_due = now + (now - self._taken[1])
        self._broken, self._gone = broken, gone
        # Every second time, however much of others there is to read: nothing else heals it.
        healing = self._retry(now, unsettled, broken) if broken and not self._has_healed else None
        self._has_healed = healing is not None
        reading = healing or self._take(now, most, unsettled, whole, fewer)
        self._taken = (reading.relation, now) if reading is not None else None
        return reading

    def _take(
        self, now: float, most: int, unsettled: Sequence[int], whole: bool, fewer: Mapping[str, int]
    ) -> Reading | None:
        if now >= self._halves_due and (half := self._next_half(now, fewer)):
            return half
        upto = self.transaction + 1 if whole else self.transaction
        ripe = [
            (name[0] in self._halves, next(iter(group.values())).due, name)
            for name, group in self._groups.items()
            if group
            and self._open.get(name) != upto
            and next(iter(group.values())).due <= now
            and not self._rests(name[0], now)
        ]
        for is_halved, _, (relation, path) in sorted(ripe):
            if is_halved and (half := self._next_half(now, fewer)):
                return half
            items = self._pick((relation, path), now, fewer.get(relation, most) if path == KEY else most, upto)
            if items:
                reading = Reading(relation, path, items, tuple(unsettled))
                self._flying.append(reading)
                return reading
        return self._next_half(now, fewer) or self._take_turns(now, most, unsettled, fewer)

    def _take_turns(self, now: float, most: int, unsettled: Sequence[int], fewer: Mapping[str, int]) -> Reading | None:
        """What failed, and errands: slow keys may be due again as soon as they have failed."""
        retried = None if self._has_retried else self._retry(now, unsettled)
        self._has_retried = retried is not None
        return retried or self._run_errand(now, most, unsettled, fewer) or self._retry(now, unsettled)

    def pause(self, relation: str, until: float) -> None:
        """Nothing of this relation is read before that time."""
        self._paused[relation] = until

    def _is_paused(self, relation: str, now: float) -> bool:
        return self._paused.get(relation, now) > now

    def _rests(self, relation: str, now: float) -> bool:
        """Whether nothing of it is read, but for what failed."""
        return relation in self._broken or self._is_paused(relation, now)

    def _next_half(self, now: float, fewer: Mapping[str, int]) -> Reading | None:
        """Relations take turns; within one the latest goes first, so that the item that fails is soon known."""
        relation = next((each for each in self._halves if not self._rests(each, now)), None)
        if relation is None:
            return None
        halves = self._halves.pop(relation)
        half = halves.popleft()
        if halves:
            self._halves[relation] = halves
        if half.path == KEY and len(half.items) > (most := fewer.get(relation, len(half.items))):
            self._part(half, half.items[:most], half.items[most:])
        return half

    def _pick(self, name: Group, now: float, most: int, upto: int) -> list[Item]:
        picked: list[Item] = []
        group = self._groups[name]
        for item in group.values():
            if item.due > now or len(picked) == most:
                break
            if item.transaction < upto:
                picked.append(item)
        else:
            if not picked:
                self._open[name] = upto
        for item in picked:
            del group[item.start]
        if not group:
            del self._groups[name]  # it would keep the room of the most that it ever held
        self._size -= len(picked)
        return picked

    def _retry(self, now: float, unsettled: Sequence[int], of: Collection[str] | None = None) -> Reading | None:
        """Items that failed, each by itself, so that a good one does not fail again with a bad one. None: of any."""
        for relation, failed in self._failed.items():
            if of is not None and relation not in of:
                continue
            if relation in self._gone or self._is_paused(relation, now):
                continue
            for (path, start), item in failed.items():
                if item.due <= now:
                    del failed[path, start]
                    reading = Reading(relation, path, [item], tuple(unsettled))
                    self._flying.append(reading)
                    return reading
        return None

    def _run_errand(self, now: float, most: int, unsettled: Sequence[int], fewer: Mapping[str, int]) -> Reading | None:
        self._errands = deque(each for each in self._errands if each.keys)
        errand = next((each for each in self._errands if not self._rests(each.relation, now)), None)
        if errand is None:
            return None
        most = fewer.get(errand.relation, most)
        keys, errand.keys = errand.keys[:most], errand.keys[most:]
        errand.open += 1
        items = [Item(key, frozenset(inboxes), now, now, 0, 0) for key, inboxes in keys]
        reading = Reading(errand.relation, KEY, items, tuple(unsettled), errand)
        self._flying.append(reading)
        return reading

    def looked_up(self, reading: Reading, keys: Iterable[Start], now: float) -> list[Item]:
        """What a look-up has found: the keys hold what all the starts held together, and are due at once.

        Returned are keys that must be written down before a start's own record goes.
        """
        inboxes = frozenset[int]().union(*(item.inboxes for item in reading.items))
        held = min((item.lsn for item in reading.items if item.holds), default=0)
        serial = max(item.transaction for item in reading.items)
        first = min(item.first for item in reading.items)
        is_recorded = any(item.is_recorded for item in reading.items)
        heirs: list[Item] = []
        for key in keys:
            taken = self.touch(reading.relation, KEY, key, inboxes, held, now - COALESCE_S, serial)
            taken.first = min(taken.first, first)  # or whoever waits for the starts would not wait for it
            if held and taken.owed is None:
                taken.lsn = min(held, taken.lsn) if taken.lsn else held
            if is_recorded and taken.owed is None:
                heirs.append(taken)
        return heirs

    def absolve(self, reading: Reading) -> None:
        """It has read its keys: those that failed before are read with them, and are spared no more.

        What is in a snapshot that was taken since they failed is newer than whatever had touched them by then.
        """
        if reading.path != KEY:
            return
        for item in reading.items:
            if (older := self._forgive(reading.relation, KEY, item.start)) is not None:
                self._merge(item, older)

    def published(self, reading: Reading, batch: Batch, rows: int, absences: int) -> None:
        """Its rows are on their way to Kafka."""
        reading.batch = batch
        counts = self.counts.setdefault(reading.relation, Counts())
        counts.keys += len(reading.items)
        counts.rows += rows
        counts.absences += absences

    def finish(self) -> Iterator[tuple[str, str, Item]]:
        """Readings that are acknowledged end here: their items, as (relation, path, item), of which records may go."""
        ended, still = list[Reading](), list[Reading]()
        for each in self._flying:
            (ended if each.batch is not None and each.batch.complete else still).append(each)
        recorded = Counter[tuple[Group, Start]]()
        if any(item.is_recorded for reading in ended for item in reading.items):
            recorded.update(_name(each, item) for each in self._flying for item in each.items if item.is_recorded)
        self._flying = still
        for reading in ended:
            if reading.errand is not None:
                reading.errand.open -= 1
            for item in reading.items:
                self._pass_on(reading, item, recorded)
                yield reading.relation, reading.path, item

    def _pending(self, reading: Reading, item: Item) -> Item | None:
        """What has come for the same start since the reading began."""
        group = self._groups.get((reading.relation, reading.path))
        return group.get(item.start) if group is not None else None

    def _pass_on(self, reading: Reading, item: Item, recorded: Counter[tuple[Group, Start]]) -> None:
        """A record that another item of the same start goes on relying on stays, and goes with the last of them.

        `recorded`: how many such items are in readings that are under way.
        """
        if not item.is_recorded:
            return
        recorded[_name(reading, item)] -= 1
        failed = self._failed.get(reading.relation)
        others = (self._pending(reading, item), failed.get((reading.path, item.start)) if failed else None)
        if recorded[_name(reading, item)] or any(each is not None and each.is_recorded for each in others):
            item.is_recorded = False

    def put_back(self, reading: Reading, now: float) -> None:
        """It could not be read for a reason that lies not in its items: they are due again after a pause."""
        self._land(reading)
        if reading.errand is not None:
            if not reading.errand.is_wanted:
                return
            back = [(item.start, item.inboxes) for item in reading.items]
            reading.errand.keys = back + reading.errand.keys
            if reading.errand not in self._errands:
                self._errands.appendleft(reading.errand)
            return
        group = self._groups.get((reading.relation, reading.path), {})
        first: dict[Start, Item] = {}
        for item in reading.items:
            newer = group.get(item.start)
            if newer is not None:
                self._merge(newer, item)
                continue
            item.due = now
            first[item.start] = item
        self._groups[reading.relation, reading.path] = first | group
        self._open.pop((reading.relation, reading.path), None)
        self._size += len(first)

    def fail(self, reading: Reading, item: Item, reason: str, now: float) -> Item:
        """This very item can't be read: tried again later by itself, and written down. Returned: what stands for it."""
        item.tries += 1
        item.reason = reason
        item.due = now + min(FIRST_RETRY_S * 2 ** (item.tries - 1), LONGEST_RETRY_S)
        return self._stays_unread(reading, item)

    def give_up(self, reading: Reading) -> None:
        """Its relation is gone, and is read as a whole when it returns: what is left are keys that failed before."""
        for item in [each for each in reading.items if reading.path == KEY and each.tries]:
            self._stays_unread(reading, item)
        self.published(reading, Batch(), 0, 0)

    def _stays_unread(self, reading: Reading, item: Item) -> Item:
        reading.items.remove(item)
        newer = self._pending(reading, item)
        if newer is not None:
            self._merge(newer, item)
            return newer
        failed = self._failed.setdefault(reading.relation, OrderedDict())
        if (older := failed.get((reading.path, item.start))) is not None:  # a backfill came upon the same key
            is_said = item.inboxes <= older.inboxes
            self._merge(older, item)
            older.due = item.due
            older.owed = older.owed if is_said else None
            return older
        failed[reading.path, item.start] = item
        return item

    def split(self, reading: Reading) -> None:
        """Two halves, to be taken one by one."""
        self._land(reading)
        if reading.path != KEY:  # what it leads to is expected at all inboxes of a half
            reading.items.sort(key=lambda item: sorted(item.inboxes))
        middle = len(reading.items) // 2
        halves = [
            Reading(reading.relation, reading.path, items, reading.unsettled, reading.errand)
            for items in (reading.items[:middle], reading.items[middle:])
        ]
        self._flying.extend(halves)
        if reading.errand is not None:
            reading.errand.open += 2
        self._halves.setdefault(reading.relation, deque()).extendleft(reversed(halves))

    def set_aside(self, reading: Reading, starts: Collection[Start]) -> None:
        """Some of its items, not all, leave it, to be read by themselves."""
        left = [item for item in reading.items if item.start not in starts]
        self._part(reading, left, [item for item in reading.items if item.start in starts])

    def _part(self, reading: Reading, left: list[Item], aside: list[Item]) -> None:
        reading.items = left
        part = Reading(reading.relation, reading.path, aside, reading.unsettled, reading.errand)
        self._flying.append(part)
        if reading.errand is not None:
            reading.errand.open += 1
        self._halves.setdefault(reading.relation, deque()).appendleft(part)

    def _land(self, reading: Reading) -> None:
        self._flying.remove(reading)
        if reading.errand is not None:
            reading.errand.open -= 1

    def _merge(self, newer: Item, older: Item) -> None:
        newer.inboxes |= older.inboxes
        newer.first = min(newer.first, older.first)
        if older.tries > newer.tries:
            newer.tries, newer.reason = older.tries, older.reason
        newer.is_recorded |= older.is_recorded
        if older.holds:
            newer.lsn = min(newer.lsn, older.lsn) if newer.lsn else older.lsn
            newer.owed = None

    def overdue(self, now: float) -> Iterator[tuple[str, str, Item]]:
        """Items that hold the slot for long, and those that failed: to be written down as owed, with `Item.owed`.

        How long is counted from when the first commit was delivered whole: until then the slot waits for that anyway.
        To be asked every second or so.
        """
        self._looks.append((now, self.delivered))
        while now - self._looks[0][0] >= OWE_S:
            _, self._overdue = self._looks.popleft()
        for (relation, path), group in self._groups.items():
            for item in group.values():
                if item.owed is None and 0 < item.lsn <= self._overdue:
                    yield relation, path, item
        for reading in self._flying:
            for item in reading.items:
                if item.owed is None and 0 < item.lsn <= self._overdue:
                    yield reading.relation, reading.path, item
        for relation, failed in self._failed.items():
            for (path, _), item in failed.items():
                if item.owed is None:
                    yield relation, path, item

    def hold(self) -> int | None:
        """The slot must not forget this commit, nor what comes after it. Looks at every item."""
        self._released = [(lsn, batch) for lsn, batch in self._released if not batch.complete]
        held = [lsn for lsn, _ in self._released]
        held += [item.lsn for group in self._groups.values() for item in group.values() if item.holds]
        held += [item.lsn for reading in self._flying for item in reading.items if item.holds]
        held += [item.lsn for failed in self._failed.values() for item in failed.values() if item.holds]
        return min(held, default=None)

    def release(self, relation: str, batch: Batch) -> None:
        """Items of a relation go, because it is to be read as a whole, and so do their records.

        They hold the slot until `batch`, which says that it is to be read, is acknowledged. What is being read goes on.
        So do keys that could not be read, and their records: a backfill that has come upon them spares them at its end.
        """
        gone, unread = list[Item](), OrderedDict[tuple[str, Start], Item]()

        def sort(path: str, items: Iterable[Item]) -> None:
            for item in items:
                if path == KEY and item.tries:
                    unread[path, item.start] = item
                else:
                    gone.append(item)

        for (path, _), item in self._failed.pop(relation, {}).items():
            sort(path, [item])
        for (name, path), group in self._groups.items():
            if name == relation:
                sort(path, group.values())
                self._size -= len(group)
                group.clear()
        if unread:
            self._failed[relation] = unread
        for reading in self._flying:
            for item in reading.items if reading.relation == relation else ():
                if reading.path == KEY and item.tries:
                    continue
                if item.owed is not None and item.owed.complete:
                    item.lsn = 0
                item.owed, item.is_recorded = None, False
        held = [item.lsn for item in gone if item.holds]
        if held:
            self._released.append((min(held), batch))

    def is_done(self, upto: float, besides: Collection[str] = ()) -> bool:
        """Whether every item that was first touched before this moment is published, or can't be read, as all of the
        relations `besides` can't.
        """
        groups = (group.values() for (name, _), group in self._groups.items() if name not in besides)
        pending = (item for group in groups for item in group)
        under_way = (each for each in self._flying if each.batch is None and each.relation not in besides)
        flying = (item for reading in under_way for item in reading.items)
        return not any(item.first <= upto for items in (pending, flying) for item in items)

    def waiting(self, relation: str) -> int:
        """Items of a relation that are to be read."""
        halves = sum(len(half.items) for half in self._halves.get(relation, ()))
        return halves + sum(len(group) for (name, _), group in self._groups.items() if name == relation)

    def oldest(self, relation: str, now: float) -> float:
        """Seconds that the oldest item of a relation waits."""
        firsts = [
            item.first for (name, _), group in self._groups.items() if name == relation for item in group.values()
        ]
        firsts += [item.first for reading in self._flying if reading.relation == relation for item in reading.items]
        return now - min(firsts) if firsts else 0.0

    def failed(self, relation: str) -> list[Item]:
        """Items that could not be read, each by its own fault."""
        return list(self._failed.get(relation, {}).values())

    def unread(self, relation: str) -> Iterator[Start]:
        """Keys that could not be read when it was tried last, be they due again, or being read."""
        failed = (item for (path, _), item in self._failed.get(relation, {}).items() if path == KEY)
        pending = self._groups.get((relation, KEY), {}).values()
        flying = (each for each in self._flying if (each.relation, each.path, each.batch) == (relation, KEY, None))
        for items in (failed, pending, *(each.items for each in flying)):
            yield from (item.start for item in items if item.tries)


def _name(reading: Reading, item: Item) -> tuple[Group, Start]:
    return (reading.relation, reading.path), item.start
