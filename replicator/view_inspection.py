"""Reads from the source what there is of the analytics view, and how the server understands our own definition.

Our definition is compared in the server's own words: made of temporary views in a transaction that is rolled back,
which nobody else sees or waits for. Nothing is changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from psycopg import errors

from replicator.config import Settings
from replicator.errors import SourceRefused
from replicator.reference_view import ReferenceView, tables
from replicator.remedies import quoted, table_name
from replicator.source import Source, source_errors
from replicator.view_facts import AnalyticsViewFacts, ViewColumn, ViewFacts

_RIGHTS: Final = """
    SELECT current_user::text, coalesce(bool_or(has_schema_privilege(oid, 'CREATE')), false)
    FROM pg_namespace WHERE nspname = %s
"""

_TABLES: Final = """
    SELECT c.relname, has_table_privilege(c.oid, 'SELECT') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
"""

_NAMED: Final = """
    SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY(%s)
"""

_TEMPORARY: Final = "SELECT oid::bigint FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relname = ANY(%s)"

# The rule of a view depends on every relation that its query names.
_NESTED: Final = """
    WITH RECURSIVE made_of (oid) AS (
        SELECT unnest(%s::bigint[]::oid[])
        UNION
        SELECT c.oid FROM made_of m JOIN pg_rewrite r ON r.ev_class = m.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
    )
    SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner)::text,
        coalesce(has_table_privilege(c.relowner, to_regclass(%s), 'SELECT'), false), pg_has_role(c.relowner, 'USAGE'),
        has_table_privilege(c.oid, 'SELECT'), pg_relation_is_updatable(c.oid, false) <> 0,
        ARRAY(
            SELECT p.oid::regprocedure::text FROM pg_type t JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass
                AND d.refobjid IN (t.oid, t.typarray) AND d.classid = 'pg_proc'::regclass
            JOIN pg_proc p ON p.oid = d.objid
            WHERE t.oid = c.reltype ORDER BY 1
        ),
        coalesce(c.reloptions, '{}'),
        CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) ELSE '' END
    FROM made_of JOIN pg_class c ON c.oid = made_of.oid JOIN pg_namespace n ON n.oid = c.relnamespace
"""

_COLUMNS: Final = """
    SELECT attrelid::bigint, attname, format_type(atttypid, atttypmod)
    FROM pg_attribute WHERE attrelid = ANY(%s::bigint[]::oid[]) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


def read_views(settings: Settings, ours: tuple[ReferenceView, ...], *, replacing: bool) -> AnalyticsViewFacts:
    """What is there; and our definition in the server's words, if something of it may have to give way.

    Raises SourceRefused if our role may not make the temporary views that this takes.
    """
    names = [view.name for view in ours]
    read = sorted(tables(ours))
    with Source(settings) as source:
        ((role, may_create),) = source.rows(_RIGHTS, (settings.source_schema,))
        readable = dict(source.rows(_TABLES, (settings.source_schema, read)))
        nested = _named(source, settings, names)
        existing = {name: nested[key] for name in names if (key := (settings.source_schema, name)) in nested}
        absent = tuple(table for table in read if table not in readable)
        compared = bool(existing) and not absent and (replacing or settings.view not in existing)
        return AnalyticsViewFacts(
            role=role,
            may_create=may_create,
            absent=absent,
            unreadable=tuple(table for table in read if not readable.get(table, True)),
            existing=existing,
            nested=nested,
            reference=_understood(source, settings, ours) if compared else None,
        )


def _named(source: Source, settings: Settings, names: list[str]) -> dict[tuple[str, str], ViewFacts]:
    with source.reading():
        _look_in(source, settings.source_schema)
        found = source.rows(_NAMED, (settings.source_schema, names))
        return {(view.schema, view.name): view for view in _described(source, settings, found)}


def _understood(source: Source, settings: Settings, ours: tuple[ReferenceView, ...]) -> dict[str, ViewFacts]:
    with source_errors(), source.connection.transaction(force_rollback=True):
        _look_in(source, settings.source_schema)
        for view in ours:
            # Temporary views come before others of their names, so these read one another.
            statement = f"CREATE TEMPORARY VIEW {quoted(view.name)} AS {view.query}"
            try:
                source.connection.execute(statement.encode())
            except errors.InsufficientPrivilege:
                raise SourceRefused(
                    "setup compares views in temporary ones, which our role may not make: GRANT TEMPORARY ON DATABASE …"
                ) from None
        temporary = _described(source, settings, source.rows(_TEMPORARY, ([view.name for view in ours],)))
        return {view.name: replace(view, schema=settings.source_schema) for view in temporary}


def _look_in(source: Source, schema: str) -> None:
    """For this transaction: definitions then name what is there without its schema, a temporary view as well."""
    source.rows("SELECT set_config('search_path', %s, true)", (quoted(schema),))


def _described(source: Source, settings: Settings, found: list[tuple[Any, ...]]) -> list[ViewFacts]:
    """These relations, and the views that they are made of."""
    rows = source.rows(_NESTED, ([oid for (oid,) in found], table_name(settings, "conversations")))
    columns: dict[int, list[ViewColumn]] = {row[0]: [] for row in rows}
    for oid, name, type_name in source.rows(_COLUMNS, (list(columns),)):
        columns[oid].append(ViewColumn(name=name, type_name=type_name))
    return [
        ViewFacts(
            schema=schema,
            name=name,
            kind=kind,
            owner=owner,
            owner_reads_conversations=owner_reads,
            owned=owned,
            readable=readable,
            takes_writes=takes_writes,
            returned_by=tuple(returned_by),
            options=tuple(options),
            columns=tuple(columns[oid]),
            definition=definition,
        )
        for (
            oid,
            schema,
            name,
            kind,
            owner,
            owner_reads,
            owned,
            readable,
            takes_writes,
            returned_by,
            options,
            definition,
        ) in rows
    ]
