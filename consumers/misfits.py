"""Why the target refuses an event, for the sentence that the operator reads: which columns do not take its values.

The server is asked column by column, outside of any transaction; no value leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import structlog
from psycopg import Connection

from consumers import upsert
from consumers.errors import ConsumersError, Verdict
from consumers.forms import Schemas
from consumers.identifiers import quoted
from consumers.ordering import UPSERTS, Event
from consumers.reasons import Reason
from consumers.relation import Relation

log = structlog.get_logger(__name__)

Misfit = tuple[str, str, str]
"""A column, its type in the target, and in the source."""


def misfits(connection: Connection[Any], relation: Relation, event: Event, schemas: Schemas) -> list[Misfit]:
    """Raises psycopg.OperationalError, or LogUnavailable."""
    if event.op not in UPSERTS or not event.schema:
        return []
    found = []
    for name, kind in schemas(event.table, event.schema).columns:
        if name not in (relation.key, *relation.data):
            continue
        try:
            statement = upsert.try_column(relation, name, kind).encode()
            connection.execute(statement, {"body": event.body.decode(errors="replace")}, prepare=False)
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError):
            found.append((name, relation.columns[name], kind))
    return found


def blame(
    connection: Connection[Any],
    relations: Mapping[str, Relation],
    event: Event,
    error: Exception,
    verdict: Verdict,
    schemas: Schemas,
) -> Reason:
    """Names the table, and the columns that do not take what they should."""
    reason = Reason.of(error, verdict)
    if not isinstance(error, psycopg.Error) or event.table not in relations:
        return reason
    try:
        narrow = misfits(connection, relations[event.table], event, schemas)
    except (psycopg.Error, ConsumersError) as fault:
        log.warning("row.not_examined", table=event.table, error=type(fault).__name__)
        narrow = []
    if narrow:
        return narrowed(reason, event.table, narrow)
    return replace(reason, says=f"a row of {event.table}: {reason.says}")


def narrowed(reason: Reason, table: str, columns: Sequence[Misfit]) -> Reason:
    """The reason, with the columns that are to blame, and what makes them as wide as the source's."""
    named = ", ".join(f"{table}.{name} ({kind} here, {wanted} in the source)" for name, kind, wanted in columns)
    wider = ", ".join(f"ALTER COLUMN {quoted(name)} TYPE {wanted}" for name, kind, wanted in columns if kind != wanted)
    advice = f"It goes on by itself after: ALTER TABLE {quoted(table)} {wider};" if wider else reason.advice
    blamed = ", ".join(name for name, _, _ in columns)
    return replace(reason, says=f"{reason.says}: the value does not fit {named}", advice=advice, concerns=blamed)
