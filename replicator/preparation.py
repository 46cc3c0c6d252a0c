"""What a source still lacks, as the statements that give it that: replica identities and the publication.

Pure: facts in, steps out. Nothing is ever dropped or narrowed, except an index of ours that a failed build left behind
invalid. The order keeps the source's own writes going at every step: columns that a published table lacks come before
the replica identity that needs them, and an identity before the publication of a table that it was broken for.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Final, TypeGuard

from replicator.config import Settings
from replicator.facts import IndexFacts, SourceFacts, TableFacts
from replicator.publication import (
    covering,
    identity_columns,
    is_narrowed,
    is_shipped,
    refuses_writes,
    wanted_tables,
)
from replicator.relations import BaseTable, CauseTable, StreamedRelation, names_every_row
from replicator.remedies import (
    Step,
    add_tables,
    create_index,
    create_publication,
    drop_index,
    identity_default,
    identity_full,
    identity_using,
    publish_anew,
    publish_everything,
    quoted,
    table_name,
)

KINDS: Final = {"p": "partitioned", "f": "a foreign table", "v": "a view", "m": "a materialized view"}
INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
OPERATIONS: Final = frozenset({"insert", "update", "delete", "truncate"})
_BY_HAND: Final = "look first whether the source's own writes stand it: publications, generated columns"
_BRIEF_LOCK: Final = "an ACCESS EXCLUSIVE lock for a moment; it is given up and tried again if others hold the table"


def missing(facts: SourceFacts, settings: Settings) -> list[Step]:
    """Everything that a person's `--apply` would run, in order, and what is left to be done by hand."""
    identities = [
        step for relation in fit_tables(facts, settings) for step in identity_steps(relation, facts, settings)
    ]
    steps = [*widening(facts, settings), *(step for step in identities if not step.by_hand)]
    return [*steps, *publishing(facts, settings), *(step for step in identities if step.by_hand)]


def identity_steps(relation: BaseTable, facts: SourceFacts, settings: Settings) -> list[Step]:
    """The way to the identity that the relation asks for, if it has not got it and that is not accepted.

    By hand where the source's own writes might stop: with columns that another publication lists, rows that one
    filters, columns that the server computes; and for all tables that only some definition of a relation needs.
    """
    table = facts.tables[relation.name]
    if is_sufficient(relation, table) or (settings.accept_default_identity and names_key(relation, table)):
        return []
    steps, full = mending(relation, table, settings), _needs_full(relation, table)
    generated = any(column.generated for column in table.columns.values())
    if is_shipped(relation) and not table.limited_by and not (generated and full):
        return steps
    if full and _is_listed(relation, facts, settings):
        steps.insert(0, _widened(replace(relation, columns=()), facts, settings))
    return [replace(step, why=f"{step.why}; {_BY_HAND}", by_hand=True) for step in steps]


def _is_listed(relation: BaseTable, facts: SourceFacts, settings: Settings) -> TypeGuard[CauseTable]:
    """Whether the publication lists its columns, or will once the rest of the plan is applied."""
    if not isinstance(relation, CauseTable) or is_broken(facts.tables[relation.name]):
        return False
    tables = facts.publication.tables if facts.publication is not None else ()
    there = [each for each in tables if (each.schema, each.name) == (settings.source_schema, relation.name)]
    return there[0].columns is not None if there else bool(relation.columns)


def fit_tables(facts: SourceFacts, settings: Settings) -> tuple[BaseTable, ...]:
    """Those that exist and can be published as what they are taken for."""
    wanted = wanted_tables(facts.made_of, settings)
    return tuple(each for each in wanted if unfit(each, facts.tables.get(each.name)) is None)


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
    if isinstance(relation, CauseTable) and not relation.is_shipped:
        return None if table.persistence == "p" else "is not logged: its changes are not in the WAL"
    inbox = (relation.inbox,) if isinstance(relation, StreamedRelation) else ()
    for column in dict.fromkeys((*relation.key, *inbox, *relation.identity.columns)):
        if column not in table.columns:
            return f"has no column {column}"
        if (kind := table.columns[column].type_name) not in INTEGERS:
            return f"has a column {column} of type {kind}, not an integer"
    return None


def is_broken(table: TableFacts) -> bool:
    """Once published, the source's own UPDATE and DELETE fail on this table. A deferrable primary key is none here."""
    return {
        "n": True,
        "i": table.identity_index is None,
        "d": not any(index.primary and index.unique for index in table.indexes),
    }.get(table.identity, False)


def is_sufficient(relation: BaseTable, table: TableFacts) -> bool:
    """The stream names the old key and the old inbox of every row."""
    return names_every_row(relation, table.identity, set() if is_broken(table) else identity_columns(table))


def names_key(relation: BaseTable, table: TableFacts) -> bool:
    """The stream names at least the old key: without it a DELETE says nothing, and ends the run."""
    return table.identity == "f" or (not is_broken(table) and set(relation.key) <= identity_columns(table))


def mending(relation: BaseTable, table: TableFacts, settings: Settings) -> list[Step]:
    """The way to the identity that `relations` asks for."""
    name = table_name(settings, relation.name)
    if relation.identity.kind == "default":
        return [_identity(name, identity_default(settings, relation.name), "the primary key names every row")]
    if _needs_full(relation, table):
        why = "no unique index over columns that are never NULL can name the old row"
        return [_identity(name, identity_full(settings, relation.name), why, ", and longer UPDATE records in the WAL")]
    why = f"UPDATE and DELETE then name the old {relation.identity.columns[0]}"
    if usable := _usable_index(relation, table):
        return [_identity(name, identity_using(settings, relation.name, usable.name), why)]
    index, leftover = _new_index(relation, table)
    steps = []
    if leftover:
        steps.append(
            Step(
                subject=name,
                sql=drop_index(settings, index),
                why="a build that failed left it behind, invalid",
                cost="none",
                needs=_owner(name),
                patient=True,
            )
        )
    steps.append(
        Step(
            subject=name,
            sql=create_index(settings, relation, index),
            why="the identity needs a unique index over what it is to name",
            cost=f"two reads of the table ({_size(table)}) without stopping anybody, and an index to keep",
            needs=_owner(name),
            patient=True,
        )
    )
    return [*steps, _identity(name, identity_using(settings, relation.name, index), why)]


def publishing(facts: SourceFacts, settings: Settings) -> list[Step]:
    """The publication with the captured tables that exist. One that publishes whole schemas is left alone.

    The shipped tables by one statement, each of the others by its own: one that can't be published must not keep the
    rest from it.
    """
    publication, version = facts.publication, facts.server.version
    needs = f"the owner of publication {quoted(settings.publication)} and of the tables"
    lacking = to_publish(facts, settings)
    steps = []
    if publication is None:
        sql = create_publication(settings, [each for each in lacking if is_shipped(each)], version)
        why = "names the tables whose changes are streamed"
        steps.append(_publication(settings, sql, why, "CREATE on the database, and the owner of the tables"))
        lacking = [each for each in lacking if not is_shipped(each)]
    else:
        if left_out := OPERATIONS - publication.operations:
            why = f"left out {', '.join(sorted(left_out))}"
            steps.append(_publication(settings, publish_everything(settings), why, needs))
        published = {table.name for table in publication.tables if table.schema == settings.source_schema}
        covered = publication.all_tables or settings.source_schema in publication.schemas
        lacking = [] if covered else [each for each in lacking if each.name not in published]
    for added in [
        [each for each in lacking if is_shipped(each)],
        *([each] for each in lacking if not is_shipped(each)),
    ]:
        if added:
            why = f"lacked {', '.join(each.name for each in added)}"
            steps.append(_publication(settings, add_tables(settings, added, version), why, needs))
    return steps


def _widened(relation: BaseTable, facts: SourceFacts, settings: Settings) -> Step:
    return Step(
        subject=settings.publication,
        sql=publish_anew(settings, relation, facts.server.version),
        why=f"published too few columns of {relation.name}",
        cost="locks that stop neither reads nor writes; the replicator then reads everything again",
        needs=f"the owner of publication {quoted(settings.publication)} and of the table",
    )


def widening(facts: SourceFacts, settings: Settings) -> list[Step]:
    """Columns that published tables lack. A row filter is somebody's decision, and is left to them."""
    publication = facts.publication
    if publication is None:
        return []
    published = {table.name: table for table in publication.tables if table.schema == settings.source_schema}
    steps = []
    for relation in to_publish(facts, settings):
        entry = published.get(relation.name)
        if entry is None or entry.has_filter:
            continue
        if is_narrowed(relation, entry) or refuses_writes(facts.tables[relation.name], entry):
            steps.append(_widened(relation, facts, settings))
    return steps


def to_publish(facts: SourceFacts, settings: Settings) -> list[BaseTable]:
    """With columns enough for the replica identities that they have. A table that only some relation needs, and whose
    own UPDATE and DELETE would fail, is left out.
    """
    fit = [each for each in fit_tables(facts, settings) if is_shipped(each) or not is_broken(facts.tables[each.name])]
    return [covering(relation, facts.tables[relation.name]) for relation in fit]


def _publication(settings: Settings, sql: str, why: str, needs: str) -> Step:
    return Step(
        subject=settings.publication, sql=sql, why=why, cost="locks that stop neither reads nor writes", needs=needs
    )


def _identity(name: str, sql: str, why: str, cost: str = "") -> Step:
    return Step(subject=name, sql=sql, why=why, cost=_BRIEF_LOCK + cost, needs=_owner(name))


def _owner(name: str) -> str:
    return f"the owner of {name}"


def _size(table: TableFacts) -> str:
    rows = f"about {table.rows:,} rows" if table.rows >= 0 else "never analysed"
    return f"{rows}, {table.bytes / (1 << 20):,.0f} MiB"


def _needs_full(relation: BaseTable, table: TableFacts) -> bool:
    """No index can be the identity: that is asked for, or one of its columns may be NULL."""
    return relation.identity.kind == "full" or not all(
        column in table.columns and table.columns[column].not_null for column in relation.identity.columns
    )


def _usable_index(relation: BaseTable, table: TableFacts) -> IndexFacts | None:
    """An index that exists and could be the identity as it is."""

    def is_usable(index: IndexFacts) -> bool:
        columns = set(index.columns)
        never_null = all(column in table.columns and table.columns[column].not_null for column in columns)
        return index.unique and index.valid and never_null and set(relation.identity.columns) <= columns

    return next(filter(is_usable, table.indexes), None)


def _new_index(relation: BaseTable, table: TableFacts) -> tuple[str, bool]:
    """A name, and whether an invalid index of that name, ours, has to go first."""
    indexes = {index.name: index for index in table.indexes}
    for number in count(1):
        name = f"{relation.name}_replica_identity" + (f"_{number}" if number > 1 else "")
        taken = indexes.get(name)
        if taken is None or (not taken.valid and taken.unique and taken.columns == relation.identity.columns):
            return name, taken is not None
    raise AssertionError("count() never ends")
