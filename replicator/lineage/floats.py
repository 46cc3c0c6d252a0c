"""Aggregates of floating-point numbers, whose last digits depend on the order in which they are added.

Sources: chapters 8.1.3 (floating-point types), 9.3 (mathematical functions) and 9.21 (aggregates) of PostgreSQL's
manual. Pure: no I/O, no logging.
"""

from __future__ import annotations

from typing import Final

from replicator.lineage import functions
from replicator.lineage.casts import base_type
from replicator.lineage.query_tree import Aggregate, Flat, Node, Subquery, ast, number

_TYPES: Final = frozenset({"float4", "float8", "real", "double precision"})
_OF_TWO: Final = functions.names(
    "corr covar_pop covar_samp regr_avgx regr_avgy regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy"
)
"""Aggregates that take every number for a floating-point one."""
_ADDING: Final = functions.names("avg stddev stddev_pop stddev_samp sum var_pop var_samp variance")
_GIVING: Final = functions.names(
    "acos asin atan atan2 cbrt cos cot date_part degrees erf exp ln log pi power pow radians sin sqrt tan "
    "percentile_cont percent_rank cume_dist ts_rank ts_rank_cd"
)
"""Functions whose value may be a floating-point number, whatever their arguments are."""
_KEEPING: Final = functions.names(
    "abs any_value ceil ceiling floor greatest least max min mode nth_value percentile_disc round sign trunc"
)
"""Functions whose value may be a floating-point number if an argument is one."""
_ARITHMETIC: Final = frozenset(["+", "-", "*", "/", "%", "@"])
_ROOTS: Final = frozenset({"^", "|/", "||/"})


def adds_floats(flat: Flat, name: str, arguments: tuple[Node, ...]) -> bool:
    """Whether an aggregate of these arguments depends on their order though it asks for none."""
    return name in _OF_TWO or (name in _ADDING and _may_be(flat, arguments))


def _may_be(flat: Flat, tree: Node) -> bool:
    """Whether a value, or one of several, may be a floating-point number."""
    match tree:
        case tuple():
            return any(_may_be(flat, each) for each in tree)
        case ast.ColumnRef():
            return _column(flat, tree)
        case ast.TypeCast():
            return tree.typeName.names[-1].sval in _TYPES
        case ast.A_Expr() if tree.kind.name == "AEXPR_OP":
            name = tree.name[-1].sval
            return name in _ROOTS or (name in _ARITHMETIC and _may_be(flat, (tree.lexpr, tree.rexpr)))
        case ast.A_Expr() if tree.kind.name == "AEXPR_NULLIF":
            return _may_be(flat, tree.lexpr)
        case ast.FuncCall():
            name, arguments = functions.called(tree), (*(tree.args or ()), *(tree.agg_order or ()))
            return name in _GIVING | _OF_TWO or (name in _KEEPING | _ADDING and _may_be(flat, arguments))
        case ast.CoalesceExpr() | ast.MinMaxExpr():
            return _may_be(flat, tree.args)
        case ast.CaseExpr():
            return _may_be(flat, (*(when.result for when in tree.args), tree.defresult))
        case ast.SortBy():
            return _may_be(flat, tree.node)
        case ast.A_Indirection():
            called = tree.arg
            return _may_be(flat, called.args or () if isinstance(called, ast.FuncCall) else called)
    return False


def _column(flat: Flat, reference: Node) -> bool:
    leaf = flat.leaves.get(number(reference))
    match leaf:
        case None:
            return (base_type(flat)(reference) or "").removesuffix("[]") in _TYPES
        case Aggregate(call=call):
            return _may_be(flat, call)
        case Subquery(value=value):
            return value is not None and _may_be(flat, value)
    return _may_be(flat, flat.parts(leaf))
