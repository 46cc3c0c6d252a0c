"""What a flattened SELECT says about the rows that meet in one of its results: which values are equal, which rows pass.

One *world* is one way of choosing: a branch of each set operation, an alternative of each COALESCE over several rows,
one of a SELECT's windows.
Within a world a fact holds for every combination of rows in which its regions are there.

Beyond a gate another row may stand for the one that changed. So a gate's chosen row, and each picked value, is an
occurrence of its own (a *double* of what is within the gate), tied to the first by the gate's keys alone: a change gets
out along the keys, and from there to whichever row was chosen; from the outside, the double is where a picked value
leads. A double meets the gate's own conditions, and its pick's FILTER. It chooses by itself: another row may be of
another branch.

Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from replicator.lineage import functions
from replicator.lineage.casts import type_name, without_casts
from replicator.lineage.query_tree import (
    Aggregate,
    Branches,
    Condition,
    Flat,
    Gate,
    Node,
    Nullable,
    Passed,
    Region,
    Subquery,
    Window,
    ast,
    chain,
    inside,
    nodes,
    number,
    rebuilt,
    refer,
    text,
)
from replicator.lineage.scopes import Refused
from replicator.lineage.strictness import implied, implied_by_truth
from replicator.lineage.worlds import OPEN, Fact, Instance, Term, World

MOST_WORLDS = 64  # each is walked for every occurrence; a view that needs more gets its paths by hand
MOST_PAIRS = 250_000
"""Of instances in all worlds: a walk from each looks at what is said of the others, 10-20 µs for each."""


def worlds(flat: Flat, key: tuple[str, ...]) -> Iterator[tuple[Equalities, list[int]]]:
    """The facts of each world, and the occurrences that paths are wanted for in it. Raises `Refused` beyond the bounds.

    Where set operations multiply beyond a bound, each occurrence is asked for with those alone decided that it stands
    in: what is concluded without a word of the others holds whichever of their branches a row is from.
    """
    everywhere = list(flat.occurrences)
    branches = {each.place.branch for each in flat.occurrences.values()}
    left_open: dict[Hashable, int] = {choice: OPEN for branch in branches for choice, _ in branch}
    if _combinations(flat) <= MOST_WORLDS:
        try:
            whole = _worlds(flat, key, {})
        except Refused:  # with what doubles choose by themselves they are too many
            if not left_open:
                raise
        else:
            yield from _wanted(whole, everywhere)
            return
    for branch in sorted(branches):
        standing = [source for source in everywhere if flat.occurrences[source].place.branch == branch]
        yield from _wanted(_worlds(flat, key, left_open | dict(branch)), standing)


def _combinations(flat: Flat) -> int:
    """In how many ways branches can be chosen; beyond the bound it is not counted on."""
    plan: tuple[int, ...] | None = ()
    count = 0
    while plan is not None and count <= MOST_WORLDS:
        world = World(plan, {})
        for each in flat.occurrences.values():
            all(world.choose(choice, 2) == branch for choice, branch in each.place.branch)  # as far as it is met
        plan, count = world.following(), count + 1
    return count


def _worlds(flat: Flat, key: tuple[str, ...], given: Mapping[Hashable, int]) -> list[Equalities]:
    plan: tuple[int, ...] | None = ()
    found: list[Equalities] = []
    pairs = 0
    while plan is not None:
        if len(found) == MOST_WORLDS:
            raise Refused(_most_mentioned(flat), f"more than {MOST_WORLDS} combinations of branches and alternatives")
        world = World(plan, given)
        found.append(Equalities(flat, world, key))
        pairs += len(found[-1].instances) ** 2
        if pairs > MOST_PAIRS:
            raise _too_many(flat)
        plan = world.following()
    return found


def _wanted(found: list[Equalities], wanted: list[int]) -> Iterator[tuple[Equalities, list[int]]]:
    for world in found:
        yield world, [each for each in wanted if each in world.instances and not world.excluded(each)]


@dataclass(slots=True, eq=False)
class _Row:
    """The row that changed, with those beside it; or a double of what is within a gate."""

    gate: Gate | None
    outer: _Row | None
    """Where the gate stands; what is not within it is seen from there."""
    region: Region
    sources: dict[int, int] = field(default_factory=dict)
    regions: dict[Region, Region] = field(default_factory=dict)

    @property
    def behind(self) -> Gate | None:
        """The outermost gate that it is a double behind."""
        return self.gate if self.outer is None or self.outer.gate is None else self.outer.behind


class Equalities:
    """Instances, facts and key of one world."""

    def __init__(self, flat: Flat, world: World, key: tuple[str, ...]) -> None:
        self.flat = flat
        self.world = world
        self.instances: dict[int, Instance] = {}
        self.facts: list[Fact] = []
        self._changed = _Row(None, None, flat.root)
        self._doubles: dict[tuple[Gate, int, _Row], _Row] = {}
        self._next = max((*flat.occurrences, *flat.leaves, 0)) + 1
        for source, each in flat.occurrences.items():
            if self._active(each.place.branch, self._changed):
                self._instance(source, self._changed)
        self._state_within(self._changed)
        self.key = [self.term(flat.outputs[name], self._changed) for name in key]
        stated = 0
        while stated < len(self._doubles):  # stating what holds in one may ask for others within
            self._state_within(list(self._doubles.values())[stated])
            stated += 1
        self.beyond = {fact: self._within(fact.sources) - _around(fact.regions) for fact in self.facts}
        """The regions of a fact's rows that it says nothing of itself."""
        self.spread = Counter(column for table in flat.catalog.tables.values() for column in table.columns)
        """Column → how many tables have one of that name."""

    def excluded(self, source: int) -> bool:
        """Whether this world says nothing of an occurrence: it is about rows that EXCEPT takes away."""
        mine = self.flat.occurrences[self.instances[source].origin].place.branch
        return any(self.world.choose(choice, 2) == 1 and (choice, 1) not in mine for choice, _ in self.flat.excluded)

    def _within(self, sources: Iterable[int]) -> frozenset[Region]:
        return _around(self.instances[source].region for source in sources)

    # Rows

    def _seen(self, gate: Gate | None, row: _Row) -> _Row:
        """The row that a place is of, seen from another."""
        while row.gate is not None and row.outer is not None and not inside(gate, row.gate):
            row = row.outer
        return row

    def _choose(self, choice: int, options: int, row: _Row) -> int:
        """The branch or alternative that holds for a row; what is left open is so for its doubles."""
        of = self._seen(self.flat.choices[choice], row)
        left_open = self.world.given(choice) == OPEN
        return self.world.choose(choice if of is self._changed or left_open else (choice, of), options)

    def _active(self, branches: tuple[tuple[int, int], ...], row: _Row) -> bool:
        return all(self._choose(choice, 2, row) == branch for choice, branch in branches)

    def _instance(self, source: int, row: _Row) -> int:
        occurrence = self.flat.occurrences[source]
        of = self._seen(occurrence.place.gate, row)
        if source not in of.sources:
            if len(self.instances) ** 2 > MOST_PAIRS:
                raise _too_many(self.flat)
            if of.gate is not None:
                self._next += 1
            of.sources[source] = source if of.gate is None else self._next
            self.instances[of.sources[source]] = Instance(
                table=occurrence.table,
                region=self._region(occurrence.place.region, of),
                origin=source,
                doubled=of.behind,
            )
        return of.sources[source]

    def _region(self, region: Region, row: _Row) -> Region:
        of = self._seen(region.gate, row)
        if of.gate is None:
            return region
        if region not in of.regions:
            parent = self._region(region.parent, of) if region.parent else None
            of.regions[region] = Region(parent=parent, gate=region.gate, always=region.always)
        return of.regions[region]

    def _double(self, gate: Gate, pick: int, condition: Node, row: _Row) -> _Row:
        """What is within a gate, once more: as the chosen row (`pick` is 0), or as the row of a picked value."""
        outer = self._seen(gate.parent, row)
        key = (gate, pick, outer)
        if key not in self._doubles:
            parent = self._region(gate.region.parent, outer) if gate.region.parent else None
            region = Region(parent=parent, gate=gate, always=gate.region.always and not pick)
            double = _Row(gate, outer, region, regions={gate.region: region})
            self._doubles[key] = double
            for each in self._keys(gate, pick):
                self._tie(each, gate, double)
            if condition is not None:
                self._predicate(condition, (region,), double)
        return self._doubles[key]

    def _keys(self, gate: Gate, pick: int) -> list[Node]:
        """What the row that changed has in common with a double; with a neighbour, only what all of the way is by."""
        if not gate.partitions:
            return gate.keys
        keys = gate.partitions[self.world.choose(gate, len(gate.partitions))]
        leaf = self.flat.leaves.get(pick)
        own = {text(each) for each in leaf.partition} if isinstance(leaf, Window) else None
        return [key for key in keys if own is None or text(key) in own]

    def _tie(self, expression: Node, gate: Gate, double: _Row) -> None:
        outer = self._seen(gate.parent, double)
        term, there = self.term(expression, outer), self.term(expression, double)
        if term is None or there is None or term.source is None or there.source is None:
            return
        if not all(self._is_within(each, gate) for each in (term.source, there.source)):
            return
        within = [self.instances[each].region for each in (term.source, there.source)]
        around = set(chain(self._region(double.gate.region, outer) if double.gate else None)) | set(
            chain(double.region)
        )
        self.facts.append(
            Fact(
                sql=f"{term.sql} = {there.sql}",
                sources=frozenset((term.source, there.source)),
                regions=(double.region,),
                implies=frozenset(),
                sides=(term, there),
                transfers=functions.family(term.type) is not None
                and functions.family(term.type) == functions.family(there.type),
                identity=True,
                needs=_around(within) - around,
            )
        )

    def _is_within(self, source: int, gate: Gate) -> bool:
        return inside(self.flat.occurrences[self.instances[source].origin].place.gate, gate)

    # Conditions to facts

    def _state_within(self, row: _Row) -> None:
        for condition in self.flat.conditions:
            place = condition.place
            if (row.gate is None or inside(place.gate, row.gate)) and self._active(place.branch, row):
                self._state(condition, row)

    def _state(self, condition: Condition, row: _Row) -> None:
        expression = condition.expression
        regions = tuple(self._region(each, row) for each in condition.regions)
        equated = [self._equate(left, right, regions, row) for left, right in _equated(expression)]
        if not equated or not all(equated):
            self._predicate(expression, regions, row)

    def _equate(self, left: Node, right: Node, regions: tuple[Region, ...], row: _Row) -> bool:
        given = _around(regions)
        sides = (self.term(left, row, given), self.term(right, row, given))
        if sides[0] is None or sides[1] is None:
            return False
        sources = frozenset(side.source for side in sides if side is not None and side.source is not None)
        if not sources:
            return True
        fact = Fact(
            sql=f"{sides[0].sql} = {sides[1].sql}",
            sources=sources,
            regions=regions,
            implies=sides[0].implies | sides[1].implies,
        )
        if len(sources) == 2:
            alike = functions.family(sides[0].type)
            transfers = alike is not None and alike == functions.family(sides[1].type)
            fact = replace(fact, sides=(sides[0], sides[1]), transfers=transfers)
        elif None in (sides[0].source, sides[1].source):
            fact = replace(fact, fixes=sides[0].column or sides[1].column)
        self.facts.append(fact)
        return True

    def _predicate(self, expression: Node, regions: tuple[Region, ...], row: _Row) -> None:
        grounded = self.ground(expression, row)
        if grounded is None or functions.changing(grounded):
            return
        implies = frozenset(implied_by_truth(expression, self._implied_by(row)))
        sources = _sources(grounded)
        if sources:
            self.facts.append(Fact(sql=f"({text(grounded)})", sources=sources, regions=regions, implies=implies))

    # Expressions

    def term(self, expression: Node, row: _Row, given: AbstractSet[Region] = frozenset()) -> Term | None:
        """An expression as one over a single instance, by this world's choices for a row; None if it is not one.

        `given`: regions that are there wherever the expression counts.
        """
        whole = self.ground(expression, row)
        if whole is None:
            return None
        found, implies = whole, implied(expression, self._implied_by(row))
        sources = _sources(whole)
        if len(sources) > 1 or any(not self._sure(source, implies | given) for source in sources):
            options = self._options(expression, row)
            if len(options) > 1:
                choice = (text(expression), self._innermost(sources, row))
                found, implies = options[self.world.choose(choice, len(options))]
                sources = _sources(found)
        if len(sources) > 1 or functions.changing(found):
            return None
        found = without_casts(found, self._column_type)
        column = found.fields[1].sval if isinstance(found, ast.ColumnRef) else None
        sql = text(found) if column is not None else f"({text(found)})"
        source = next(iter(sources), None)
        return Term(
            source=source, sql=sql, type=type_name(found, self._column_type), column=column, implies=frozenset(implies)
        )

    def _innermost(self, sources: Iterable[int], row: _Row) -> _Row:
        """The row that an expression is of: what is from further out has one value for all doubles."""
        rows = [self._seen(self.flat.occurrences[self.instances[each].origin].place.gate, row) for each in sources]
        while row not in rows and row.outer is not None:
            row = row.outer
        return row

    def _sure(self, source: int, implies: AbstractSet[Region]) -> bool:
        return all(
            region.always or region in implies for region in chain(self.instances[source].region) if region.parent
        )

    def ground(self, expression: Node, row: _Row) -> Node | None:
        """An expression over instances' columns alone; None if a part of it is not a value of one row."""

        def replacement(node: Node) -> Node | None:
            if not isinstance(node, ast.ColumnRef):
                return None
            source = number(node)
            if source in self.flat.occurrences:
                if not self._active(self.flat.occurrences[source].place.branch, row):
                    raise _NotOfOneRow
                return refer(self._instance(source, row), node.fields[1].sval)
            opened = self._open(source, row)
            grounded = None if opened is None else self.ground(opened[0], opened[1])
            if grounded is None:
                raise _NotOfOneRow
            return grounded

        try:
            return rebuilt(expression, replacement)
        except _NotOfOneRow:
            return None

    def _open(self, source: int, row: _Row) -> tuple[Node, _Row, Region | None] | None:
        """The row value behind a leaf, the row that it is of, and a region that it implies."""
        leaf = self.flat.leaves.get(source)
        match leaf:
            case Aggregate() | Window() if leaf.pick is not None:
                double = self._double(leaf.gate, source, leaf.filter, row)
                return leaf.pick, double, double.region
            case Passed():
                return leaf.value, self._double(leaf.gate, 0, None, row), None
            case Nullable():
                return leaf.value, row, self._region(leaf.region, row)
            case Branches():
                chosen = self._choose(leaf.choice, len(leaf.values), row)
                return None if chosen == OPEN else (leaf.values[chosen], row, None)
            case Subquery() if leaf.value is not None:
                return leaf.value, row, self._region(leaf.region, row)
            case _:
                return None

    def _implied_by(self, row: _Row) -> Callable[[Node], set[Region]]:
        """The regions that are there if a column is not NULL."""

        def implied_leaf(reference: Node) -> set[Region]:
            source = number(reference)
            if source in self.flat.occurrences:
                return set(chain(self._region(self.flat.occurrences[source].place.region, row)))
            opened = self._open(source, row)
            if opened is None:
                return set()
            value, of, region = opened
            return implied(value, self._implied_by(of)) | set(chain(region))

        return implied_leaf

    def _options(self, expression: Node, row: _Row) -> list[tuple[Node, set[Region]]]:
        """The values that an expression may take, each with what it implies."""
        if isinstance(expression, ast.ColumnRef) and number(expression) not in self.flat.occurrences:
            opened = self._open(number(expression), row)
            if opened is None:
                return []
            value, of, region = opened
            return [(each, implies | set(chain(region))) for each, implies in self._options(value, of)]
        if isinstance(expression, ast.TypeCast):
            return [
                (ast.TypeCast(arg=each, typeName=expression.typeName), implies)
                for each, implies in self._options(expression.arg, row)
            ]
        alternatives = _alternatives(expression)
        if alternatives:
            return [option for each in alternatives for option in self._options(each, row)]
        grounded = self.ground(expression, row)
        return [] if grounded is None else [(grounded, implied(expression, self._implied_by(row)))]

    def _column_type(self, reference: Node) -> str | None:
        table = self.instances[number(reference)].table
        return self.flat.catalog.tables[table].columns.get(reference.fields[1].sval)


class _NotOfOneRow(Exception):
    pass


def _too_many(flat: Flat) -> Refused:
    many = f"{len(flat.occurrences)} mentions of tables once all views are opened"
    return Refused(
        _most_mentioned(flat),
        f"{many}: too many, with the rows that may be chosen instead and in all combinations of branches",
    )


def _most_mentioned(flat: Flat) -> str:
    return Counter(each.sql for each in flat.occurrences.values()).most_common(1)[0][0]


def _equated(expression: Node) -> list[tuple[Node, Node]]:
    """The pairs that an equality, perhaps of rows, makes equal."""
    if not isinstance(expression, ast.A_Expr) or expression.kind.name != "AEXPR_OP":
        return []
    if expression.name[-1].sval != "=":
        return []
    left, right = expression.lexpr, expression.rexpr
    if isinstance(left, ast.RowExpr) and isinstance(right, ast.RowExpr):
        return list(zip(left.args, right.args, strict=True))
    if isinstance(left, ast.RowExpr) or isinstance(right, ast.RowExpr):
        return []
    return [(left, right)]


def _alternatives(expression: Node) -> list[Node]:
    match expression:
        case ast.CoalesceExpr() | ast.MinMaxExpr():
            return list(expression.args)
        case ast.CaseExpr():
            results = [*(when.result for when in expression.args), expression.defresult]
            return [each for each in results if each is not None]
        case ast.A_Expr() if expression.kind.name == "AEXPR_NULLIF":
            return [expression.lexpr]
        case _:
            return []


def _sources(grounded: Node) -> frozenset[int]:
    return frozenset(number(node) for node in nodes(grounded) if isinstance(node, ast.ColumnRef))


def _around(regions: Iterable[Region]) -> frozenset[Region]:
    return frozenset(one for each in regions for one in chain(each))
