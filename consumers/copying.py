"""`consumers adopt copy`: the batch ETL's tables copied into another schema of the same database, to be tried there.

All in one REPEATABLE READ transaction: the copy is of one moment, and complete or not there. It takes no lock but a
reader's. Copied are the tables that `consumers setup` would adopt, with defaults, keys, checks and numbering of their
own, and their rows but for the log of runs and what an earlier adoption has noted in them; not triggers, policies and
rights. Row-level security is enabled from the beginning, so that nobody but the owner sees the copy, whatever default
privileges say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from consumers import migrations
from consumers.batch_etl import LOG, TABLES
from consumers.catalogue import Catalogue
from consumers.config import Settings
from consumers.errors import Refused, SettingsError
from consumers.identifiers import literal, quoted
from consumers.live import ANALYTICS
from consumers.plan import Finding, Plan, Step, refusal
from consumers.relation import OWN_COLUMNS
from consumers.session import connect

_PAGES_AT_ONCE: Final = 2_000
"""Of the table; 16 MB: between two, progress is told."""
_STATEMENT_LIMIT: Final = "1h"
_NOTED: Final = OWN_COLUMNS - {"tenant_id"} | {"lead_evidence", "lead_rules_digest", "backfill_id", "backfilled_at"}
"""Columns by which we would take the copy's rows for our own."""

_COLUMNS: LiteralString = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', a.attidentity <> '',
        EXISTS (
            SELECT FROM pg_attrdef AS f
            JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            JOIN pg_class AS s ON d.refclassid = 'pg_class'::regclass AND s.oid = d.refobjid AND s.relkind = 'S'
            WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum
        )
    FROM pg_attribute AS a WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """The statements that copy one table."""

    does: str
    structure: tuple[str, ...]
    rows: str
    """Empty: none are copied. Else of the whole table, to be cut by pages."""
    counters: tuple[str, ...]
    pages: int | None
    """None: it can't be cut."""

    @property
    def sql(self) -> str:
        return "; ".join([*self.structure, *filter(None, [self.rows]), *self.counters])


def plan(settings: Settings, source: str) -> Plan:
    """What would be copied; changes nothing. Raises TargetUnavailable, SettingsError."""
    _verify(settings, source)
    with connect(settings, settings.owner_dsn, "adopt copy") as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        steps, copies, refusals = _planned(connection, settings, source)
        return Plan(
            steps=(*steps, *(Step(version=0, does=copy.does, sql=copy.sql) for copy in copies)), findings=refusals
        )


def apply(
    settings: Settings, source: str, on_step: Callable[[Step], None], on_rows: Callable[[str, int], None]
) -> None:
    """Copies all or nothing; `on_rows` hears how many rows of a step are there. Raises Refused, TargetRefused."""
    _verify(settings, source)
    with connect(settings, settings.owner_dsn, "adopt copy") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [_STATEMENT_LIMIT])
            # What row-level security would hide is an error instead of missing.
            connection.execute("SET LOCAL row_security = off")
            steps, copies, refusals = _planned(connection, settings, source)
            if refusals:
                raise Refused("\n".join(found.says for found in refusals))
            for step in steps:
                connection.execute(step.sql.encode())
                on_step(step)
            for copy in copies:
                _carry_out(connection, copy, on_rows)
                on_step(Step(version=0, does=copy.does, sql=copy.sql))


def _verify(settings: Settings, source: str) -> None:
    if source == settings.target_schema:
        raise SettingsError(f"--from and CONSUMERS_TARGET_SCHEMA both name {source}: the copy needs another schema")


def _carry_out(connection: psycopg.Connection[Any], copy: _Copy, on_rows: Callable[[str, int], None]) -> None:
    for statement in copy.structure:
        connection.execute(statement.encode())
    if copy.rows and copy.pages is None:
        connection.execute(copy.rows.encode())
    elif copy.rows:
        done = 0
        for first in range(0, copy.pages or 0, _PAGES_AT_ONCE):
            part = f" WHERE s.ctid >= '({first},0)' AND s.ctid < '({first + _PAGES_AT_ONCE},0)'"
            done += connection.execute((copy.rows + part).encode()).rowcount
            on_rows(copy.does, done)
    for statement in copy.counters:
        connection.execute(statement.encode())


def _planned(
    connection: psycopg.Connection[Any], settings: Settings, source: str
) -> tuple[list[Step], list[_Copy], tuple[Finding, ...]]:
    theirs, ours = Catalogue(connection, source), Catalogue(connection, settings.target_schema)
    made = migrations.load(schema=settings.target_schema, applier=settings.applier)
    # After an adoption that was taken back the others are our own.
    others = () if "replication_migrations" in theirs.relations else migrations.tables(made)
    adopted = [table for table in dict.fromkeys((*TABLES, *others)) if table in theirs.relations]
    refusals = tuple(_refusals(theirs, ours, adopted))
    steps = []
    if not ours.schema_exists:
        does = f"create schema {ours.schema}"
        steps.append(Step(version=0, does=does, sql=f"CREATE SCHEMA {quoted(ours.schema)}"))
    copies = [] if refusals else [_copy(connection, theirs, ours, table) for table in adopted]
    return steps, copies, refusals


def _refusals(theirs: Catalogue, ours: Catalogue, adopted: list[str]) -> Iterator[Finding]:
    found = theirs.relations.get(ANALYTICS)
    if found is None:
        yield refusal(f"schema {theirs.schema} has no table {ANALYTICS}: --from names the schema of the ETL's tables")
        return
    if found.forced:
        yield refusal(f"{theirs.schema}.{ANALYTICS} is ours already: there is nothing left to try beside the ETL")
    for table in adopted:
        relation = theirs.relations[table]
        if relation.kind not in ("r", "p"):
            yield refusal(f"{theirs.schema}.{table} is no table, which setup will refuse: rename it")
        elif not relation.is_ours:
            yield refusal(
                f"{theirs.schema}.{table} belongs to {relation.owner}: CONSUMERS_SETUP_DSN must name its owner"
            )
    if ours.relations:
        yield refusal(
            f"schema {ours.schema} holds {min(ours.relations)} already: name another schema in CONSUMERS_TARGET_SCHEMA,"
            f" or DROP SCHEMA {quoted(ours.schema)} CASCADE"
        )


def _copy(connection: psycopg.Connection[Any], theirs: Catalogue, ours: Catalogue, table: str) -> _Copy:
    here, there = (f"{quoted(schema)}.{quoted(table)}" for schema in (ours.schema, theirs.schema))
    structure = [
        f"CREATE TABLE {here} (LIKE {there} INCLUDING ALL)",
        f"ALTER TABLE {here} ENABLE ROW LEVEL SECURITY",
    ]
    counters, columns = [], []
    # A copied default would go on counting in the ETL's own sequence.
    for name, kind, is_generated, is_identity, is_serial in connection.execute(_COLUMNS, [there]).fetchall():
        if is_serial:
            sequence = f"{quoted(ours.schema)}.{quoted(f'{table}_{name}_seq'[:63])}"
            structure += [
                f"CREATE SEQUENCE {sequence} AS {kind} OWNED BY {here}.{quoted(name)}",
                f"ALTER TABLE {here} ALTER COLUMN {quoted(name)} SET DEFAULT nextval({literal(sequence)})",
            ]
        if is_serial or is_identity:
            owned = f"pg_get_serial_sequence({literal(here)}, {literal(name)})"
            counters.append(f"SELECT setval({owned}, GREATEST(1, (SELECT max({quoted(name)}) FROM {here})))")
        if not is_generated and name not in _NOTED:
            columns.append(quoted(name))
    if table == LOG:
        return _Copy(does=f"copy table {table} without rows", structure=tuple(structure), rows="", counters=(), pages=0)
    listed = ", ".join(columns)
    counted = connection.execute(
        f"SELECT (SELECT count(*) FROM {there}), pg_relation_size({literal(there)})"
        " / current_setting('block_size')::bigint + 1".encode()
    ).fetchone()
    assert counted is not None  # noqa: S101  # one row always
    return _Copy(
        does=f"copy table {table} with {counted[0]} rows",
        structure=tuple(structure),
        rows=f"INSERT INTO {here} ({listed}) OVERRIDING SYSTEM VALUE SELECT {listed} FROM {there} AS s",
        counters=(*counters, f"ANALYZE {here}"),
        pages=None if theirs.parts(table) else counted[1],
    )
