"""FROM, WHERE and ON of a SELECT: tables, views, CTEs, joins and functions to rows with names; conditions to conjuncts.

EXISTS and IN that must be true are joins of their own. Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pglast import parse_sql
from pglast.parser import ParseError

from replicator.lineage import functions
from replicator.lineage.expressions import Ctes, Expressions, equality, membership
from replicator.lineage.query_tree import (
    Aggregate,
    Branches,
    Condition,
    Name,
    Node,
    Nullable,
    Occurrence,
    Opaque,
    Place,
    Region,
    ast,
    number,
    piece,
    refer,
)
from replicator.lineage.scopes import Refused, Rows, Scope, Source

MOST_OCCURRENCES = 300  # views within views multiply; a walk from each to all others takes seconds in all
Output = tuple[str, Callable[[], Node]]
"""An output column's name, and what makes its expression."""


class FromItems(Expressions):
    """FROM items and conditions at a place in a query."""

    def from_item(self, item: Node, place: Place, scope: Scope, ctes: Ctes) -> Rows:
        match item:
            case ast.RangeVar():
                return self.relation(item, place, ctes)
            case ast.JoinExpr():
                return self.join(item, place, scope, ctes)
            case ast.RangeSubselect():
                names = _aliased(item.alias)
                source = self.query(item.subquery, place, scope if item.lateral else scope.parent, ctes)
                return Rows.of(item.alias.aliasname if item.alias else "", source.renamed(names))
            case ast.RangeFunction():
                return self.function_rows(item, place, scope, ctes)
            case ast.RangeTableSample():
                self.problem(piece(item), "TABLESAMPLE reads other rows each time")
                return self.from_item(item.relation, place, scope, ctes)
            case _:
                raise Refused(piece(item), "this kind of FROM item is not followed")

    def relation(self, item: Node, place: Place, ctes: Ctes) -> Rows:
        alias = item.alias.aliasname if item.alias else item.relname
        names = _aliased(item.alias)
        if item.schemaname is None and item.relname in ctes:
            cte, scope, known = ctes[item.relname]
            source = self.query(cte.ctequery, place, scope, known)
            source = source.renamed(tuple(each.sval for each in cte.aliascolnames or ()))
            return Rows.of(alias, source.renamed(names))
        name = self.resolved(item)
        if name in self.flat.catalog.views:
            source = self.query(parsed(self.flat.catalog.views[name]), place, None, {})
        else:
            source = self.table(name, place, piece(item))
        return Rows.of(alias, source.renamed(names))

    def resolved(self, item: Node) -> Name:
        catalog = self.flat.catalog
        schemas = (item.schemaname,) if item.schemaname else catalog.search_path
        for schema in schemas:
            name = (schema, item.relname)
            if name in catalog.views or name in catalog.tables:
                return name
        raise Refused(piece(item), "not a table or view whose changes can be followed")

    def table(self, name: Name, place: Place, sql: str) -> Source:
        if len(self.flat.occurrences) == MOST_OCCURRENCES:
            raise Refused(sql, f"more than {MOST_OCCURRENCES} mentions of tables once all views are opened")
        source = next(self.numbers)
        self.flat.occurrences[source] = Occurrence(table=name, place=place, sql=sql)

        columns = tuple(self.flat.catalog.tables[name].columns)

        def column(index: int) -> Node:
            self.flat.used.add((source, columns[index]))
            return refer(source, columns[index])

        return Source(columns, column)

    def function_rows(self, item: Node, place: Place, scope: Scope, ctes: Ctes) -> Rows:
        parts = tuple(self.expression(function[0], place, scope, ctes) for function in item.functions)
        self.flat.other_rows.append(place.region)
        leaf = self.leaf(Opaque(parts=parts))
        calls = [function[0] for function in item.functions if isinstance(function[0], ast.FuncCall)]
        alias = item.alias.aliasname if item.alias else functions.called(calls[0]) if calls else ""
        names = tuple(each.colname for each in item.coldeflist or ()) or _aliased(item.alias)
        source = Source(names or (alias,), lambda _: leaf, open=not names)
        return Rows.of(alias, source)

    def join(self, item: Node, place: Place, scope: Scope, ctes: Ctes) -> Rows:
        kind = item.jointype.name
        sides = {"JOIN_INNER": (), "JOIN_LEFT": (1,), "JOIN_RIGHT": (0,), "JOIN_FULL": (0, 1)}[kind]
        places = [place, place]
        for side in sides:
            places[side] = replace(place, region=Region(parent=place.region, gate=place.gate, always=False))
        left = self.from_item(item.larg, places[0], scope, ctes)
        inner = Scope(scope.parent, scope.groups, [*scope.rows, left])
        right = self.from_item(item.rarg, places[1], inner, ctes)
        rows = [left, right]
        for side in sides:
            rows[side] = self.nullable(rows[side], places[side].region)
        regions = tuple(places[side].region for side in sides) or (place.region,)
        joined = Rows({**rows[0].aliases, **rows[1].aliases}, rows[0].visible + rows[1].visible)
        shared = [each.sval for each in item.usingClause or ()]
        if item.isNatural:
            others = {name for name, _ in right.visible}
            shared = [name for name, _ in left.visible if name in others]
        if shared:
            joined.visible = self.merged(kind, shared, rows, (left, right), regions, place)
        elif item.quals is not None:
            here = places[sides[0]] if len(sides) == 1 else place
            on = Scope(scope.parent, scope.groups, [*scope.rows, Rows(
                {**left.aliases, **right.aliases}, left.visible + right.visible)])  # fmt: skip
            self.conjuncts(item.quals, here, on, ctes, regions)
        if item.join_using_alias is not None:
            using = [column for column in joined.visible if column[0] in shared]
            joined.aliases |= Rows({}, using).named(item.join_using_alias.aliasname, ()).aliases
        return joined.named(item.alias.aliasname, _aliased(item.alias)) if item.alias else joined

    def nullable(self, rows: Rows, region: Region) -> Rows:
        wrapped = {
            id(source): source.mapped(lambda value: self.wrap(value, region)) for source in rows.aliases.values()
        }
        aliases = {alias: wrapped[id(source)] for alias, source in rows.aliases.items()}

        def column(make: Callable[[], Node]) -> Callable[[], Node]:
            made: list[Node] = []

            def wrap() -> Node:
                if not made:
                    made.append(self.wrap(make(), region))
                return made[0]

            return wrap

        return Rows(aliases, [(name, column(make)) for name, make in rows.visible])

    def wrap(self, value: Node, region: Region) -> Node:
        if isinstance(value, ast.ColumnRef):
            source = number(value)
            if source in self.flat.occurrences or isinstance(self.flat.leaves[source], Aggregate):
                return value
        return self.shared_leaf(Nullable(region=region, value=value), region, value)

    def merged(
        self, kind: str, shared: list[str], rows: list[Rows], bare: tuple[Rows, Rows], regions: tuple[Region, ...],
        place: Place,
    ) -> list[Output]:  # fmt: skip
        """The visible columns of USING and NATURAL; also says that the merged columns are equal."""
        visible: list[Output] = []
        for name in shared:
            left, right = (_known(each.column(name), name)() for each in bare)
            equal = equality(left, right)
            self.flat.conditions.append(Condition(expression=equal, regions=regions, place=place))
            if kind == "JOIN_FULL":
                sides = tuple(_known(each.column(name), name)() for each in rows)
                merged = self.leaf(Branches(choice=self.choice(place.gate), values=sides))
                visible.append((name, lambda merged=merged: merged))  # type: ignore[misc]
            else:
                visible.append((name, _known(rows[1 if kind == "JOIN_RIGHT" else 0].column(name), name)))
        return visible + [column for each in rows for column in each.visible if column[0] not in shared]

    # Conditions

    def conjuncts(
        self, node: Node, place: Place, scope: Scope, ctes: Ctes, regions: tuple[Region, ...] = ()
    ) -> None:  # fmt: skip
        """Each conjunct of WHERE, ON or HAVING as a condition; EXISTS and IN as joins of their own."""
        regions = regions or (place.region,)
        single = len(regions) == 1
        if isinstance(node, ast.BoolExpr) and node.boolop.name == "AND_EXPR":
            for each in node.args:
                self.conjuncts(each, place, scope, ctes, regions)
        elif single and isinstance(node, ast.SubLink) and node.subLinkType.name == "EXISTS_SUBLINK":
            self.query(node.subselect, place, scope, ctes)
        elif single and (member := membership(node)) is not None and not member.negated:
            self.member(member, place, scope, ctes)
        else:
            expression = self.expression(node, place, scope, ctes, truth=True)
            self.flat.conditions.append(Condition(expression=expression, regions=regions, place=place))


def _aliased(alias: Node) -> tuple[str, ...]:
    return tuple(each.sval for each in alias.colnames or ()) if alias else ()


def _known(make: Callable[[], Node] | None, name: str) -> Callable[[], Node]:
    if make is None:
        raise Refused(name, "this column is not known on both sides of the join")
    return make


def parsed(sql: str) -> Node:
    try:
        statements = parse_sql(sql)
    except ParseError as error:
        raise Refused(sql, f"not SQL that PostgreSQL parses: {error}") from error
    if len(statements) != 1 or not isinstance(statements[0].stmt, ast.SelectStmt):
        raise Refused(sql, "one SELECT is expected")
    return statements[0].stmt
