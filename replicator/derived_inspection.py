"""How each derived relation would be followed: its paths, and what the planner makes of them. Changes nothing.

Whether an index is missing is asked of the planner itself: a plan that reads a whole table even with sequential scans
switched off has no index to read it by.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from replicator import derived as statements
from replicator.config import Settings
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived, path_name
from replicator.errors import ReplicatorError
from replicator.facts import DerivedFacts, PathFacts, ViewReading
from replicator.relations import ANALYTICS
from replicator.source import Source


def read_derived(settings: Settings) -> tuple[DerivedFacts, ...]:
    """Raises SourceUnavailable if the source does not answer."""
    captured = captured_by(settings)
    with Source(settings) as source:
        found = read_definitions(source, captured)
        source.rows("SELECT set_config('enable_indexscan', 'on', false)")
        facts = []
        for relation in captured.derived:
            source.rows("SELECT set_config('enable_seqscan', 'off', false)")
            facts.append(_facts(source, relation.name, found.relations[relation.name], settings.max_message_bytes))
        return tuple(facts)


def _facts(source: Source, name: str, found: Derived | str, largest: int) -> DerivedFacts:
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
    scanned, fault = _scanned(source, *statements.explain_read(found, largest))
    reading = None
    if name == ANALYTICS and not fault:
        try:
            reading = _reading(source, found, largest)
        except ReplicatorError as error:
            fault = str(error)
    return DerivedFacts(
        name=name,
        paths=tuple(paths),
        used={table[1]: columns for table, columns in lineage.sources.items()},
        clock=dict(lineage.clock),
        unstable=dict(lineage.unstable),
        scanned=scanned,
        fault=fault,
        reading=reading,
    )


def _reading(source: Source, found: Derived, largest: int) -> ViewReading:
    source.rows("SELECT set_config('enable_seqscan', 'on', false)")
    with source.reading():
        ((twice, newest),) = source.rows(
            "SELECT (SELECT count(*) FROM (SELECT FROM csat_survey_responses GROUP BY conversation_id"
            " HAVING count(*) > 1) AS t), (SELECT max(id) FROM conversations)"
        )
    return ViewReading(
        columns={each.name: found.type_names[each.type_oid, each.type_modifier] for each in found.columns},
        surveyed_twice=twice,
        one_read_ms=_one_read_ms(source, found, newest, largest) if newest is not None else None,
    )


def _one_read_ms(source: Source, found: Derived, key: int, largest: int) -> float:
    """The first one fills caches; the second is what a changed conversation costs, its planning included."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with source.reading():
            source.rows(*statements.read(found, [key], largest))
        took = time.perf_counter() - began
    return 1000 * took


def _scanned(source: Source, statement: Any, parameters: Any) -> tuple[tuple[str, ...], str]:
    """Tables that are read as a whole, and why it could not be asked."""
    try:
        with source.reading():
            ((plan,),) = source.rows(statement, parameters)
    except ReplicatorError as error:
        return (), str(error)
    return tuple(sorted(set(whole_reads(plan[0]["Plan"])))), ""


def whole_reads(node: dict[str, Any]) -> Iterator[str]:
    """Tables that a plan reads from one end to the other, as often as it does."""
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from whole_reads(child)
