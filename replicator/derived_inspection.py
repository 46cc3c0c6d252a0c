"""How each derived relation would be followed: its paths, and what the planner makes of them. Changes nothing.

Whether an index is missing is asked of the planner itself: a plan that reads a whole table even with sequential scans
switched off has no index to read it by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from replicator import derived as statements
from replicator.config import Settings
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived, path_name
from replicator.errors import ReplicatorError
from replicator.facts import DerivedFacts, PathFacts
from replicator.source import Source


def read_derived(settings: Settings) -> tuple[DerivedFacts, ...]:
    """Raises SourceUnavailable if the source does not answer."""
    captured = captured_by(settings)
    with Source(settings) as source:
        found = read_definitions(source, captured)
        source.rows("SELECT set_config('enable_seqscan', 'off', false), set_config('enable_indexscan', 'on', false)")
        return tuple(_facts(source, relation.name, found.relations[relation.name]) for relation in captured.derived)


def _facts(source: Source, name: str, found: Derived | str) -> DerivedFacts:
    if isinstance(found, str):
        return DerivedFacts(name=name, problem=found)
    lineage = found.lineage
    paths = []
    for path in lineage.paths:
        scanned: tuple[str, ...] = ()
        fault = ""
        if path.lookup is not None:
            scanned, fault = _scanned(source, *statements.explain_look_up(found, path_name(path), len(path.start)))
        paths.append(
            PathFacts(
                schema=path.table[0],
                table=path.table[1],
                columns=path.start,
                says=path.description,
                scanned=scanned,
                fault=fault,
            )
        )
    scanned, fault = _scanned(source, *statements.explain_read(found))
    return DerivedFacts(
        name=name,
        paths=tuple(paths),
        used={table[1]: columns for table, columns in lineage.sources.items()},
        clock=dict(lineage.clock),
        unstable=dict(lineage.unstable),
        scanned=scanned,
        fault=fault,
    )


def _scanned(source: Source, statement: Any, parameters: Any) -> tuple[tuple[str, ...], str]:
    """Tables that are read as a whole, and why it could not be asked."""
    try:
        with source.reading():
            ((plan,),) = source.rows(statement, parameters)
    except ReplicatorError as error:
        return (), str(error)
    return tuple(sorted(set(_whole_reads(plan[0]["Plan"])))), ""


def _whole_reads(node: dict[str, Any]) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from _whole_reads(child)
