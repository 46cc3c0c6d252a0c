"""What must be known of PostgreSQL's own functions: which aggregate, which pick, which read the clock or the session.

Sources: chapters 9.9 (date/time), 9.21 (aggregates), 9.26 (set-returning) and 9.27 (system information) of PostgreSQL's
manual. Pure data.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

from replicator.lineage.query_tree import Node, ast, nodes


def names(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


AGGREGATES: Final = names(
    "any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp every "
    "json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique "
    "json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict "
    "jsonb_object_agg_unique jsonb_object_agg_unique_strict max min mode percentile_cont percentile_disc "
    "range_agg range_intersect_agg regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx "
    "regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg"
)
ORDERED: Final = names(
    "any_value array_agg json_agg json_agg_strict json_object_agg json_object_agg_strict "
    "json_object_agg_unique json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg "
    "jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict string_agg xmlagg"
)
"""Aggregates whose value depends on the order of their rows."""
PICKS: Final = frozenset({"min", "max", "any_value"})
"""Aggregates whose value is one of their argument's values; `(array_agg(…))[n]` is another."""
NEIGHBOURS: Final = frozenset({"first_value", "last_value", "nth_value", "lag", "lead"})
"""Window functions whose value is one of their first argument's values, in another row of the partition."""
DEFAULTED: Final = frozenset({"lag", "lead"})
"""Those whose third argument, over the row itself, stands in where there is no such row."""
SET_RETURNING: Final = names(
    "aclexplode generate_series generate_subscripts json_array_elements json_array_elements_text json_each "
    "json_each_text json_object_keys json_populate_recordset json_to_recordset jsonb_array_elements "
    "jsonb_array_elements_text jsonb_each jsonb_each_text jsonb_object_keys jsonb_path_query "
    "jsonb_path_query_tz jsonb_populate_recordset jsonb_to_recordset pg_mcv_list_items pg_options_to_table "
    "pg_snapshot_xip regexp_matches regexp_split_to_table string_to_table ts_debug ts_parse ts_stat "
    "ts_token_type txid_snapshot_xip unnest"
)
ROW_COLUMNS: Final = dict.fromkeys(("json_each", "json_each_text", "jsonb_each", "jsonb_each_text"), ("key", "value"))
"""Functions that give rows of more than one column → their names."""
CLOCK: Final = names("clock_timestamp now statement_timestamp timeofday transaction_timestamp")
VOLATILE: Final = names(
    "currval gen_random_uuid lastval nextval random random_normal setseed setval txid_current "
    "pg_current_xact_id uuidv4 uuidv7 pg_sleep"
)
SESSION: Final = names(
    "current_catalog current_database current_query current_schema current_schemas current_setting "
    "current_user database_to_xml getpgusername inet_client_addr inet_client_port inet_server_addr "
    "has_table_privilege pg_backend_pid query_to_xml session_user table_to_xml row_security_active"
)
STRICT: Final = names(
    "abs btrim ceil ceiling date date_part date_trunc extract floor initcap length lower lpad ltrim md5 "
    "regexp_replace replace reverse round rpad rtrim split_part substring substr timezone to_char trunc upper "
    "date_bin left right strpos"
)
"""Functions that surely give NULL for a NULL argument; many others do too, but nothing here relies on it."""
_TOLD_BY_NAME: Final = AGGREGATES | SET_RETURNING | CLOCK | VOLATILE | SESSION | STRICT
TELLS_MORE: Final = (
    CLOCK
    | VOLATILE
    | SESSION
    | names("current_date current_time current_timestamp current_role localtime localtimestamp user today tomorrow")
)
"""Words in a function's body after which its value is not that of its arguments alone."""
_CLOCK_VALUES = ("SVFOP_CURRENT_DATE", "SVFOP_CURRENT_TIME", "SVFOP_LOCALTIME")  # …STAMP and …_N too
_CLOCK_WORD = re.compile(r"\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_TIME_TYPES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz"})
_FAMILIES: Final = {
    **dict.fromkeys(("smallint", "integer", "bigint"), "integer"),
    **dict.fromkeys(("text", "character varying", "varchar"), "text"),
    **{name: name for name in ("uuid", "date", "boolean", "bytea")},
    **dict.fromkeys(("timestamp without time zone", "timestamp"), "timestamp"),
    **dict.fromkeys(("timestamp with time zone",), "timestamptz"),
}


def called(node: Node) -> str:
    """A function's bare name."""
    return str(node.funcname[-1].sval)


def foreign(names: tuple[Node, ...], known: frozenset[str] = frozenset(), of_row: Container[str] = ()) -> bool:
    """Whether a function's or an operator's name means one outside pg_catalog that may read more than its arguments.

    `known`: such names, unqualified; `of_row`: names outside pg_catalog that read nothing else.
    """
    name = names[-1].sval
    if name in of_row and name in _TOLD_BY_NAME:  # an older server has no such function of its own
        return len(names) == 1 or names[0].sval != "pg_catalog"
    if len(names) == 1:
        return name in known
    return names[0].sval != "pg_catalog" and name not in of_row


def is_aggregate(node: Node) -> bool:
    """Whether a node is an aggregate's call, and not a window function's."""
    if isinstance(node, ast.JsonObjectAgg | ast.JsonArrayAgg):
        return True
    if not isinstance(node, ast.FuncCall) or node.over is not None:
        return False
    flagged = node.agg_star or node.agg_distinct or node.agg_filter or node.agg_order or node.agg_within_group
    return bool(flagged) or called(node) in AGGREGATES


def reads_clock(node: Node) -> bool:
    """Whether one node's value changes as time passes."""
    if isinstance(node, ast.SQLValueFunction):
        return bool(node.op.name.startswith(_CLOCK_VALUES))
    if isinstance(node, ast.FuncCall):
        return called(node) in CLOCK or (called(node) == "age" and len(node.args or ()) == 1)
    if isinstance(node, ast.TypeCast) and node.typeName.names[-1].sval in _TIME_TYPES:
        inner = node.arg.arg if isinstance(node.arg, ast.TypeCast) else node.arg
        constant = inner.val if isinstance(inner, ast.A_Const) else None
        return isinstance(constant, ast.String) and bool(_CLOCK_WORD.match(constant.sval))
    return False


def reads_session(node: Node) -> bool:
    """Whether one node's value depends on who asks, or is another one each time."""
    if isinstance(node, ast.SQLValueFunction):
        return not reads_clock(node)
    return isinstance(node, ast.FuncCall) and called(node) in VOLATILE | SESSION


def contains_aggregate(tree: Node) -> bool:
    """Whether an aggregate stands in an expression, subqueries left out."""
    return any(is_aggregate(node) for node in _own(tree))


def windows(tree: Node) -> list[Node]:
    """Calls of window functions in an expression, subqueries left out."""
    return [node for node in _own(tree) if isinstance(node, ast.FuncCall) and node.over is not None]


def gives_rows(tree: Node) -> bool:
    """Whether a set-returning function stands in an expression, subqueries left out."""
    return any(isinstance(node, ast.FuncCall) and called(node) in SET_RETURNING for node in _own(tree))


def _own(tree: Node) -> list[Node]:
    if isinstance(tree, tuple):
        return [node for each in tree for node in _own(each)]
    if not isinstance(tree, ast.Node) or isinstance(tree, ast.SubLink):
        return []
    return [tree, *(node for attribute in tree for node in _own(getattr(tree, attribute)))]


def changing(tree: Node) -> bool:
    """Whether an expression may have another value the next time."""
    return any(reads_clock(node) or reads_session(node) for node in nodes(tree))


def family(type_name: str | None) -> str | None:
    """A name for types that print equal values alike and compare with each other; None: not known to."""
    return _FAMILIES.get(re.sub(r"\(\d+\)", "", type_name).strip()) if type_name else None
