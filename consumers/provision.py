"""Derived relations, as the schemas topic has them, compared with the catalogue.

The shipped ones have their tables from the numbered files, and get columns that they lack; a user's own gets a table.
Each with clock columns gets its reading view, and the analytics view's relation always has one. What a table lacked
until now was not kept, so the replicator is asked for its rows. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pglast import ast
from pglast.stream import RawStream

from consumers import derived, live
from consumers.adoption import holds, widened
from consumers.catalogue import Catalogue
from consumers.comparison import compare
from consumers.identifiers import quoted
from consumers.migrations import Migration, tables
from consumers.plan import Item, Step, finding, note
from consumers.relation import LEAD_SIGNALS, OWN_COLUMNS
from consumers.surroundings import READERS
from replicator import REPLICATED, TableSchema

_TEXT: Final = "text"
_GROWS: Final = ("create table", "adopt table")
"""How the steps begin by which a table comes to hold more than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One derived relation."""

    schema: TableSchema
    is_known: bool
    """The source has said so; else it is the shipped relation, of which only the view is made."""

    @property
    def is_own(self) -> bool:
        """A user's, that no file makes a table for."""
        return self.schema.table not in REPLICATED


def wanted(schemas: Mapping[str, TableSchema], migrations: tuple[Migration, ...]) -> tuple[Wanted, ...]:
    """By their names; the analytics view's relation is always among them."""
    found = {name: Wanted(schema=schema, is_known=True) for name, schema in schemas.items() if schema.is_derived}
    found.setdefault(live.ANALYTICS, Wanted(schema=shipped(migrations), is_known=False))
    return tuple(found[name] for name in sorted(found))


def items(catalogue: Catalogue, relation: Wanted, migrations: tuple[Migration, ...], applier: str) -> Iterator[Item]:
    """What is still missing for one relation, in order."""
    schema = relation.schema
    faults = list(derived.faults(schema))
    if relation.is_own and schema.table in tables(migrations):
        faults.append(f"{schema.table} is the name of one of our own tables")
    if faults:
        yield from (finding(f"{fault}: it gets no table") for fault in faults)
        return
    types = _types(catalogue, schema)
    made = (*migrations, derived.table(schema, types, applier)) if relation.is_own else migrations
    stored = _stored(catalogue, schema.table, made)
    if relation.is_known:
        changes = list(compare(catalogue, made[-1]) if relation.is_own else _widened(schema, stored, types))
        yield from changes
        if any(isinstance(item, Step) and item.does.startswith(_GROWS) for item in changes):
            yield from _once_it_grew(catalogue, schema, types)
    if schema.clock or schema.table == live.ANALYTICS:
        yield from _view(catalogue, relation, stored | _given(schema, types, stored), types, applier)


def _widened(schema: TableSchema, stored: Mapping[str, str], types: Mapping[str, str]) -> Iterator[Item]:
    """Columns that a shipped table has not got."""
    added = _given(schema, types, stored)
    if added:
        columns = ", ".join(f"ADD COLUMN IF NOT EXISTS {quoted(name)} {kind}" for name, kind in added.items())
        does = f"adopt table {schema.table}: add column {', '.join(added)}"
        yield Step(version=0, does=does, sql=f"ALTER TABLE {quoted(schema.table)} {columns}")
    for name, kind in schema.columns:
        if name in stored and not holds(stored[name], types[kind]):
            yield finding(
                f"column {schema.table}.{name} is {stored[name]}, narrower than or unlike the source's"
                f" {types[kind]}; it stays so"
            )


def _given(schema: TableSchema, types: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    return {name: types[kind] for name, kind in schema.columns if name not in stored}


def _once_it_grew(catalogue: Catalogue, schema: TableSchema, types: Mapping[str, str]) -> Iterator[Item]:
    present = catalogue.columns.get(schema.table, {})
    for column, kind in schema.columns:
        if types[kind] == _TEXT != kind and column not in present:
            yield note(f"the target has no type {kind}: {schema.table}.{column} becomes text")
    if _has_inboxes(catalogue):
        does = f"ask the replicator for the rows of {schema.table}"
        yield Step(version=0, does=does, sql="", asks_for=schema.table)


def _has_inboxes(catalogue: Catalogue) -> bool:
    """Otherwise the first inbox that is mapped asks for everything."""
    return "inbox_tenant_mapping" in catalogue.relations and catalogue.has_rows("inbox_tenant_mapping")


def _view(
    catalogue: Catalogue, relation: Wanted, stored: Mapping[str, str], types: Mapping[str, str], applier: str
) -> Iterator[Item]:
    schema = relation.schema
    if faults := list(live.faults(schema, stored)):
        yield from (finding(f"{fault}: {live.name_of(schema.table)} is not made") for fault in faults)
        return
    view = live.view(schema, stored, types, "source" if relation.is_known else "default")
    existing = catalogue.relations.get(view.name)
    if existing is None:
        yield Step(version=0, does=f"create view {view.name}", sql=view.creation)
    elif existing.kind != "v" or not live.is_ours(existing.comment):
        yield finding(f"{view.name} exists and was not made by setup: rename it to get the reading view")
        return
    elif existing.comment != view.comment and (relation.is_known or live.is_default(existing.comment)):
        yield from _replace(catalogue, view)
    grants = [f"GRANT SELECT ON {quoted(view.name)} TO {quoted(applier)}, {READERS}"]
    yield from compare(catalogue, derived.unnumbered(view.name, grants))


def _replace(catalogue: Catalogue, view: live.View) -> Iterator[Item]:
    existing = catalogue.relations[view.name]
    if not existing.is_ours:
        yield finding(f"view {view.name} is outdated and belongs to {existing.owner}: run setup as its owner")
        return
    present = {name: column.type for name, column in catalogue.columns[view.name].items()}
    if view.keeps(present):
        yield Step(version=0, does=f"replace view {view.name}", sql=view.creation)
    else:
        does = f"drop view {view.name} and create it anew with other columns"
        yield Step(version=0, does=does, sql=view.anew(catalogue.readers(view.name)))


def _types(catalogue: Catalogue, schema: TableSchema) -> dict[str, str]:
    """The target's name for each type of the schema, text for what it does not know."""
    given = {kind for _, kind in schema.columns} | {column.type_name for column in schema.clock}
    parsed = {kind: derived.as_type(kind) for kind in given}
    known = [kind for kind, name in parsed.items() if name is not None and catalogue.knows_type(name)]
    printed = dict(zip(known, catalogue.types([str(parsed[kind]) for kind in known]), strict=True)) if known else {}
    return {kind: printed.get(kind, _TEXT) for kind in given}


def _stored(catalogue: Catalogue, table: str, migrations: Iterable[Migration]) -> dict[str, str]:
    """Columns and their types as they will be once the table is made or adopted."""
    stored = {name: column.type for name, column in catalogue.columns.get(table, {}).items()}
    for migration in migrations:
        made = dict(_columns(migration, table))
        if not made:
            continue
        wanted = dict(zip(made, catalogue.types(list(made.values())), strict=True))
        stored.update(widened(catalogue, table, wanted))
        stored.update({name: kind for name, kind in wanted.items() if name not in stored})
    return stored


def _columns(migration: Migration, table: str) -> list[tuple[str, str]]:
    made: list[Any] = [each.node for each in migration.statements if isinstance(each.node, ast.CreateStmt)]
    return [
        (str(part.colname), str(RawStream()(part.typeName or "")))
        for node in made
        if node.relation.relname == table
        for part in node.tableElts
        if isinstance(part, ast.ColumnDef)
    ]


def shipped(migrations: tuple[Migration, ...]) -> TableSchema:
    """The analytics view's relation as its numbered file and the reference view have it."""
    found = dict(column for migration in migrations for column in _columns(migration, live.ANALYTICS))
    clock = {column.name for column in live.CLOCK}
    kept = {*OWN_COLUMNS, *live.LOCAL_ONLY} - set(LEAD_SIGNALS)
    own = {name: kind for name, kind in found.items() if name not in kept and not name.startswith("etl_")}
    return TableSchema(
        table=live.ANALYTICS,
        columns=tuple((name, kind) for name, kind in own.items() if name not in clock),
        key=("conversation_id",),
        inbox="inbox_id",
        is_derived=True,
        clock=live.CLOCK,
        order=tuple(own),
    )
