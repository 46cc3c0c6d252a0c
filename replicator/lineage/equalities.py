"""What a flattened SELECT says about the rows that meet in one of its results: which values are equal, which rows pass.

One *world* is one way of choosing: a branch of each set operation, an alternative of each COALESCE over several rows,
one of a SELECT's windows.
Within a world a fact holds for every combination of rows in which its regions are there.

Beyond a gate another row may stand for the one that changed. So a gate's chosen row, and each picked value, is an
occurrence of its own (a *double* of what is within the gate), tied to the first by the gate's keys alone: a change gets
out along the keys, and from there to whichever row was chosen; from the outside, the double is where a picked value
leads. A double meets the gate's own conditions, and its pick's FILTER.

Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from replicator.lineage import functions
from replicator.lineage.casts import type_name, without_casts
from replicator.lineage.query_tree import (
    MARK,
    MARKED,
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
        yield from _worlds(flat, key, {}, everywhere)
        return
    for branch in sorted(branches):
        standing = [source for source in everywhere if flat.occurrences[source].place.branch == branch]
        yield from _worlds(flat, key, left_open | dict(branch), standing)


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


def _worlds(
    flat: Flat, key: tuple[str, ...], given: Mapping[Hashable, int], wanted: list[int]
) -> Iterator[tuple[Equalities, list[int]]]:
    plan: tuple[int, ...] | None = ()
    pairs = 0
    for _ in range(MOST_WORLDS):
        world = World(plan or (), given)
        equalities = Equalities(flat, world, key)
        pairs += len(equalities.instances) ** 2
        if pairs > MOST_PAIRS:
            raise _too_many(flat)
        yield equalities, [each for each in wanted if each in equalities.instances and not equalities.excluded(each)]
        plan = world.following()
        if plan is None:
            return
    raise Refused(_most_mentioned(flat), f"more than {MOST_WORLDS} combinations of branches and alternatives")


@dataclass(slots=True, eq=False)
class _Double:
    gate: Gate
    region: Region
    sources: dict[int, int] = field(default_factory=dict)
    regions: dict[Region, Region] = field(default_factory=dict)


class Equalities:
    """Instances, facts and key of one world."""

    def __init__(self, flat: Flat, world: World, key: tuple[str, ...]) -> None:
        self.flat = flat
        self.world = world
        self.instances: dict[int, Instance] = {}
        self.facts: list[Fact] = []
        self._doubles: dict[tuple[int, int], _Double] = {}
        for source, each in flat.occurrences.items():
            if self._active(each.place.branch):
                place = each.place
                self.instances[source] = Instance(table=each.table, region=place.region, gate=place.gate, origin=source)
        self._next = max((*flat.occurrences, *flat.leaves, 0)) + 1
        for condition in flat.conditions:
            if self._active(condition.place.branch):
                self._state(condition)
        self.key = [self.term(flat.outputs[name]) for name in key]
        self._copy_facts()
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

    def _active(self, branches: tuple[tuple[int, int], ...]) -> bool:
        return all(self.world.choose(choice, 2) == branch for choice, branch in branches)

    # Conditions to facts

    def _state(self, condition: Condition) -> None:
        expression = condition.expression
        pairs = _equated(expression)
        equated = [self._equate(left, right, condition) for left, right in pairs]
        if not equated or not all(equated):
            self._predicate(expression, condition.regions, condition.place.gate)

    def _equate(self, left: Node, right: Node, condition: Condition) -> bool:
        given = {region for each in condition.regions for region in chain(each)}
        sides = (self.term(left, given), self.term(right, given))
        if sides[0] is None or sides[1] is None:
            return False
        sources = frozenset(side.source for side in sides if side is not None and side.source is not None)
        if not sources:
            return True
        fact = Fact(
            sql=f"{sides[0].sql} = {sides[1].sql}",
            sources=sources,
            regions=condition.regions,
            gate=condition.place.gate,
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

    def _predicate(
        self, expression: Node, regions: tuple[Region, ...], gate: Gate | None, double: _Double | None = None
    ) -> None:
        grounded = self.ground(expression)
        if grounded is None or functions.changing(grounded):
            return
        implies = implied_by_truth(expression, self._implied_leaf)
        if double is not None:
            grounded = self._rename(grounded, double)
            implies = {self._region(region, double) for region in implies}
        sources = _sources(grounded)
        if sources:
            fact = Fact(
                sql=f"({text(grounded)})", sources=sources, regions=regions, gate=gate, implies=frozenset(implies)
            )
            self.facts.append(fact)

    # Expressions

    def term(
        self, expression: Node, given: AbstractSet[Region] = frozenset(), row: _Double | None = None
    ) -> Term | None:
        """An expression as one over a single row, by this world's choices; None if it is not one.

        `given`: regions that are there wherever the expression counts. `row`: whose alternative it is, if not the row
        that changed; another row's value may come from another of its columns.
        """
        whole = self.ground(expression)
        if whole is None:
            return None
        found, implies = whole, implied(expression, self._implied_leaf)
        sources = _sources(whole)
        if len(sources) > 1 or any(not self._sure(source, implies | given) for source in sources):
            options = self._options(expression)
            if len(options) > 1:
                found, implies = options[self.world.choose((text(expression), row), len(options))]
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

    def _sure(self, source: int, implies: AbstractSet[Region]) -> bool:
        return all(
            region.always or region in implies for region in chain(self.instances[source].region) if region.parent
        )

    def ground(self, expression: Node) -> Node | None:
        """An expression over base columns alone; None if a part of it is not a value of one row."""

        def replacement(node: Node) -> Node | None:
            if not isinstance(node, ast.ColumnRef) or number(node) in self.instances:
                return None
            opened = self._open(number(node))
            if opened is None:
                raise _NotOfOneRow
            value, double, _ = opened
            grounded = rebuilt(value, replacement)
            return grounded if double is None else self._rename(grounded, double)

        try:
            return rebuilt(expression, replacement)
        except _NotOfOneRow:
            return None

    def _open(self, source: int) -> tuple[Node, _Double | None, Region | None] | None:
        """The row value behind a leaf, the double whose row that is, and a region that it implies."""
        leaf = self.flat.leaves.get(source)
        match leaf:
            case Aggregate() | Window() if leaf.pick is not None:
                double = self._double(leaf.gate, source, leaf.filter)
                return leaf.pick, double, double.region
            case Passed():
                return leaf.value, self._double(leaf.gate, 0, None), None
            case Nullable():
                return leaf.value, None, leaf.region
            case Branches():
                chosen = self.world.choose(leaf.choice, len(leaf.values))
                return None if chosen == OPEN else (leaf.values[chosen], None, None)
            case Subquery() if leaf.value is not None:
                return leaf.value, None, leaf.region
            case _:
                return None

    def _implied_leaf(self, reference: Node) -> set[Region]:
        source = number(reference)
        if source in self.instances:
            return set(chain(self.instances[source].region))
        opened = self._open(source)
        if opened is None:
            return set()
        value, double, region = opened
        implies = implied(value, self._implied_leaf)
        if double is not None:
            implies = {self._region(each, double) for each in implies}
        return implies | set(chain(region))

    def _options(self, expression: Node) -> list[tuple[Node, set[Region]]]:
        """The values that an expression may take, each with what it implies."""
        if isinstance(expression, ast.ColumnRef) and number(expression) not in self.instances:
            opened = self._open(number(expression))
            if opened is None:
                return []
            value, double, region = opened
            options = [(each, implies | set(chain(region))) for each, implies in self._options(value)]
            if double is None:
                return options
            return [
                (self._rename(each, double), {self._region(one, double) for one in implies})
                for each, implies in options
            ]
        if isinstance(expression, ast.TypeCast):
            return [
                (ast.TypeCast(arg=each, typeName=expression.typeName), implies)
                for each, implies in self._options(expression.arg)
            ]
        alternatives = _alternatives(expression)
        if alternatives:
            return [option for each in alternatives for option in self._options(each)]
        grounded = self.ground(expression)
        return [] if grounded is None else [(grounded, implied(expression, self._implied_leaf))]

    def _column_type(self, reference: Node) -> str | None:
        table = self.instances[number(reference)].table
        return self.flat.catalog.tables[table].columns.get(reference.fields[1].sval)

    # Doubles

    def _double(self, gate: Gate, pick: int, condition: Node) -> _Double:
        """What is within a gate, once more: as the chosen row (`pick` is 0), or as the row of a picked value."""
        key = (id(gate), pick)
        if key not in self._doubles:
            always = gate.region.always and not pick
            double = _Double(gate, Region(parent=gate.region.parent, gate=gate.parent, always=always))
            self._doubles[key] = double
            for each in self._keys(gate, pick):
                self._tie(each, double)
            if condition is not None:
                self._predicate(condition, (double.region,), gate.parent, double)
        return self._doubles[key]

    def _keys(self, gate: Gate, pick: int) -> list[Node]:
        """What the row that changed has in common with a double; with a neighbour, only what all of the way is by."""
        if not gate.partitions:
            return gate.keys
        keys = gate.partitions[self.world.choose(gate, len(gate.partitions))]
        leaf = self.flat.leaves.get(pick)
        own = {text(each) for each in leaf.partition} if isinstance(leaf, Window) else None
        return [key for key in keys if own is None or text(key) in own]

    def _tie(self, expression: Node, double: _Double) -> None:
        term, there = self.term(expression), self.term(expression, row=double)
        if term is None or there is None or term.source is None or there.source is None:
            return
        if not all(inside(self.instances[each].gate, double.gate) for each in (term.source, there.source)):
            return
        other = self._renamed_term(there, double)
        self.facts.append(
            Fact(
                sql=f"{term.sql} = {other.sql}",
                sources=frozenset((term.source, self._source(there.source, double))),
                regions=(double.region,),
                gate=double.gate.parent,
                implies=frozenset(),
                sides=(term, other),
                transfers=functions.family(term.type) is not None
                and functions.family(term.type) == functions.family(there.type),
                identity=True,
                needs=frozenset(
                    region
                    for source in (term.source, there.source)
                    for region in chain(self.instances[source].region)
                    if inside(region.gate, double.gate) and region is not double.gate.region
                ),
            )
        )

    def _copy_facts(self) -> None:
        """Facts within a gate hold for its doubles; inner gates first, so that outer doubles have theirs."""
        for double in sorted(self._doubles.values(), key=lambda each: -_depth(each.gate)):
            for fact in [each for each in self.facts if inside(each.gate, double.gate)]:
                sources = frozenset(self._source(source, double) for source in fact.sources)
                if sources == fact.sources:
                    continue
                self.facts.append(
                    replace(
                        fact,
                        sql=self._renamed(fact.sql, double),
                        sources=sources,
                        regions=tuple(self._region(region, double) for region in fact.regions),
                        gate=double.gate.parent,
                        implies=frozenset(self._region(region, double) for region in fact.implies),
                        sides=fact.sides
                        and (self._renamed_term(fact.sides[0], double), self._renamed_term(fact.sides[1], double)),
                        needs=frozenset(self._region(region, double) for region in fact.needs),
                    )
                )

    def _source(self, source: int, double: _Double) -> int:
        instance = self.instances[source]
        if not inside(instance.gate, double.gate):
            return source
        if source not in double.sources:
            if len(self.instances) ** 2 > MOST_PAIRS:
                raise _too_many(self.flat)
            self._next += 1
            double.sources[source] = self._next
            self.instances[self._next] = Instance(
                table=instance.table,
                region=self._region(instance.region, double),
                gate=double.gate.parent,
                origin=instance.origin,
                doubled=double.gate,
            )
        return double.sources[source]

    def _region(self, region: Region, double: _Double) -> Region:
        if region is double.gate.region:
            return double.region
        if not inside(region.gate, double.gate):
            return region
        if region not in double.regions:
            parent = self._region(region.parent, double) if region.parent else None
            double.regions[region] = Region(parent=parent, gate=double.gate.parent, always=region.always)
        return double.regions[region]

    def _rename(self, grounded: Node, double: _Double) -> Node:
        def replacement(node: Node) -> Node | None:
            if not isinstance(node, ast.ColumnRef):
                return None
            qualifier = ast.String(f"{MARK}{self._source(number(node), double)}")
            return ast.ColumnRef(fields=(qualifier, *node.fields[1:]))

        return rebuilt(grounded, replacement)

    def _renamed(self, sql: str, double: _Double) -> str:
        return MARKED.sub(lambda match: f"{MARK}{self._source(int(match[1]), double)}", sql)

    def _renamed_term(self, term: Term, double: _Double) -> Term:
        return replace(
            term,
            source=None if term.source is None else self._source(term.source, double),
            sql=self._renamed(term.sql, double),
            implies=frozenset(self._region(region, double) for region in term.implies),
        )


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


def _depth(gate: Gate | None) -> int:
    depth = 0
    while gate is not None:
        depth, gate = depth + 1, gate.parent
    return depth
