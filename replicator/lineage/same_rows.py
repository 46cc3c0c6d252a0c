"""Columns that always hold the same value: by equalities that hold for every row, and as one row met twice.

Two occurrences of a table that are joined on its whole primary key are the same row. If the second is on the nullable
side of an outer join that asks for nothing else, it is always there. Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.lineage.casts import base_type, without_casts
from replicator.lineage.query_tree import (
    Flat,
    Gate,
    Name,
    Node,
    Nullable,
    Region,
    ast,
    chain,
    nodes,
    number,
    rebuilt,
    refer,
)

Column = tuple[int, str]


class SameValues:
    """Classes of columns that are equal in every row of the result."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self._of: dict[Column, Column] = {}
        self._type_of = base_type(flat)
        size = -1
        while size != len(self._of):
            size = len(self._of)
            self._equate()
            self._merge_rows()

    def of(self, column: Column) -> Column:
        """The one that stands for the class of a column."""
        while column in self._of:
            column = self._of[column]
        return column

    def canonical(self, expression: Node) -> Node:
        """An expression with each column replaced by the one that stands for it."""

        def replacement(node: Node) -> Node | None:
            bare = without_casts(node, self._type_of)
            if bare is not node:
                return self.canonical(bare)
            if not isinstance(node, ast.ColumnRef):
                return None
            opened = settled(self.flat, node)
            return refer(*self.of(_column(node))) if opened is None else self.canonical(opened)

        return rebuilt(expression, replacement)

    def _join(self, left: Column, right: Column) -> None:
        left, right = sorted((self.of(left), self.of(right)))
        if left != right:
            self._of[right] = left

    def _equate(self) -> None:
        for condition in self.flat.conditions:
            if all(everywhere(region) for region in condition.regions):
                for left, right in equal_columns(condition.expression):
                    self._join(left, right)

    def _merge_rows(self) -> None:
        rows = [
            (source, each)
            for source, each in self.flat.occurrences.items()
            if self.flat.catalog.tables[each.table].key and not each.place.branch
        ]
        met: dict[tuple[Name, tuple[Column, ...]], int] = {}
        for source, each in rows:
            table = self.flat.catalog.tables[each.table]
            other = met.setdefault((each.table, tuple(self.of((source, column)) for column in table.key)), source)
            if other != source and everywhere(each.place.region):
                for column in table.columns:
                    self._join((other, column), (source, column))


def settle_joins(flat: Flat) -> None:
    """Mark the outer joins that only meet a row again as always matched."""
    for source, each in flat.occurrences.items():
        for region in chain(each.place.region):
            if not region.always and region.parent is not None and _meets_again(flat, source, region):
                region.always = True


def _meets_again(flat: Flat, source: int, region: Region) -> bool:
    mine = flat.occurrences[source]
    required = [other for other, each in flat.occurrences.items() if _needed(each.place.region, region)]
    conditions = [each for each in flat.conditions if any(_needed(one, region) for one in each.regions)]
    if required != [source] or any(_needed(each, region) for each in flat.other_rows):
        return False
    if any(gate.active for gate in _gates_between(mine.place.gate, region.gate)) or mine.place.branch:
        return False
    table = flat.catalog.tables[mine.table]
    met: set[tuple[int, str]] = set()
    for condition in conditions:
        columns = equal_columns(condition.expression)
        if not columns:
            return False
        for left, right in columns:
            here, there = (left, right) if left[0] == source else (right, left)
            other = flat.occurrences.get(there[0])
            around = set(chain(region.parent))
            outer = other is not None and all(one.always or one in around for one in chain(other.place.region))
            if here[0] != source or other is None or other.table != mine.table or here[1] != there[1] or not outer:
                return False
            met.add((there[0], here[1]))
    others = {other for other, _ in met}
    return bool(table.key) and len(others) == 1 and {column for _, column in met} == set(table.key)


def _needed(inner: Region, region: Region) -> bool:
    """Whether rows of a region must be there for those of another around it."""
    for each in chain(inner):
        if each is region:
            return True
        if not each.always:
            return False
    return False


def _gates_between(gate: Gate | None, outer: Gate | None) -> Iterator[Gate]:
    while gate is not None and gate is not outer:
        yield gate
        gate = gate.parent


def everywhere(region: Region) -> bool:
    """Whether a region is there in every row of the result."""
    return all(each.always for each in chain(region))


def settled(flat: Flat, reference: Node) -> Node | None:
    """The expression behind a column of an outer join's side that is always there."""
    leaf = flat.leaves.get(number(reference))
    return leaf.value if isinstance(leaf, Nullable) and everywhere(leaf.region) else None


def equal_columns(expression: Node) -> list[tuple[Column, Column]]:
    """The plain columns that an equality, perhaps of rows, makes equal."""
    if not isinstance(expression, ast.A_Expr) or expression.kind.name != "AEXPR_OP" or expression.name[-1].sval != "=":
        return []
    left, right = expression.lexpr, expression.rexpr
    pairs = [(left, right)]
    if isinstance(left, ast.RowExpr) and isinstance(right, ast.RowExpr):
        pairs = list(zip(left.args, right.args, strict=True))
    plain = [pair for pair in pairs if all(isinstance(each, ast.ColumnRef) for each in pair)]
    return [(_column(left), _column(right)) for left, right in plain] if len(plain) == len(pairs) else []


def columns_in(expression: Node) -> set[Column]:
    """The columns that an expression names."""
    return {_column(node) for node in nodes(expression) if isinstance(node, ast.ColumnRef)}


def _column(node: Node) -> Column:
    return number(node), node.fields[1].sval
