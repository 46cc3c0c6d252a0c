"""An expression that means what it means under TimeZone UTC, written so that it means that under any TimeZone.

Under UTC a time with and a time without a zone are the same number, so the whole expression is put into times without:
the clock is read as UTC's wall clock, casts to a zoned type become casts to the plain one, zoned columns are taken at
UTC (https://www.postgresql.org/docs/current/functions-datetime.html, "AT TIME ZONE"). Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from pglast import ast, parse_sql
from pglast.stream import RawStream
from pglast.visitors import Visitor

Node = Any
"""Of pglast's tree: its attributes are all typed as optional."""

_CLOCKS: Final = frozenset({"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"})
_PLAIN: Final = {"timestamptz": "timestamp", "timetz": "time"}
_NOW: Final = "timezone('UTC', now())"
_VALUES: Final = {
    "SVFOP_CURRENT_DATE": f"CAST({_NOW} AS date)",
    "SVFOP_CURRENT_TIME": f"CAST({_NOW} AS time)",
    "SVFOP_CURRENT_TIMESTAMP": _NOW,
    "SVFOP_LOCALTIME": f"CAST({_NOW} AS time)",
    "SVFOP_LOCALTIMESTAMP": _NOW,
}


def in_utc(expression: str, zoned: Collection[str]) -> str | None:
    """`zoned`: the columns whose type has a time zone. None: it goes to and fro between zones itself."""
    (statement,) = parse_sql(f"SELECT {expression}")
    rewriting = _Rewriting(frozenset(zoned))
    rewriting(statement)
    if not rewriting.is_sure:
        return None
    text: str = RawStream()(statement)
    return text.removeprefix("SELECT ")


class _Rewriting(Visitor):
    def __init__(self, zoned: frozenset[str]) -> None:
        super().__init__()
        self._zoned = zoned
        self._made: set[int] = set()
        self.is_sure = True

    def visit_FuncCall(self, _ancestors: Any, node: Node) -> Any:  # noqa: N802 - pglast's own name
        if id(node) in self._made:
            return None
        name = node.funcname[-1].sval
        if name == "timezone":  # AT TIME ZONE of the clock is a plain time in every session; of a column it is not
            clock: Node = node.args[-1]
            self.is_sure = self.is_sure and _is_clock(clock)
            self._made.add(id(clock))
        return self._parsed(_NOW) if name in _CLOCKS else None

    def visit_SQLValueFunction(self, _ancestors: Any, node: Node) -> Any:  # noqa: N802
        value = _VALUES.get(node.op.name.removesuffix("_N"))
        return self._parsed(value) if value is not None else None

    def visit_TypeCast(self, _ancestors: Any, node: Node) -> None:  # noqa: N802
        names = node.typeName.names
        if names[-1].sval in _PLAIN:
            node.typeName.names = (*names[:-1], ast.String(_PLAIN[names[-1].sval]))

    def visit_ColumnRef(self, _ancestors: Any, node: Node) -> Any:  # noqa: N802
        if id(node) in self._made or node.fields[-1].sval not in self._zoned:
            return None
        return self._parsed(f"timezone('UTC', {RawStream()(node)})")

    def _parsed(self, expression: str) -> Any:
        statement: Node = parse_sql(f"SELECT {expression}")[0]
        value = statement.stmt.targetList[0].val
        _Remembering(self._made)(value)
        self._kept = [*getattr(self, "_kept", []), value]  # an id is only a name while the node lives
        return value


class _Remembering(Visitor):
    """What was made here is not rewritten again."""

    def __init__(self, made: set[int]) -> None:
        super().__init__()
        self._made = made

    def visit_FuncCall(self, _ancestors: Any, node: Node) -> None:  # noqa: N802
        self._made.add(id(node))

    def visit_ColumnRef(self, _ancestors: Any, node: Node) -> None:  # noqa: N802
        self._made.add(id(node))


def _is_clock(node: Node) -> bool:
    return isinstance(node, ast.FuncCall) and list(node.funcname or ())[-1].sval in _CLOCKS
