"""Which base column an output of a SELECT is. Pure."""

from __future__ import annotations

from replicator.lineage.flattening import flatten
from replicator.lineage.query_tree import Catalog, Name, Nullable, Passed, ast, number
from replicator.lineage.scopes import Refused


def base_column(select: str, output: str, catalog: Catalog) -> tuple[Name, str] | None:
    """The table and the column whose values this output has as they are; None if it is computed."""
    try:
        flat = flatten(select, catalog)
    except Refused:
        return None
    node = flat.outputs.get(output)
    while isinstance(node, ast.ColumnRef):
        source = number(node)
        if (occurrence := flat.occurrences.get(source)) is not None:
            return occurrence.table, node.fields[-1].sval
        leaf = flat.leaves.get(source)
        node = leaf.value if isinstance(leaf, Nullable | Passed) else None
    return None
