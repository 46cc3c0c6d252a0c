"""`consumers map`: which inbox belongs to which tenant, seen and added to by a person.

An inbox belongs to one tenant; giving it to another is another command (`mapping_moves`), because its rows must go with
it. Adding is one INSERT: a trigger in the target asks for the backfill and tells the workers, be they running or not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from consumers.config import Settings
from consumers.errors import Refused, TargetRefused
from consumers.reasons import first_line
from consumers.session import connect
from consumers.tenants import TENANT_LOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """An inbox and its tenant."""

    inbox_id: int
    inbox_name: str | None
    tenant_id: int
    tenant_name: str | None
    is_active: bool
    backfill_id: str | None
    """The backfill that was asked for, if any."""
    backfilled_at: datetime | None
    """None: its rows are not complete yet."""

    @property
    def progress(self) -> str:
        """Of its backfill, in words."""
        if not self.is_active:
            return "inactive"
        if self.backfilled_at is not None:
            return f"complete since {self.backfilled_at:%Y-%m-%d %H:%M:%SZ}"
        return "under way" if self.backfill_id else "asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmapped:
    """An inbox with events that nobody has given to a tenant."""

    inbox_id: int
    events: int
    first_seen: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Rows of an inbox that its tenant had before it was taken out of the mapping."""

    inbox_id: int
    tenant_id: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    mapped: tuple[Mapped, ...]
    unmapped: tuple[Unmapped, ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An inbox to be given to a tenant, who is made if a name is given and it does not exist."""

    inbox: int
    tenant: int
    tenant_name: str | None = None
    tenant_slug: str | None = None
    inbox_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One statement of a plan."""

    does: str
    sql: LiteralString
    parameters: tuple[Any, ...]


def listing(settings: Settings) -> Listing:
    """Every mapping, and every inbox without one. Reads as the applier."""
    with connect(settings, settings.target_dsn, "map list") as connection:
        return read_listing(connection)


def read_listing(connection: psycopg.Connection[Any]) -> Listing:
    """The same over a connection that exists."""
    mapped = connection.cursor(row_factory=class_row(Mapped)).execute(
        "SELECT m.inbox_id, m.inbox_name, m.tenant_id, t.name AS tenant_name, m.is_active IS TRUE AS is_active,"
        " m.backfill_id, m.backfilled_at"
        " FROM inbox_tenant_mapping m LEFT JOIN tenants t ON t.id = m.tenant_id ORDER BY m.tenant_id, m.inbox_id"
    )
    # A worker may note an inbox in the moment in which it is mapped.
    unmapped = connection.cursor(row_factory=class_row(Unmapped)).execute(
        "SELECT u.inbox_id, u.events, u.first_seen, u.last_seen FROM unmapped_inboxes u"
        " WHERE NOT EXISTS (SELECT FROM inbox_tenant_mapping m WHERE m.inbox_id = u.inbox_id) ORDER BY u.inbox_id"
    )
    kept = connection.cursor(row_factory=class_row(Kept)).execute(
        "SELECT inbox_id, tenant_id, since FROM replication_former_inboxes ORDER BY inbox_id, tenant_id"
    )
    return Listing(mapped=tuple(mapped), unmapped=tuple(unmapped), kept=tuple(kept))


def former_tenants(connection: psycopg.Connection[Any], inbox: int) -> list[int]:
    """Who keeps rows of an inbox that is theirs no more."""
    found = connection.execute(
        "SELECT tenant_id FROM replication_former_inboxes WHERE inbox_id = %s ORDER BY 1", [inbox]
    )
    return [tenant for (tenant,) in found]


def lock_tenants(connection: psycopg.Connection[Any], tenants: Iterable[int]) -> None:
    """Until the transaction ends. In ascending order, as the mapping's triggers do it."""
    for tenant in sorted(set(tenants)):
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TENANT_LOCK, tenant])


def add(settings: Settings, wish: Wish, *, apply: bool) -> tuple[Change, ...]:
    """The changes that the wish needs, carried out in one transaction if `apply`. Raises Refused."""
    with connect(settings, settings.owner_dsn, "map add") as connection, connection.transaction():
        if apply:
            # Before any row is locked, as the workers do it: else the two could wait for each other.
            lock_tenants(connection, [wish.tenant, *former_tenants(connection, wish.inbox)])
        changes = tuple(_changes(connection, wish))
        for change in changes if apply else ():
            _carry_out(connection, change)
        return changes


def _carry_out(connection: psycopg.Connection[Any], change: Change) -> None:
    try:
        connection.execute(change.sql, change.parameters)
    except psycopg.errors.IntegrityError as error:
        raise TargetRefused(f"could not {change.does}: {first_line(error)}") from None


def _changes(connection: psycopg.Connection[Any], wish: Wish) -> Iterator[Change]:
    mapped = connection.execute(
        "SELECT tenant_id, is_active FROM inbox_tenant_mapping WHERE inbox_id = %s", [wish.inbox]
    ).fetchone()
    if mapped is not None and mapped[0] != wish.tenant:
        raise Refused(
            f"inbox {wish.inbox} belongs to tenant {mapped[0]}; giving it to tenant {wish.tenant} means moving its rows"
            " too: `consumers map move`"
        )
    yield from _tenant(connection, wish)
    noted = Change(
        does=f"take inbox {wish.inbox} off the unmapped ones",
        sql="DELETE FROM unmapped_inboxes WHERE inbox_id = %s",
        parameters=(wish.inbox,),
    )
    if mapped is None:
        keepers = [tenant for tenant in former_tenants(connection, wish.inbox) if tenant != wish.tenant]
        along = f" with the rows that tenant {', '.join(map(str, keepers))} has kept of it," if keepers else ""
        yield Change(
            does=f"map inbox {wish.inbox} to tenant {wish.tenant},{along} and ask for its backfill",
            sql="INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id, inbox_name, is_active)"
            " VALUES (%s, %s, %s, true)",
            parameters=(wish.inbox, wish.tenant, wish.inbox_name),
        )
        yield noted
    elif not mapped[1]:
        yield Change(
            does=f"activate inbox {wish.inbox} again, and ask for its backfill",
            sql="UPDATE inbox_tenant_mapping SET is_active = true WHERE inbox_id = %s",
            parameters=(wish.inbox,),
        )
        yield noted


def _tenant(connection: psycopg.Connection[Any], wish: Wish) -> Iterator[Change]:
    found = connection.execute("SELECT deleted_at FROM tenants WHERE id = %s", [wish.tenant]).fetchone()
    if found is not None:
        if found[0] is not None:
            raise Refused(f"tenant {wish.tenant} is marked as deleted; clear tenants.deleted_at first")
        return
    name = wish.tenant_name or wish.tenant_slug
    if name is None:
        raise Refused(f"tenant {wish.tenant} does not exist; give --tenant-name to make it")
    slug = wish.tenant_slug or slug_of(name) or f"tenant-{wish.tenant}"
    yield Change(
        does=f"make tenant {wish.tenant} ({name}, {slug})",
        sql="INSERT INTO tenants (id, name, slug) VALUES (%s, %s, %s)",
        parameters=(wish.tenant, name, slug),
    )
    # An adopted table numbers its tenants itself: its next number must not be one that was given here.
    sequence = connection.execute("SELECT pg_get_serial_sequence('tenants', 'id')").fetchone()
    if sequence is not None and sequence[0] is not None:
        yield Change(
            does="let the numbering of tenants go on after the highest",
            sql="SELECT setval(%s::regclass, GREATEST(1, (SELECT max(id) FROM tenants)))",
            parameters=(sequence[0],),
        )


def slug_of(name: str) -> str:
    """A name in lower case ASCII with hyphens: `Escola São José` is `escola-sao-jose`."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")[:100]
