"""`consumers dead-letters`: what could not be applied, seen, asked for again, or given up by a person.

Nothing but `show` says what an event holds. A retry is only asked for: the worker that reads the event's partition does
it. A discard takes the tenant's lock, so that no worker decides by dead letters that go under its hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg.rows import class_row

from consumers.config import Settings
from consumers.dead_letters import unpack_headers
from consumers.errors import Refused
from consumers.identifiers import doubled, quoted
from consumers.session import connect
from consumers.tenants import TENANT_LOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How many there are of one kind."""

    tenant_id: int
    relation: str
    error_class: str
    concerns: str
    """The constraint or the columns that refuse them."""
    letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One of them, without a value of its row."""

    id: int
    tenant_id: int
    relation: str
    key: str
    op: str
    waits: bool
    """Behind an earlier one of its row."""
    error_class: str
    error: str
    advice: str
    since: datetime
    tried_at: datetime | None
    tries: int
    is_due: bool
    """It was asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    kinds: tuple[Kind, ...]
    """Of all."""
    letters: tuple[Listed, ...]
    """The oldest, as many as were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One as it came, its row's values too."""

    letter: Listed
    partition: int
    log_offset: int
    inbox_id: int | None
    headers: tuple[tuple[str, str], ...]
    body: Any
    """Parsed if it is JSON, else as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Those of all of these."""

    ids: tuple[int, ...] = ()
    tenant: int | None = None
    table: str | None = None

    @property
    def condition(self) -> str:
        return (
            "(%(ids)s::bigint[] = '{}' OR id = ANY (%(ids)s))"
            " AND (%(tenant)s::integer IS NULL OR tenant_id = %(tenant)s)"
            " AND (%(table)s::text IS NULL OR relation = %(table)s)"
        )

    @property
    def given(self) -> dict[str, Any]:
        return {"ids": list(self.ids), "tenant": self.tenant, "table": self.table}


_LISTED = (
    "id, tenant_id, relation, key, op, waits, COALESCE(error_class, '') AS error_class, COALESCE(error, '') AS error,"
    " COALESCE(advice, '') AS advice, since, tried_at, tries, due_at IS NOT NULL AS is_due"
)


def listing(settings: Settings, which: Which, limit: int) -> Listing:
    with connect(settings, settings.target_dsn, "dead-letters list") as connection:
        kinds = connection.cursor(row_factory=class_row(Kind)).execute(
            "SELECT tenant_id, relation, COALESCE(error_class, '') AS error_class, COALESCE(concerns, '') AS concerns,"
            " count(*) AS letters FROM replication_dead_letters"
            f" WHERE {which.condition} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, letters DESC, 3, 4".encode(),
            which.given,
        )
        return Listing(kinds=tuple(kinds), letters=_listed(connection, which, limit))


def show(settings: Settings, number: int) -> Shown:
    """Raises Refused if there is none of this number."""
    with connect(settings, settings.target_dsn, "dead-letters show") as connection:
        (letter,) = _known(connection, (number,))
        found = connection.execute(
            "SELECT partition, log_offset, inbox_id, headers, body FROM replication_dead_letters WHERE id = %s",
            [number],
        ).fetchone()
    if found is None:
        raise Refused(f"there is no dead letter {number} any more")
    partition, offset, inbox, headers, body = found
    text = tuple((name, (value or b"").decode(errors="replace")) for name, value in unpack_headers(headers))
    return Shown(
        letter=letter, partition=partition, log_offset=offset, inbox_id=inbox, headers=text, body=_readable(body)
    )


def retry(settings: Settings, which: Which) -> int:
    """How many are asked for now. Raises Refused for ids that there are not."""
    with connect(settings, settings.target_dsn, "dead-letters retry") as connection, connection.transaction():
        _known(connection, which.ids)
        return connection.execute(
            f"UPDATE replication_dead_letters SET due_at = now() WHERE {which.condition}".encode(), which.given
        ).rowcount


def discard(settings: Settings, ids: Sequence[int], *, apply: bool) -> tuple[str, ...]:
    """What is given up, a sentence for each, and what stays as it is; done if `apply`. Raises Refused."""
    with connect(settings, settings.target_dsn, "dead-letters discard") as connection:
        with connection.transaction():
            letters = _known(connection, ids)
            plan = tuple(_plan(connection, letter) for letter in letters)
        for letter in letters if apply else ():
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TENANT_LOCK, letter.tenant_id])
                connection.execute("DELETE FROM replication_dead_letters WHERE id = %s", [letter.id])
                connection.execute(
                    "UPDATE replication_dead_letters SET due_at = now()"
                    " WHERE tenant_id = %s AND relation = %s AND key = %s AND waits",
                    [letter.tenant_id, letter.relation, letter.key],
                )
        return plan


def counts(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """By tenant."""
    return dict(connection.execute("SELECT tenant_id, count(*) FROM replication_dead_letters GROUP BY 1").fetchall())


def _known(connection: psycopg.Connection[Any], ids: Sequence[int]) -> tuple[Listed, ...]:
    found = _listed(connection, Which(ids=tuple(ids)), len(ids)) if ids else ()
    if missing := sorted(set(ids) - {letter.id for letter in found}):
        raise Refused(
            f"there is no dead letter {', '.join(map(str, missing))}: healed meanwhile? `consumers dead-letters list`"
        )
    return found


def _listed(connection: psycopg.Connection[Any], which: Which, limit: int) -> tuple[Listed, ...]:
    found = connection.cursor(row_factory=class_row(Listed)).execute(
        f"SELECT {_LISTED} FROM replication_dead_letters WHERE {which.condition} ORDER BY id LIMIT %(limit)s".encode(),
        {**which.given, "limit": limit},
    )
    return tuple(found)


def _plan(connection: psycopg.Connection[Any], letter: Listed) -> str:
    waiting = connection.execute(
        "SELECT count(*) FROM replication_dead_letters"
        " WHERE tenant_id = %s AND relation = %s AND key = %s AND id <> %s AND waits",
        [letter.tenant_id, letter.relation, letter.key, letter.id],
    ).fetchone()
    behind = "" if not waiting or not waiting[0] else f"; {waiting[0]} later events of the row are applied without it"
    return (
        f"discard {letter.id} (tenant {letter.tenant_id}, {letter.relation or 'no table'} {letter.key},"
        f" {letter.error_class}): {_stale(connection, letter)}{behind}"
    )


def _stale(connection: psycopg.Connection[Any], letter: Listed) -> str:
    """What is in the target instead of it."""
    until = "until the source sends the row whole (a change of it, or a backfill)"
    known = connection.execute(
        "SELECT key FROM replication_relations() WHERE relation = %s", [letter.relation]
    ).fetchone()
    row = connection.execute("SELECT row_id FROM replication_dead_letters WHERE id = %s", [letter.id]).fetchone()
    if known is None or row is None or row[0] is None:
        return "it concerns no row of a replicated table"
    connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(letter.tenant_id)])
    stored = connection.execute(
        f"SELECT synced_at FROM {doubled(quoted(letter.relation))}"
        f" WHERE tenant_id = %s AND {doubled(quoted(known[0]))} = %s".encode(),
        [letter.tenant_id, row[0]],
    ).fetchone()
    if stored is None:
        return f"the target stays without this row {until}"
    if stored[0] is None:
        return f"the row stays a stub {until}"
    return f"the row stays as it was at {stored[0]:%Y-%m-%d %H:%M:%SZ} {until}"


def _readable(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return body.decode(errors="replace")
