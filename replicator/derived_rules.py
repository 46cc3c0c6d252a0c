"""Judges the derived relations: whether they can be followed, along which paths, and at what price.

Pure: facts in, findings out. What can't be followed is not captured, and says so here; the streamed tables go on.
"""

from __future__ import annotations

from collections.abc import Iterable

from replicator.config import Settings
from replicator.facts import DerivedFacts, PathFacts, SourceFacts
from replicator.findings import Finding, note, ok, warning
from replicator.relations import ANALYTICS
from replicator.remedies import quoted, script
from replicator.view_rules import judge_view


def judge_derived(derived: Iterable[DerivedFacts], facts: SourceFacts, settings: Settings) -> list[Finding]:
    """One finding for each relation, each of its paths, and whatever is worth knowing of its columns."""
    return [finding for each in derived for finding in _judge(each, facts, settings)]


def _judge(derived: DerivedFacts, facts: SourceFacts, settings: Settings) -> Iterable[Finding]:
    if derived.problem:
        yield warning(
            "relation",
            derived.name,
            f"is not captured: {derived.problem}",
            _how_to_mend(derived.name, settings),
        )
        return
    if derived.fault:
        yield warning("relation", derived.name, f"can't be read: {derived.fault}", f"see the rights on {derived.name}")
    elif derived.scanned:
        yield warning(
            "relation",
            derived.name,
            f"one key reads all of {', '.join(derived.scanned)}",
            "an index on the column that the relation joins or groups it by",
        )
    else:
        yield ok("relation", derived.name, f"is read again key by key, followed from {len(derived.used)} tables")
    if derived.reading is not None:
        yield from judge_view(derived.reading, facts.server, settings, records_leads=facts.records_leads)
    for path in derived.paths:
        yield _judge_path(derived.name, path, facts, settings)
    yield from _judge_columns(derived)


def _how_to_mend(relation: str, settings: Settings) -> str:
    """Shipped relations other than the view have one definition, and all of their paths are found in it."""
    if relation != ANALYTICS and relation not in settings.derived:
        return (
            f"compare the source's tables with what Chatwoot makes them; our role needs SELECT on those of {relation}"
        )
    setting = "REPLICATOR_VIEW_PATHS" if relation == ANALYTICS else "REPLICATOR_DERIVED"
    made = "`replicator setup --apply` makes the view where it is missing; else " if relation == ANALYTICS else ""
    return f"{made}mend its definition, or give the missing path by hand in {setting} (see docs/operations.md)"


def _judge_path(relation: str, path: PathFacts, facts: SourceFacts, settings: Settings) -> Finding:
    subject = f"{relation}: {path.says}"
    published = facts.publication
    names = {(table.schema, table.name) for table in published.tables} if published is not None else set()
    if published is not None and not published.all_tables and (path.schema, path.table) not in names:
        name = f"{quoted(path.schema)}.{quoted(path.table)}"
        remedy = (
            "replicator setup --apply"
            if path.schema == settings.source_schema
            else script(f"ALTER PUBLICATION {quoted(settings.publication)} ADD TABLE {name}")
            + "\n-- only with a primary key or REPLICA IDENTITY FULL: else its own UPDATE and DELETE fail"
        )
        return warning("path", subject, f"{name} is not in the publication: its changes are not seen", remedy)
    if path.fault:
        return warning("path", subject, f"the look-up can't be run: {path.fault}", f"GRANT SELECT on {path.table}")
    if path.scanned:
        return warning(
            "path",
            subject,
            f"the look-up reads all of {', '.join(path.scanned)}",
            "an index on the columns that the path names",
        )
    table = facts.tables.get(path.table)
    carried = set(table.primary_key) if table is not None else set()
    if table is not None and table.identity_index is not None:
        carried = set(table.identity_index.columns)
    if table is not None and table.identity != "f" and (lacking := [c for c in path.columns if c not in carried]):
        return note(
            "path",
            subject,
            f"old values of {', '.join(lacking)} are remembered for recent rows only: where an older row pointed to"
            " before an UPDATE or a DELETE is put right by the next backfill",
        )
    return ok("path", subject, "followed")


def _judge_columns(derived: DerivedFacts) -> Iterable[Finding]:
    stored = [name for name, expression in derived.clock.items() if expression is None]
    computed = [name for name in derived.clock if name not in stored]
    if computed:
        yield note(
            "clock", derived.name, f"{', '.join(computed)}: change without a write, computed where they are read"
        )
    if stored:
        yield note("clock", derived.name, f"{', '.join(stored)}: change without a write, and are as old as their row")
    for name, pieces in derived.unstable.items():
        yield note("unstable", f"{derived.name}.{name}", f"its order leaves ties: {'; '.join(pieces)}")
