"""Which base tables the publication has to hold, and which of their columns.

The shipped ones always. The others come from the lineage of the derived relations as the source defines them now:
another definition of the view, or a relation of a user's own, is made of other tables. While no definition of the view
can be followed, what our own is made of stands in for it.

Pure: facts in, tables out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from replicator.config import Settings
from replicator.facts import MadeOf, PublishedTable, TableFacts
from replicator.relations import ANALYTICS, SHIPPED, BaseTable, CauseTable, Identity

_SHIPPED_NAMES: Final = frozenset(table.name for table in SHIPPED)


OUR_VIEW: Final = {"accounts": ("name",), "teams": ("name",), "users": ("name", "email")}
"""What our own definition of the analytics view is made of beside the shipped tables. All are found by their id."""


def wanted_tables(made_of: Mapping[str, Sequence[MadeOf]], settings: Settings) -> tuple[BaseTable, ...]:
    """Those of the source's schema. What a relation reads in other schemas is published by hand."""
    found: dict[str, list[MadeOf]] = {}
    stand_in = _of_our_view(settings.source_schema) if settings.view and ANALYTICS not in made_of else []
    for each in chain(stand_in, *made_of.values()):
        if each.schema == settings.source_schema and each.table not in _SHIPPED_NAMES:
            found.setdefault(each.table, []).append(each)
    return (*SHIPPED, *(_cause(name, found[name]) for name in sorted(found)))


def _of_our_view(schema: str) -> list[MadeOf]:
    key = frozenset({"id"})
    return [
        MadeOf(schema=schema, table=table, key=("id",), columns=key.union(columns), starts=key, not_null=key)
        for table, columns in OUR_VIEW.items()
    ]


def _cause(name: str, uses: Sequence[MadeOf]) -> CauseTable:
    """Its replica identity is to carry whatever the paths start from, by an index if that can."""
    key, not_null = uses[-1].key, uses[-1].not_null
    starts = frozenset(chain.from_iterable(each.starts for each in uses)) - set(key)
    identity = Identity(kind="default")
    if not key or not starts <= not_null:
        identity = Identity(kind="full")
    elif starts:
        identity = Identity(columns=(*sorted(starts), *key))
    used = frozenset(chain.from_iterable(each.columns for each in uses)) - set(key)
    return CauseTable(
        name=name, key=key, identity=identity, is_read=False, is_shipped=False, columns=(*key, *sorted(used))
    )


def is_shipped(table: BaseTable) -> bool:
    """Whether every installation needs it."""
    return not isinstance(table, CauseTable) or table.is_shipped


def is_narrowed(relation: BaseTable, published: PublishedTable) -> bool:
    """Something that is needed does not come."""
    if published.has_filter or published.columns is None:
        return published.has_filter
    needed = relation.columns if isinstance(relation, CauseTable) else ()
    return not needed or not published.columns.issuperset(needed)


def refuses_writes(table: TableFacts, published: PublishedTable) -> bool:
    """A list without a column of the replica identity: the source's own UPDATE and DELETE fail on this table
    (https://www.postgresql.org/docs/current/logical-replication-col-lists.html).
    """
    if published.columns is None:
        return False
    return table.identity == "f" or not published.columns.issuperset(identity_columns(table))


def identity_columns(table: TableFacts) -> frozenset[str]:
    """Those of an identity that is an index or the primary key."""
    return frozenset(table.identity_index.columns if table.identity_index is not None else table.primary_key)


def covering(relation: BaseTable, table: TableFacts) -> BaseTable:
    """As it is to be published: with the columns of its replica identity, without those that the server computes."""
    if not isinstance(relation, CauseTable) or not relation.columns:
        return relation
    if table.identity == "f":
        return replace(relation, columns=())
    wanted = dict.fromkeys((*relation.columns, *sorted(identity_columns(table))))
    computed = {name for name, column in table.columns.items() if column.generated}
    carried = tuple(name for name in wanted if name not in computed)
    return replace(relation, columns=carried)
