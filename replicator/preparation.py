"""What a source still lacks, as the statements that give it that: replica identities, then the publication.

Pure: facts in, steps out. Nothing is ever dropped or narrowed, except an index of ours that a failed build left behind
invalid. Identities come first: a table that is published with a broken identity refuses the source's own writes.
"""

from __future__ import annotations

from itertools import count
from typing import Final

from replicator.config import Settings
from replicator.facts import IndexFacts, SourceFacts, TableFacts
from replicator.relations import BaseTable, base_tables, names_every_row
from replicator.remedies import (
    Step,
    add_tables,
    create_index,
    create_publication,
    drop_index,
    identity_default,
    identity_full,
    identity_using,
    publish_everything,
    quoted,
    table_name,
)

OPERATIONS: Final = frozenset({"insert", "update", "delete", "truncate"})
_BRIEF_LOCK: Final = "an ACCESS EXCLUSIVE lock for a moment; it is given up and tried again if others hold the table"


def missing(facts: SourceFacts, settings: Settings) -> list[Step]:
    """Everything that a person's `--apply` would run, in order."""
    steps: list[Step] = []
    for relation in base_tables(with_view=bool(settings.view)):
        table = facts.tables[relation.name]
        accepted = settings.accept_default_identity and names_key(relation, table)
        if not is_sufficient(relation, table) and not accepted:
            steps += mending(relation, table, settings)
    return steps + publishing(facts, settings)


def is_broken(table: TableFacts) -> bool:
    """Once published, the source's own UPDATE and DELETE fail on this table."""
    return table.identity == "n" or (table.identity == "i" and table.identity_index is None)


def is_sufficient(relation: BaseTable, table: TableFacts) -> bool:
    """The stream names the old key and the old inbox of every row."""
    return names_every_row(relation, table.identity, set() if is_broken(table) else _held(table))


def names_key(relation: BaseTable, table: TableFacts) -> bool:
    """The stream names at least the old key: without it a DELETE says nothing, and ends the run."""
    return table.identity == "f" or (not is_broken(table) and set(relation.key) <= _held(table))


def _held(table: TableFacts) -> set[str]:
    """The columns of an identity that is an index or the primary key."""
    return set(table.identity_index.columns if table.identity_index is not None else table.primary_key)


def mending(relation: BaseTable, table: TableFacts, settings: Settings) -> list[Step]:
    """The way to the identity that `relations` asks for."""
    name = table_name(settings, relation.name)
    if relation.identity.kind == "default":
        return [_identity(name, identity_default(settings, relation.name), "the primary key names every row")]
    if _needs_full(relation, table):
        why = "the inbox may be NULL here, so no index can carry the old one"
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
            why="the identity needs a unique index over the inbox and the key",
            cost=f"two reads of the table ({_size(table)}) without stopping anybody, and an index to keep",
            needs=_owner(name),
            patient=True,
        )
    )
    return [*steps, _identity(name, identity_using(settings, relation.name, index), why)]


def publishing(facts: SourceFacts, settings: Settings) -> list[Step]:
    """The publication with the captured tables that exist. One that publishes whole schemas is left alone."""
    publication = facts.publication
    wanted = base_tables(with_view=bool(settings.view))
    existing = [relation for relation in wanted if relation.name in facts.tables]
    version = facts.server.version
    if publication is None:
        needs = "CREATE on the database, and the owner of the tables"
        why = "names the tables whose changes are streamed"
        return [_publication(settings, create_publication(settings, existing, version), why, needs)]
    needs = f"the owner of publication {quoted(settings.publication)} and of the tables"
    steps = []
    if left_out := OPERATIONS - publication.operations:
        why = f"left out {', '.join(sorted(left_out))}"
        steps.append(_publication(settings, publish_everything(settings), why, needs))
    published = {table.name for table in publication.tables if table.schema == settings.source_schema}
    covered = publication.all_tables or settings.source_schema in publication.schemas
    lacking = [] if covered else [each for each in existing if each.name not in published]
    if lacking:
        why = f"lacked {', '.join(each.name for each in lacking)}"
        steps.append(_publication(settings, add_tables(settings, lacking, version), why, needs))
    return steps


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
