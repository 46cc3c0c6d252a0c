"""What polling each relation would cost the source: asked of the planner, and tried once. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from psycopg import sql

from replicator.beyond import Stamped
from replicator.candidates import LAST_KEY, between, stamp_of
from replicator.config import Settings
from replicator.definitions import polled_by, read_definitions
from replicator.derived import Derived, expected_keys, keys_after, listing
from replicator.derived_inspection import whole_reads
from replicator.errors import ReplicatorError
from replicator.facts import PolledFacts, StampFacts
from replicator.lineage.base_columns import base_column
from replicator.poller import CANDIDATES
from replicator.row_hashes import read_hashes
from replicator.source import Source

NEVER_US: Final = 253_000_000_000_000_000
"""No row is stamped so late: in the year 9987."""
TRIED: Final = 100
"""Rows of which it is tried how long comparing takes."""


def read_polled(settings: Settings) -> tuple[PolledFacts, ...]:
    """Of every relation that polling would capture. Raises SourceUnavailable if the source does not answer."""
    captured = polled_by(settings)
    with Source(settings) as source:
        found = read_definitions(source, captured).relations
        return tuple(_facts(source, relation.name, found[relation.name]) for relation in captured.derived)


def _facts(source: Source, name: str, found: Derived | str) -> PolledFacts:
    if isinstance(found, str):
        return PolledFacts(name=name, problem=found)
    try:
        with source.reading():
            known = PolledFacts(
                name=name,
                updated=stamp_of(found),
                stamp=_stamp(source, found),
                is_appended=found.relation.is_appended,
                rows=expected_keys(source.connection, found),
                key_ms=_key_ms(source, found),
            )
        return _with_cost(source, found, known)
    except ReplicatorError as error:
        return PolledFacts(name=name, problem=str(error))


def _with_cost(source: Source, found: Derived, known: PolledFacts) -> PolledFacts:
    if known.is_appended:
        query = listing(found, None, (LAST_KEY,), CANDIDATES)
    elif known.updated:
        query = between(found, Stamped(NEVER_US, LAST_KEY), NEVER_US, CANDIDATES)
    else:
        return known
    with source.reading():
        ((plan,),) = source.rows(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query[0]), query[1])
        took_ms = _second(lambda: source.rows(*query))
    whole = plan[0]["Plan"]
    return replace(
        known, cost=float(whole["Total Cost"]), took_ms=took_ms, scanned=tuple(sorted(set(whole_reads(whole))))
    )


def _stamp(source: Source, found: Derived) -> StampFacts | None:
    behind = base_column(found.relation.select, found.relation.updated, found.catalog)
    if behind is None:
        return None
    (schema, table), column = behind
    ((is_indexed,),) = source.rows(
        "SELECT EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]"
        " WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s AND i.indisvalid AND i.indpred IS NULL)",
        (schema, table, column),
    )
    return StampFacts(schema=schema, table=table, column=column, is_indexed=is_indexed)


def _key_ms(source: Source, found: Derived) -> float:
    """0 where there is no row."""
    keys = [int(key) for (key,) in keys_after(source.connection, found, None, None, TRIED)]  # type: ignore[arg-type]  # an integer, by `definitions`
    return _second(lambda: read_hashes(source.connection, found, keys)) / len(keys) if keys else 0.0


def _second(ask: Callable[[], Any]) -> float:
    """Milliseconds of the second time: the first one fills caches."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        ask()
        took = time.perf_counter() - began
    return 1000 * took
