"""A shadow laid beside the live rows: what differs, noted and counted, and the live rows put right table by table.

Relies on its caller for the moment: that the shadow has all that the live rows are made of, and, while rows are put
right, that nobody else writes the tenant's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from consumers import merging, tenants
from consumers.merging import DIFFERENT, EXTRA, MISSING, NEWER
from consumers.relation import Relation, parents_first
from consumers.shadow import Shadow, rows_in
from consumers.target import Outcome

EXAMPLES: Final = 10
"""Keys that are named of each kind."""
_COMPARING: Final = {
    # Whole tables are compared: not by index alone, as small batches are written, and for as long as it takes.
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "enable_seqscan": "on",
    "statement_timeout": "600s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """One table of the tenant: what the stretch says of it, and the live rows do not."""

    table: str
    rows: int
    """Whole rows that the stretch tells."""
    partial: int
    """Rows of which it tells only a part: not compared."""
    missing: int
    extra: int
    different: int
    newer: int
    """Live rows beyond what the stretch tells: left alone."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """Of the different rows: in how many each column differs."""
    local: tuple[str, ...] = ()
    """Columns that no event carried: not compared, and kept."""
    is_whole: bool = False
    """Whether a backfill of every inbox was read, so that what it does not tell is extra."""
    examples: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The first keys of each kind."""

    @property
    def is_equal(self) -> bool:
        return not (self.missing or self.extra or self.different)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    table: str
    written: int
    deleted: int


class Differing(Shadow):
    """The two, in one session."""

    def find(self) -> None:
        """Notes what differs, in the transaction that is open, whose snapshot decides."""
        self.look_at_live()
        for name, value in _COMPARING.items():
            self.connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        for name in self._forms.order:
            self._find(self.relations[name])

    def forget(self, table: str, ids: Sequence[int] | None) -> None:
        """What was found of these rows, None: of any of the table, is of a moment that is over."""
        every = ids is None
        self._execute(merging.FORGET, table=table, ids=list(ids or ()), every=every)

    def found(self, inboxes: frozenset[int]) -> list[TableDifference]:
        """What was noted, counted."""
        with self.connection.transaction():
            self.connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(self.tenant)])
            return [self._counted(self.relations[name], inboxes) for name in self._forms.order]

    def merge(self, relation: Relation, inboxes: frozenset[int]) -> Merged:
        """One table, in one transaction. The tenant is locked. Raises Overtaken if an inbox is not the tenant's."""
        self.look_at_live()
        given = {"tenant": self.tenant, "load": self.next_load(), "step": 0}
        columns = self._columns(relation)
        self._noted.clear()
        outcome = Outcome()
        with self.connection.transaction():
            self.connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(self.tenant)])
            tenants.verify(self.connection, self.tenant, inboxes)
            self._stage_gone(relation, given)
            self._execute(merging.keep_found(), **given)
            self._delete([relation.name], given, outcome)
            for statement in merging.make_parents(relation):
                self._execute(statement, **given)
            self._note(merging.note_parents_left(relation, columns), relation.parent_names, given)
            written = self._execute(merging.write(relation, columns), **given)
            self._delete_orphans(self.tenant)
            self._script.send()
        return Merged(table=relation.name, written=written, deleted=outcome.deletes)

    def _find(self, relation: Relation) -> None:
        given = {"tenant": self.tenant, "load": self.next_load()}
        columns = self._columns(relation)
        self._execute(merging.find_unlike(relation, columns), **given)
        self._stage_gone(relation, {**given, "step": 0})
        self._execute(merging.find_extra(relation), **given)

    def _counted(self, relation: Relation, inboxes: frozenset[int]) -> TableDifference:
        columns = self._columns(relation)
        counts: dict[str, int] = {}
        examples: dict[str, tuple[int, ...]] = {}
        for kind, number, some in self._rows(
            "SELECT kind, count(*), (array_agg(id ORDER BY id))[:%(most)s] FROM pg_temp.replay_found"
            " WHERE relation = %(relation)s GROUP BY kind",
            relation=relation.name,
            most=EXAMPLES,
        ):
            counts[kind], examples[kind] = number, tuple(some)
        ((*unlike,),) = self._rows(merging.count_columns(relation, columns), tenant=self.tenant)
        whole, partial = rows_in(self, relation)
        return TableDifference(
            table=relation.name,
            rows=whole,
            partial=partial,
            missing=counts.get(MISSING, 0),
            extra=counts.get(EXTRA, 0),
            different=counts.get(DIFFERENT, 0),
            newer=counts.get(NEWER, 0),
            columns={name: number for name, number in zip(columns, unlike, strict=bool(columns)) if number},
            local=tuple(name for name in relation.data if name not in columns) if whole else (),
            is_whole=inboxes <= self.covered.get(relation.name, set()),
            examples=examples,
        )

    def _columns(self, relation: Relation) -> list[str]:
        return [name for name in relation.data if name in self.compared[relation.name]]

    def _stage_gone(self, relation: Relation, given: dict[str, Any]) -> None:
        """Deletes of what the stretch has deleted, emptied, or read as a whole without finding it."""
        self._staged += self._execute(merging.stage_deleted(relation), **given)
        if covered := self.covered.get(relation.name):
            self._staged += self._execute(
                merging.stage_unknown(relation, of_inboxes=True), **given, inboxes=list(covered)
            )
        if (emptied := self.emptied.get(relation.name)) is not None:
            where = dict(zip(("epoch", "point", "ordinal"), emptied, strict=True))
            self._staged += self._execute(merging.stage_unknown(relation, of_inboxes=False), **given, **where)


def one_by_one(shadow: Shadow) -> list[Relation]:
    """The order in which tables can be put right one by one."""
    return [shadow.relations[name] for name in parents_first(shadow.relations)]
