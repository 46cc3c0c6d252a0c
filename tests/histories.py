"""Random histories of a source in miniature, and what a replicator publishes of them.

Keeps the replicator's rules that order depends on: positions grow with the commits; a row that moves, or whose key
changes, is a leaving half where it was and a row where it goes; an update leaves an unchanged long column out; a row
that is new where it goes and lacks columns is read again later; what is read stands just before its watermark; events
of one inbox stay in order, those of two partitions are read in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import orjson
from hypothesis import strategies as st

from consumers.ordering import Event
from replicator import Position, TableSchema

EPOCH = 7
LSN_STEP = 16
INBOXES = (11, 12, 13)


def partition_of(inbox: int) -> int:
    """Two partitions, one of which two inboxes share."""
    return inbox % 2


@dataclass(frozen=True, slots=True)
class Shape:
    """A table: an id, an inbox (inboxes are their own), a short column, a long one that may be left out, parents."""

    short: str
    long: str
    parents: Mapping[str, str]
    """Column → table whose rows it names."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.short, self.long, *self.parents)


SHAPES: Mapping[str, Shape] = {
    "inboxes": Shape("name", "greeting_message", {}),
    "conversations": Shape("identifier", "cached_label_list", {"contact_id": "contacts"}),
    "contact_inboxes": Shape("pubsub_token", "source_id", {"contact_id": "contacts"}),
    "messages": Shape("source_id", "content", {"conversation_id": "conversations"}),
}


def schema_of(table: str, _version: str = "") -> TableSchema:
    """The columns that events of this table speak of."""
    shape = SHAPES[table]
    inbox = () if table == "inboxes" else (("inbox_id", "integer"),)
    texts = ((shape.short, "text"), (shape.long, "text"))
    parents = tuple((column, "integer") for column in shape.parents)
    return TableSchema(
        table=table, columns=(("id", "integer"), *inbox, *texts, *parents), key=("id",), inbox="inbox_id"
    )


class Row(NamedTuple):
    inbox: int
    columns: dict[str, Any]
    """Without id and inbox."""


class Write(NamedTuple):
    """Inserts the row, or updates it: the short column, the parents, the long one if asked; it stays, or moves."""

    table: str
    id: int
    inbox: int | None
    parent: int | None
    long: bool


class Erase(NamedTuple):
    table: str
    id: int
    broadcast: bool


class Rekey(NamedTuple):
    """Changes the primary key, if the new one is free."""

    table: str
    id: int
    to: int
    broadcast: bool


class Truncate(NamedTuple):
    """Of several tables in one statement."""

    tables: tuple[str, ...]


class Chunk(NamedTuple):
    """A backfill reads one inbox of a table."""

    table: str
    inbox: int


class Ask(NamedTuple):
    """Single keys are read again: this one, and all that are owed."""

    table: str
    id: int
    inbox: int


Operation = Write | Erase | Rekey | Truncate | Chunk | Ask


class Source:
    """Its rows, and everything that was published of them in the order of publishing."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Row] = {}
        self.published: list[Event] = []
        self._lengths = [0, 0]
        self._lsn = LSN_STEP
        self._index = 0
        self._written = 0
        self._owed: dict[tuple[str, int], int] = {}

    @classmethod
    def after(cls, history: Sequence[tuple[Operation, bool]]) -> Source:
        """Each operation, and whether a new transaction begins with it. At the end nothing is owed."""
        source = cls()
        for operation, begins in history:
            if begins:
                source.commit()
            source.carry_out(operation)
        source.read_owed()
        return source

    def commit(self) -> None:
        self._lsn += LSN_STEP
        self._index = 0

    def carry_out(self, operation: Operation) -> None:
        match operation:
            case Write():
                self._write(operation)
            case Erase(table, key, broadcast):
                if (row := self.rows.pop((table, key), None)) is not None:
                    self._delete(table, key, None if broadcast else row.inbox, leaving=False)
                    self._index += 1
            case Rekey():
                self._rekey(operation)
            case Truncate(tables):
                for table in tables:
                    self.rows = {place: row for place, row in self.rows.items() if place[0] != table}
                    self._publish("t", table, b"", None, self._position(leaving=False))
                    self._index += 1
            case Chunk(table, inbox):
                keys = [key for (name, key), row in self.rows.items() if name == table and row.inbox == inbox]
                self._read([(table, key, inbox) for key in keys])
            case Ask(table, key, inbox):
                self._owed.setdefault((table, key), key if table == "inboxes" else inbox)
                self.read_owed()

    def read_owed(self) -> None:
        owed, self._owed = self._owed, {}
        self._read([(table, key, inbox) for (table, key), inbox in owed.items()])

    def _write(self, write: Write) -> None:
        table, key, inbox, parent, long = write
        shape, before = SHAPES[table], self.rows.get((table, key))
        if table == "inboxes":
            inbox = key
        elif inbox is None:
            inbox = before.inbox if before is not None else INBOXES[0]
        self._written += 1
        columns = {shape.short: f"short {self._written}", **dict.fromkeys(shape.parents, parent)}
        whole = before is None or long
        columns[shape.long] = f"long {self._written}" if before is None or long else before.columns[shape.long]
        if before is not None and before.inbox != inbox:
            self._delete(table, key, before.inbox, leaving=True)
            if not whole:
                self._owed[table, key] = inbox
        self.rows[table, key] = Row(inbox, columns)
        self._upsert(table, key, "c" if before is None else "u", self._position(leaving=False), whole)
        self._index += 1

    def _rekey(self, rekey: Rekey) -> None:
        table, key, to, broadcast = rekey
        if table == "inboxes" or (table, key) not in self.rows or (table, to) in self.rows:
            return
        row = self.rows[table, to] = self.rows.pop((table, key))
        self._delete(table, key, None if broadcast else row.inbox, leaving=True)
        self._upsert(table, to, "u", self._position(leaving=False), whole=False)
        self._owed[table, to] = row.inbox
        self._index += 1

    def _read(self, keys: Sequence[tuple[str, int, int]]) -> None:
        """Each with the inbox that is told if the row does not exist."""
        self.commit()
        position = Position(EPOCH, self._lsn - 1, 1)
        for table, key, inbox in keys:
            if (table, key) in self.rows:
                self._upsert(table, key, "r", position, whole=True)
            else:
                self._publish("d", table, _packed(key), inbox, position, is_read=True)

    def _position(self, *, leaving: bool) -> Position:
        return Position(EPOCH, self._lsn, 2 * self._index + (0 if leaving else 1))

    def _delete(self, table: str, key: int, inbox: int | None, *, leaving: bool) -> None:
        self._publish("d", table, _packed(key), inbox, self._position(leaving=leaving))

    def _upsert(self, table: str, key: int, op: str, position: Position, whole: bool) -> None:
        row, long = self.rows[table, key], SHAPES[table].long
        own = {"id": key} if table == "inboxes" else {"id": key, "inbox_id": row.inbox}
        carried = {name: value for name, value in row.columns.items() if whole or name != long}
        body = orjson.dumps({"before": None, "after": {**own, **carried}})
        absent = b"" if whole else orjson.dumps([long])
        self._publish(op, table, _packed(key), row.inbox, position, absent, body, is_read=op == "r")

    def _publish(
        self,
        op: str,
        table: str,
        key: bytes,
        inbox: int | None,
        position: Position,
        absent: bytes = b"",
        body: bytes = b"{}",
        *,
        is_read: bool = False,
    ) -> None:
        for partition in (0, 1) if inbox is None else (partition_of(inbox),):
            self.published.append(
                Event(
                    partition=partition,
                    offset=self._lengths[partition],
                    op=op,
                    table=table,
                    key=key,
                    inbox=inbox,
                    position=position,
                    is_read=is_read,
                    schema=table if body != b"{}" else "",
                    absent=absent,
                    body=body,
                    error="",
                    marker=None,
                    inboxes=(),
                )
            )
            self._lengths[partition] += 1


def _packed(key: int) -> bytes:
    return b"[%d]" % key


# --- strategies


def histories(tables: Sequence[str], least: int = 4, most: int = 20) -> st.SearchStrategy[list[tuple[Operation, bool]]]:
    """Operations on a few rows of these tables, each with whether it begins a transaction."""
    table, inbox, keys = st.sampled_from(tables), st.sampled_from(INBOXES), (1, 2)
    places = st.sampled_from([(name, key) for name in tables for key in (INBOXES if name == "inboxes" else keys)])
    parent = st.none() | st.sampled_from(keys)

    def of(kind: Any, *rest: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
        return st.builds(lambda place, *others: kind(*place, *others), places, *rest)

    kinds = {
        of(Write, st.none() | inbox, parent, st.booleans()): 8,
        of(Erase, st.booleans()): 2,
        of(Rekey, st.sampled_from(keys), st.booleans()): 1,
        st.builds(Truncate, st.lists(table, min_size=1, max_size=2, unique=True).map(tuple)): 1,
        st.builds(Chunk, table, inbox): 1,
        of(Ask, inbox): 1,
    }
    weighted = [kind for kind, weight in kinds.items() for _ in range(weight)]
    operation = st.integers(0, len(weighted) - 1).flatmap(weighted.__getitem__)
    return st.lists(st.tuples(operation, st.booleans()), min_size=least, max_size=most)


def reading(published: Sequence[Event], chance: Random) -> list[list[Event]]:
    """The events in batches: both partitions, each in its order, taken in any turns."""
    queues = [[event for event in published if event.partition == partition] for partition in (0, 1)]
    read: list[Event] = []
    while any(queues):
        read.append(chance.choice([queue for queue in queues if queue]).pop(0))
    return batches(read, chance)


def batches(events: Sequence[Event], chance: Random) -> list[list[Event]]:
    """In this order, cut anywhere."""
    mean = chance.uniform(1, 8)
    found: list[list[Event]] = [[]]
    for event in events:
        if found[-1] and chance.random() < 1 / mean:
            found.append([])
        found[-1].append(event)
    return found if events else []
