"""Hashes of a derived relation's rows, computed by PostgreSQL: the same whenever, and by whatever plan, a row is read.

A hash is of what is published, less what changes without a write: columns of the clock are left out, and so are picks
whose order leaves ties. An array whose order leaves ties is hashed element by element, without order.

Relies on an open REPEATABLE READ transaction of a `Source`, whose settings decide how values are printed. A hash is
good for comparison with others under the same definition only (`Derived.digest`). Must never know what was published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from psycopg import Connection, sql

from replicator.changes import Table
from replicator.chunk import raw_rows
from replicator.derived import Derived, Read, fetch, keyed, newest_rows
from replicator.digests import Seen
from replicator.pgoutput import Column
from replicator.source import identifier

_HASH: Final = sql.SQL('hashtextextended(({})::text COLLATE "C", 0)')
"""Collations may call different texts equal, and then give them one hash."""
_JSON: Final = frozenset({"json", "jsonb"})
_LED_BY: Final = 3
"""Key, inbox and hash stand before the row."""


def hash_expression(derived: Derived, alias: str) -> sql.Composable:
    """A bigint over the row of this alias, for a statement that carries parameters."""
    ticking = derived.lineage.clock.keys() | derived.relation.excluded
    hashed = [
        expression
        for column in derived.columns
        if column.name not in ticking and (expression := _stable(derived, alias, column)) is not None
    ]
    return _HASH.format(sql.SQL("ROW({})").format(sql.SQL(", ").join(hashed)))


def _stable(derived: Derived, alias: str, column: Column) -> sql.Composable | None:
    """What of a column is the same by whatever plan; None: nothing."""
    value = identifier(alias, column.name)
    if column.name not in derived.lineage.unstable:
        return value
    type_name = derived.type_names[column.type_oid, column.type_modifier]
    if type_name in _JSON:
        elements = sql.SQL("{}_array_elements({})").format(sql.SQL(type_name), value)
        return sql.SQL("CASE WHEN {}_typeof({}) = 'array' THEN {} ELSE {}::text END").format(
            sql.SQL(type_name), value, _without_order(elements), value
        )
    if type_name.endswith("[]"):
        elements = sql.SQL("unnest({})").format(value)
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN concat(array_dims({}), {}) END").format(
            value, value, _without_order(elements)
        )
    return None


def _without_order(elements: sql.Composable) -> sql.Composable:
    """The sum of the elements' hashes, as text: it may be greater than any bigint."""
    # ROW(e.*) is right for every type: NULL has a hash in it, and a composite element, whose columns e has, is whole.
    return sql.SQL("(SELECT coalesce(sum({}), 0)::text FROM {} AS e)").format(
        _HASH.format(sql.SQL("ROW(e.*)")), elements
    )


def read_hashes(connection: Connection[Any], derived: Derived, keys: Sequence[int]) -> list[Seen]:
    """Every row of these keys; rows without an inbox are left out. Columns that are new since are not looked at."""
    result = connection.execute(keyed(derived, _leading(derived)), (list(keys),), prepare=True).pgresult
    return _seen(raw_rows(result)) if result is not None else []


def read_hashed_rows(
    connection: Connection[Any], derived: Derived, table: Table, keys: Sequence[int], largest: int
) -> tuple[Read, list[Seen]]:
    """What `read_rows` and what `read_hashes` would read, of the same rows; none of keys that are crowded.

    Raises Redefined.
    """
    fetched = fetch(connection, derived, keys, largest, sql.SQL("{}, ").format(_leading(derived)))
    read = newest_rows(derived, table, (raw[_LED_BY:] for raw in fetched), keys)
    return read, [seen for seen in _seen(fetched) if seen.key not in read.crowded]


def _leading(derived: Derived) -> sql.Composed:
    (key,), inbox = derived.relation.key, derived.relation.inbox
    return sql.SQL("{}, {}, {}").format(identifier("r", key), identifier("r", inbox), hash_expression(derived, "r"))


def _seen(read: Iterable[Sequence[bytes | None]]) -> list[Seen]:
    leading = ([int(value) for value in raw[:_LED_BY] if value is not None] for raw in read)
    return [Seen(*values) for values in leading if len(values) == _LED_BY]
