"""`consumers adopt back`: gives the batch ETL's tables back to it after `consumers setup` has adopted them.

Our triggers and policies on them go, and row-level security binds their owner no longer: so the ETL writes again, and
everybody sees what the policies that were there before let them see. Rows, columns, types and keys stay, and so does
everything of ours beside these tables; `consumers setup` adopts them again. In one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
from pglast import ast, enums

from consumers import migrations
from consumers.batch_etl import LOG, TABLES
from consumers.catalogue import Catalogue
from consumers.config import Settings
from consumers.errors import Refused
from consumers.identifiers import quoted
from consumers.live import ANALYTICS
from consumers.migrations import Migration
from consumers.plan import Finding, Item, Plan, Severity, Step, finding, note, refusal
from consumers.session import connect

_STAYS: Final = (
    "our columns stay: they have defaults or may be NULL, and the ETL's statements do not name them",
    "widened types and indexes stay, and so do keys and foreign keys, which setup's plan named where they were new",
    "tables, views, functions and roles of ours stay: what the ETL does reaches none of them any more",
    "members of replication_readers and replication_analysers see these tables' rows only by policies of others",
)
_MAPPING: Final = "inbox_tenant_mapping"
_ASK_AGAIN: Final = f"UPDATE {_MAPPING} SET backfill_id = NULL, backfilled_at = NULL WHERE backfilled_at IS NOT NULL"
_END_RUNS: Final = f"UPDATE {LOG} SET status = 'error' WHERE triggered_by = 'worker' AND status = 'running'"


def plan(settings: Settings) -> Plan:
    """What would be taken back, and what stays; changes nothing. Raises TargetUnavailable."""
    with connect(settings, settings.owner_dsn, "adopt back") as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _plan(connection, settings)


def apply(settings: Settings, on_step: Callable[[Step], None]) -> None:
    """Takes back all or nothing; `on_step` hears of it once it is done. Raises Refused, TargetRefused."""
    with connect(settings, settings.owner_dsn, "adopt back") as connection, connection.transaction():
        planned = _plan(connection, settings)
        if refusals := planned.of(Severity.REFUSAL):
            raise Refused("\n".join(found.says for found in refusals))
        for step in planned.steps:
            connection.execute(step.sql.encode())
    for step in planned.steps:
        on_step(step)


def _plan(connection: psycopg.Connection[Any], settings: Settings) -> Plan:
    catalogue = Catalogue(connection, settings.target_schema)
    refusals = tuple(_refusals(connection, catalogue, settings))
    if refusals:
        return Plan(steps=(), findings=refusals)
    made = migrations.load(schema=settings.target_schema, applier=settings.applier)
    items = [item for table in TABLES if table in catalogue.relations for item in _items(catalogue, table, made)]
    steps = [item for item in items if isinstance(item, Step)]
    # No change of structure: only worth doing together with one.
    columns = catalogue.columns
    if steps and "backfilled_at" in columns.get(_MAPPING, {}):
        steps.append(_step("have every inbox read again, should setup adopt the tables once more", _ASK_AGAIN))
    once = [m.version for m in made if any(isinstance(s.node, ast.SelectStmt) for s in m.statements)]
    if steps and once:
        does = "have setup look again whose lead signals come from elsewhere, should it adopt the tables once more"
        forget = f"DELETE FROM replication_migrations WHERE version IN ({', '.join(map(str, once))})"
        steps.append(_step(does, forget))
    if steps and {"triggered_by", "status"} <= columns.get(LOG, {}).keys():
        steps.append(_step("end the runs of killed workers, which the ETL might take for its own", _END_RUNS))
    findings = [item for item in items if isinstance(item, Finding)]
    return Plan(steps=tuple(steps), findings=(*findings, *map(note, _STAYS if steps else ())))


def _refusals(connection: psycopg.Connection[Any], catalogue: Catalogue, settings: Settings) -> Iterator[Finding]:
    if ANALYTICS not in catalogue.relations or "replication_migrations" not in catalogue.relations:
        yield refusal(f"schema {catalogue.schema} was not set up: there is nothing to take back")
        return
    for table in TABLES:
        relation = catalogue.relations.get(table)
        if relation is not None and not relation.is_ours:
            yield refusal(f"table {table} belongs to {relation.owner}: CONSUMERS_SETUP_DSN must name its owner")
    ((sessions,),) = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = %s", [settings.applier]
    ).fetchall()
    if sessions:
        yield refusal(f"{settings.applier} has {sessions} sessions here: stop the workers first")


def _items(catalogue: Catalogue, table: str, made: tuple[Migration, ...]) -> Iterator[Item]:
    statements = [statement for migration in made for statement in migration.statements]
    made_triggers: list[Any] = [s.node for s in statements if isinstance(s.node, ast.CreateTrigStmt)]
    made_policies: list[Any] = [s.node for s in statements if isinstance(s.node, ast.CreatePolicyStmt)]
    made_secure: list[Any] = [s.node for s in statements if isinstance(s.node, ast.AlterTableStmt)]
    secured = {command.subtype for node in made_secure if node.relation.relname == table for command in node.cmds}
    triggers = {node.trigname for node in made_triggers if node.relation.relname == table}
    policies = {node.policy_name for node in made_policies if node.table.relname == table}
    present = {name for of, name in catalogue.policies if of == table}
    for name in sorted(name for name in triggers if (table, name) in catalogue.triggers):
        yield _step(f"drop trigger {name} on {table}", f"DROP TRIGGER {quoted(name)} ON {quoted(table)}")
    for name in sorted(policies & present):
        yield _step(f"drop policy {name} on {table}", f"DROP POLICY {quoted(name)} ON {quoted(table)}")
    relation = catalogue.relations[table]
    if relation.forced and enums.AlterTableType.AT_ForceRowSecurity in secured:
        does = f"row-level security on {table} binds its owner {relation.owner} no longer"
        yield _step(does, f"ALTER TABLE {quoted(table)} NO FORCE ROW LEVEL SECURITY")
        for part in catalogue.parts(table):
            if part.secured:
                does = f"row-level security on {part.name} binds its owner {part.owner} no longer"
                yield _step(does, f"ALTER TABLE {part.name} NO FORCE ROW LEVEL SECURITY")
                yield note(
                    f"row-level security stays enabled on {part.name}; if it was off before setup:"
                    f" ALTER TABLE {part.name} DISABLE ROW LEVEL SECURITY"
                )
    if relation.secured and secured:
        # Nothing tells how it was.
        alone = "" if present - policies else ", where no policy but ours was"
        yield (finding if alone else note)(
            f"row-level security stays enabled on {table}{alone}; if it was off before setup:"
            f" ALTER TABLE {quoted(table)} DISABLE ROW LEVEL SECURITY"
        )


def _step(does: str, sql: str) -> Step:
    return Step(version=0, does=does, sql=sql)
