"""Judges the publication: whether all that is needed is published, and no more than is good for the source.

Pure: facts and settings in, findings out. What the shipped relations need is refused where it lacks; what only another
definition or a user's own relation needs is a warning, since the streamed tables go on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from replicator.config import Settings
from replicator.facts import PublicationFacts, SourceFacts
from replicator.findings import Finding, ok, refusal, warning
from replicator.preparation import OPERATIONS, fit_tables, identity_steps, is_broken, publishing, to_publish
from replicator.publication import is_narrowed, is_shipped, refuses_writes, wanted_tables
from replicator.relations import WITH_SECRETS, BaseTable
from replicator.remedies import create_publication, listed_columns, publish_anew, quoted, script


def judge_publication(facts: SourceFacts, settings: Settings) -> list[Finding]:
    """At least one finding."""
    name, publication = settings.publication, facts.publication
    if publication is None:
        who = "" if facts.role.can_create else f" (our role {facts.role.name} may not: the tables' owner has to)"
        return [refusal("publication", name, f"does not exist{who}", _publishing(facts, settings))]
    if publication.all_tables or publication.schemas:
        reason = (
            "publishes tables that nobody named: where one has no primary key, the source's own UPDATE and DELETE fail"
        )
        anew = create_publication(settings, to_publish(facts, settings), facts.server.version)
        return [refusal("publication", name, reason, script(f"DROP PUBLICATION {quoted(name)}", anew))]
    if missing := OPERATIONS - publication.operations:
        reason = f"leaves out {', '.join(sorted(missing))}"
        return [refusal("publication", name, reason, _publishing(facts, settings))]
    return [
        *_judge_lacking(facts, publication, settings),
        *_judge_columns(facts, publication, settings),
        *_judge_others(facts, publication, settings),
    ] or [ok("publication", name, f"exactly the {len(publication.tables)} tables that are needed")]


def _publishing(facts: SourceFacts, settings: Settings) -> str:
    """The publication as `setup` makes it, after the identities without which it would stop the source's writes."""
    broken = [each for each in fit_tables(facts, settings) if is_broken(facts.tables[each.name]) and is_shipped(each)]
    steps = [step for each in broken for step in identity_steps(each, facts, settings)]
    return script(*(step.sql for step in [*steps, *publishing(facts, settings)]))


def _judge_lacking(facts: SourceFacts, publication: PublicationFacts, settings: Settings) -> Iterable[Finding]:
    published = {table.name for table in publication.tables if table.schema == settings.source_schema}
    fit = {table.name for table in fit_tables(facts, settings)}
    wanted = wanted_tables(facts.made_of, settings)
    # Tables that are unfit are told of as such.
    lacking = [each for each in wanted if each.name not in published and (each.name in fit or is_shipped(each))]
    yield from _by_need(
        lacking,
        settings,
        "lacks {}",
        "; what is made of it is as old as its last reading",
        lambda _: _publishing(facts, settings) or "see the identities of these tables, which are mended by hand",
    )


def _judge_columns(facts: SourceFacts, publication: PublicationFacts, settings: Settings) -> Iterable[Finding]:
    name, version = settings.publication, facts.server.version
    published = {table.name: table for table in publication.tables if table.schema == settings.source_schema}
    tables = [table for table in to_publish(facts, settings) if table.name in published]

    def anew(tables: Iterable[BaseTable]) -> str:
        return "\n".join(f"{publish_anew(settings, each, version)};" for each in tables)

    stopped = [each for each in tables if refuses_writes(facts.tables[each.name], published[each.name])]
    if stopped:
        reason = "leaves out columns of the replica identity: the source's own UPDATE and DELETE fail on"
        yield refusal("publication", name, f"{reason} {_names(stopped)}", anew(stopped))
    narrowed = [each for each in tables if each not in stopped and is_narrowed(each, published[each.name])]
    yield from _by_need(
        narrowed,
        settings,
        "publishes only some columns or rows of {}",
        ", and another is used: what is made of it is read more than it need be, or as a whole",
        anew,
    )
    generous = [
        each
        for each in tables
        if each.name in WITH_SECRETS and listed_columns(each, version) and published[each.name].columns is None
    ]
    if generous:
        reason = f"sends columns of {_names(generous)} that nobody needs, secrets among them"
        yield warning("publication", name, reason, anew(generous))


def _judge_others(facts: SourceFacts, publication: PublicationFacts, settings: Settings) -> Iterable[Finding]:
    read = {(each.schema, each.table) for made_of in facts.made_of.values() for each in made_of}
    read |= {(settings.source_schema, each.name) for each in wanted_tables(facts.made_of, settings)}
    others = [
        f"{quoted(table.schema)}.{quoted(table.name)}"
        for table in publication.tables
        if (table.schema, table.name) not in read
    ]
    if others:
        reason = f"also publishes {', '.join(others)}: they cost the source and the line, and nothing reads them"
        remedy = script(f"ALTER PUBLICATION {quoted(settings.publication)} DROP TABLE {', '.join(others)}")
        yield warning("publication", settings.publication, reason, remedy)


def _by_need(
    tables: Sequence[BaseTable],
    settings: Settings,
    reason: str,
    consequence: str,
    remedy: Callable[[Sequence[BaseTable]], str],
) -> Iterable[Finding]:
    """A refusal for the shipped ones among these, a warning that names the consequence for the others."""
    vital = [each for each in tables if is_shipped(each)]
    others = [each for each in tables if not is_shipped(each)]
    if vital:
        yield refusal("publication", settings.publication, reason.format(_names(vital)), remedy(vital))
    if others:
        says = reason.format(_names(others)) + consequence
        yield warning("publication", settings.publication, says, remedy(others))


def _names(tables: Iterable[BaseTable]) -> str:
    return ", ".join(table.name for table in tables)
