"""The type of an expression over base columns, and casts that leave its value as it is.

Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.lineage.functions import family
from replicator.lineage.query_tree import Flat, Node, ast, number, text

TypeOf = Callable[[Node], str | None]
"""The type of a column reference."""


def base_type(flat: Flat) -> TypeOf:
    """Types of base columns by the catalogue; None for leaves."""

    def of(reference: Node) -> str | None:
        occurrence = flat.occurrences.get(number(reference))
        if occurrence is None:
            return None
        return flat.catalog.tables[occurrence.table].columns.get(reference.fields[1].sval)

    return of


def type_name(expression: Node, of_column: TypeOf) -> str | None:
    """The type of a column or a cast; None: not known."""
    if isinstance(expression, ast.ColumnRef):
        return of_column(expression)
    return text(expression.typeName) if isinstance(expression, ast.TypeCast) else None


def without_casts(expression: Node, of_column: TypeOf) -> Node:
    """Without casts on top that change no value: an index on the column can serve then, and equal values are seen."""
    if not isinstance(expression, ast.TypeCast):
        return expression
    inner, target = without_casts(expression.arg, of_column), text(expression.typeName)
    alike = family(type_name(inner, of_column))
    return inner if alike is not None and alike == family(target) and "(" not in target else expression
