"""`consumers map move` and `deactivate`: an inbox goes to another tenant with its rows, or to nobody.

The target does it: a trigger on the mapping carries the rows over in the transaction that changes the mapping, so that
SQL by hand comes to the same. Here it is counted and said before, everybody concerned is locked first, in the order of
the workers and of the trigger, and what was carried over is said afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from consumers.config import Settings
from consumers.errors import Refused
from consumers.mapping_admin import former_tenants, lock_tenants
from consumers.session import connect

_STATEMENT_LIMIT: Final = "1h"
"""Some million rows; the workers of the tenants concerned wait meanwhile, and then catch up."""
_HELD: Final = (
    "SELECT relation AS table, held AS rows, shared FROM replication_inbox_rows(%s, %s) WHERE held > 0"
    " ORDER BY relation"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Rows of an inbox in one table."""

    table: str
    rows: int
    shared: int
    """Of those: other inboxes of the tenant refer to them too, so that it keeps a copy, or a stub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one tenant has of the inbox."""

    tenant: int
    rows: tuple[Tally, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What is done, or would be."""

    inbox: int
    does: tuple[str, ...]
    """Empty: it is so already."""
    holdings: tuple[Holding, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Inbox:
    """A mapping as it stands."""

    tenant_id: int
    is_active: bool


def move(settings: Settings, inbox: int, tenant: int, *, apply: bool) -> Handover:
    """To a tenant that exists, carried out if `apply`. Raises Refused."""
    with connect(settings, settings.owner_dsn, "map move") as connection, connection.transaction():
        _refuse_old(connection)
        found = _found(connection, inbox)
        if found is None:
            raise Refused(f"inbox {inbox} belongs to nobody: `consumers map add --inbox {inbox} --tenant {tenant}`")
        _refuse_tenant(connection, tenant)
        if found.tenant_id == tenant:
            return Handover(inbox=inbox, does=(), holdings=())
        handover = Handover(
            inbox=inbox,
            does=(f"move inbox {inbox} from tenant {found.tenant_id} to tenant {tenant}, with its rows",),
            holdings=(_holding(connection, inbox, found.tenant_id),),
            notes=tuple(_notes(connection, found, tenant)),
        )
        if apply:
            _lock(connection, inbox, found, tenant)
            connection.execute("UPDATE inbox_tenant_mapping SET tenant_id = %s WHERE inbox_id = %s", [tenant, inbox])
        return handover


def deactivate(settings: Settings, inbox: int, *, purge: bool, apply: bool) -> Handover:
    """Nothing more is applied; its rows stay, or are deleted for good. Carried out if `apply`. Raises Refused.

    An inbox that was taken out of the mapping, and whose rows were kept, can still be purged.
    """
    with connect(settings, settings.owner_dsn, "map deactivate") as connection, connection.transaction():
        _refuse_old(connection)
        found = _found(connection, inbox)
        keepers = former_tenants(connection, inbox)
        if found is None and not keepers:
            raise Refused(f"inbox {inbox} belongs to nobody, and nobody keeps rows of it")
        if found is None and not purge:
            raise Refused(f"inbox {inbox} belongs to nobody already; --purge deletes what is kept of it")
        holders = sorted({*keepers, *([found.tenant_id] if found else ())})
        holdings = tuple(_holding(connection, inbox, holder) for holder in holders)
        does = []
        if found is not None and found.is_active:
            does.append(f"deactivate inbox {inbox} of tenant {found.tenant_id}: nothing more is applied")
        if purge and any(holding.rows for holding in holdings):
            does.append(f"delete the rows of inbox {inbox} for good, and what was written beside them")
        elif not purge and does:
            does.append("keep its rows")
        if apply:
            _lock(connection, inbox, found)
        if apply and found is not None and found.is_active:
            connection.execute("UPDATE inbox_tenant_mapping SET is_active = false WHERE inbox_id = %s", [inbox])
        if apply and purge:
            connection.execute("SELECT replication_purge_inbox(%s)", [inbox])
        notes = (f"`consumers map add --inbox {inbox} --tenant {found.tenant_id}` takes it back",) if found else ()
        return Handover(inbox=inbox, does=tuple(does), holdings=holdings, notes=notes)


def _lock(connection: psycopg.Connection[Any], inbox: int, found: _Inbox | None, *others: int) -> None:
    """Before any row: workers hold their tenant's lock when they write the mapping. Raises Refused."""
    connection.execute("SELECT set_config('statement_timeout', %s, true)", [_STATEMENT_LIMIT])
    lock_tenants(connection, [*others, *former_tenants(connection, inbox), *([found.tenant_id] if found else ())])
    if _found(connection, inbox) != found:
        raise Refused(f"somebody else has just changed inbox {inbox}: look at the new plan")


def _found(connection: psycopg.Connection[Any], inbox: int) -> _Inbox | None:
    return (
        connection.cursor(row_factory=class_row(_Inbox))
        .execute(
            "SELECT tenant_id, is_active IS TRUE AS is_active FROM inbox_tenant_mapping WHERE inbox_id = %s", [inbox]
        )
        .fetchone()
    )


def _holding(connection: psycopg.Connection[Any], inbox: int, tenant: int) -> Holding:
    rows = connection.cursor(row_factory=class_row(Tally)).execute(_HELD, [inbox, tenant]).fetchall()
    return Holding(tenant=tenant, rows=tuple(rows))


def _notes(connection: psycopg.Connection[Any], found: _Inbox, tenant: int) -> Iterator[str]:
    if not found.is_active:
        yield "it is not active, and stays so"
        return
    yield "a backfill follows by itself: it brings what the one tenant had read and the other had not"
    parked = connection.execute(
        "SELECT DISTINCT tenant_id FROM replication_parked WHERE tenant_id = ANY (%s) ORDER BY 1",
        [[found.tenant_id, tenant]],
    ).fetchall()
    for (stuck,) in parked:
        yield f"tenant {stuck} is parked; `consumers status` says why. The backfill may have to wait for that"


def _refuse_old(connection: psycopg.Connection[Any]) -> None:
    ready = connection.execute("SELECT to_regprocedure('replication_purge_inbox(bigint)') IS NOT NULL").fetchone()
    if ready != (True,):
        raise Refused("the target was set up for an older version of this program: run `consumers setup`")


def _refuse_tenant(connection: psycopg.Connection[Any], tenant: int) -> None:
    known = connection.execute("SELECT deleted_at FROM tenants WHERE id = %s", [tenant]).fetchone()
    if known is None:
        raise Refused(f"tenant {tenant} does not exist; `consumers map add --tenant-name …` makes one with an inbox")
    if known[0] is not None:
        raise Refused(f"tenant {tenant} is marked as deleted; clear tenants.deleted_at first")
