"""Reading a derived relation: rows of given keys, keys in their order, look-ups. One statement each.

The rows of many keys are read by `unnest(…) CROSS JOIN LATERAL (… OFFSET 0)`: each key by itself is pushed down into
the relation's aggregates, which a list of keys is not (measured on the analytics view: 17 ms for 100 keys, against 10 s
by `= ANY`; without OFFSET 0 the subquery is pulled up, and takes 13 s).

What a reading brings is bounded by the source itself, row by row: that of a conversation of years may have hundreds of
megabytes. The more keys are read at once, the smaller is the largest row that comes with them.

Relies on an open REPEATABLE READ transaction with the source's schema as its search path. Values are taken as the text
that PostgreSQL printed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from psycopg import Connection, sql
from psycopg.types.numeric import Int8

from replicator.backfill_job import Chunk
from replicator.causes import Reach, Way
from replicator.changes import TOO_LARGE, RenderedRow, Table
from replicator.chunk import raw_rows
from replicator.event import ClockColumn, Origin, pack_key
from replicator.lineage import Catalog, Lineage, Path
from replicator.lineage.utc import in_utc
from replicator.pgoutput import Column, RawValue
from replicator.readings import KEY, Start
from replicator.relations import STREAMED_BY_NAME, DerivedRelation
from replicator.source import columns_of, identifier
from replicator.values import FIXED_WIDTH

BaseTable = tuple[str, str]
"""(schema, name)."""
_NOTHING: Final = sql.SQL("")
_NULL: Final = b"NULL"
"""In an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A derived relation as the source has it now."""

    relation: DerivedRelation
    catalog: Catalog
    """What the lineage was made from."""
    lineage: Lineage
    columns: tuple[Column, ...]
    type_names: Mapping[tuple[int, int], str]
    digest: str
    """Of what its rows are made from: another one means that every row may be another."""

    @property
    def clock(self) -> tuple[ClockColumn, ...]:
        """Columns that change without any write, and that the target can compute itself."""
        types = {column.name: self.type_names[column.type_oid, column.type_modifier] for column in self.columns}
        found = {
            name: in_utc(expression, types) for name, expression in self.lineage.clock.items() if expression is not None
        }
        return tuple(ClockColumn(name, types[name], each) for name, each in found.items() if each is not None)

    def lookup(self, path: str) -> str:
        """The look-up of this name. Raises KeyError if the relation has none such."""
        return {path_name(each): each.lookup or "" for each in self.lineage.paths}[path]

    def has_path(self, path: str) -> bool:
        """Whether a path of an earlier definition still means the same."""
        return path in map(path_name, self.lineage.paths)

    def table(self, origin: Origin) -> Table:
        """How its rows become JSON. Raises SourceRefused if it lacks its key or its inbox."""
        return Table(self.relation, self.columns, self.type_names, origin, self.clock, self.lineage.unstable)


def path_name(path: Path) -> str:
    """The same for the same look-up in every run; `readings.KEY` if the row holds the key itself."""
    if path.lookup is None:
        return KEY
    return f"{path.table[1]}({','.join(path.start)}) {hashlib.sha256(path.lookup.encode()).hexdigest()[:8]}"


def reaches(available: Iterable[Derived], keys: Mapping[BaseTable, tuple[str, ...]]) -> dict[BaseTable, Reach]:
    """What these relations together make of each base table. `keys`: the tables' primary keys."""
    ways: dict[BaseTable, list[Way]] = {}
    used: dict[BaseTable, dict[str, frozenset[str]]] = {}
    for derived in available:
        name = derived.relation.name
        for table, columns in derived.lineage.sources.items():
            used.setdefault(table, {})[name] = columns
        for path in derived.lineage.paths:
            way = Way(relation=name, path=path_name(path), columns=path.direct or path.start)
            ways.setdefault(path.table, []).append(way)
    return {
        table: Reach(
            key=keys.get(table, ()),
            inbox=STREAMED_BY_NAME[table[1]].inbox if table[1] in STREAMED_BY_NAME else "",
            ways=tuple(dict.fromkeys(ways.get(table, ()))),
            used=by_relation,
        )
        for table, by_relation in used.items()
    }


class Redefined(Exception):
    """The relation has other columns than when it was derived."""


READ_BYTES: Final = 8 << 20
"""Of the rows of many keys at one inbox each, as the source has them: a reading takes a few times as much memory."""


class Read(NamedTuple):
    """What a reading of keys has brought."""

    rows: list[RenderedRow]
    """At most one of each key at each inbox; those without an inbox concern nobody."""
    crowded: frozenset[int]
    """Keys with a row that is too large to be read with so many others: of these there is nothing in `rows`."""


def read_rows(connection: Connection[Any], derived: Derived, table: Table, keys: Sequence[int], largest: int) -> Read:
    """`largest`: bytes that a row may have; a larger one is `changes.TOO_LARGE`. Raises Redefined."""
    return newest_rows(derived, table, fetch(connection, derived, keys, largest), keys)


def fetch(
    connection: Connection[Any], derived: Derived, keys: Sequence[int], largest: int, led_by: sql.Composable = _NOTHING
) -> list[list[bytes | None]]:
    """What `read` reads. Raises Redefined."""
    result = connection.execute(*read(derived, keys, largest, led_by), prepare=True).pgresult
    if result is None or columns_of(result)[-len(derived.columns) :] != derived.columns:
        raise Redefined(f"{derived.relation.name} has other columns than before")
    return raw_rows(result)


def newest_rows(derived: Derived, table: Table, fetched: Iterable[Sequence[bytes | None]], keys: Sequence[int]) -> Read:
    """Of what was fetched of these keys the newest row of each at each inbox; rows without an inbox are left out."""
    found: dict[tuple[bytes, int], tuple[tuple[bool, int, bytes], RenderedRow]] = {}
    crowded: set[bytes] = set()
    newest = table.position_of(derived.relation.newest)
    for left_out, *raw in fetched:
        if left_out is None:
            row = table.render(list[RawValue](raw))
            mark = raw[newest] if newest is not None else None
        else:
            row, mark = _told(left_out)
            if len(keys) > 1:
                crowded.add(row.key)
        if row.inbox is None:
            continue
        rank = (mark is not None, int(mark) if mark is not None else 0, row.json)
        known = found.get((row.key, row.inbox))
        if known is None or rank > known[0]:
            found[row.key, row.inbox] = rank, row
    return Read(
        [row for _, row in found.values() if row.key not in crowded],
        frozenset(key for key in keys if pack_key([key]) in crowded) if crowded else frozenset(),
    )


def _told(left_out: bytes) -> tuple[RenderedRow, bytes | None]:
    """What is known of a row that was left out, and what makes it the newest: printed as an array."""
    key, inbox, mark = left_out[1:-1].split(b",")
    row = RenderedRow(pack_key([int(key)]), int(inbox) if inbox != _NULL else None, TOO_LARGE, b"")
    return row, mark if mark != _NULL else None


def referred(connection: Connection[Any], derived: Derived, column: str, keys: Sequence[int]) -> list[int]:
    """What the rows of these keys have in a column, each value once."""
    statement = keyed(derived, sql.SQL("DISTINCT r.{}").format(identifier(column)))
    return [value for (value,) in connection.execute(statement, [list(keys)]).fetchall() if value is not None]


def read(
    derived: Derived, keys: Sequence[int], largest: int, led_by: sql.Composable = _NOTHING
) -> tuple[sql.Composed, list[Any]]:
    """The statement that reads these keys, and its parameters.

    A row of the result has what `led_by` adds, over `r`, then what stands for a row that is left out (key, inbox and
    what makes it the newest; else NULL), then the relation's columns, all of them NULL where the row is left out.
    """
    newest = [column.name for column in derived.columns if column.name == derived.relation.newest]
    names = (*derived.relation.key, derived.relation.inbox)
    told = [identifier("r", name) for name in (*names, *newest)]
    outputs = sql.SQL("{}CASE WHEN {} IS NULL THEN ARRAY[{}]::bigint[] END, w.*").format(
        led_by, identifier("w", *derived.relation.key), sql.SQL(", ").join(told if newest else [*told, sql.SQL("NULL")])
    )
    # An outer join, and no CASE around each column: types and modifiers stay, and a column that is new is there too.
    bounded = sql.SQL("{} LEFT JOIN LATERAL (SELECT r.*) AS w ON {} <= %s")
    most = largest if len(keys) <= 1 else min(largest, READ_BYTES // len(keys))
    return bounded.format(keyed(derived, outputs), _size(derived)), [list(keys), Int8(most)]


def _size(derived: Derived) -> sql.Composed:
    """Bytes of what has no fixed width in `r`. Copies nothing, and unpacks nothing: what is stored compressed counts as
    it is stored, so a row may be some times larger than that."""
    wide = [identifier("r", column.name) for column in derived.columns if column.type_oid not in FIXED_WIDTH]
    return sql.SQL(" + ").join(
        [sql.SQL("0::bigint"), *(sql.SQL("coalesce(pg_column_size({}), 0)").format(name) for name in wide)]
    )


def explain_read(derived: Derived, largest: int) -> tuple[sql.Composed, list[Any]]:
    """How one key is read, for EXPLAIN to tell."""
    statement, parameters = read(derived, [0], largest)
    return sql.SQL("EXPLAIN (FORMAT JSON) {}").format(statement), parameters


def explain_look_up(derived: Derived, path: str, columns: int) -> tuple[sql.Composed, list[Any]]:
    """How a look-up goes from one start, for EXPLAIN to tell. The start is NULL, of any type."""
    return sql.SQL("EXPLAIN (FORMAT JSON) {}").format(sql.SQL(derived.lookup(path))), [[None]] * columns


def keys_after(
    connection: Connection[Any], derived: Derived, inbox: int | None, after: Start | None, most: int
) -> list[Start]:
    """The relation's keys in their order, of one inbox or of all."""
    return _keys(connection, *listing(derived, inbox, after, most))


def listing(derived: Derived, inbox: int | None, after: Start | None, most: int) -> tuple[sql.Composed, list[Any]]:
    """The statement that asks this, and its parameters."""
    key, parameters = sql.Identifier(*derived.relation.key), list[Any]()
    conditions: list[sql.Composable] = [sql.SQL("true")]
    if inbox is not None:
        conditions.append(sql.SQL("q.{} = %s").format(sql.Identifier(derived.relation.inbox)))
        parameters.append(inbox)
    if after is not None:
        conditions.append(sql.SQL("q.{} > %s").format(key))
        parameters.extend(after)
    statement = sql.SQL("SELECT DISTINCT q.{} FROM ({}) AS q WHERE {} ORDER BY 1 LIMIT {}").format(
        key, select_of(derived), sql.SQL(" AND ").join(conditions), sql.Literal(most)
    )
    return statement, parameters


def keys_within(connection: Connection[Any], derived: Derived, chunk: Chunk, most: int) -> list[Start]:
    """The next keys of a chunk's scope, in their order; fewer than so many are the last."""
    if chunk.keys is None:
        return keys_after(connection, derived, chunk.inbox, chunk.after, most)
    first, last = chunk.keys
    found = keys_after(connection, derived, chunk.inbox, chunk.after or (first - 1,), most)
    return [key for key in found if int(key[0]) <= last]  # type: ignore[arg-type]  # an integer, by `definitions`


def expected_keys(connection: Connection[Any], derived: Derived) -> int:
    """How many rows the planner expects of the whole relation."""
    statement = sql.SQL("EXPLAIN (FORMAT JSON) SELECT q.{} FROM ({}) AS q").format(
        sql.Identifier(*derived.relation.key), select_of(derived)
    )
    ((plan,),) = connection.execute(statement, ()).fetchall()
    return int(plan[0]["Plan"]["Plan Rows"])


def look_up(
    connection: Connection[Any], derived: Derived, path: str, starts: Sequence[Start], most: int
) -> list[Start]:
    """Keys to which these starts lead, at most so many."""
    return _looked_up(connection, derived, path, starts, None, most)


def looked_up_after(
    connection: Connection[Any], derived: Derived, path: str, start: Start, after: Start | None, most: int
) -> list[Start]:
    """The keys of one start in their order."""
    return _looked_up(connection, derived, path, [start], after, most)


def _looked_up(
    connection: Connection[Any],
    derived: Derived,
    path: str,
    starts: Sequence[Start],
    after: Start | None,
    most: int,
) -> list[Start]:
    lookup = derived.lookup(path)
    statement = sql.SQL(
        "SELECT DISTINCT l.key::bigint FROM ({}) AS l (key) WHERE l.key > {} ORDER BY 1 LIMIT {}"
    ).format(
        sql.SQL(lookup),  # made by lineage from the catalogue
        sql.Literal(after[0] if after is not None else _BEFORE_ALL),
        sql.Literal(most),
    )
    return _keys(connection, statement, [list(values) for values in zip(*starts, strict=True)])


_BEFORE_ALL: Final = -(1 << 63)


def _keys(connection: Connection[Any], statement: sql.Composed, parameters: Sequence[Any]) -> list[Start]:
    return [(key,) for (key,) in connection.execute(statement, parameters).fetchall() if key is not None]


def keyed(derived: Derived, outputs: sql.Composable) -> sql.Composed:
    """The statement that reads rows of an array of keys, its first parameter. `outputs` are over `r`, such a row."""
    return sql.SQL(
        "SELECT {} FROM unnest(%s::bigint[]) AS k (id)"
        " CROSS JOIN LATERAL (SELECT * FROM ({}) AS q WHERE q.{} = k.id OFFSET 0) AS r"
    ).format(outputs, select_of(derived), identifier(*derived.relation.key))


def select_of(derived: Derived) -> sql.SQL:
    """The operator's own SQL, for a statement that carries parameters."""
    return sql.SQL(derived.relation.select.replace("%", "%%"))
