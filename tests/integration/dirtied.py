"""Which keys a change dirtied by a lineage, and which keys' rows it changed in truth.

The stream is played by what the tables hold before and after: full rows, matched by their primary key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from replicator.lineage import Lineage, Name

Key = tuple[Any, ...]
Row = dict[str, Any]
Contents = dict[Name, dict[Key, Row]]


def contents(connection: psycopg.Connection[Any], tables: Iterable[Name]) -> Contents:
    """All rows of tables whose key is `id`."""
    found: Contents = {}
    for schema, name in tables:
        cursor = connection.execute(f'SELECT * FROM "{schema}"."{name}"')
        columns = [column.name for column in cursor.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor]
        found[(schema, name)] = {(row["id"],): row for row in rows}
    return found


def changed_rows(lineage: Lineage, before: Contents, after: Contents) -> dict[Name, list[Row]]:
    """Old and new rows of each table, those left out whose used columns did not change."""
    found: dict[Name, list[Row]] = {}
    for table, used in lineage.sources.items():
        old, new = before[table], after[table]
        for key in old.keys() | new.keys():
            pair = (old.get(key), new.get(key))
            if pair[0] and pair[1] and all(pair[0][column] == pair[1][column] for column in used):
                continue
            found.setdefault(table, []).extend(row for row in pair if row)
    return found


def dirtied(connection: psycopg.Connection[Any], lineage: Lineage, rows: dict[Name, list[Row]]) -> set[Key]:
    """The keys that changed rows lead to, looked up in what the tables hold now."""
    keys: set[Key] = set()
    for path in lineage.paths:
        changed = rows.get(path.table, [])
        if path.direct is not None:
            keys.update(tuple(row[column] for column in path.direct) for row in changed)
        elif changed and path.lookup is not None:
            arrays = [[row[column] for row in changed] for column in path.start]
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
    return different - dirtied(connection, lineage, changed_rows(lineage, rows_before, rows_after))
