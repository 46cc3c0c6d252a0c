"""Which regions must be there if an expression is not NULL, or is true: what makes an outer join an inner one.

Relies on the strictness of a few operators and functions of pg_catalog only; of everything else nothing is concluded.
Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.lineage import functions
from replicator.lineage.query_tree import Node, Region, ast

_STRICT_OPERATORS = frozenset(
    {*("=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%"), *("->", "->>", "#>", "#>>")}
    | {*("~~", "!~~", "~~*", "!~~*", "~", "~*", "!~", "!~*")}
)
_LIKE = frozenset({"AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE", "AEXPR_SIMILAR"})
_OF_THE_LEFT = frozenset({"AEXPR_IN", "AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM", "AEXPR_NULLIF"})
Leaf = Callable[[Node], set[Region]]


def implied(expression: Node, leaf: Leaf) -> set[Region]:
    """Regions that are there if the expression is not NULL; `leaf` answers for a column."""
    match expression:
        case ast.ColumnRef():
            return leaf(expression)
        case ast.TypeCast() | ast.CollateClause() | ast.A_Indirection():
            return implied(expression.arg, leaf)
        case ast.A_Expr() if expression.kind.name in _LIKE and expression.name[-1].sval in _STRICT_OPERATORS:
            return _all((expression.lexpr, expression.rexpr), leaf)
        case ast.A_Expr() if expression.kind.name in _OF_THE_LEFT:
            return implied(expression.lexpr, leaf)
        case ast.FuncCall() if functions.called(expression) in functions.STRICT:
            return _all(expression.args or (), leaf)
        case _:
            return set()


def implied_by_truth(expression: Node, leaf: Leaf) -> set[Region]:
    """Regions that are there if the expression is true."""
    match expression:
        case ast.BoolExpr() if expression.boolop.name == "AND_EXPR":
            return set().union(*(implied_by_truth(each, leaf) for each in expression.args))
        case ast.BoolExpr() if expression.boolop.name == "OR_EXPR":
            return set.intersection(*(implied_by_truth(each, leaf) for each in expression.args))
        case ast.BoolExpr():
            return implied(expression.args[0], leaf)
        case ast.NullTest() if expression.nulltesttype.name == "IS_NOT_NULL":
            return implied(expression.arg, leaf)
        case ast.A_Expr() if expression.kind.name == "AEXPR_OP_ANY":
            return implied(expression.lexpr, leaf)
        case _:
            return implied(expression, leaf)


def _all(parts: tuple[Node, ...], leaf: Leaf) -> set[Region]:
    return set().union(*(implied(part, leaf) for part in parts if part is not None))
