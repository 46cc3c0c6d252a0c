"""A derived relation's schema, as the source has it → what its table in the target must be, as SQL.

The statements are those of the numbered files, for a table that no file knows: a user's own relation. They are compared
with the catalogue as the files are, so a table that exists is adopted.

Whatever stands in a schema was written by another program: names are quoted, and types and expressions are taken only
if they parse as one. Makes text, and knows no database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pglast
from pglast import ast, enums
from pglast.stream import RawStream

from consumers.identifiers import quoted
from consumers.migrations import Migration, Statement
from consumers.relation import OWN_COLUMNS
from consumers.surroundings import READERS
from replicator import TableSchema

_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_LONGEST: Final = 63 - len("_tenant")
"""Bytes of a name, so that what is named after it fits (NAMEDATALEN)."""
_OWN_TENANT: Final = "tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer)"


def faults(schema: TableSchema) -> Iterator[str]:
    """Why the relation can't have a table."""
    types = dict(schema.columns)
    if len(schema.key) != 1 or types.get(schema.key[0]) not in _INTEGERS:
        yield f"the key of {schema.table} is not one column of integers"
    if schema.inbox and types.get(schema.inbox) not in _INTEGERS:
        yield f"the inbox of {schema.table} is not one of its columns, or no integer"
    if taken := sorted(OWN_COLUMNS & types.keys()):
        yield f"{schema.table} has columns named as our own: {', '.join(taken)}; name them otherwise in its SELECT"
    if len(schema.table.encode()) > _LONGEST:
        yield f"the name of {schema.table} is longer than {_LONGEST} bytes"


def table(schema: TableSchema, types: Mapping[str, str], applier: str) -> Migration:
    """Table, indexes, row-level security and rights. `types`: the target's name for each type of the schema."""
    name, key = quoted(schema.table), quoted(schema.key[0])
    columns = [
        f"{quoted(column)} {types[kind]}{' NOT NULL' if column in schema.key else ''}"
        for column, kind in schema.columns
    ]
    lines = [
        "tenant_id integer NOT NULL",
        *columns,
        *(f"{part} bigint NOT NULL DEFAULT 0" for part in ("source_epoch", "source_point", "source_ordinal")),
        "synced_at timestamptz",
        f"CONSTRAINT {_named(schema, 'pkey')} PRIMARY KEY (tenant_id, {key})",
        f"CONSTRAINT {_named(schema, 'tenant')} FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE",
    ]
    bound = f"USING ({_OWN_TENANT}) WITH CHECK ({_OWN_TENANT})"
    statements = [
        f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(lines)})",
        f"CREATE INDEX IF NOT EXISTS {_named(schema, 'stubs')} ON {name} (tenant_id, {key}) WHERE synced_at IS NULL",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY tenant_rows ON {name} {bound}",
        f"CREATE POLICY applier_tenant_rows ON {name} AS RESTRICTIVE TO {quoted(applier)} {bound}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {quoted(applier)}",
        f"GRANT SELECT ON {name} TO {READERS}",
    ]
    if schema.inbox:
        # By its name this index also says which column the inbox is.
        index = f"CREATE INDEX IF NOT EXISTS {_named(schema, 'inbox')} ON {name} (tenant_id, {quoted(schema.inbox)})"
        statements.insert(1, index)
    return unnumbered(schema.table, statements)


def unnumbered(name: str, statements: list[str]) -> Migration:
    """Statements that no file holds, and that are not recorded."""
    return Migration(
        version=0,
        name=name,
        checksum=hashlib.sha256("\n".join(statements).encode()).hexdigest(),
        statements=tuple(Statement(sql=sql, node=pglast.parse_sql(sql)[0].stmt) for sql in statements),
    )


def as_type(name: str) -> str | None:
    """The name of a type as PostgreSQL would read it, None for anything else."""
    cast = _only_value(f"NULL::{name}")
    if not isinstance(cast, ast.TypeCast) or not isinstance(cast.arg, ast.A_Const) or cast.typeName is None:
        return None
    return str(RawStream()(cast.typeName))


def as_expression(text: str) -> Any:
    """The tree of one expression, None for anything else."""
    return _only_value(f"({text})")


def _only_value(sql: str) -> Any:
    try:
        statements = pglast.parse_sql(f"SELECT {sql}")
    except pglast.parser.ParseError:
        return None
    if len(statements) != 1:
        return None
    select: Any = statements[0].stmt
    targets: Any = select.targetList or ()
    bare = ast.SelectStmt(
        targetList=targets,
        limitOption=select.limitOption,
        op=enums.SetOperation.SETOP_NONE,
        groupDistinct=select.groupDistinct,
        all=select.all,
    )
    if len(targets) != 1 or targets[0].name is not None or select != bare:
        return None
    return targets[0].val


def _named(schema: TableSchema, what: str) -> str:
    return quoted(f"{schema.table}_{what}")
