"""An expression that means what it means under TimeZone UTC, written so that it means that under any TimeZone.

Under UTC a time with and a time without a zone are the same number, so the whole expression is put into times without:
the clock is read as UTC's wall clock, casts to a zoned type become casts to the plain one, zoned columns are taken at
UTC. What AT TIME ZONE asks for a moment is given one that no session's zone has a part in
(https://www.postgresql.org/docs/current/functions-datetime.html, "AT TIME ZONE"). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pglast import parse_sql

from replicator.lineage.functions import called, reads_clock
from replicator.lineage.query_tree import Node, ast, rebuilt, text

_CLOCKS: Final = frozenset({"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"})
_PLAIN: Final = {"timestamptz": "timestamp", "timetz": "time"}
_NOW: Final = "timezone('UTC', now())"
_TODAY: Final = f"CAST({_NOW} AS date)"
_VALUES: Final = {
    "SVFOP_CURRENT_DATE": _TODAY,
    "SVFOP_CURRENT_TIME": f"CAST({_NOW} AS time)",
    "SVFOP_LOCALTIME": f"CAST({_NOW} AS time)",
    "SVFOP_LOCALTIMESTAMP": _NOW,
}
_BY_SESSION: Final = frozenset({"to_timestamp", "make_timestamptz", "timeofday"})
"""Functions that read or print a zoned time by the session's zone; `to_timestamp` of a number does not."""
_BY_SESSION_IF: Final = frozenset({("timezone", 1), ("date_trunc", 3)})
"""Those with so many arguments: AT LOCAL; of anything but a moment."""
_IN_UTC: Final = re.compile(r"-?infinity|\d{4,}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(\+00|Z))?)?")


def in_utc(expression: str, types: Mapping[str, str]) -> str | None:
    """`types`: those of the columns, as `format_type` prints them. None: what it means elsewhere is not known."""
    rewriting = _Rewriting(types)
    written = text(rewriting.plain(_parsed(expression)))
    return written if rewriting.is_sure else None


class _Rewriting:
    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        self.is_sure = True

    def plain(self, node: Node) -> Node:
        """The same with times without a zone: UTC's wall clock."""
        return rebuilt(node, self._replacement)

    def _moment(self, node: Node) -> Node:
        """A zoned expression as one that is zoned, whatever the session's zone."""
        return self._own_moment(node) or _at("UTC", self.plain(node))

    def _own_moment(self, node: Node) -> Node | None:
        """A zoned expression, if it is one that no session's zone has a part in as it stands."""
        if _reads_now(node):
            return _parsed("now()")
        if isinstance(node, ast.ColumnRef):
            return node if self._is_zoned(node) else None
        match _name(node), node.args if isinstance(node, ast.FuncCall) else ():
            case "timezone", (zone, value) if self._is_zoned(value) is False:
                return _with(node, self.plain(zone), self.plain(value))
            case "date_trunc", (unit, value, zone) if self._is_zoned(value):
                return _with(node, unit, self._moment(value), zone)
            case "to_timestamp", (seconds,):
                return _with(node, self.plain(seconds))
        return None

    def _replacement(self, node: Node) -> Node | None:
        moment = self._own_moment(node)
        if moment is not None:
            return _at("UTC", moment)
        match node:
            case ast.TypeCast():
                return self._cast(node)
            case ast.SQLValueFunction():
                value = _VALUES.get(node.op.name.removesuffix("_N"))
                return None if value is None else _parsed(value)
            case ast.FuncCall():
                return self._call(node)
        return None

    def _cast(self, node: Node) -> Node | None:
        names = node.typeName.names
        self._require(not reads_clock(node))
        if names[-1].sval not in _PLAIN:
            return None
        self._require(_is_time(node.arg) or self._is_zoned(node.arg) is not None or self._is_date(node.arg))
        plain = rebuilt(node.typeName, lambda _: None)
        plain.names = (*names[:-1], ast.String(_PLAIN[names[-1].sval]))
        return ast.TypeCast(arg=self.plain(node.arg), typeName=plain)

    def _call(self, node: Node) -> Node | None:
        match called(node), node.args or ():
            case "timezone", (zone, value):
                self._require(self._is_zoned(value) is True)
                return _with(node, self.plain(zone), self._moment(value))
            case "age", (value,):
                return _with(node, _parsed(f"CAST({_TODAY} AS timestamp)"), self.plain(value))
            case name, args:
                self._require(name not in _BY_SESSION and (name, len(args)) not in _BY_SESSION_IF)
        return None

    def _require(self, sure: bool) -> None:
        self.is_sure = self.is_sure and sure

    def _is_zoned(self, node: Node) -> bool | None:
        """Whether a moment's type has a zone; None: it is no moment, or not known to be one."""
        if _reads_now(node):
            return True
        match node:
            case ast.ColumnRef():
                return _zoned_type(self._types.get(node.fields[-1].sval, ""))
            case ast.TypeCast():
                return {"timestamptz": True, "timestamp": False}.get(node.typeName.names[-1].sval)
            case ast.SQLValueFunction():
                return False if node.op.name.startswith("SVFOP_LOCALTIMESTAMP") else None
            case ast.FuncCall() if called(node) == "timezone":
                zoned = self._is_zoned(node.args[-1])
                return None if zoned is None else not zoned
            case ast.FuncCall() if called(node) == "to_timestamp":
                return True
            case ast.FuncCall() if called(node) == "date_trunc":
                return self._is_zoned(node.args[1])
            case ast.A_Expr() if (
                node.name[-1].sval in ("+", "-") and node.lexpr is not None
            ):  # an interval is the other
                left = self._is_zoned(node.lexpr)
                return self._is_zoned(node.rexpr) if left is None else left
            case ast.CoalesceExpr() | ast.MinMaxExpr():
                kinds = {self._is_zoned(each) for each in node.args}
                return kinds.pop() if len(kinds) == 1 else None
        return None

    def _is_date(self, node: Node) -> bool:
        match node:
            case ast.ColumnRef():
                return self._types.get(node.fields[-1].sval) == "date"
            case ast.TypeCast():
                return bool(node.typeName.names[-1].sval == "date")
            case ast.SQLValueFunction():
                return bool(node.op.name == "SVFOP_CURRENT_DATE")
        return False


def _parsed(expression: str) -> Node:
    statement: Node = parse_sql(f"SELECT {expression}")[0].stmt
    return statement.targetList[0].val


def _at(zone: str, value: Node) -> Node:
    return ast.FuncCall(funcname=(ast.String("timezone"),), args=(_parsed(f"'{zone}'"), value))


def _with(call: Node, *args: Node) -> Node:
    copy = rebuilt(call, lambda _: None)
    copy.args = args
    return copy


def _name(node: Node) -> str | None:
    return called(node) if isinstance(node, ast.FuncCall) else None


def _reads_now(node: Node) -> bool:
    if isinstance(node, ast.SQLValueFunction):
        return bool(node.op.name.startswith("SVFOP_CURRENT_TIMESTAMP"))
    return _name(node) in _CLOCKS


def _is_time(node: Node) -> bool:
    """Whether it is a constant that is read alike with and without a zone."""
    constant = node.val if isinstance(node, ast.A_Const) else None
    return isinstance(constant, ast.String) and bool(_IN_UTC.fullmatch(constant.sval))


def _zoned_type(name: str) -> bool | None:
    return name.endswith("with time zone") if name.startswith("timestamp") else None
