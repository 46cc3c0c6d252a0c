"""What rows within a gate agree in if they agree in some expressions, those of an ORDER BY above all.

Rows that agree in a unique key are one row, and so are groups that agree in what they are grouped by, beside one and
the same row of the rest. Values that compare as equal are taken for the same. Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from replicator.lineage.query_tree import (
    Aggregate,
    Condition,
    Flat,
    Gate,
    Node,
    Nullable,
    Opaque,
    Passed,
    Region,
    Subquery,
    Window,
    ast,
    chain,
    gates_around,
    inside,
    is_expression,
    number,
    text,
)
from replicator.lineage.same_rows import Column, columns_in, equal_columns


class Agreement:
    """Rows within a gate that agree in `given`."""

    def __init__(self, flat: Flat, gate: Gate, given: Iterable[Node]) -> None:
        self.flat = flat
        self.gate = gate
        given = tuple(given)
        self._printed = {text(each) for each in given}
        self._fixed = {
            self._bare(column) for each in given if isinstance(each, ast.ColumnRef) for column in columns_in(each)
        }
        self._known: set[int] = set()
        """The occurrences whose row is one and the same."""
        self._subqueries = {leaf.region for leaf in flat.leaves.values() if isinstance(leaf, Subquery)}
        self._within = {source for source, each in flat.occurrences.items() if inside(each.place.gate, gate)}
        self._conditions = [each for each in flat.conditions if inside(each.place.gate, gate)]
        self._spread()

    def in_row(self) -> bool:
        """Whether they are one row."""
        return self._in_rows() and all(self.of(tuple(gate.keys)) for gate in self._groups())

    def of(self, tree: Node) -> bool:
        """Whether they agree in an expression, or in several."""
        if isinstance(tree, tuple):
            return all(self.of(each) for each in tree)
        if not isinstance(tree, ast.Node):
            return True
        if isinstance(tree, ast.ColumnRef):
            return self._of_column(tree)
        printed = is_expression(tree) and text(tree) in self._printed
        return printed or all(self.of(getattr(tree, attribute)) for attribute in tree)

    def _of_column(self, reference: Node) -> bool:
        column = self._bare((number(reference), reference.fields[1].sval))
        if self._is_fixed(column) or text(reference) in self._printed:
            return True
        match self.flat.leaves.get(column[0]):
            case Passed() as passed:
                return self.of(passed.value)
            case Nullable() as nullable:  # an expression may be what it is of NULLs, while the side is there
                columns = columns_in(nullable.value)
                return bool(columns) and all(self._bare(each)[0] in self._known for each in columns)
            case Opaque(is_row=True) as row:
                return self.of(row.parts)
            case Aggregate(gate=gate):
                return not inside(gate, self.gate) or (self._in_rows() and self._of_groups(gate))
            case Window() | Subquery():
                return self._in_rows() and not self._groups()
        return False

    def _of_groups(self, gate: Gate) -> bool:
        return self._group_around(gate) is gate and self.of(tuple(gate.keys))

    def _spread(self) -> None:
        """What follows from unique keys and equalities."""
        size = -1
        while size != len(self._fixed) + len(self._known):
            size = len(self._fixed) + len(self._known)
            for source in self._within:
                table = self.flat.catalog.tables[self.flat.occurrences[source].table]
                uniques = [columns for columns in (table.key, *table.unique) if columns]
                if any(all((source, column) in self._fixed for column in columns) for columns in uniques):
                    self._known.add(source)
            for condition in self._conditions:
                for left, right in equal_columns(condition.expression):
                    for here, there in ((left, right), (right, left)):
                        if self._is_fixed(self._bare(here)) and self._holds_for(there, condition):
                            self._fixed.add(self._bare(there))

    def _holds_for(self, column: Column, condition: Condition) -> bool:
        """Whether a condition holds wherever a column's row is there."""
        occurrence = self.flat.occurrences.get(self._bare(column)[0])
        there = set() if occurrence is None else set(chain(occurrence.place.region))
        around = (takewhile(lambda each: each is not self.gate.region, chain(region)) for region in condition.regions)
        return all(each.always or each in there for regions in around for each in regions)

    def _is_fixed(self, column: Column) -> bool:
        source = column[0]
        outside = source in self.flat.occurrences and source not in self._within
        return outside or column in self._fixed or source in self._known

    def _bare(self, column: Column) -> Column:
        """The column that another passes on."""
        leaf = self.flat.leaves.get(column[0])
        if isinstance(leaf, Passed | Nullable) and isinstance(leaf.value, ast.ColumnRef):
            return self._bare((number(leaf.value), leaf.value.fields[1].sval))
        return column

    # What a row is made of

    def _in_rows(self) -> bool:
        """Whether they are one row, groups left out."""
        places = [(source, self.flat.occurrences[source].place) for source in self._within]
        rows = {source for source, each in places if self._makes_rows(each.region, each.gate)}
        others = any(
            inside(each.gate, self.gate) and self._makes_rows(each, each.gate) for each in self.flat.other_rows
        )
        return (
            not others
            and rows <= self._known
            and not any(self._united(self.flat.occurrences[each].place.gate) for each in rows)
        )

    def _makes_rows(self, region: Region, gate: Gate | None) -> bool:
        """Whether something stands neither in a subquery of an expression nor in groups."""
        return not self._in_expression(region) and self._group_around(gate) is None

    def _in_expression(self, region: Region) -> bool:
        return any(each in self._subqueries and inside(each.gate, self.gate) for each in chain(region))

    def _groups(self) -> set[Gate]:
        places = [self.flat.occurrences[source].place for source in self._within]
        found = {self._group_around(each.gate) for each in places if not self._in_expression(each.region)}
        return {gate for gate in found if gate is not None}

    def _group_around(self, gate: Gate | None) -> Gate | None:
        """The outermost groups around a place."""
        found = None
        for each in gates_around(gate):
            if each is self.gate:
                break
            if each.active and each.is_groups:
                found = each
        return found

    def _united(self, gate: Gate | None) -> bool:
        """Whether rows come from one side of a set operation."""
        return any(each.select.op.name != "SETOP_NONE" for each in gates_around(gate) if inside(each, self.gate))
