"""What was published last of one derived relation, as digests, for a rolling pass to compare the source with.

Finds rows that changed though nothing says when, rows that are gone and rows that moved to another inbox. Of each slot
(`width` neighbouring keys; one, as long as the limit allows) it holds, by inbox, how many rows were published and the
sum of their hashes. Neighbours at as many inboxes as they are save nothing by that, however wide the slots: so these
have an end, and then more is held than the limit says. Nothing is forgotten to make room. Of what can't be told any
more it keeps a mark that differs from everything: a key too many is read again, never one too few.

Relies on `put` being told of every row that is published, in the order of publishing, with absences wherever
`inboxes` says that the key was and it is not any more. An unknown page says nothing of rows that are gone: who visits
it must have everything swept away there that was published before the visit and not since.

Pure: it reads nothing, writes nothing, and never sees a row, only its hash.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final, NamedTuple, Self

PAGE_KEYS: Final = 512
WIDEST: Final = 256
"""Keys of a slot at the most. If one row changes, each of them is read again, and said to be gone from each inbox of
the slot where it is not: the square of this, in events, at the worst."""
_MODULUS: Final = 1 << 64
_UNCERTAIN: Final = (0xFFFFFFFF, 0)
"""Differs from everything that can be seen."""
_ENTRY: Final = Struct(">HqIQ")
"""Slot within its page, inbox, rows, sum of hashes. A page is its entries in the order of slot and inbox."""

Digest = tuple[int, int]
"""(rows, sum of their hashes modulo 2**64)."""
Found = Mapping[int, Digest]
"""One key as it was read: by inbox; empty: it is nowhere."""
_Slots = dict[int, dict[int, Digest]]


class Seen(NamedTuple):
    """One row of the source."""

    key: int
    inbox: int
    hash: int
    """64 bits, signed."""


def by_key(seen: Iterable[Seen]) -> dict[int, Found]:
    """Keys of which there are rows, as they were read."""
    found: dict[int, dict[int, Digest]] = {}
    for key, inbox, hashed in seen:
        _add(found.setdefault(key, {}), {inbox: (1, hashed % _MODULUS)})
    return {**found}


@dataclass(slots=True, eq=False)
class Visit:
    """A page that is being looked at."""

    page: int
    seen: Mapping[int, Found] | None = None
    """By key, once it is compared."""
    named: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Keys to be read again → inboxes where they were known."""
    read: dict[int, Found] = field(default_factory=dict)
    """What was put since it began."""


class Digests:
    """Of one relation. `limit`: entries, a page that is known counting as one more; beyond it the width doubles, up to
    `WIDEST`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.width = 1
        """Keys per slot, a power of two. Changes when a visit is settled, and never else."""
        self.entries = 0
        self._pages: dict[int, bytes] = {}
        self._order: list[int] = []
        """Of the pages."""
        self._visited: set[int] = set()
        """Pages that know of every row of the source, as it was then."""
        self._visit: Visit | None = None
        self._changed: set[int] = set()

    @property
    def is_crowded(self) -> bool:
        """Whether more is held than the limit says, in the widest slots."""
        return self._is_full and self.width == WIDEST

    def page_of(self, key: int) -> int:
        return key // PAGE_KEYS

    def keys_of(self, page: int) -> range:
        """The keys that a page covers, whether they exist or not."""
        return range(page * PAGE_KEYS, (page + 1) * PAGE_KEYS)

    def pages(self) -> list[int]:
        """Those of which anything is known, in their order."""
        return self._order[:]

    def is_known(self, page: int) -> bool:
        """Whether it was visited, so that what differs has changed since it was published."""
        return page in self._visited

    def keys(self, page: int) -> tuple[int, ...]:
        """Of which a page knows rows; empty where it knows no single keys."""
        if self.width > 1:
            return ()
        return tuple(page * PAGE_KEYS + slot for slot in _unpack(self._pages.get(page, b"")))

    def first_known(self, after: int | None) -> int | None:
        """The first key behind `after` (None: of all) on a page that is known."""
        following = 0 if after is None else bisect_left(self._order, self.page_of(after + 1))
        if following == len(self._order):
            return None
        first = self.keys_of(self._order[following]).start
        return first if after is None else max(first, after + 1)

    def inboxes(self, key: int) -> frozenset[int]:
        """Where it was published last, and perhaps some more."""
        page, slot = self._place(key)
        known = _slot(self._pages.get(page, b""), slot)
        read = self._visit.read.get(key, {}) if self._visit is not None else {}
        return frozenset((*known, *read))

    def put(self, key: int, found: Found) -> None:
        """It was read and published just now."""
        page, slot = self._place(key)
        if self._visit is not None and self._visit.page == page:
            self._visit.read[key] = found
        # What this key had in the sum of a wide slot is not known.
        known = _slot(self._pages.get(page, b""), slot)
        self._replace(page, slot, found if self.width == 1 else dict.fromkeys((*known, *found), _UNCERTAIN))

    def doubt(self, key: int, inboxes: Iterable[int]) -> None:
        """It may have been published at these inboxes too, and nobody knows as what."""
        page, slot = self._place(key)
        known = _slot(self._pages.get(page, b""), slot)
        self._replace(page, slot, dict.fromkeys((*known, *inboxes), _UNCERTAIN))

    def begin(self, page: int) -> Visit:
        """Before the hashes of the page's keys are read. One page is visited at a time: an earlier visit is void."""
        self._visit = Visit(page)
        return self._visit

    def compare(self, visit: Visit, seen: Iterable[Seen]) -> Mapping[int, frozenset[int]]:
        """Keys to be read again → all inboxes where they were known. `seen`: every row of the page's keys.

        Raises ValueError if a row is of another page.
        """
        visit.seen = by_key(seen)
        if any(self.page_of(key) != visit.page for key in visit.seen):
            raise ValueError("a row is of another page")
        known, now = _unpack(self._pages.get(visit.page, b"")), self._slots(visit.seen)
        named: dict[int, frozenset[int]] = {}
        for slot, entries in known.items():
            if now.get(slot) != entries:
                # Any of the slot's keys may be the one that is gone.
                first = visit.page * PAGE_KEYS + slot * self.width
                named |= dict.fromkeys(range(first, first + self.width), frozenset(entries))
        named |= {key: frozenset[int]() for key in visit.seen if self._place(key)[1] not in known}
        visit.named = named
        return named

    def is_open(self, visit: Visit) -> bool:
        """Whether nothing has made it void."""
        return visit is self._visit

    def settle(self, visit: Visit) -> None:
        """What was named has been read and put: the page is known as it was seen, and as it was put since.

        A key that could not be read is named again by the next visit. Does nothing for a visit that is void. Raises
        ValueError if nothing was compared.
        """
        if visit.seen is None:
            raise ValueError("nothing was compared")
        if visit is not self._visit:
            return
        self._visit = None
        unread = visit.named.keys() - visit.read.keys()
        slots = self._slots({**visit.seen, **visit.read})
        for slot in {self._place(key)[1] for key in unread}:
            slots[slot] = _slot(self._pages.get(visit.page, b""), slot)
        packed = _pack(slots)
        if packed != self._pages.get(visit.page) or visit.page not in self._visited:
            self._visited.add(visit.page)
            self._store(visit.page, packed)
        self._fit()

    def take_changed(self) -> frozenset[int]:
        """Pages whose records are not what `to_record` says now. Each change is told once."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def to_record(self, page: int) -> dict[str, Any] | None:
        """A page as JSON has it. None: nothing is known of it."""
        if page not in self._pages:
            return None
        entries = b64encode(self._pages[page]).decode()
        return {"width": self.width, "entries": entries, "visited": page in self._visited}

    @classmethod
    def from_records(cls, limit: int, records: Mapping[int, Mapping[str, Any]]) -> Self:
        """Page → record. Some may be left over from before the width doubled."""
        digests = cls(limit)
        digests.width = max((record["width"] for record in records.values()), default=1)
        digests._visited = {page for page, record in records.items() if record["visited"]}
        for page, record in records.items():
            digests._store(page, _widened(b64decode(record["entries"]), digests.width // record["width"]))
        digests._changed = {page for page in records if digests.to_record(page) != records[page]}
        digests._fit()
        return digests

    def _place(self, key: int) -> tuple[int, int]:
        """Its page, and its slot within that."""
        page, place = divmod(key, PAGE_KEYS)
        return page, place // self.width

    def _slots(self, keys: Mapping[int, Found]) -> _Slots:
        slots: _Slots = {}
        for key, found in keys.items():
            if found:
                _add(slots.setdefault(self._place(key)[1], {}), found)
        return slots

    def _replace(self, page: int, slot: int, entries: Found) -> None:
        packed = self._pages.get(page, b"")
        if entries != _slot(packed, slot):
            begin, end = _bounds(packed, slot)
            self._store(page, packed[:begin] + _pack({slot: entries}) + packed[end:])

    def _store(self, page: int, packed: bytes) -> None:
        if page not in self._pages:
            insort(self._order, page)
        self.entries += (len(packed) - len(self._pages.get(page, b""))) // _ENTRY.size
        self._pages[page] = packed
        self._changed.add(page)

    @property
    def _is_full(self) -> bool:
        return self.entries + len(self._pages) > self.limit

    def _fit(self) -> None:
        while self._is_full and self.width < WIDEST:
            self._double()

    def _double(self) -> None:
        """Two neighbouring slots become one."""
        self.width *= 2
        for page, packed in self._pages.items():
            self._store(page, _widened(packed, 2))


def _widened(packed: bytes, times: int) -> bytes:
    """A page whose slots are so many times as wide."""
    if times == 1:
        return packed
    slots: _Slots = {}
    for slot, entries in _unpack(packed).items():
        _add(slots.setdefault(slot // times, {}), entries)
    return _pack(slots)


def _add(to: dict[int, Digest], found: Found) -> None:
    for inbox, (rows, total) in found.items():
        rows += to.get(inbox, (0, 0))[0]
        total += to.get(inbox, (0, 0))[1]
        to[inbox] = (rows, total % _MODULUS) if rows < _UNCERTAIN[0] else _UNCERTAIN


def _pack(slots: Mapping[int, Found]) -> bytes:
    return b"".join(
        _ENTRY.pack(slot, inbox, *digest)
        for slot, entries in sorted(slots.items())
        for inbox, digest in sorted(entries.items())
    )


def _unpack(packed: bytes) -> _Slots:
    slots: _Slots = {}
    for slot, inbox, rows, total in _ENTRY.iter_unpack(packed):
        slots.setdefault(slot, {})[inbox] = rows, total
    return slots


def _slot(packed: bytes, slot: int) -> dict[int, Digest]:
    begin, end = _bounds(packed, slot)
    return _unpack(packed[begin:end]).get(slot, {})


def _bounds(packed: bytes, slot: int) -> tuple[int, int]:
    """Where a slot's entries begin and end."""
    begins = range(0, len(packed) + 1, _ENTRY.size)
    entries = len(begins) - 1

    def slot_at(begin: int) -> int:
        return int.from_bytes(packed[begin : begin + 2])

    first, last = (bisect_left(begins, each, hi=entries, key=slot_at) for each in (slot, slot + 1))
    return begins[first], begins[last]
