"""An expression of a SELECT to one over numbered occurrences and leaves: columns, aggregates, windows, subqueries.

What cannot be followed is named: functions and operators outside pg_catalog, values that depend on the session. Pure:
no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count

from pglast.enums import A_Expr_Kind

from replicator.lineage import functions
from replicator.lineage.casts import base_type, type_name
from replicator.lineage.floats import adds_floats
from replicator.lineage.query_tree import (
    Aggregate,
    Branches,
    Condition,
    Flat,
    Gate,
    Leaf,
    Node,
    Opaque,
    Place,
    Problem,
    Region,
    Subquery,
    Window,
    ast,
    piece,
    rebuilt,
    refer,
    text,
)
from replicator.lineage.scopes import Refused, Scope, Source, columns, named_window

Ctes = dict[str, tuple[Node, Scope | None, "Ctes"]]
"""CTE's name → its definition, the query level around it, and the CTEs that it may name."""
_ROWS_FRAME = 0x4  # FRAMEOPTION_ROWS of parsenodes.h: peers are told apart
_SEPARATES_PEERS = functions.NEIGHBOURS | {"row_number", "ntile"}


class Expressions:
    """Expressions at a place in a query; `query` opens a subquery."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.numbers = count(1)
        self.touched: list[Scope] = []
        self.known: dict[tuple[int, str], Node] = {}

    def query(self, select: Node, place: Place, scope: Scope | None, ctes: Ctes) -> Source:
        raise NotImplementedError

    def leaf(self, leaf: Leaf) -> Node:
        source = next(self.numbers)
        self.flat.leaves[source] = leaf
        return refer(source)

    def choice(self, gate: Gate | None) -> int:
        """A number for a choice among values of the rows within a gate."""
        found = next(self.numbers)
        self.flat.choices[found] = gate
        return found

    def shared_leaf(self, leaf: Leaf, owner: object, printed: Node) -> Node:
        """One leaf for what is written twice in one place."""
        key = (id(owner), text(printed))
        if key not in self.known:
            self.known[key] = self.leaf(leaf)
        return self.known[key]

    def problem(self, sql: str, reason: str) -> None:
        problem = Problem(sql=sql, reason=reason)
        if problem not in self.flat.problems:
            self.flat.problems.append(problem)

    def member(self, member: Membership, place: Place, scope: Scope, ctes: Ctes) -> list[tuple[Node, Node]]:
        source = self.query(member.select, place, scope, ctes)
        tested = member.tested.args if isinstance(member.tested, ast.RowExpr) else (member.tested,)
        pairs = [(self.expression(test, place, scope, ctes), source.at(index)) for index, test in enumerate(tested)]
        if member.of_array and (type_name(pairs[0][1], base_type(self.flat)) or "[]").endswith("[]"):
            return pairs  # an array of arrays has their elements for its own: nothing is equal to the column
        for pair in pairs:
            condition = Condition(expression=equality(*pair), regions=(place.region,), place=place)
            self.flat.conditions.append(condition)
        return pairs

    def expression(self, tree: Node, place: Place, scope: Scope, ctes: Ctes, *, truth: bool = False) -> Node:
        """The expression over numbered sources. `truth`: only whether it is true matters, NULL is as good as false."""
        truths = {id(node) for node in _of_truth(tree, truth)}

        def replacement(node: Node) -> Node | None:
            if functions.reads_session(node):
                self.problem(piece(node), "its value depends on the session, or is another one each time")
            match node:
                case ast.ColumnRef():
                    return self.column(node, scope)
                case ast.SubLink() | ast.A_Expr() if (member := membership(node)) is not None:
                    region = Region(parent=place.region, gate=place.gate, always=False)
                    pairs = self.member(member, replace(place, region=region), scope, ctes)
                    if member.negated or id(node) not in truths:
                        self.flat.memberships += [(*pair, region, piece(node)) for pair in pairs]
                    return self.leaf(Subquery(region=region, value=None, parts=tuple(chain(*pairs))))
                case ast.SubLink():
                    return self.subquery(node, place, scope, ctes)
                case ast.A_Indirection() if _is_pick(node):
                    return self.aggregate(node, node.arg, place, scope, ctes)
                case ast.FuncCall():
                    return self.call(node, place, scope, ctes)
                case ast.JsonObjectAgg() | ast.JsonArrayAgg() | ast.GroupingFunc():
                    return self.aggregate(node, node, place, scope, ctes)
                case ast.A_Expr() if (sides := _compared_rows(node)) is not None:
                    rows, query = sides
                    values = self.row_of(query, place, scope, ctes)
                    parts = self.expression(rows.args, place, scope, ctes)
                    left, right = (ast.RowExpr(args=each, row_format=rows.row_format) for each in (parts, values))
                    if node.lexpr is query:
                        left, right = right, left
                    return ast.A_Expr(kind=node.kind, name=node.name, lexpr=left, rexpr=right)
                case ast.A_Expr() if node.name and functions.foreign(node.name):
                    self.problem(piece(node), "an operator outside pg_catalog: what it reads is not known")
                case ast.ParamRef() | ast.CurrentOfExpr():
                    raise Refused(piece(node), "a parameter has no value here")
            return None

        return rebuilt(tree, replacement)

    def column(self, node: Node, scope: Scope) -> Node:
        star = isinstance(node.fields[-1], ast.A_Star)
        names = [each.sval for each in node.fields[: len(node.fields) - star]]
        found = None if star else scope.find(names)
        if found is not None:
            outer, self.touched = self.touched, []  # what the column is made of belongs to other queries
            value = found[1]()
            self.touched = [*outer, found[0]]
            return value
        row = scope.whole(names[-1])
        if row is None or (len(names) > 1 and not star):
            raise Refused(piece(node), "this column is not known here")
        self.touched.append(row[0])
        return self.leaf(Opaque(parts=tuple(make() for _, make in columns(row[1])), is_row=True))

    def call(self, node: Node, place: Place, scope: Scope, ctes: Ctes) -> Node | None:
        catalog = self.flat.catalog
        if functions.foreign(node.funcname, catalog.functions, catalog.row_functions):
            self.problem(piece(node), "a function outside pg_catalog: what it reads is not known")
        elif functions.called(node) in catalog.row_functions:
            self.flat.functions.add(functions.called(node))
        if node.over is not None:
            return self.window(node, place, scope, ctes)
        if functions.is_aggregate(node):
            return self.aggregate(node, node, place, scope, ctes)
        if functions.called(node) in functions.SET_RETURNING:
            parts = tuple(self.expression(each, place, scope, ctes) for each in node.args or ())
            return self.leaf(Opaque(parts=parts))
        return None

    def window(self, node: Node, place: Place, scope: Scope, ctes: Ctes) -> Node:
        if place.gate is None:
            raise Refused(piece(node), "a window function outside a SELECT's rows")
        window, name = named_window(node.over, scope.windows), functions.called(node)
        arguments = [self.expression(each, place, scope, ctes) for each in node.args or ()]
        default = arguments.pop() if name in functions.DEFAULTED and len(arguments) == 3 else None
        only = None
        if node.agg_filter is not None:
            only = self.expression(node.agg_filter, place, scope, ctes, truth=True)
        value = self.leaf(
            Window(
                rows=scope.groups,
                gate=place.gate,
                parts=(*arguments, only) if only is not None else tuple(arguments),
                partition=tuple(self.expression(each, place, scope, ctes) for each in window.partitionClause or ()),
                order=tuple(self.expression(each.node, place, scope, ctes) for each in window.orderClause or ()),
                pick=arguments[0] if name in functions.NEIGHBOURS | functions.PICKS else None,
                filter=only,
                ordered=name in _SEPARATES_PEERS | functions.ORDERED
                or bool(window.frameOptions & _ROWS_FRAME)
                or adds_floats(self.flat, name, tuple(arguments)),
                sql=piece(node),
            )
        )
        return (
            value if default is None else self.leaf(Branches(choice=self.choice(place.gate), values=(value, default)))
        )

    def aggregate(self, whole: Node, call: Node, place: Place, scope: Scope, ctes: Ctes) -> Node:
        """The leaf for an aggregate, which belongs to the innermost level that its arguments name."""
        outer, self.touched = self.touched, []
        inner = replace(place, region=scope.groups.region, gate=scope.groups)
        parts = {
            attribute: self.expression(getattr(call, attribute), inner, scope, ctes, truth=attribute == "agg_filter")
            for attribute in call
            if attribute in ("args", "agg_filter", "agg_order", "func", "constructor", "arg")
        }
        levels = list(scope.levels())  # a subquery's own columns, within the arguments, are of none of these
        owner = max((each for each in self.touched if each in levels), key=Scope.depth, default=scope)
        self.touched = [*outer, *self.touched]
        if not owner.groups.active:
            owner.groups.active = True
            owner.groups.region.always = False
        if not isinstance(call, ast.FuncCall):
            resolved = rebuilt(call, lambda node: self.column(node, scope) if isinstance(node, ast.ColumnRef) else None)
            return self.leaf(Aggregate(gate=owner.groups, call=resolved, ordered=True, sql=piece(whole)))
        resolved = rebuilt(call, lambda each: None)
        for attribute, part in parts.items():
            setattr(resolved, attribute, part)
        printed = rebuilt(whole, lambda each: resolved if each is call else None)
        leaf = _aggregate(owner.groups, resolved, printed, piece(whole))
        if adds_floats(self.flat, functions.called(resolved), resolved.args or ()):
            leaf = replace(leaf, ordered=True)
        return self.shared_leaf(leaf, owner.groups, printed)

    def row_of(self, node: Node, place: Place, scope: Scope, ctes: Ctes) -> tuple[Node, ...]:
        """The columns of a subquery that gives one row: all NULL if it gives none, which a comparison can't tell."""
        region = Region(parent=place.region, gate=place.gate, always=False)
        parts = self.query(node.subselect, replace(place, region=region), scope, ctes).all()
        return tuple(self.leaf(Subquery(region=region, value=part, parts=parts)) for part in parts)

    def subquery(self, node: Node, place: Place, scope: Scope, ctes: Ctes) -> Node:
        region, kind = Region(parent=place.region, gate=place.gate, always=False), node.subLinkType.name
        if node.operName and functions.foreign(node.operName):
            self.problem(piece(node), "an operator outside pg_catalog: what it reads is not known")
        array = kind == "ARRAY_SUBLINK"
        source = self.query(node.subselect, replace(place, region=region, ordered=array), scope, ctes)
        if kind == "EXISTS_SUBLINK":
            return self.leaf(Subquery(region=region, value=None))
        parts = source.all()
        if node.testexpr is not None:
            parts = (*parts, self.expression(node.testexpr, place, scope, ctes))
        scalar = parts[0] if kind == "EXPR_SUBLINK" else None
        return self.leaf(Subquery(region=region, value=scalar, parts=parts, array=source.gate if array else None))


def _compared_rows(node: Node) -> tuple[Node, Node] | None:
    """The row and the subquery that a comparison by pg_catalog of the two is made of."""
    if node.kind.name != "AEXPR_OP" or functions.foreign(node.name):
        return None
    for row, query in ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr)):
        single = isinstance(query, ast.SubLink) and query.subLinkType.name == "EXPR_SUBLINK"
        if isinstance(row, ast.RowExpr) and single:
            return row, query
    return None


def equality(left: Node, right: Node) -> Node:
    """`left = right`."""
    return ast.A_Expr(kind=A_Expr_Kind.AEXPR_OP, name=(ast.String("="),), lexpr=left, rexpr=right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """`tested IN (select)`, or NOT IN."""

    tested: Node
    select: Node
    negated: bool
    of_array: bool
    """Written as `= ANY (ARRAY(SELECT …))`."""


def membership(node: Node) -> Membership | None:
    """What an expression is if it says whether a value is among those of a subquery, by pg_catalog's equality."""
    if isinstance(node, ast.SubLink):
        negated = {"ANY_SUBLINK": False, "ALL_SUBLINK": True}.get(node.subLinkType.name)
        tested, query, operator = node.testexpr, node, node.operName or (ast.String("="),)
    elif isinstance(node, ast.A_Expr) and _is_array(node.rexpr):
        negated = {"AEXPR_OP_ANY": False, "AEXPR_OP_ALL": True}.get(node.kind.name)
        tested, query, operator = node.lexpr, node.rexpr, node.name
    else:
        return None
    if negated is None or operator[-1].sval != ("<>" if negated else "=") or functions.foreign(operator):
        return None
    return Membership(tested=tested, select=query.subselect, negated=negated, of_array=query is not node)


def _is_array(node: Node) -> bool:
    return isinstance(node, ast.SubLink) and node.subLinkType.name == "ARRAY_SUBLINK"


def _of_truth(tree: Node, truth: bool) -> Iterator[Node]:
    """The memberships in an expression of which only whether they are true matters."""
    match tree:
        case ast.SubLink() | ast.A_Expr() if truth and membership(tree) is not None:
            yield tree
        case ast.SubLink():
            return
        case ast.BoolExpr() if tree.boolop.name in ("AND_EXPR", "OR_EXPR"):
            for each in tree.args:
                yield from _of_truth(each, truth)
        case ast.BooleanTest() if tree.booltesttype.name in ("IS_TRUE", "IS_NOT_TRUE"):
            yield from _of_truth(tree.arg, True)
        case ast.CaseExpr() if tree.arg is None:
            for when in tree.args:
                yield from _of_truth(when.expr, True)
                yield from _of_truth(when.result, truth)
            yield from _of_truth(tree.defresult, truth)
        case tuple():
            for each in tree:
                yield from _of_truth(each, False)
        case ast.Node():
            for attribute in tree:
                yield from _of_truth(getattr(tree, attribute), False)


def _is_pick(node: Node) -> bool:
    """`(array_agg(…))[n]`."""
    return (
        isinstance(node.arg, ast.FuncCall)
        and functions.is_aggregate(node.arg)
        and functions.called(node.arg) == "array_agg"
        and len(node.indirection) == 1
        and isinstance(node.indirection[0], ast.A_Indices)
        and not node.indirection[0].is_slice
    )


def _aggregate(gate: Gate, call: Node, whole: Node, sql: str) -> Aggregate:
    name, order = functions.called(call), tuple(each.node for each in call.agg_order or ())
    pick = None
    if name in functions.PICKS or isinstance(whole, ast.A_Indirection):
        pick = call.args[0]
    elif call.agg_within_group and name in ("mode", "percentile_disc"):
        pick = order[0]
    ordered = name in functions.ORDERED
    return Aggregate(gate=gate, call=whole, pick=pick, filter=call.agg_filter, order=order, ordered=ordered, sql=sql)
