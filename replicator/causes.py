"""From a row change of a base table to what it makes dirty: keys of derived relations, or starts of look-ups.

A change concerns a relation only if a column that the relation uses has changed. The stream carries no old values under
the default identity, so a bounded memory of fingerprints says what changed: a row that is not in it counts as changed,
a value that the stream left out as unchanged (it is a TOAST value that the UPDATE did not touch) has not changed. The
same memory keeps where a row's paths started, for columns that the replica identity does not carry.

Pure. At 100 000 rows/s plain tuples and one pass over a row's used columns matter: no object is made for a row that
changes nothing.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, NamedTuple

import orjson

from replicator.pgoutput import ABSENT, RawRow, RawValue, Relation
from replicator.readings import KEY, Start
from replicator.values import JsonValue, converter


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How rows of one base table lead to a relation's keys."""

    relation: str
    path: str
    """`readings.KEY`, or the name of the look-up."""
    columns: tuple[str, ...]
    """Of the base table: the key, or what the look-up starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """All that derived relations make of one base table."""

    key: tuple[str, ...]
    """The table's primary key; empty if it has none."""
    inbox: str
    """Its inbox column, empty if it has none."""
    ways: tuple[Way, ...]
    used: Mapping[str, frozenset[str]]
    """By relation: the columns that it uses."""

    def columns(self, relation: str) -> frozenset[str]:
        """What the stream must carry of a row for it to be followed exactly."""
        starts = (way.columns for way in self.ways if way.relation == relation)
        return self.used[relation].union(self.key, *starts)


class Cause(NamedTuple):
    """One item to touch; a plain tuple, made for each change that matters."""

    relation: str
    path: str
    start: Start
    inboxes: tuple[int, ...]


Fingerprint = bytes
"""What is remembered of a row: one 64-bit hash for each used column; then, as JSON, by way where it started, if the
replica identity does not carry that. Bytes: tuples would take twice the room."""


class Fingerprints:
    """The rows seen last, by table and key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: OrderedDict[bytes, Fingerprint] = OrderedDict()

    def get(self, name: bytes) -> Fingerprint | None:
        return self._rows.get(name)

    def put(self, name: bytes, fingerprint: Fingerprint) -> None:
        """Nothing is kept of a row without a name."""
        rows = self._rows
        if not name:
            return
        if name in rows:
            rows.move_to_end(name)
        rows[name] = fingerprint
        if len(rows) > self._most:
            rows.popitem(last=False)

    def pop(self, name: bytes) -> Fingerprint | None:
        return self._rows.pop(name, None)

    def clear(self) -> None:
        self._rows.clear()


WHOLE: Final = "*"
"""The path of a cause that can't be traced: the whole relation is to be read."""
UNKNOWN: Final[Start] = ("?", "a start that the stream left out, now or always")

_UNKNOWN_HASH: Final = -1
"""Of a value that the stream left out and nobody remembers: Python's `hash` is never -1."""
_ABSENT_HASH: Final = array("q", [hash(ABSENT)]).tobytes()
"""Where it is not among a row's hashes no value was left out; where it is, that is to be looked at."""


class Causes:
    """Compiled for one table with the columns of one Relation message.

    The stream may lack columns: generated ones, those that a publication's column list leaves out, those that came or
    went since. A relation that uses one is concerned by every change of a row, and is read as a whole after each if a
    path starts from it. All other relations are followed exactly.
    """

    def __init__(self, relation: Relation, reach: Reach, fingerprints: Fingerprints) -> None:
        at = {column.name: i for i, column in enumerate(relation.columns)}
        self.lacking = {name: lost for name in reach.used if (lost := reach.columns(name) - at.keys())}
        """By relation: columns that the stream does not carry."""
        has_key = bool(reach.key) and at.keys() >= set(reach.key)
        self._key = [at[name] for name in reach.key] if has_key else []
        self._inbox = at.get(reach.inbox)
        carried = {i for i, column in enumerate(relation.columns) if column.is_identity}
        self._carries_inbox = self._inbox in carried
        self._carries_key = carried.issuperset(self._key)
        # None: no start is ever known.
        self._ways = [
            (way.relation, way.path, [at[name] for name in way.columns] if at.keys() >= set(way.columns) else None)
            for way in reach.ways
        ]
        self._names = [(way.relation, way.path) for way in reach.ways]
        self._is_carried = [columns is None or carried.issuperset(columns) for _, _, columns in self._ways]
        self._converters = [converter(column.type_oid) for column in relation.columns]
        used = sorted({at[name] for columns in reach.used.values() for name in columns if name in at})
        self._used = used
        self._pick = _picker(used)
        self._pick_key = _picker(self._key)
        self._keeps_starts = not all(self._is_carried)
        # What is remembered under other columns or another identity, or of other ways, can't be compared.
        compared = (relation.oid, tuple(relation.columns[i].name for i in used), reach.ways, tuple(self._is_carried))
        self._table = hash(compared).to_bytes(8, "little", signed=True)
        self._width = 8 * len(used)
        self._bits = {
            name: sum(1 << used.index(at[column]) for column in columns if column in at)
            for name, columns in reach.used.items()
        }
        # Rows that no key tells apart are not remembered: each counts as changed.
        self._memory = fingerprints if has_key else Fingerprints(0)

    def of_insert(self, new: RawRow) -> list[Cause]:
        starts = self._starts(new, None)
        self._remember(new, self._hashes(new, None), starts)
        if UNKNOWN in starts:
            return self._causes(starts, (), self._inboxes(new))
        named = self._inboxes(new)  # the rule; to name an item twice does no harm
        return [
            Cause(relation, path, start, named)
            for (relation, path), start in zip(self._names, starts, strict=True)
            if start is not None
        ]

    def of_delete(self, old: RawRow) -> list[Cause]:
        """`old` holds the identity's columns; under FULL all."""
        known = self._memory.pop(self._name(old)) if self._carries_key else None
        return self._causes(self._old_starts(old, known), (), self._old_inboxes(old))

    def of_update(self, old: RawRow, new: RawRow) -> list[Cause]:
        """`old` is empty if the identity's columns have not changed."""
        name = self._name(old) if old and self._carries_key else self._name(new)
        known = self._memory.get(name)
        hashes = self._hashes(new, known)
        changed = self._changed(hashes, known[: self._width] if known is not None else None)
        if not changed and not old and not self.lacking:
            return []
        starts = self._starts(new, known)
        before: Sequence[Start | None] = ()
        if old:
            before = self._old_starts(old, known)
            self._memory.pop(name)
        fingerprint = self._remember(new, hashes, starts)
        if not old and known is not None and known[self._width :] != fingerprint[self._width :]:
            before = self._kept(known)
        concerned = {relation for relation, bits in self._bits.items() if bits & changed or relation in self.lacking}
        inboxes = (*self._inboxes(new), *(self._old_inboxes(old) if old else ()))
        return self._causes(starts, before, inboxes, concerned)

    def _causes(
        self,
        starts: Sequence[Start | None],
        before: Sequence[Start | None],
        inboxes: Iterable[int],
        concerned: set[str] | None = None,
    ) -> list[Cause]:
        named = tuple(dict.fromkeys(inboxes))
        found: dict[Cause, None] = {}
        for values in (before, starts):
            for (relation, path, _), start in zip(self._ways, values, strict=False):
                if start is None or (concerned is not None and relation not in concerned):
                    continue
                found[Cause(relation, WHOLE, (), ()) if start is UNKNOWN else Cause(relation, path, start, named)] = (
                    None
                )
        return list(found)

    def _starts(self, row: RawRow, known: Fingerprint | None) -> tuple[Start | None, ...]:
        """A start that was left out as unchanged is the one that is remembered."""
        values = self._values
        found = [values(row, path, columns) for _, path, columns in self._ways]
        if None in found:
            for n, (_, _, columns) in enumerate(self._ways):
                if found[n] is None and columns is not None and any(row[i] is ABSENT for i in columns):
                    found[n] = self._kept(known)[n] if known is not None else UNKNOWN
        return tuple(found)

    def _old_starts(self, old: RawRow, known: Fingerprint | None) -> tuple[Start | None, ...]:
        """From the identity where it carries the columns, else from memory."""
        kept = self._kept(known) if known is not None else (None,) * len(self._ways)
        return tuple(
            self._values(old, path, columns) if carried else start
            for (_, path, columns), carried, start in zip(self._ways, self._is_carried, kept, strict=True)
        )

    def _values(self, row: RawRow, path: str, columns: Sequence[int] | None) -> Start | None:
        """None: a key with NULL is none, and what was left out is not known.

        A look-up may start from NULL: by PARTITION BY, GROUP BY or IS NOT DISTINCT FROM it leads to rows that have NULL
        too, and in COALESCE another column's value counts.
        """
        if columns is None:
            return UNKNOWN
        found: list[JsonValue] = []
        for i in columns:
            raw = row[i]
            if raw.__class__ is bytes:
                found.append(self._converters[i](raw))
            elif raw is None and path != KEY:
                found.append(None)
            else:
                return None
        return tuple(found)

    def _inboxes(self, row: RawRow) -> tuple[int, ...]:
        raw = row[self._inbox] if self._inbox is not None else None
        return (int(raw),) if raw.__class__ is bytes else ()

    def _old_inboxes(self, old: RawRow) -> tuple[int, ...]:
        return self._inboxes(old) if self._carries_inbox else ()

    def _name(self, row: RawRow) -> bytes:
        """Empty if the stream left its key out. No value of PostgreSQL's holds a zero byte."""
        try:
            return self._table + b"\0".join(self._pick_key(row))  # type: ignore[arg-type]
        except TypeError:  # what was left out is no bytes
            return b""

    def _hashes(self, row: RawRow, known: Fingerprint | None) -> bytes:
        values = self._pick(row)
        hashes = array("q", map(hash, values))
        found = hashes.tobytes()
        if _ABSENT_HASH not in found:
            return found
        before = array("q", known[: self._width]) if known is not None else None
        for n, value in enumerate(values):
            if value is ABSENT:
                hashes[n] = before[n] if before is not None else _UNKNOWN_HASH
        return hashes.tobytes()

    def _changed(self, hashes: bytes, before: bytes | None) -> int:
        """One bit for each used column that is not as it was."""
        if before is None:
            return (1 << len(self._used)) - 1
        if hashes == before:
            return 0
        pairs = zip(array("q", hashes), array("q", before), strict=True)
        return sum(1 << n for n, (new, old) in enumerate(pairs) if new != old)

    def _remember(self, row: RawRow, hashes: bytes, starts: Sequence[Start | None]) -> Fingerprint:
        if self._keeps_starts:
            kept = [None if carried else start for start, carried in zip(starts, self._is_carried, strict=True)]
            if any(kept):
                hashes += orjson.dumps(kept)
        self._memory.put(self._name(row), hashes)
        return hashes

    def _kept(self, known: Fingerprint) -> Sequence[Start | None]:
        """Where a row started that is remembered, by way."""
        packed = known[self._width :]
        if not packed:
            return (None,) * len(self._ways)
        starts = (start and tuple(start) for start in orjson.loads(packed))
        return tuple(UNKNOWN if start == UNKNOWN else start for start in starts)


def _picker(columns: Sequence[int]) -> Callable[[RawRow], tuple[RawValue, ...]]:
    """What takes these columns out of a row: `itemgetter` gives a tuple only of several."""
    if len(columns) > 1:
        return itemgetter(*columns)
    if not columns:
        return lambda row: ()
    (only,) = columns
    return lambda row: (row[only],)
