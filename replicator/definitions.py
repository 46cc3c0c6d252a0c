"""What derived relations an installation has, and what each is on the source now: columns, lineage, a digest.

The digest is of what a relation's rows are made from (the definitions of its views and of functions outside pg_catalog,
the columns of its tables): another digest means that any of its rows may be another. Lineage relies on more, such as
unique indexes; it is made anew when any of the catalogue is another, and only then: that of a large view takes a tenth
of a second of CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicator.config import OwnPath, Settings
from replicator.derived import BaseTable, Derived
from replicator.errors import SourceRefused
from replicator.facts import MadeOf
from replicator.lineage import Catalog, Name, Path, derive
from replicator.relations import CONTACTS, POLLED_TABLES, SURVEY_ANSWERS, Captured, DerivedRelation, analytics
from replicator.remedies import quoted
from replicator.source import Source, source_errors
from replicator.values import INTEGERS
from replicator.view_catalog import read_catalog, sharing_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """Of all derived relations, at one time."""

    relations: Mapping[str, Derived | str]
    """By name; a sentence where the relation can't be read."""
    keys: Mapping[BaseTable, tuple[str, ...]]
    """The primary keys of the base tables."""

    @property
    def available(self) -> tuple[str, ...]:
        """Relations that can be read."""
        return tuple(name for name, found in self.relations.items() if isinstance(found, Derived))

    @property
    def made_of(self) -> dict[str, tuple[MadeOf, ...]]:
        """By relation that can be read: its base tables."""
        return {name: _made_of(found) for name, found in self.relations.items() if isinstance(found, Derived)}


def _made_of(derived: Derived) -> tuple[MadeOf, ...]:
    starts = derived.lineage.starts()
    return tuple(
        MadeOf(
            schema=table[0],
            table=table[1],
            key=derived.catalog.tables[table].key,
            columns=columns | starts.get(table, frozenset()),
            starts=starts.get(table, frozenset()),
            not_null=derived.catalog.tables[table].not_null | frozenset(derived.catalog.tables[table].key),
        )
        for table, columns in derived.lineage.sources.items()
    )


def captured_by(settings: Settings) -> Captured:
    """Every relation that these settings name, where the source is streamed."""
    return Captured([CONTACTS, SURVEY_ANSWERS, *_views(settings)])


def polled_by(settings: Settings) -> Captured:
    """And where it is polled: the view, what the operator added, and the tables if a setting says so."""
    tables = [*POLLED_TABLES, CONTACTS, SURVEY_ANSWERS] if settings.poll_tables else []
    return Captured([*tables, *_views(settings)], streamed={})


def _views(settings: Settings) -> list[DerivedRelation]:
    view = [analytics(quoted(settings.view), _by_hand(settings.view_paths, settings))] if settings.view else []
    own = [
        DerivedRelation(
            name=name,
            select=each.select,
            key=(each.key,),
            inbox=each.inbox,
            excluded=frozenset(each.excluded),
            newest=each.newest,
            paths=_by_hand(each.paths, settings),
        )
        for name, each in settings.derived.items()
    ]
    return [*view, *own]


def _by_hand(paths: Iterable[OwnPath], settings: Settings) -> tuple[Path, ...]:
    return tuple(
        Path(table=(settings.source_schema, path.table), start=path.columns, lookup=path.lookup, description="by hand")
        for path in paths
    )


def read_definitions(source: Source, captured: Captured, known: Definitions | None = None) -> Definitions:
    """Raises SourceUnavailable if the source does not answer. What is still as it is `known` is taken from there."""
    relations: dict[str, Derived | str] = {}
    keys: dict[BaseTable, tuple[str, ...]] = {}
    for relation in captured.derived:
        try:
            with source_errors():
                catalog = read_catalog(source.connection, relation.select)
                sharing = sharing_rows(source.connection, catalog.tables)
            if sharing:
                relations[relation.name] = _not_followed(sharing)
                continue
            before = known.relations.get(relation.name) if known is not None else None
            relations[relation.name] = _derive(source, relation, catalog, before)
        except SourceRefused as error:
            relations[relation.name] = str(error)
        else:
            keys |= {name: table.key for name, table in catalog.tables.items()}
    return Definitions(relations=relations, keys=keys)


def _not_followed(tables: Iterable[Name]) -> str:
    names = ", ".join(sorted(".".join(table) for table in tables))
    return f"it reads {names}, whose rows are shared by partitioning or inheritance: their changes cannot be followed"


def _derive(source: Source, relation: DerivedRelation, catalog: Catalog, known: Derived | str | None) -> Derived | str:
    columns = tuple(source.columns_of(relation.select))
    types = source.type_names({(column.type_oid, column.type_modifier) for column in columns})
    if isinstance(known, Derived) and (known.catalog, known.columns, known.type_names) == (catalog, columns, types):
        return known
    at = {column.name: column for column in columns}
    for name in (*relation.key, relation.inbox):
        if name not in at:
            return f"it has no column {name}"
        if at[name].type_oid not in INTEGERS:
            return f"its column {name} is no integer"
    if relation.newest in at and at[relation.newest].type_oid not in INTEGERS:
        return f"its column {relation.newest} is no integer"
    lineage = derive(relation.select, relation.key, catalog, relation.paths)
    # A column that reads the clock and can't be computed elsewhere is as old as its row: `check` says so.
    fatal = [problem for problem in lineage.problems if problem.sql not in lineage.clock]
    if fatal:
        return "; ".join(f"{problem.reason}: {problem.sql}" for problem in fatal)
    names = [f"{column.name} {types[column.type_oid, column.type_modifier]}" for column in columns]
    parts = [relation.select, *names, *(f"{name}: {text}" for name, text in sorted(catalog.views.items()))]
    parts += [f"{name}: {table.columns} {table.key}" for name, table in sorted(catalog.tables.items())]
    parts += [f"{name}: {catalog.row_functions[name]}" for name in sorted(lineage.functions)]
    return Derived(
        relation=relation,
        catalog=catalog,
        lineage=lineage,
        columns=columns,
        type_names=types,
        digest=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
    )
