"""Judges the tables that are to be published, and their replica identities.

Pure: facts and settings in, findings out. One finding for each table and rule, `ok` where all is well.
"""

from __future__ import annotations

from typing import Final

from replicator.config import Settings
from replicator.facts import SourceFacts, TableFacts
from replicator.findings import Finding, note, ok, refusal, warning
from replicator.preparation import identity_steps, is_broken, is_sufficient, names_key, unfit
from replicator.publication import is_shipped, wanted_tables
from replicator.relations import BaseTable, CauseTable
from replicator.remedies import quoted, script, table_name

DROPPING: Final = "\n-- dropping such an index later would stop the source's own UPDATE and DELETE on the table"


def judge_tables(facts: SourceFacts, settings: Settings) -> list[Finding]:
    """Refusals only about what every installation needs: without it a run would be false. Without another table,
    what is made of it would be as old as its last reading.
    """
    findings = []
    for relation in wanted_tables(facts.made_of, settings):
        table = facts.tables.get(relation.name)
        findings.append(judge_table(relation, table, facts.role.name, settings))
        if table is not None and unfit(relation, table) is None:
            findings.append(judge_identity(relation, table, facts, settings))
    return findings


def judge_table(relation: BaseTable, table: TableFacts | None, role: str, settings: Settings) -> Finding:
    """Whether it can be captured at all."""
    name = table_name(settings, relation.name)
    fault = unfit(relation, table)
    judge = refusal if is_shipped(relation) else warning
    if table is None or fault is not None:
        return judge("table", name, str(fault), _remedy(table))
    if table.persistence != "p":
        return judge("table", name, "is not logged: its changes are not in the WAL", f"ALTER TABLE {name} SET LOGGED;")
    if isinstance(relation, CauseTable) and not relation.is_read:
        return ok("table", name, "can be followed")
    if not table.readable:
        remedy = script(
            f"GRANT USAGE ON SCHEMA {quoted(settings.source_schema)} TO {quoted(role)}",
            f"GRANT SELECT ON {name} TO {quoted(role)}",
        )
        return refusal("table", name, "can't be read by our role", remedy)
    if table.row_security:
        return refusal(
            "table",
            name,
            "row security would hide rows from our role: no read of the table is answered",
            f"ALTER ROLE {quoted(role)} BYPASSRLS;",
        )
    return ok("table", name, "can be captured")


def _remedy(table: TableFacts | None) -> str:
    """For a table that is unfit."""
    if table is not None and table.kind == "r" and not table.is_partition and table.inheritance:
        severed = (f"ALTER TABLE {child} NO INHERIT {parent}" for child, parent in table.inheritance)
        return script(*severed) + "\n-- the rows of a child are then no longer the parent's: move them first"
    return "let REPLICATOR_SOURCE_SCHEMA name the schema of Chatwoot's tables"


def judge_identity(relation: BaseTable, table: TableFacts, facts: SourceFacts, settings: Settings) -> Finding:
    """Whether the stream names the old key and the old inbox of every row."""
    name, index = table_name(settings, relation.name), table.identity_index
    remedy = script(
        *(
            step.sql
            for step in identity_steps(relation, facts, settings.model_copy(update={"accept_default_identity": False}))
        )
    )
    if is_broken(table):
        lost = {"n": "NOTHING", "i": "an index that was dropped"}.get(table.identity, "a primary key that is not there")
        reason = f"the replica identity is {lost}: once published, the source's own UPDATE and DELETE fail here"
        return (refusal if is_shipped(relation) else warning)("identity", name, reason, remedy)
    if not is_sufficient(relation, table):
        return _judge_insufficient(relation, table, remedy, settings)
    if index is not None:
        return note(
            "identity", name, f"index {index.name}: dropping it stops the source's own UPDATE and DELETE on this table"
        )
    if table.identity == "f" and relation.identity.kind != "full":
        return note("identity", name, "FULL: sufficient, but every UPDATE writes the whole old row into the WAL")
    return ok("identity", name, "FULL" if table.identity == "f" else "the primary key")


def _judge_insufficient(relation: BaseTable, table: TableFacts, remedy: str, settings: Settings) -> Finding:
    name = table_name(settings, relation.name)
    judge = refusal if is_shipped(relation) else warning
    if not names_key(relation, table):
        return judge("identity", name, "the replica identity does not hold the primary key", remedy)
    if isinstance(relation, CauseTable):
        lacking = ", ".join(relation.identity.columns) or "what the row led to"
        reason = f"a DELETE does not name {lacking}: what was made of the row stays as it was until a backfill"
    else:
        reason = (
            "the stream names no old inbox: a row that moves to another inbox stays at the old one until a backfill"
        )
    if settings.accept_default_identity:
        return warning("identity", name, f"{reason} (accepted by REPLICATOR_ACCEPT_DEFAULT_IDENTITY)", remedy)
    return judge("identity", name, reason, remedy + (DROPPING if "USING INDEX" in remedy else ""))
