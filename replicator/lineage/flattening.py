"""A SELECT over views, views over views, to one flat list of base-table occurrences and conditions.

Views, CTEs and subqueries are opened in place, each mention anew. A column is followed down to the base table while it
is a row's own value; where it is not, a leaf stands for it (`replicator.lineage.query_tree`). Columns are made when
they are asked for, so that an output which nobody reads brings neither columns nor subqueries with it.

Relies on definitions printed under an empty search path. Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from replicator.lineage import functions
from replicator.lineage.expressions import Ctes
from replicator.lineage.from_items import FromItems, Output, parsed
from replicator.lineage.query_tree import (
    Branches,
    Catalog,
    Flat,
    Gate,
    Node,
    Opaque,
    Passed,
    Place,
    Region,
    ast,
    chain,
    nodes,
    piece,
    refer,
    text,
)
from replicator.lineage.same_rows import equal_columns
from replicator.lineage.scopes import Refused, Rows, Scope, Source, column_name, columns, named_window


def flatten(select: str, catalog: Catalog) -> Flat:
    """A SELECT's occurrences, conditions and outputs. Raises `Refused` where it cannot be followed at all."""
    root = Region(parent=None, gate=None, always=True)
    flat = Flat(root=root, catalog=catalog)
    source = _Flattener(flat).query(parsed(select), Place(region=root), None, {})
    for name, value in zip(source.names, source.all(), strict=True):
        flat.outputs.setdefault(name, value)
    return flat


class _Flattener(FromItems):
    def __init__(self, flat: Flat) -> None:
        super().__init__(flat)
        self.opening: list[int] = []

    # Queries

    def query(self, select: Node, place: Place, scope: Scope | None, ctes: Ctes) -> Source:
        if not isinstance(select, ast.SelectStmt):
            raise Refused(piece(select), "not a SELECT")
        if id(select) in self.opening:
            raise Refused(piece(select), "recursion")
        self.opening.append(id(select))
        try:
            ctes = self.with_clause(select, scope, ctes)
            self.limits(select, place, scope, ctes)
            if select.valuesLists:
                return self.values(select, place, scope)
            if select.op.name != "SETOP_NONE":
                return self.set_operation(select, place, scope, ctes)
            return self.block(select, place, scope, ctes)
        finally:
            self.opening.pop()

    def with_clause(self, select: Node, scope: Scope | None, ctes: Ctes) -> Ctes:
        if select.withClause is None:
            return ctes
        known = dict(ctes)
        for cte in select.withClause.ctes:
            known[cte.ctename] = (cte, scope, known if select.withClause.recursive else dict(known))
        return known

    def limits(self, select: Node, place: Place, scope: Scope | None, ctes: Ctes) -> None:
        """What LIMIT and OFFSET read: it is around the SELECT, whose own rows they may not name."""
        around = scope or Scope(None, Gate(parent=place.gate, region=place.region))
        for limit in (select.limitCount, select.limitOffset):
            self.expression(limit, place, around, ctes)

    def values(self, select: Node, place: Place, scope: Scope | None) -> Source:
        scope = scope or Scope(None, Gate(parent=place.gate, region=place.region))
        parts = tuple(self.expression(row, place, scope, {}) for row in select.valuesLists)
        self.flat.other_rows.append(place.region)
        leaf = self.leaf(Opaque(parts=parts))
        return Source(tuple(f"column{i + 1}" for i in range(len(select.valuesLists[0]))), lambda _: leaf)

    def set_operation(self, select: Node, place: Place, scope: Scope | None, ctes: Ctes) -> Source:
        gate = self.row_gate(select, place)
        choice = self.choice(gate)
        sides = [
            self.query(
                side,
                replace(place, region=gate.region, gate=gate, branch=(*place.branch, (choice, index))),
                scope,
                ctes,
            )
            for index, side in enumerate((select.larg, select.rarg))
        ]
        if select.op.name == "SETOP_EXCEPT":
            self.flat.excluded.add((choice, 1))
        names = sides[0].names

        def column(index: int) -> Node:
            return self.leaf(Branches(choice=choice, values=tuple(side.at(index) for side in sides)))

        source = Source(names, column)
        if not (select.all and select.op.name == "SETOP_UNION"):
            source.all()  # whole rows are compared
        self.sort(select, gate, Scope(scope, gate, [Rows.of("", source)]), place, columns(source))
        passed = source.mapped(lambda value: self.passed(gate, value))
        passed.gate = gate
        return passed

    def row_gate(self, select: Node, place: Place) -> Gate:
        region = Region(parent=place.region, gate=place.gate, always=True)
        gate = Gate(parent=place.gate, region=region, select=select)
        region.gate = gate
        limited = [limit for limit in (select.limitCount, select.limitOffset) if limit is not None]
        gate.active = gate.chooses = any(not _no_limit(limit) for limit in limited)
        return gate

    def block(self, select: Node, place: Place, parent: Scope | None, ctes: Ctes) -> Source:
        rows = self.row_gate(select, place)
        groups = Gate(parent=rows, region=Region(parent=rows.region, gate=None, always=True), select=select)
        groups.region.gate = groups
        targets = select.targetList or ()
        unordered = any(functions.is_aggregate(node) for node in nodes(targets))
        within = replace(place, region=groups.region, gate=groups, ordered=unordered or place.ordered)
        scope = Scope(parent, groups, windows=select.windowClause or ())
        for item in select.fromClause or ():
            scope.rows.append(self.from_item(item, within, scope, ctes))
        if select.whereClause is not None:
            self.conjuncts(select.whereClause, within, scope, ctes)
        after = replace(place, region=rows.region, gate=rows)
        outputs = self.targets(targets, after, scope, ctes)
        self.group(select, groups, outputs, after, scope, ctes)
        self.pass_rows(select, rows, outputs, after, scope, ctes)
        source = Source(tuple(name for name, _ in outputs), lambda index: outputs[index][1]())
        if select.distinctClause and select.distinctClause[0] is None:
            source.all()
        passed = source.mapped(lambda value: self.passed(rows, value))
        passed.gate = rows
        return passed

    def targets(self, targets: Iterable[Node], place: Place, scope: Scope, ctes: Ctes) -> list[Output]:
        outputs: list[Output] = []
        for target in targets:
            fields = target.val.fields if isinstance(target.val, ast.ColumnRef) else ()
            if fields and isinstance(fields[-1], ast.A_Star):
                outputs += scope.star(fields[-2].sval if len(fields) > 1 else None)
            else:
                for name, value in _columns(target):
                    make = self.later(value, place, scope, ctes)
                    outputs.append((name, make))
                    if functions.gives_rows(value):  # as many rows as it gives, whoever reads them
                        self.flat.other_rows.append(place.region)
                        make()
        return outputs

    def later(self, expression: Node, place: Place, scope: Scope, ctes: Ctes) -> Callable[[], Node]:
        made: list[Node] = []

        def make() -> Node:
            if not made:
                made.append(self.expression(expression, place, scope, ctes))
            return made[0]

        return make

    def group(
        self, select: Node, groups: Gate, outputs: list[Output], place: Place, scope: Scope,
        ctes: Ctes,
    ) -> None:  # fmt: skip
        inner = replace(place, region=groups.region, gate=groups)
        for item in select.groupClause or ():
            if isinstance(item, ast.GroupingSet):
                self.problem(piece(item), "grouping sets: which groups a row belongs to is not followed")
                continue
            groups.keys.append(self.item(item, outputs, inner, scope, ctes, outputs_first=False))
        if select.havingClause is not None:
            self.conjuncts(select.havingClause, place, scope, ctes)
        own = (*(select.targetList or ()), *(select.sortClause or ()))
        if select.groupClause or select.havingClause is not None or functions.contains_aggregate(own):
            groups.active = True
            groups.region.always = bool(select.groupClause)

    def pass_rows(
        self, select: Node, rows: Gate, outputs: list[Output], place: Place, scope: Scope,
        ctes: Ctes,
    ) -> None:  # fmt: skip
        limited = rows.active
        shared: list[list[Node]] = [[]] if limited else []
        if select.distinctClause and select.distinctClause[0] is not None:
            distinct = [
                self.item(item, outputs, place, scope, ctes, outputs_first=True) for item in select.distinctClause
            ]
            shared.append(distinct)
            rows.chooses = True
        for call in functions.windows((*(select.targetList or ()), *(select.sortClause or ()))):
            window = named_window(call.over, scope.windows)
            shared.append([self.expression(each, place, scope, ctes) for each in window.partitionClause or ()])
        if shared:
            rows.active = True
            rows.keys = self.common(shared, replace(place, region=scope.groups.region))
            if not rows.keys and not limited and not rows.chooses:
                rows.partitions = list({text(tuple(keys)): keys for keys in shared}.values())
        multiplied = any(functions.gives_rows(each.node) for each in select.sortClause or ())
        if limited or select.distinctClause or place.ordered or multiplied:
            self.sort(select, rows, scope, place, outputs, ctes)

    def common(self, shared: list[list[Node]], place: Place) -> list[Node]:
        """The expressions that all lists name, each by itself or by a column equal to it in every row of a place."""
        around = set(chain(place.region))
        pairs = [
            {text(refer(*column)) for column in pair}
            for condition in self.flat.conditions
            if condition.place.branch == place.branch[: len(condition.place.branch)]
            and all(each in around or each.always for one in condition.regions for each in chain(one))
            for pair in equal_columns(condition.expression)
        ]
        named = [{text(key) for key in keys} for keys in shared]
        for names in named:
            size = -1
            while size != len(names):
                size = len(names)
                names.update(*(pair for pair in pairs if pair & names))
        found = {text(key): key for keys in shared for key in keys}
        return [key for printed, key in found.items() if all(printed in names for names in named)]

    def sort(
        self, select: Node, gate: Gate, scope: Scope, place: Place,
        outputs: list[Output], ctes: Ctes | None = None,
    ) -> None:  # fmt: skip
        gate.order = [
            self.item(each.node, outputs, place, scope, ctes or {}, outputs_first=True)
            for each in select.sortClause or ()
        ]

    def item(
        self, node: Node, outputs: list[Output], place: Place, scope: Scope, ctes: Ctes, *,
        outputs_first: bool,
    ) -> Node:  # fmt: skip
        """An expression of GROUP BY, ORDER BY or DISTINCT ON, which may be an output's number or name."""
        if isinstance(node, ast.A_Const) and isinstance(node.val, ast.Integer) and outputs:
            return outputs[node.val.ival - 1][1]()
        if isinstance(node, ast.ColumnRef) and len(node.fields) == 1:
            name = node.fields[0].sval
            named = [make for output, make in outputs if output == name]
            if named and (outputs_first or scope.find([name]) is None):
                return named[0]()
        return self.expression(node, place, scope, ctes)

    def passed(self, gate: Gate, value: Node) -> Node:
        if not gate.active:
            return value
        keys = {text(key) for key in gate.keys}
        leaves = [node for node in nodes(value) if isinstance(node, ast.ColumnRef)]
        if text(value) in keys or all(text(leaf) in keys for leaf in leaves):
            return value
        return self.leaf(Passed(gate=gate, value=value))


def _columns(target: Node) -> list[tuple[str, Node]]:
    """The columns of a target: one, or those of a row that `(…).*` takes apart."""
    value = target.val
    if not (isinstance(value, ast.A_Indirection) and isinstance(value.indirection[-1], ast.A_Star)):
        return [(column_name(target), value)]
    called = functions.called(value.arg) if isinstance(value.arg, ast.FuncCall) else ""
    if called not in functions.ROW_COLUMNS or len(value.indirection) > 1:
        raise Refused(piece(value), "which columns this row has is not known here: name them one by one")
    return [
        (name, ast.A_Indirection(arg=value.arg, indirection=(ast.String(name),)))
        for name in functions.ROW_COLUMNS[called]
    ]


def _no_limit(limit: Node) -> bool:
    """LIMIT ALL, LIMIT NULL and OFFSET 0 let every row pass."""
    return isinstance(limit, ast.A_Const) and (limit.isnull or getattr(limit.val, "ival", None) == 0)
