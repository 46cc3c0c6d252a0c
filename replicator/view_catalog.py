"""Reads from a PostgreSQL connection what `replicator.lineage` must know of a SELECT: the tables and views in it.

Definitions are printed under an empty search path, so that every name in them is qualified; the SELECT's own bare names
are looked up along the session's search path. What the role may not see, and what is neither a table nor a view, is
left out: lineage then names it. Needs one short transaction, or takes part in the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import psycopg
from pglast import ast, parse_sql
from pglast.parser import ParseError
from pglast.visitors import Visitor
from psycopg.rows import TupleRow

from replicator.lineage import BaseTable, Catalog, Name
from replicator.lineage.functions import TELLS_MORE

Connection = psycopg.Connection[TupleRow]

_RELATION: Final = """
SELECT n.nspname, c.relname, c.relkind IN ('r', 'p'),
       CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'p', 'v') AND n.nspname <> 'pg_catalog'"""
_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum"""
# A unique index over nullable columns lets NULLs repeat, a partial one leaves rows out, a deferrable one is late.
_UNIQUE: Final = """
SELECT i.indisprimary, array_agg(a.attname::text ORDER BY k.n)
  FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
 GROUP BY i.indexrelid, i.indisprimary
HAVING bool_and(a.attnotnull)
 ORDER BY i.indisprimary DESC, i.indexrelid"""
_SHARES_ROWS: Final = """
SELECT c.relkind = 'p' OR c.relispartition
       OR EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid))
  FROM pg_class c
 WHERE c.oid = to_regclass(%s)"""
# A default may be another value at each call: now(). unaccent() is STABLE only because its rules are a file.
_FOREIGN_FUNCTIONS: Final = """
SELECT p.proname,
       bool_and(p.prokind = 'f' AND NOT p.proretset AND p.pronargdefaults = 0
                AND (p.provolatile = 'i' OR p.proname = 'unaccent' AND e.extname IS NOT NULL)),
       coalesce(string_agg(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), E'\\n')
                FILTER (WHERE l.lanname NOT IN ('c', 'internal')), ''),
       hashtextextended(string_agg(CASE p.prokind WHEN 'f' THEN pg_get_functiondef(p.oid) END, '' ORDER BY p.oid), 0)
  FROM pg_proc p
  JOIN pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  LEFT JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'unaccent'
 WHERE p.pronamespace <> 'pg_catalog'::regnamespace
   AND NOT EXISTS (SELECT FROM pg_proc o WHERE o.pronamespace = 'pg_catalog'::regnamespace AND o.proname = p.proname)
 GROUP BY p.proname"""
_OTHER_FROM: Final = re.compile(r"\b(extract|substring|trim|overlay)\s*\([^()]*?\bfrom\b", re.IGNORECASE)
_READS: Final = frozenset({"from", "table", "execute"}) | TELLS_MORE


def read_catalog(connection: Connection, select: str) -> Catalog:
    """The catalogue of all that a SELECT reads, views within views included.

    `select` is SQL; for a view, `SELECT * FROM schema.view`. Raises psycopg's errors.
    """
    with connection.transaction():
        schemas = _rows(connection, "SELECT unnest(current_schemas(false))::text")
        path = tuple(schema for (schema,) in schemas)
        found = _resolved(connection, select, path)
        kept = _rows(connection, "SELECT current_setting('search_path')")[0][0]
        connection.execute("SELECT set_config('search_path', '', true)")
        tables, views = _opened(connection, found)
        functions, of_row = _functions(connection)
        connection.execute("SELECT set_config('search_path', %s, true)", [kept])
    return Catalog(
        tables=tables,
        views=views,
        search_path=path,
        functions=functions,
        row_functions=of_row,
    )


def _functions(connection: Connection) -> tuple[frozenset[str], dict[str, str]]:
    """Names of functions outside pg_catalog: those that may read more than their arguments, and those that do not.

    The latter with a digest of their definitions, those of the functions that their bodies name included.
    IMMUTABLE is a promise that PostgreSQL believes unseen; a body that names what could break it is not believed.
    """
    found = _rows(connection, _FOREIGN_FUNCTIONS)
    words = {name: set(re.findall(r"\w+", _OTHER_FROM.sub("", body).lower())) for name, _, body, _ in found}
    of_row = {name for name, promised, *_ in found if promised and not words[name] & _READS}
    size = -1
    while size != len(of_row):
        size = len(of_row)
        others = {name.lower() for name in words.keys() - of_row}
        of_row = {name for name in of_row if not words[name] & others}
    digests = {name: str(digest) for name, _, _, digest in found}
    calls = {name: {each for each in of_row if each.lower() in words[name]} for name in of_row if words[name]}
    done = {name: " ".join(digests[each] for each in sorted(_reached(name, calls))) for name in of_row}
    return frozenset(words.keys() - of_row), done


def _reached(name: str, calls: Mapping[str, set[str]]) -> set[str]:
    """A function and all that it calls, directly or not."""
    found, pending = {name}, {name}
    while pending:
        pending = {other for each in pending for other in calls.get(each, ())} - found
        found |= pending
    return found


def sharing_rows(connection: Connection, tables: Iterable[Name]) -> tuple[Name, ...]:
    """Those with partitions, ancestors or heirs: the stream names one table of a row, queries may name another."""
    return tuple(name for name in tables if any(shares for (shares,) in _rows(connection, _SHARES_ROWS, _quoted(name))))


def _resolved(connection: Connection, select: str, path: tuple[str, ...]) -> list[Name]:
    """The relations that a SELECT of the session names; a CTE's name may bring a table too many, which does no harm."""
    found: list[Name] = []
    for schema, name in _relations(select):
        for candidate in (schema,) if schema else path:
            if _rows(connection, "SELECT to_regclass(%s) IS NOT NULL", _quoted((candidate, name)))[0][0]:
                found.append((candidate, name))
                break
    return found


def _opened(connection: Connection, pending: list[Name]) -> tuple[dict[Name, BaseTable], dict[Name, str]]:
    tables: dict[Name, BaseTable] = {}
    views: dict[Name, str] = {}
    while pending:
        name = pending.pop()
        if name in tables or name in views:
            continue
        for schema, relation, is_table, definition in _rows(connection, _RELATION, _quoted(name)):
            if is_table:
                tables[(schema, relation)] = _table(connection, name)
            else:
                views[(schema, relation)] = definition
                pending += [(other or "", each) for other, each in _relations(definition) if other]
    return tables, views


def _table(connection: Connection, name: Name) -> BaseTable:
    columns = _rows(connection, _COLUMNS, _quoted(name))
    indexes = _rows(connection, _UNIQUE, _quoted(name))
    return BaseTable(
        columns={column: kind for column, kind, _ in columns},
        key=next((tuple(names) for primary, names in indexes if primary), ()),
        unique=tuple(tuple(names) for primary, names in indexes if not primary),
        not_null=frozenset(column for column, _, not_null in columns if not_null),
    )


def _relations(sql: str) -> list[tuple[str | None, str]]:
    """(schema, name) of each relation that SQL mentions; nothing for SQL that does not parse: lineage will say so."""
    found: list[tuple[str | None, str]] = []

    class Mentions(Visitor):
        def visit_RangeVar(self, _ancestors: Any, node: ast.RangeVar) -> None:  # noqa: N802 - pglast's own name
            found.append((node.schemaname, str(node.relname)))

    try:
        Mentions()(parse_sql(sql))
    except ParseError:
        return []
    return list(dict.fromkeys(found))


def _rows(connection: Connection, query: str, *parameters: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), parameters or None).fetchall()


def _quoted(name: Name) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name)
