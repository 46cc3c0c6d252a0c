"""The forms in which rows of the tables have come, each with the statements that write its rows.

Of one look at the tables: what follows from that, and from a version of a table in the source, is found once and not
with every few rows. Pure, but for asking what a version's columns are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from consumers import upsert
from consumers.errors import BadEvent
from consumers.ordering import Upsert
from consumers.relation import Form, Relation, form, parents_first
from replicator import TableSchema

Schemas = Callable[[str, str], TableSchema]
"""(table, version) → its columns."""

_MOST_KNOWN: Final = 1_000
"""Forms: columns that events leave out may be any of a table's."""


@dataclass(frozen=True, slots=True)
class Writing:
    """The statements that write rows of one form, in their order."""

    form: Form
    parents: tuple[re.Pattern[bytes], ...]
    """What finds the ids of parents in a row, in the order of `Form.parents`."""
    make_parents: tuple[str, ...]
    note_parents_left: str | None
    note_unheld: str | None
    upsert: str


@dataclass(frozen=True, slots=True)
class Deleting:
    """The statements that delete rows of one table, in their order."""

    note_parents: str | None
    delete: str
    wipe: str | None


class Forms:
    """Not for two threads at once."""

    def __init__(self, relations: Mapping[str, Relation]) -> None:
        self.relations = relations
        self.order: Final = parents_first(relations)
        self.led: Final = frozenset(name for name, relation in relations.items() if relation.has_leads)
        """Tables whose rows have lead signals."""
        self._writing: dict[tuple[object, ...], Writing] = {}
        self._deleting: dict[str, Deleting] = {}

    def writing(self, table: str, row: Upsert, schemas: Schemas, *, with_leads: bool) -> Writing:
        """Of a row of this table. Raises BadEvent."""
        schema = schemas(table, row.schema)
        kind = (table, schema, row.absent, row.is_lost, not row.body, with_leads)
        found = self._writing.get(kind)
        if found is None:
            if len(self._writing) >= _MOST_KNOWN:
                self._writing.clear()
            of_row = _form(self.relations[table], row, schema, with_leads=with_leads)
            found = self._writing[kind] = Writing(
                of_row,
                tuple(_naming(column) for column, _ in of_row.parents),
                tuple(upsert.make_parents(of_row)),
                upsert.note_parents_left(of_row),
                upsert.note_unheld(of_row),
                upsert.upsert(of_row),
            )
        return found

    def deleting(self, table: str) -> Deleting:
        found = self._deleting.get(table)
        if found is None:
            relation = self.relations[table]
            found = self._deleting[table] = Deleting(
                upsert.note_parents_of_deleted(relation), upsert.delete(relation), upsert.wipe(relation)
            )
        return found


def _form(relation: Relation, row: Upsert, schema: TableSchema, *, with_leads: bool) -> Form:
    absent = _absent(relation, row)
    if not row.body:
        absent = [name for name, _ in schema.columns if name != relation.inbox]
    return form(relation, schema, absent, is_lost=row.is_lost, with_leads=with_leads)


def _naming(column: str) -> re.Pattern[bytes]:
    """Finds a column's value in a row: a number, alone or in a string, or null. What else there is the server refuses.

    A quote inside a string is escaped: what stands between two that are not, before a colon, is a column's name.
    """
    name = re.escape(orjson.dumps(column))  # looked at backwards too, and not only so: its first letters are found fast
    return re.compile(rb'%b(?<!\\%b)\s*:\s*"?([^",}\s]*)' % (name, name))


def _absent(relation: Relation, row: Upsert) -> list[str]:
    try:
        absent: Any = orjson.loads(row.absent) if row.absent else []
    except ValueError:
        absent = None
    if not isinstance(absent, list) or not all(isinstance(name, str) for name in absent):
        raise BadEvent(f"an event of {relation.name} names its absent columns wrongly")
    return absent
