"""Which keys a change dirtied by a lineage, and which keys' rows it changed in truth.

The stream is played by what the tables hold before and after, matched by their primary key, under the default replica
identity: the replicator's own `Causes` remembers the rows before, and traces the changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg

from replicator.causes import Cause, Causes, Fingerprints, Reach, Way
from replicator.chunk import raw_rows
from replicator.derived import path_name
from replicator.lineage import Lineage, Name
from replicator.pgoutput import Column, RawRow, Relation
from replicator.readings import KEY, Start
from replicator.source import columns_of

Key = tuple[Any, ...]
VIEW = "view"


class Content(NamedTuple):
    """One table's columns, and its rows by `id`."""

    columns: tuple[Column, ...]
    rows: dict[bytes | None, RawRow]


Contents = dict[Name, Content]


def contents(connection: psycopg.Connection[Any], tables: Iterable[Name]) -> Contents:
    """All rows of tables whose key is `id`, their first column."""
    found: Contents = {}
    for schema, name in tables:
        result = connection.execute(f'SELECT * FROM "{schema}"."{name}"').pgresult
        assert result is not None
        columns = tuple(column._replace(is_identity=column.name == "id") for column in columns_of(result))
        found[(schema, name)] = Content(columns, {row[0]: list(row) for row in raw_rows(result)})
    return found


def traced(lineage: Lineage, before: Contents, after: Contents) -> list[Cause]:
    """What the stream of the changes between two contents makes dirty."""
    found: list[Cause] = []
    for number, (table, used) in enumerate(lineage.sources.items()):
        ways = [
            Way(relation=VIEW, path=path_name(path), columns=path.direct or path.start)
            for path in lineage.paths
            if path.table == table
        ]
        reach = Reach(key=("id",), inbox="", ways=tuple(dict.fromkeys(ways)), used={VIEW: used})
        old, new = before[table].rows, after[table].rows
        causes = Causes(Relation(number, *table, "d", before[table].columns), reach, Fingerprints(1_000))
        for row in old.values():
            causes.of_insert(row)
        for key in old.keys() | new.keys():
            if key not in new:
                found += causes.of_delete([key, *([None] * (len(before[table].columns) - 1))])
            elif key not in old:
                found += causes.of_insert(new[key])
            else:
                found += causes.of_update([], new[key])
    return found


def dirtied(connection: psycopg.Connection[Any], lineage: Lineage, causes: Iterable[Cause]) -> set[Key]:
    """The keys that causes lead to, looked up in what the tables hold now."""
    starts: dict[str, set[Start]] = {}
    for cause in causes:
        starts.setdefault(cause.path, set()).add(cause.start)
    keys: set[Key] = set(starts.pop(KEY, ()))
    for path in lineage.paths:
        given = starts.get(path_name(path))
        if given and path.lookup is not None:
            arrays = [list(values) for values in zip(*given, strict=True)]
            keys.update(connection.execute(path.lookup.encode(), arrays).fetchall())
    return keys


def view_rows(
    connection: psycopg.Connection[Any], select: str, lineage: Lineage
) -> dict[Key, Counter[tuple[Any, ...]]]:
    """The rows of each key; columns that depend on an order with ties left out."""
    stable = [name for name in lineage.outputs if name not in lineage.unstable]
    columns = ", ".join(f'"{name}"::text' for name in stable)
    keys = ", ".join(f'"{name}"' for name in lineage.key)
    found: dict[Key, Counter[tuple[Any, ...]]] = {}
    for row in connection.execute(f"SELECT {keys}, ROW({columns})::text FROM ({select}) AS v"):
        key = tuple(row[: len(lineage.key)])
        if None not in key:
            found.setdefault(key, Counter())[row[len(lineage.key)]] += 1
    return found


def missed(
    connection: psycopg.Connection[Any],
    select: str,
    lineage: Lineage,
    writes: Sequence[str],
    tables: Iterable[Name],
) -> set[Key]:
    """Keys whose rows the writes changed without dirtying them."""
    tables = list(tables)
    rows_before, before = contents(connection, tables), view_rows(connection, select, lineage)
    for write in writes:
        connection.execute(write.encode())
    rows_after, after = contents(connection, tables), view_rows(connection, select, lineage)
    different = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return different - dirtied(connection, lineage, traced(lineage, rows_before, rows_after))
