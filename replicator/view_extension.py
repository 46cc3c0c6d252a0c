"""An analytics view of anybody's, and the five columns of leads that it lacks, as one query in its place.

Its own query becomes a subquery, joined to what conversations record on their primary key, so that no row is multiplied
or lost, and one conversation_id still reaches whatever looks it up. All its columns stay as they are, the new ones come
last, as CREATE OR REPLACE VIEW asks for. Pure: descriptions in, text out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pglast
from pglast import ast
from pglast.stream import RawStream

from replicator.reference_view import ReferenceView
from replicator.view_columns import LEAD_SIGNALS
from replicator.view_facts import ViewFacts

_KEY: Final = "conversation_id"
_KEY_TYPES: Final = frozenset({"smallint", "integer", "bigint"})
_BEFORE: Final = "before"


def lacking(view: ViewFacts) -> tuple[str, ...]:
    """Which of the five can be added to it; none to what is no view of conversations."""
    types = {column.name: column.type_name for column in view.columns}
    if view.kind != "v" or types.get(_KEY) not in _KEY_TYPES:
        return ()
    return tuple(name for name in LEAD_SIGNALS if name not in types)


def extended(view: ViewFacts, leads: ReferenceView) -> str:
    """The query of the same view with what it lacks. `leads` says what is recorded, by conversation_id."""
    added = ", ".join(f"recorded.{name}" for name in lacking(view))
    order = ", ".join(_order(view))
    return (
        f"SELECT {_BEFORE}.*, {added}\nFROM (\n{view.definition.strip().removesuffix(';')}\n) AS {_BEFORE}\n"
        f"LEFT JOIN (\n{leads.query}\n) AS recorded ON recorded.{_KEY} = {_BEFORE}.{_KEY}"
        + (f"\nORDER BY {order}" if order else "")
    )


def _order(view: ViewFacts) -> Iterator[str]:
    """By what its rows come in order, as far as its columns tell: a join need not keep the order of a subquery."""
    (raw,) = pglast.parse_sql(view.definition)
    select: Any = raw.stmt
    names = [column.name for column in view.columns]
    outputs = dict(zip([RawStream()(target.val) for target in select.targetList or ()], names, strict=False))
    for key in select.sortClause or ():
        printed = RawStream()(key.node)
        if isinstance(key.node, ast.A_Const):
            name = names[int(printed) - 1]  # of a UNION PostgreSQL prints the place
        elif printed in outputs and not key.useOp:  # an operator of its own, which pglast prints without its schema
            name = outputs[printed]
        else:
            return
        column = ast.ColumnRef(fields=(ast.String(sval=_BEFORE), ast.String(sval=name)))
        yield RawStream()(ast.SortBy(node=column, sortby_dir=key.sortby_dir, sortby_nulls=key.sortby_nulls))
