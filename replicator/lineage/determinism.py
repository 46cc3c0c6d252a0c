"""Outputs that change without a write, and outputs that the same rows may give in two ways.

A *clock* output is rewritten over the other outputs, so that it can be computed again from a stored row. An *unstable*
output takes the order of rows from an ORDER BY that leaves ties, or from none at all.

Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from replicator.lineage.agreement import Agreement
from replicator.lineage.functions import called, reads_clock
from replicator.lineage.query_tree import (
    Aggregate,
    Condition,
    Flat,
    Leaf,
    Node,
    Nullable,
    Passed,
    Place,
    Region,
    Subquery,
    Window,
    ast,
    chain,
    gates_around,
    is_expression,
    nodes,
    number,
    piece,
    rebuilt,
    text,
)
from replicator.lineage.same_rows import SameValues, columns_in, everywhere, settled


class Dependence:
    """What an output depends on: the pieces that a test finds in it, in its leaves, and in what decides their rows."""

    def __init__(
        self,
        flat: Flat,
        node: Callable[[Node], str | None],
        leaf: Callable[[Leaf], str | None],
        conditions: Iterable[Condition],
    ) -> None:
        self.flat = flat
        self._node = node
        self._leaf = leaf
        self._conditions = tuple(conditions)
        self._found: dict[int, tuple[str, ...]] = {}

    def of(self, expression: Node) -> tuple[str, ...]:
        """The pieces of SQL found, each once."""
        found: list[str] = []
        for node in nodes(expression):
            own = self._node(node)
            if own is not None:
                found.append(own)
            if isinstance(node, ast.ColumnRef):
                found += self._source(number(node))
        return tuple(dict.fromkeys(found))

    def of_rows(self) -> tuple[str, ...]:
        """The pieces that decide which rows there are at all."""
        return tuple(dict.fromkeys(one for each in _of_every_row(self._conditions) for one in self.of(each)))

    def _source(self, source: int) -> tuple[str, ...]:
        if source not in self._found:
            self._found[source] = ()  # a row may decide about itself
            occurrence, leaf = self.flat.occurrences.get(source), self.flat.leaves.get(source)
            found: list[str] = []
            if occurrence is not None:
                found += self._deciding(lambda region: region in chain(occurrence.place.region), partial=True)
            if leaf is not None:
                found += [own] if (own := self._leaf(leaf)) else []
                found += [one for part in self.flat.parts(leaf) for one in self.of(part)]
            if isinstance(leaf, Subquery):
                found += self._deciding(lambda region: leaf.region in chain(region), partial=False)
            self._found[source] = tuple(dict.fromkeys(found))
        return self._found[source]

    def _deciding(self, about: Callable[[Region], bool], *, partial: bool) -> Iterable[str]:
        for condition in self._conditions:
            for region in condition.regions:
                if about(region) and not (partial and everywhere(region)):
                    yield from self.of(condition.expression)


def clock_dependence(flat: Flat) -> Dependence:
    """What reads the clock."""
    return Dependence(flat, lambda node: piece(node) if reads_clock(node) else None, lambda _: None, flat.conditions)


def _of_every_row(conditions: Iterable[Condition]) -> list[Node]:
    """The conditions that every row meets."""
    return [each.expression for each in conditions if all(everywhere(region) for region in each.regions)]


def clock_conditions(flat: Flat, clock: Dependence) -> tuple[str, ...]:
    """The conditions by which the clock decides which rows there are; what reads it, where that is further within."""
    found: dict[str, None] = {}
    for condition in _of_every_row(flat.conditions):
        opened = _opened(flat, condition)
        itself = any(reads_clock(node) for node in nodes(opened))
        found |= dict.fromkeys([piece_of(opened)] if itself else clock.of(condition))
    return tuple(found)


def _opened(flat: Flat, expression: Node) -> Node:
    """An expression for people: what is passed on as it is written there."""

    def replacement(node: Node) -> Node | None:
        leaf = flat.leaves.get(number(node)) if isinstance(node, ast.ColumnRef) else None
        return _opened(flat, flat.parts(leaf)[0]) if isinstance(leaf, Aggregate | Passed | Nullable) else None

    return rebuilt(expression, replacement)


def clock_columns(flat: Flat, clock: Dependence, same: SameValues) -> dict[str, str | None]:
    """Each clock output as an expression over the others; None: it cannot be written so."""
    clocked = {name for name, value in flat.outputs.items() if clock.of(value)}
    stored: dict[str, str] = {}
    for name, value in flat.outputs.items():
        if name not in clocked and not isinstance(value, ast.A_Const):
            stored.setdefault(text(same.canonical(value)), name)
    return {name: _rewritten(flat, flat.outputs[name], stored, same) for name in flat.outputs if name in clocked}


class _NotStored(Exception):
    pass


def _rewritten(flat: Flat, expression: Node, stored: dict[str, str], same: SameValues) -> str | None:
    def replacement(node: Node) -> Node | None:
        if isinstance(node, ast.A_Const | ast.TypeName | ast.String):
            return node
        name = stored.get(text(same.canonical(node))) if is_expression(node) else None
        if name is not None:
            return ast.ColumnRef(fields=(ast.String(name),))
        if isinstance(node, ast.ColumnRef):
            leaf = flat.leaves.get(number(node))
            opened = leaf.value if isinstance(leaf, Passed) else settled(flat, node)
            if opened is None:
                raise _NotStored
            return rebuilt(opened, replacement)
        return None

    try:
        return text(rebuilt(expression, replacement))
    except _NotStored:
        return None


def unstable_dependence(flat: Flat) -> Dependence:
    """What depends on an order with ties."""
    counts = _counts(flat)
    by_count = {window.gate: window for window in counts.values()}

    def leaf(leaf: Leaf) -> str | None:
        counted = _counted(flat, leaf, by_count.get(leaf.gate)) if isinstance(leaf, Passed) else None
        return counted or _unstable(flat, leaf)

    conditions = [
        replace(each, expression=counts[each].partition) if each in counts else each for each in flat.conditions
    ]
    return Dependence(flat, lambda _: None, leaf, (*conditions, *_groupings(flat)))


def _groupings(flat: Flat) -> Iterator[Condition]:
    """What rows are grouped by, or one of each is chosen by: it decides how many there are."""
    gates = dict.fromkeys(gate for each in flat.occurrences.values() for gate in gates_around(each.place.gate))
    for gate in gates:
        if gate.keys and (gate.is_groups or gate.chooses):
            place = Place(region=gate.region, gate=gate)
            yield Condition(expression=tuple(gate.keys), regions=(gate.region,), place=place)


def _counts(flat: Flat) -> dict[Condition, Window]:
    """Conditions that let a number of rows of a window's partition pass, and the window, whose order leaves ties.

    How many pass, and what they are ordered by, is certain; the rows are not. Two such windows over the same rows leave
    nothing certain, nor is it how many of the rows differ.
    """
    found = {each: window for each in flat.conditions if (window := _counts_by(flat, each)) is not None}
    alone = {
        window for window in found.values() if {each for each in found.values() if each.gate is window.gate} == {window}
    }
    return {each: window for each, window in found.items() if window in alone}


def _counts_by(flat: Flat, condition: Condition) -> Window | None:
    columns = [node for node in nodes(condition.expression) if isinstance(node, ast.ColumnRef)]
    windows = {_window_behind(flat, number(column)) for column in columns}
    window = windows.pop() if len(windows) == 1 else None
    if window is None or columns_in(window.parts) or _unstable(flat, window) is None:
        return None
    return None if any(_only_different(gate.select) for gate in gates_around(window.gate)) else window


def _only_different(select: Node) -> bool:
    """Whether a SELECT passes on how its rows differ, but not all of them."""
    if select.op.name != "SETOP_NONE":
        return not (select.all and select.op.name == "SETOP_UNION")
    return bool(select.distinctClause and select.distinctClause[0] is None)


def _window_behind(flat: Flat, source: int) -> Window | None:
    """The window whose value it is, passed on by what lets every row pass."""
    leaf = flat.leaves.get(source)
    if isinstance(leaf, Window):
        return leaf
    if not isinstance(leaf, Passed | Nullable) or not isinstance(leaf.value, ast.ColumnRef):
        return None
    chosen = isinstance(leaf, Passed) and leaf.gate.chooses
    return None if chosen else _window_behind(flat, number(leaf.value))


def _counted(flat: Flat, leaf: Passed, window: Window | None) -> str | None:
    if window is None or Agreement(flat, leaf.gate, (*window.order, *window.partition)).of(leaf.value):
        return None
    return window.sql


def _unstable(flat: Flat, leaf: Leaf) -> str | None:
    match leaf:
        case Aggregate() if leaf.ordered:
            return None if _is_ordered(flat, leaf) else leaf.sql
        case Passed() if leaf.gate.chooses:
            return (
                None
                if Agreement(flat, leaf.gate, (*leaf.gate.order, *leaf.gate.keys)).of(leaf.value)
                else leaf.gate.sql
            )
        case Window() if leaf.ordered:
            return None if Agreement(flat, leaf.gate, (*leaf.order, *leaf.partition)).in_row() else leaf.sql
        case Subquery() if leaf.array is not None:
            return None if Agreement(flat, leaf.array, leaf.array.order).of(leaf.parts) else leaf.array.sql
        case _:
            return None


def _is_ordered(flat: Flat, leaf: Aggregate) -> bool:
    """Whether rows that an aggregate may take in either order give it the same arguments."""
    call = leaf.call.arg if isinstance(leaf.call, ast.A_Indirection) else leaf.call
    given = [*leaf.order, *leaf.gate.keys]
    if not isinstance(call, ast.FuncCall):
        return Agreement(flat, leaf.gate, given).of(call)
    if call.agg_distinct:  # sorted by all arguments
        return True
    if called(call).startswith("jsonb_object_agg"):  # an object's keys have no order, and of each the last value stays
        given.append(call.args[0])
    return Agreement(flat, leaf.gate, given).of(call.args or ())


def piece_of(flattened: Node) -> str:
    """A flattened expression for people: columns without the numbers of their sources."""
    bare = rebuilt(
        flattened, lambda node: ast.ColumnRef(fields=node.fields[1:]) if isinstance(node, ast.ColumnRef) else None
    )
    return piece(bare)
