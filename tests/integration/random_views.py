"""Random SELECTs over three small tables: joins of every kind, nested views, groups, picks, set operations, windows.

Every column is an integer out of a few, so that rows meet by chance. Each SELECT is valid, and nothing in it leaves
ties, except on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

TABLES = {
    "ta": ("id", "x", "y"),
    "tb": ("id", "a", "x", "y"),
    "tc": ("id", "b", "x", "y"),
}
SCHEMA = """
CREATE TABLE ta (id integer PRIMARY KEY, x integer, y integer NOT NULL);
CREATE TABLE tb (id integer PRIMARY KEY, a integer NOT NULL, x integer, y integer);
CREATE TABLE tc (id bigint PRIMARY KEY, b bigint, x bigint, y smallint NOT NULL);
CREATE FUNCTION filled(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT coalesce($1, 1)'"""
REQUIRED = {("ta", "y"), ("tb", "a"), ("tc", "y")}


@dataclass(frozen=True)
class Rows:
    """Something to select from: SQL for FROM, and its columns."""

    sql: str
    columns: tuple[str, ...]
    is_join: bool = False


@dataclass
class Views:
    """Draws SELECTs; those that became views stand in `created`, in their order."""

    random: Random
    created: list[str] = field(default_factory=list)
    aliases: int = 0

    def alias(self) -> str:
        self.aliases += 1
        return f"r{self.aliases}"

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def table(self) -> tuple[str, Rows]:
        name = self.random.choice(sorted(TABLES))
        alias = self.alias()
        return alias, Rows(f"{name} {alias}", tuple(f"{alias}.{column}" for column in TABLES[name]))

    def relation(self, depth: int) -> Rows:
        if depth <= 0 or self.chance(0.45):
            return self.table()[1]
        sql, names = self.select(depth - 1)
        alias = self.alias()
        columns = tuple(f"{alias}.{name}" for name in names)
        if self.chance(0.5):
            self.created.append(f"CREATE VIEW v{alias} AS {sql}")
            return Rows(f"v{alias} {alias}", columns)
        return Rows(f"({sql}) {alias}", columns)

    def column(self, rows: Rows) -> str:
        return self.random.choice(rows.columns)

    def value(self, rows: Rows) -> str:
        """An expression over one or more columns."""
        column = self.column(rows)
        return self.random.choice(
            [column] * 6
            + [
                f"COALESCE({column}, {self.column(rows)})",
                f"COALESCE({column}, 1)",
                f"{column} + 1",
                f"CASE WHEN {self.column(rows)} = 1 THEN {column} ELSE {self.column(rows)} END",
                f"GREATEST({column}, {self.column(rows)})",
                f"({column})::bigint",
                f"NULLIF({column}, 2)",
                f"filled({column})",
            ]
        )

    def joined(self, depth: int) -> Rows:
        rows = self.relation(depth)
        for _ in range(self.random.choice([0, 1, 1, 1, 2])):
            rows = self.join(rows, depth)
        return rows

    def join(self, left: Rows, depth: int) -> Rows:
        if self.chance(0.15):
            return self.lateral(left)
        right = self.joined(depth - 1) if self.chance(0.2) else self.relation(depth - 1)
        kind = self.random.choice(["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
        # A FULL JOIN takes only conditions that it can merge or hash by.
        extra = "" if kind == "FULL JOIN" else self.on_extra(left, right)
        on = f"{self.value(left) if kind != 'FULL JOIN' else self.column(left)} = {self.column(right)}"
        nested = f"({right.sql})" if right.is_join else right.sql
        return Rows(f"{left.sql} {kind} {nested} ON {on}{extra}", left.columns + right.columns, True)

    def on_extra(self, left: Rows, right: Rows) -> str:
        both = Rows("", left.columns + right.columns)
        return self.random.choice(
            [""] * 5
            + [
                f" AND {self.column(right)} = 1",
                f" AND {self.column(left)} = 2",
                f" AND {self.column(left)} = {self.column(right)}",
                f" AND {self.column(left)} <= {self.column(right)}",
                f" OR {self.column(left)} = {self.column(right)}",
                f" AND {self.column(both)} IS NOT NULL",
            ]
        )

    def lateral(self, left: Rows) -> Rows:
        alias, inner = self.table()
        within, correlated = self.column(inner), self.column(left)
        where = f"FROM {inner.sql} WHERE {within} = {correlated}"
        two = f"SELECT {self.column(inner)} AS c1, {self.column(inner)} AS c2 {where}"
        chosen = self.random.choice(
            [
                f"{two} ORDER BY {self.column(inner)}, {alias}.id LIMIT 1",
                f"SELECT max({self.column(inner)}) AS c1, count(*) AS c2 {where}",
                two,
            ]
        )
        name = self.alias()
        kind = self.random.choice(["JOIN", "LEFT JOIN"])
        columns = (*left.columns, f"{name}.c1", f"{name}.c2")
        return Rows(f"{left.sql} {kind} LATERAL ({chosen}) {name} ON true", columns, True)

    def condition(self, rows: Rows) -> str:
        alias, other = self.table()
        column = self.column(rows)
        correlated = f"{other.sql} WHERE {self.column(other)} = {self.column(rows)}"
        return self.random.choice(
            [
                f"{column} = 1",
                f"{column} IS NULL",
                f"{column} IS NOT NULL",
                f"{column} = {self.column(rows)}",
                f"{column} IN (1, 2)",
                f"{column} > {self.column(rows)}",
                f"COALESCE({column}, 3) = {self.column(rows)}",
                f"({column} = 1 OR {self.column(rows)} = {self.column(rows)})",
                f"EXISTS (SELECT 1 FROM {correlated})",
                f"NOT EXISTS (SELECT 1 FROM {correlated} AND {alias}.y = 1)",
                f"{column} IN (SELECT {self.column(other)} FROM {other.sql})",
                f"{column} = ANY (ARRAY(SELECT {self.column(other)} FROM {other.sql}))",
                f"{column} NOT IN (SELECT {alias}.id FROM {other.sql})",
                f"{column} NOT IN (SELECT {alias}.y FROM {other.sql} UNION ALL SELECT a FROM tb WHERE x = 1)",
                f"{column} NOT IN (SELECT n.a FROM (SELECT DISTINCT ON (x) a FROM tb ORDER BY x, id) n)",
                f"({column} = 2 OR {self.column(rows)} IN (SELECT {self.column(other)} FROM {other.sql}))",
                f"CASE WHEN {column} IN (SELECT {self.column(other)} FROM {other.sql}) THEN {column} = 1 END",
                f"{column} = (SELECT max({self.column(other)}) FROM {correlated})",
                f"({column}, {self.column(rows)}) = (SELECT max({self.column(other)}), 1 FROM {correlated})",
                f"({column}, 1) >= (SELECT {alias}.y, {self.column(other)} FROM {correlated} ORDER BY 2, 1 LIMIT 1)",
                f"{column} < (SELECT count(*) FROM {correlated})",
            ]
        )

    def where(self, rows: Rows) -> str:
        conditions = [self.condition(rows) for _ in range(self.random.choice([0, 0, 1, 1, 2]))]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def output(self, rows: Rows) -> str:
        if self.chance(0.15):
            alias, other = self.table()
            inner = f"FROM {other.sql} WHERE {self.column(other)} = {self.column(rows)}"
            return self.random.choice(
                [
                    f"(SELECT max({self.column(other)}) {inner})",
                    f"(SELECT {self.column(other)} {inner} ORDER BY {alias}.id LIMIT 1)",
                    f"(SELECT {self.column(other)} FROM {other.sql} WHERE {alias}.id = {self.column(rows)})",
                    f"(EXISTS (SELECT 1 {inner}))::integer",
                    f"CASE WHEN {self.column(rows)} IN (SELECT {self.column(other)} FROM {other.sql}) THEN 1 END",
                    f"({self.column(rows)} IN (SELECT {self.column(other)} {inner}))::integer",
                ]
            )
        return self.value(rows)

    def named(self, outputs: list[str]) -> tuple[str, tuple[str, ...]]:
        names = tuple(f"c{n}" for n in range(1, len(outputs) + 1))
        return ", ".join(f"{output} AS {name}" for output, name in zip(outputs, names, strict=True)), names

    def select(self, depth: int, width: int | None = None) -> tuple[str, tuple[str, ...]]:
        """SQL and the names of its columns."""
        kinds = [self.plain] * 4 + [self.grouped] * 3 + [self.distinct_on, self.distinct, self.windowed]
        if depth > 0 and self.chance(0.15):
            return self.combined(depth, width)
        return self.random.choice(kinds)(depth, width or self.random.choice([2, 2, 3]))

    def plain(self, depth: int, width: int) -> tuple[str, tuple[str, ...]]:
        rows = self.joined(depth)
        targets, names = self.named([self.output(rows) for _ in range(width)])
        return f"SELECT {targets} FROM {rows.sql}{self.where(rows)}", names

    def aggregate(self, rows: Rows) -> str:
        column = self.column(rows)
        order = ", ".join(self.random.sample(rows.columns, len(rows.columns)))
        alias, other = self.table()
        members = f"{self.column(rows)} IN (SELECT {self.column(other)} FROM {other.sql} WHERE {alias}.y <> 2)"
        only = self.random.choice(["", "", f" FILTER (WHERE {self.column(rows)} = 1)", f" FILTER (WHERE {members})"])
        return self.random.choice(
            [
                f"count(*){only}",
                f"max({column}){only}",
                f"min({column}){only}",
                f"sum({column}){only}",
                f"(array_agg({column} ORDER BY {order}){only})[1]",
                f"(array_agg({column} ORDER BY {self.column(rows)}){only})[1]",
                f"count(DISTINCT {column})",
                f"(SELECT max({alias}.x) FROM {other.sql} WHERE {self.column(other)} = max({column}))",
            ]
        )

    def grouped(self, depth: int, width: int) -> tuple[str, tuple[str, ...]]:
        rows = self.joined(depth)
        groups = [self.column(rows)] + ([self.column(rows)] if self.chance(0.3) else [])
        outputs = [*groups, *(self.aggregate(rows) for _ in range(3))][:width]
        self.random.shuffle(outputs)
        having = f" HAVING {self.random.choice(['count(*) > 1', f'max({self.column(rows)}) = {groups[0]}'])}"
        targets, names = self.named(outputs)
        sql = f"SELECT {targets} FROM {rows.sql}{self.where(rows)} GROUP BY {', '.join(dict.fromkeys(groups))}"
        return sql + (having if self.chance(0.2) else ""), names

    def distinct(self, depth: int, width: int) -> tuple[str, tuple[str, ...]]:
        sql, names = self.plain(depth, width)
        return sql.replace("SELECT", "SELECT DISTINCT", 1), names

    def distinct_on(self, depth: int, width: int) -> tuple[str, tuple[str, ...]]:
        rows = self.joined(depth)
        first = self.column(rows)
        order = [first, *self.random.sample(rows.columns, len(rows.columns))]
        targets, names = self.named([*(self.column(rows) for _ in range(width - 1)), first])
        sql = f"SELECT DISTINCT ON ({first}) {targets} FROM {rows.sql}{self.where(rows)}"
        return f"{sql} ORDER BY {', '.join(order)}", names

    def windowed(self, depth: int, width: int) -> tuple[str, tuple[str, ...]]:
        rows = self.joined(depth)
        over = f"OVER (PARTITION BY {self.column(rows)} ORDER BY {', '.join(rows.columns)})"
        column = self.column(rows)
        window = self.random.choice(
            [
                "row_number()",
                "count(*)",
                f"lag({column})",
                f"lead({column}, 2)",
                f"lag({column}, 1, {self.column(rows)})",
                f"lead({column}, 1, 3)",
                f"first_value({column})",
                f"nth_value({column}, 2)",
                f"max({column})",
                f"min({column}) FILTER (WHERE {self.column(rows)} = 1)",
            ]
        )
        targets, names = self.named([*(self.column(rows) for _ in range(width - 1)), f"{window} {over}"])
        return f"SELECT {targets} FROM {rows.sql}{self.where(rows)}", names

    def combined(self, depth: int, width: int | None) -> tuple[str, tuple[str, ...]]:
        width = width or 2
        operator = self.random.choice(["UNION ALL", "UNION ALL", "UNION", "EXCEPT", "INTERSECT"])
        left, names = self.select(depth - 1, width)
        right, _ = self.select(depth - 1, width)
        return f"({left}) {operator} ({right})", names
