"""Judges the captured tables, their replica identities and the publication.

Pure: facts and settings in, findings out. One finding for each table and rule, `ok` where all is well.
"""

from __future__ import annotations

from typing import Final

from replicator.config import Settings
from replicator.facts import PublicationFacts, PublishedTable, SourceFacts, TableFacts
from replicator.findings import Finding, note, ok, refusal, warning
from replicator.preparation import OPERATIONS, is_broken, is_sufficient, mending, names_key, publishing
from replicator.relations import BaseTable, CauseTable, StreamedRelation, base_tables
from replicator.remedies import create_publication, listed_columns, publish_anew, quoted, script, table_name

KINDS: Final = {"p": "partitioned", "f": "a foreign table", "v": "a view", "m": "a materialized view"}
INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
DROPPING: Final = "\n-- dropping such an index later would stop the source's own UPDATE and DELETE on the table"


def judge_tables(facts: SourceFacts, settings: Settings) -> list[Finding]:
    """Tables first, because a publication can't hold what does not exist."""
    findings = []
    for relation in base_tables(with_view=bool(settings.view)):
        table = facts.tables.get(relation.name)
        findings.append(judge_table(relation, table, facts.role.name, settings))
        if table is not None and unfit(relation, table) is None:
            findings.append(judge_identity(relation, table, settings))
    return [*findings, judge_publication(facts, settings)]


def judge_table(relation: BaseTable, table: TableFacts | None, role: str, settings: Settings) -> Finding:
    """Whether it can be captured at all."""
    name = table_name(settings, relation.name)
    fault = unfit(relation, table)
    if table is None or fault is not None:
        return refusal("table", name, str(fault), _remedy(table))
    if table.persistence != "p":
        return refusal(
            "table", name, "is not logged: its changes are not in the WAL", f"ALTER TABLE {name} SET LOGGED;"
        )
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


def unfit(relation: BaseTable, table: TableFacts | None) -> str | None:
    """What makes a table of this name another one than we know."""
    if table is None:
        return "does not exist"
    if table.kind != "r":
        return f"is {KINDS.get(table.kind, 'not a table')}, not an ordinary table"
    if table.is_partition:
        return "is a partition of another table"
    if table.inheritance:
        kin = ", ".join(f"{child} inherits from {parent}" for child, parent in table.inheritance)
        return f"is read with rows whose changes are another table's in the stream: {kin}"
    if table.primary_key != relation.key:
        return f"has the primary key ({', '.join(table.primary_key)}), not ({', '.join(relation.key)})"
    inbox = (relation.inbox,) if isinstance(relation, StreamedRelation) else ()
    for column in dict.fromkeys((*relation.key, *inbox, *relation.identity.columns)):
        if column not in table.columns:
            return f"has no column {column}"
        if (kind := table.columns[column].type_name) not in INTEGERS:
            return f"has a column {column} of type {kind}, not an integer"
    return None


def judge_identity(relation: BaseTable, table: TableFacts, settings: Settings) -> Finding:
    """Whether the stream names the old key and the old inbox of every row."""
    name, index = table_name(settings, relation.name), table.identity_index
    remedy = script(*(step.sql for step in mending(relation, table, settings)))
    if is_broken(table):
        lost = "NOTHING" if table.identity == "n" else "an index that was dropped"
        reason = f"the replica identity is {lost}: once published, the source's own UPDATE and DELETE fail here"
        return refusal("identity", name, reason, remedy)
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
    if not names_key(relation, table):
        return refusal("identity", name, "the replica identity does not hold the primary key", remedy)
    if isinstance(relation, CauseTable):
        lacking = ", ".join(relation.identity.columns)
        reason = f"a DELETE does not name {lacking}: what was made of the row stays as it was until a backfill"
    else:
        reason = (
            "the stream names no old inbox: a row that moves to another inbox stays at the old one until a backfill"
        )
    if settings.accept_default_identity:
        return warning("identity", name, f"{reason} (accepted by REPLICATOR_ACCEPT_DEFAULT_IDENTITY)", remedy)
    return refusal("identity", name, reason, remedy + (DROPPING if "USING INDEX" in remedy else ""))


def judge_publication(facts: SourceFacts, settings: Settings) -> Finding:
    """Whether every change of every captured table is published, and no more than is good for the source."""
    name, publication = settings.publication, facts.publication
    wanted = base_tables(with_view=bool(settings.view))
    existing = [relation for relation in wanted if relation.name in facts.tables]
    if publication is None:
        who = "" if facts.role.can_create else f" (our role {facts.role.name} may not: the tables' owner has to)"
        return refusal(
            "publication",
            name,
            f"does not exist{who}",
            script(*(step.sql for step in publishing(facts, settings))),
        )
    if publication.all_tables or publication.schemas:
        return refusal(
            "publication",
            name,
            "publishes tables that nobody named: where one has no primary key, the source's own UPDATE and DELETE fail",
            script(f"DROP PUBLICATION {quoted(name)}", create_publication(settings, existing, facts.server.version)),
        )
    if missing := OPERATIONS - publication.operations:
        return refusal(
            "publication",
            name,
            f"leaves out {', '.join(sorted(missing))}",
            script(*(step.sql for step in publishing(facts, settings))),
        )
    return _judge_published(facts, publication, settings)


def _judge_published(facts: SourceFacts, publication: PublicationFacts, settings: Settings) -> Finding:
    name = settings.publication
    published = {table.name: table for table in publication.tables if table.schema == settings.source_schema}
    tables = {relation.name: relation for relation in base_tables(with_view=bool(settings.view))}
    wanted = list(tables)
    if missing := [table for table in wanted if table not in published]:
        return refusal(
            "publication",
            name,
            f"lacks {', '.join(missing)}",
            script(*(step.sql for step in publishing(facts, settings))),
        )
    version = facts.server.version
    if narrowed := [each for each in wanted if _is_narrowed(tables[each], published[each])]:
        return refusal(
            "publication",
            name,
            f"publishes only some columns or rows of {', '.join(narrowed)}",
            "\n".join(publish_anew(settings, tables[each], version) + ";" for each in narrowed),
        )
    if open_ones := [each for each in wanted if _gives_away(tables[each], published[each], version)]:
        return warning(
            "publication",
            name,
            f"sends columns of {', '.join(open_ones)} that nobody needs, secrets among them",
            "\n".join(publish_anew(settings, tables[each], version) + ";" for each in open_ones),
        )
    others = [
        f"{quoted(table.schema)}.{quoted(table.name)}"
        for table in publication.tables
        if table.schema != settings.source_schema or table.name not in wanted
    ]
    if others:
        return warning(
            "publication",
            name,
            f"also publishes {', '.join(others)}: they cost the source and the line, and nothing reads them",
            script(f"ALTER PUBLICATION {quoted(name)} DROP TABLE {', '.join(others)}"),
        )
    return ok("publication", name, f"exactly the {len(wanted)} captured tables")


def _is_narrowed(table: BaseTable, published: PublishedTable) -> bool:
    """Something that is needed does not come."""
    if published.has_filter or published.columns is None:
        return published.has_filter
    needed = table.columns if isinstance(table, CauseTable) else ()
    return not needed or not published.columns.issuperset(needed)


def _gives_away(table: BaseTable, published: PublishedTable, version: int) -> bool:
    return bool(listed_columns(table, version)) and published.columns is None
