"""What a name means at a place in a SELECT: columns of FROM items, whole rows, names of output columns.

A source gives its columns as expressions over numbered occurrences and leaves, each made when it is first asked for:
what nobody asks for is not used. Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from replicator.lineage.query_tree import Gate, Node, ast


class Refused(Exception):
    """A piece of SQL that cannot be followed at all: `sql`, `reason`."""

    def __init__(self, sql: str, reason: str) -> None:
        super().__init__(reason)
        self.sql = sql
        self.reason = reason


@dataclass(slots=True, eq=False)
class Source:
    """Named columns, computed at the first use."""

    names: tuple[str, ...]
    make: Callable[[int], Node]
    """The expression of the n-th column: names may come twice, where an alias or a set operation renames them."""
    open: bool = False
    """Any column may be asked for: a function in FROM whose columns are not listed."""
    made: dict[int, Node] = field(default_factory=dict)
    gate: Gate | None = None
    """What its rows pass last."""

    def at(self, index: int) -> Node:
        """The expression behind the n-th column."""
        if index not in self.made:
            self.made[index] = self.make(index)
        return self.made[index]

    def all(self) -> tuple[Node, ...]:
        """The expressions behind all columns."""
        return tuple(self.at(index) for index in range(len(self.names)))

    def value(self, name: str) -> Node:
        """The expression behind a column."""
        return self.at(0 if self.open and name not in self.names else self.names.index(name))

    def renamed(self, names: tuple[str, ...]) -> Source:
        """The same columns under an alias's names; columns beyond the list keep theirs."""
        return Source(names + self.names[len(names) :], self.at, self.open) if names else self

    def mapped(self, change: Callable[[Node], Node]) -> Source:
        """The same columns, each passed through a function."""
        return Source(self.names, lambda index: change(self.at(index)), self.open)


@dataclass(slots=True, eq=False)
class Rows:
    """A FROM item: the aliases that it makes known, and the columns that `*` and bare names see."""

    aliases: dict[str, Source]
    visible: list[tuple[str, Callable[[], Node]]]

    @classmethod
    def of(cls, alias: str, source: Source) -> Rows:
        """The rows of one source."""
        return cls({alias: source}, columns(source))

    def named(self, alias: str, names: tuple[str, ...]) -> Rows:
        """A join under an alias of its own, which hides what is within."""
        parts = [make for _, make in self.visible]
        source = Source(tuple(name for name, _ in self.visible), lambda index: parts[index]())
        return Rows.of(alias, source.renamed(names))

    def column(self, name: str) -> Callable[[], Node] | None:
        """What a bare name means here."""
        return next((make for visible, make in self.visible if visible == name), None)


@dataclass(slots=True, eq=False)
class Scope:
    """The FROM items of one query level, and the level around it."""

    parent: Scope | None
    groups: Gate
    rows: list[Rows] = field(default_factory=list)
    windows: tuple[Node, ...] = ()
    """The WINDOW clause."""

    def levels(self) -> Iterator[Scope]:
        """This level and those around it."""
        level: Scope | None = self
        while level is not None:
            yield level
            level = level.parent

    def depth(self) -> int:
        """How many levels are around it."""
        return sum(1 for _ in self.levels())

    def find(self, names: list[str]) -> tuple[Scope, Callable[[], Node]] | None:
        """The level that a column's name belongs to, and its value; the innermost level that knows it.

        A bare name that no level knows is taken for a column of a function whose columns are not listed.
        """
        *qualifier, name = names
        for level in self.levels():
            for rows in level.rows:
                if not qualifier:
                    make = rows.column(name)
                elif (source := rows.aliases.get(qualifier[-1])) and (source.open or name in source.names):
                    make = _column(source, name)
                else:
                    make = None
                if make is not None:
                    return level, make
        sources = [(level, each) for level in self.levels() for rows in level.rows for each in rows.aliases.values()]
        opened = [(level, _column(each, name)) for level, each in sources if each.open and not qualifier]
        return opened[0] if opened and not self.whole(name) else None

    def whole(self, alias: str) -> tuple[Scope, Source] | None:
        """The level and source that a whole-row reference names."""
        for level in self.levels():
            for rows in level.rows:
                if alias in rows.aliases:
                    return level, rows.aliases[alias]
        return None

    def star(self, alias: str | None) -> list[tuple[str, Callable[[], Node]]]:
        """The columns that `*` or `alias.*` stands for in a target list."""
        if alias is None:
            return [column for rows in self.rows for column in rows.visible]
        found = self.whole(alias)
        return columns(found[1]) if found else []


def columns(source: Source) -> list[tuple[str, Callable[[], Node]]]:
    """A source's columns in their order."""
    return [(name, _nth(source, index)) for index, name in enumerate(source.names)]


def _nth(source: Source, index: int) -> Callable[[], Node]:
    return lambda: source.at(index)


def _column(source: Source, name: str) -> Callable[[], Node]:
    return lambda: source.value(name)


def named_window(over: Node, named: tuple[Node, ...]) -> Node:
    """A window's definition: its own, that of its name, or the one that it extends by an order and a frame."""
    if over.refname is None and over.name is None:
        return over
    known = {window.name: window for window in named}
    name = over.refname or over.name
    if name not in known:
        raise Refused(name, "this window is not known here")
    if over.refname is None:
        return known[name] if known[name].refname is None else named_window(known[name], named)
    base = named_window(known[name], named)
    return type(over)(
        partitionClause=base.partitionClause,
        orderClause=over.orderClause or base.orderClause,
        frameOptions=over.frameOptions,
    )


def column_name(target: Node) -> str:
    """An output column's name, chosen as PostgreSQL's `FigureColname` does."""
    return target.name or _figured(target.val) or "?column?"


def _figured(node: Node) -> str | None:
    match node:
        case ast.ColumnRef():
            return str(node.fields[-1].sval)
        case ast.FuncCall():
            return str(node.funcname[-1].sval)
        case ast.TypeCast():
            return _figured(node.arg) or str(node.typeName.names[-1].sval)
        case ast.CollateClause():
            return _figured(node.arg)
        case ast.A_Indirection():
            fields = [part.sval for part in node.indirection if isinstance(part, ast.String)]
            return str(fields[-1]) if fields else _figured(node.arg)
        case ast.CaseExpr():
            return (node.defresult and _figured(node.defresult)) or "case"
        case ast.SubLink():
            if node.subLinkType.name == "EXPR_SUBLINK" and node.subselect.targetList:
                return column_name(node.subselect.targetList[0])
            return {"EXISTS_SUBLINK": "exists", "ARRAY_SUBLINK": "array"}.get(node.subLinkType.name)
        case ast.MinMaxExpr():
            return "greatest" if node.op.name == "IS_GREATEST" else "least"
        case ast.SQLValueFunction():
            return str(node.op.name).removeprefix("SVFOP_").removesuffix("_N").lower()
        case ast.A_Expr() if node.kind.name == "AEXPR_NULLIF":
            return "nullif"
        case _:
            return _FIGURED.get(type(node).__name__)


_FIGURED = {"CoalesceExpr": "coalesce", "A_ArrayExpr": "array", "RowExpr": "row", "GroupingFunc": "grouping"}
