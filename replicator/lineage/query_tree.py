"""The plain parts that a SELECT is flattened into, and the small tools on pglast's trees that go with them.

A *source* of values has a number. In a flattened expression each column reference names such a number and a column;
nothing else of SQL's names and scopes is left. A number stands for an *occurrence* of a base table, or for a *leaf*: a
value that is not computed within one row (an aggregate, a subquery, a branch of a UNION, …).

*Region*: rows that may be absent where the rest is there: the nullable side of an outer join, a subquery in an
expression. *Gate*: a part of a query whose rows are not passed on one by one: GROUP BY, DISTINCT ON, LIMIT, windows.
Its `keys` are the expressions that a row shares with whatever it influences beyond the gate.

Pure data: nothing here reads SQL text or a database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pglast.ast
from pglast.stream import RawStream

Name = tuple[str, str]
"""Schema and name of a table or view."""
Node = Any
"""A node of pglast's tree."""
ast: Any = pglast.ast
"""pglast declares every attribute optional; which ones are there depends on the grammar, not on the type."""

MARK: Final = "\ue000"  # a private-use character: begins the qualifier of a flattened column and nothing else
MARKED: Final = re.compile(MARK + r"(\d+)(?=\.)")
_QUOTED: Final = re.compile(f'"{MARK}' + r'(\d+)"')
PIECE_LENGTH: Final = 240  # characters: enough to find the place in a definition


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTable:
    """A table as the database's catalogue knows it."""

    columns: Mapping[str, str]
    """Column → type, as `format_type` prints it, in the table's order."""
    key: tuple[str, ...] = ()
    """The primary key; empty: none."""
    unique: tuple[tuple[str, ...], ...] = ()
    """Other unique indexes whose columns are all NOT NULL."""
    not_null: frozenset[str] = frozenset()
    """Columns declared NOT NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What must be known of a database to understand a SELECT."""

    tables: Mapping[Name, BaseTable]
    views: Mapping[Name, str]
    """Definitions as `pg_get_viewdef` prints them under an empty search path, so that every name is qualified."""
    search_path: tuple[str, ...] = ("public",)
    """Schemas in which unqualified names of the SELECT itself are looked up."""
    functions: frozenset[str] = frozenset()
    """Names of functions that exist outside pg_catalog and not in it; those of `row_functions` left out."""
    row_functions: Mapping[str, str] = field(default_factory=dict)
    """Such names that mean nothing but functions whose value depends on their arguments alone, in every schema → a
    digest of what they and those that they call do."""


@dataclass(slots=True, kw_only=True, eq=False)
class Gate:
    """Rows go in; what comes out is decided by all of them that share the keys."""

    parent: Gate | None
    region: Region
    keys: list[Node] = field(default_factory=list)
    partitions: list[list[Node]] = field(default_factory=list)
    """The keys of each window, where they have none in common: a row influences others by one of them."""
    order: list[Node] = field(default_factory=list)
    select: Node = None
    active: bool = False
    chooses: bool = False
    """LIMIT or DISTINCT ON: some rows pass, some do not."""

    @property
    def sql(self) -> str:
        """The SELECT whose rows pass."""
        return piece(self.select)

    @property
    def is_groups(self) -> bool:
        """Whether it is that of a SELECT's GROUP BY, which stands within that of its rows."""
        return self.parent is not None and self.parent.select is self.select


@dataclass(slots=True, kw_only=True, eq=False)
class Region:
    """Rows that are there or absent together; `always`: there whenever the parent region is."""

    parent: Region | None
    gate: Gate | None
    always: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where a piece of a query stands."""

    region: Region
    gate: Gate | None = None
    branch: tuple[tuple[int, int], ...] = ()
    """(set operation, branch) around it, from the outside."""
    ordered: bool = False
    """Something around it depends on the order of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Occurrence:
    """One mention of a base table in the flattened query."""

    table: Name
    place: Place
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Condition:
    """A conjunct that holds for every combination of rows in which all its regions are there."""

    expression: Node
    regions: tuple[Region, ...]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aggregate:
    """One value of many rows. `pick`: the expression, one of whose values it is."""

    gate: Gate
    call: Node
    pick: Node = None
    filter: Node = None
    order: tuple[Node, ...] = ()
    ordered: bool = False
    """Its value depends on the order of its rows."""
    sql: str
    """As it is written."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passed:
    """A value of a row that passed a gate by being chosen, or beside its neighbours."""

    gate: Gate
    value: Node


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nullable:
    """An expression of an outer join's nullable side: NULL as a whole where that side is absent."""

    region: Region
    value: Node


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branches:
    """A column of a set operation, the merged column of a FULL JOIN, a value or its default: one of several."""

    choice: int
    values: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subquery:
    """A subquery in an expression; `value` only of a scalar one."""

    region: Region
    value: Node
    parts: tuple[Node, ...] = ()
    array: Gate | None = None
    """Of ARRAY(SELECT …): what orders its rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opaque:
    """A value computed from `parts` in a way that is not followed: set-returning functions, whole rows."""

    parts: tuple[Node, ...]
    is_row: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """What a window function makes of a row's partition. `pick`: the expression, one of whose values it is."""

    rows: Gate
    """What the partition's rows stand within."""
    gate: Gate
    """What they pass when the function has seen them."""
    parts: tuple[Node, ...]
    order: tuple[Node, ...]
    partition: tuple[Node, ...]
    pick: Node = None
    filter: Node = None
    ordered: bool = False
    """Its value depends on the order of its rows."""
    sql: str


Leaf = Aggregate | Passed | Nullable | Branches | Subquery | Opaque | Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A piece of SQL that could not be resolved, and why."""

    sql: str
    reason: str
    table: Name | None = None
    """The table whose path to the key is missing; None: something else is wrong."""


@dataclass(slots=True, kw_only=True, eq=False)
class Flat:
    """A flattened SELECT. Everything in it reaches an output, or decides rows or order."""

    root: Region
    catalog: Catalog
    occurrences: dict[int, Occurrence] = field(default_factory=dict)
    leaves: dict[int, Leaf] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)
    outputs: dict[str, Node] = field(default_factory=dict)
    used: set[tuple[int, str]] = field(default_factory=set)
    memberships: list[tuple[Node, Node, Region, str]] = field(default_factory=list)
    """(value, subquery's column, subquery's region, SQL) of `IN` where NULL and false are not the same."""
    choices: dict[int, Gate | None] = field(default_factory=dict)
    """Set operation, merged column, or value with a default → what its alternatives stand within."""
    other_rows: list[Region] = field(default_factory=list)
    """Where rows come from functions and lists of values."""
    excluded: set[tuple[int, int]] = field(default_factory=set)
    """Branches whose rows are never passed on: the right side of EXCEPT."""
    functions: set[str] = field(default_factory=set)
    """Those of the catalogue's `row_functions` that are called."""
    problems: list[Problem] = field(default_factory=list)

    def parts(self, leaf: Leaf) -> tuple[Node, ...]:
        """The expressions that a leaf is made of."""
        match leaf:
            case Aggregate():
                return (leaf.call,)
            case Passed() | Nullable():
                return (leaf.value,)
            case Branches():
                return leaf.values
            case Subquery():
                return leaf.parts
            case Opaque():
                return leaf.parts
            case Window():
                return (*leaf.parts, *leaf.order, *leaf.partition)


def refer(source: int, column: str = "v") -> Node:
    """A column of a numbered source."""
    return ast.ColumnRef(fields=(ast.String(f"{MARK}{source}"), ast.String(column)))


def number(reference: Node) -> int:
    """The source that a flattened column reference names."""
    return int(reference.fields[0].sval[1:])


def nodes(tree: Node) -> Iterator[Node]:
    """A tree's nodes, from the top."""
    if isinstance(tree, tuple):
        for each in tree:
            yield from nodes(each)
    elif isinstance(tree, ast.Node):
        yield tree
        for attribute in tree:
            yield from nodes(getattr(tree, attribute))


def rebuilt(tree: Node, replace: Callable[[Node], Node | None]) -> Node:
    """A copy in which each node that `replace` answers for is replaced; the others are copied with their parts."""
    if isinstance(tree, tuple):
        return tuple(rebuilt(each, replace) for each in tree)
    if not isinstance(tree, ast.Node):
        return tree
    replacement = replace(tree)
    if replacement is not None:
        return replacement
    parts = {attribute: rebuilt(getattr(tree, attribute), replace) for attribute in tree}
    return type(tree)(**{attribute: part for attribute, part in parts.items() if part is not None})


def is_expression(node: Node) -> bool:
    """Whether a node is an expression that may stand by itself."""
    return isinstance(
        node, ast.ColumnRef | ast.A_Expr | ast.FuncCall | ast.TypeCast | ast.CaseExpr | ast.CoalesceExpr | ast.BoolExpr
    )


def text(tree: Node) -> str:
    """A tree as SQL."""
    return _QUOTED.sub(MARK + r"\1", str(RawStream()(tree)))


def piece(tree: Node) -> str:
    """A tree as SQL, short enough for a report."""
    printed = " ".join(text(tree).split())
    return printed if len(printed) <= PIECE_LENGTH else printed[: PIECE_LENGTH - 1] + "…"


def chain(region: Region | None) -> Iterator[Region]:
    """A region and those around it."""
    while region is not None:
        yield region
        region = region.parent


def inside(gate: Gate | None, outer: Gate) -> bool:
    """Whether a gate is another or stands within it."""
    return any(each is outer for each in gates_around(gate))


def gates_around(gate: Gate | None) -> Iterator[Gate]:
    """A gate and those that it stands within."""
    while gate is not None:
        yield gate
        gate = gate.parent
