"""Rows of a captured table: from the raw values of the stream, or of a query, to the JSON of an event.

A `Table` is compiled once for each Relation message (or each chunk of a backfill) from the columns that the table had
at that moment, so a value is always read under the name and type that it was written under.

Pure. The same code renders a streamed and a backfilled row: that is why both are lossless in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from replicator.errors import ProtocolError, SourceRefused
from replicator.event import ClockColumn, Origin, TableSchema, pack_key
from replicator.pgoutput import Absent, Column, RawRow, Relation
from replicator.relations import DerivedRelation, StreamedRelation
from replicator.values import JsonValue, converter, is_value_of

_GARBLED = (ValueError, KeyError)
"""What converters raise; a UnicodeDecodeError is a ValueError."""


TOO_LARGE: Final = b""
"""In place of its JSON: a row that was too large to be read."""


class RenderedRow(NamedTuple):
    """One row, or the part of it that the stream carried."""

    key: bytes
    inbox: int | None
    json: bytes
    """Or `TOO_LARGE`."""
    absent: bytes
    """JSON array of the columns left out, `b""` when none is."""


class Table:
    """How rows of one table, with the columns of one moment, become JSON."""

    __slots__ = (
        "_columns",
        "_converters",
        "_identity",
        "_inbox",
        "_is_keyed",
        "_key",
        "_names",
        "_picked",
        "_values",
        "identity_has_inbox",
        "identity_has_key",
        "origin",
        "relation",
        "schema",
        "version",
    )

    def __init__(
        self,
        relation: StreamedRelation | DerivedRelation,
        columns: Sequence[Column],
        type_names: Mapping[tuple[int, int], str],
        origin: Origin,
        clock: Sequence[ClockColumn] = (),
        unstable: Iterable[str] = (),
    ) -> None:
        """`type_names` maps (type OID, modifier) to SQL; columns of the clock are left out of rows.

        Raises SourceRefused if the key or the inbox is gone.
        """
        self.relation = relation
        self._columns = tuple(columns)
        ticking = {column.name for column in clock}
        self._picked = [i for i, column in enumerate(columns) if column.name not in relation.excluded | ticking]
        self._names = [columns[i].name for i in self._picked]
        self._converters = [converter(column.type_oid) for column in columns]
        self._values = [(self._columns[i].name, self._converters[i], i) for i in self._picked]
        at = {column.name: i for i, column in enumerate(columns)}
        lost = [name for name in (*relation.key, relation.inbox) if name not in at]
        if lost:
            raise SourceRefused(f"table {relation.name} has no column {', '.join(lost)} any more")
        self._key = [at[name] for name in relation.key]
        self._inbox = at[relation.inbox]
        self._is_keyed = {*relation.key, relation.inbox} <= set(self._names)
        self._identity = [i for i in self._picked if columns[i].is_identity]
        self.identity_has_inbox = columns[self._inbox].is_identity
        self.identity_has_key = all(columns[i].is_identity for i in self._key)
        self.schema = TableSchema(
            table=relation.name,
            columns=tuple(
                (columns[i].name, type_names[columns[i].type_oid, columns[i].type_modifier]) for i in self._picked
            ),
            key=relation.key,
            inbox=relation.inbox if relation.inbox not in relation.excluded else "",
            is_derived=isinstance(relation, DerivedRelation),
            clock=tuple(clock),
            order=tuple(column.name for column in columns if column.name not in relation.excluded) if clock else (),
            unstable=tuple(sorted(set(unstable) & set(self._names))),
        )
        self.version = self.schema.version
        self.origin = origin.render()

    def render(self, row: RawRow) -> RenderedRow:
        """A row as it stands after a change. Raises ProtocolError if it has not the columns of this table."""
        self._check_width(row)
        try:
            values: dict[str, JsonValue] = {
                name: None if (raw := row[i]) is None else convert(raw)  # type: ignore[arg-type]
                for name, convert, i in self._values
            }
        except (TypeError, *_GARBLED):  # what was left out is no bytes
            return self._render_part(row)
        if not self._is_keyed:
            return RenderedRow(self.key_of(row), self.inbox_of(row), orjson.dumps(values), b"")
        inbox = values[self.relation.inbox]
        return RenderedRow(
            pack_key([values[name] for name in self.relation.key]),
            int(inbox) if inbox is not None else None,
            orjson.dumps(values),
            b"",
        )

    def _render_part(self, row: RawRow) -> RenderedRow:
        """A row of which the stream has left something out."""
        values: dict[str, JsonValue] = {}
        absent: list[str] = []
        for name, _, i in self._values:
            if isinstance(row[i], Absent):
                absent.append(name)
            else:
                values[name] = self._value(row, i)
        return RenderedRow(self.key_of(row), self.inbox_of(row), orjson.dumps(values), orjson.dumps(absent))

    def render_old(self, row: RawRow) -> bytes:
        """What the replica identity says of the row before the change, as a JSON object."""
        self._check_width(row)
        return orjson.dumps({self._columns[i].name: self._value(row, i) for i in self._identity})

    def key_of(self, row: RawRow) -> bytes:
        self._check_width(row)
        return pack_key([self._value(row, i) for i in self._key])

    def could_have(self, key: Sequence[object]) -> bool:
        """Whether a row could have this key: one of other types is not absent from the table, it means nothing."""
        return len(key) == len(self._key) and all(
            is_value_of(self._columns[i].type_oid, value) for i, value in zip(self._key, key, strict=True)
        )

    def inbox_of(self, row: RawRow) -> int | None:
        self._check_width(row)
        inbox = self._value(row, self._inbox)
        return int(inbox) if inbox is not None else None

    def cursor(self, row: RawRow, columns: Sequence[str]) -> tuple[JsonValue, ...]:
        """The values of these columns of a whole row."""
        return tuple(self._value(row, self._picked[self._names.index(column)]) for column in columns)

    def position_of(self, column: str) -> int | None:
        """Where a column stands in a row; None: the table has none of this name."""
        return next((i for i, each in enumerate(self._columns) if each.name == column), None)

    def _check_width(self, row: RawRow) -> None:
        if len(row) != len(self._columns):
            raise ProtocolError(f"a row of {self.relation.name} has {len(row)} columns, not {len(self._columns)}")

    def _garbled(self, column: str) -> ProtocolError:
        return ProtocolError(f"a value of {self.relation.name}.{column} is not UTF-8, or not as its type prints it")

    def _value(self, row: RawRow, i: int) -> JsonValue:
        raw = row[i]
        if raw is None:
            return None
        if isinstance(raw, Absent):
            raise ProtocolError(f"a row of {self.relation.name} came without its key or inbox")
        try:
            return self._converters[i](raw)
        except _GARBLED:
            raise self._garbled(self._columns[i].name) from None


def fill_from_old(new: RawRow, old: RawRow) -> RawRow:
    """An update under REPLICA IDENTITY FULL: what was left out as unchanged stands in the old row."""
    if len(old) != len(new):
        raise ProtocolError(f"an UPDATE has {len(old)} columns in its old row and {len(new)} in the new one")
    return [before if isinstance(after, Absent) else after for before, after in zip(old, new, strict=True)]


def type_keys(relation: Relation) -> set[tuple[int, int]]:
    """The (type OID, modifier) pairs whose names a Table needs."""
    return {(column.type_oid, column.type_modifier) for column in relation.columns}
