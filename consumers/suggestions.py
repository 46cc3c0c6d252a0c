"""`consumers map suggest`: whose inboxes that belong to nobody might be, by the account that they share with others.

Proposes only what the mapping of the account's other inboxes says with one voice; never guesses, never applies. The
source is asked for inboxes and accounts if its DSN is given, read only; without it only the inboxes are known of which
events have come, and of none the account.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import psycopg
from psycopg import sql
from pydantic import SecretStr

from consumers.config import Settings
from consumers.errors import TargetRefused
from consumers.mapping_admin import Unmapped, read_listing
from consumers.reasons import first_line
from consumers.session import connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """An inbox without a tenant."""

    inbox_id: int
    inbox_name: str | None
    account_id: int | None
    events: int
    """That came and that nobody got."""
    first_seen: datetime | None
    last_seen: datetime | None
    tenant_id: int | None
    """None: nothing is proposed."""
    reason: str
    command: str | None
    """Does what is proposed, with --apply."""


class Known(NamedTuple):
    """An inbox of the source."""

    inbox_id: int
    name: str | None
    account_id: int | None


class Owner(NamedTuple):
    """Whose an inbox is."""

    tenant_id: int
    name: str | None
    is_deleted: bool


def suggest(settings: Settings) -> tuple[Suggestion, ...]:
    """In order of inbox ids. Raises TargetUnavailable or TargetRefused, also of the source."""
    with connect(settings, settings.target_dsn, "map suggest") as connection:
        unmapped = read_listing(connection).unmapped
        owners = {
            inbox: Owner(*rest)
            for inbox, *rest in connection.execute(
                "SELECT m.inbox_id, m.tenant_id, t.name, t.deleted_at IS NOT NULL"
                " FROM inbox_tenant_mapping AS m JOIN tenants AS t ON t.id = m.tenant_id"
            )
        }
    known = _inboxes(settings, settings.source_dsn) if settings.source_dsn is not None else None
    return propose(unmapped, owners, known)


def propose(
    unmapped: Iterable[Unmapped], owners: Mapping[int, Owner], known: Iterable[Known] | None
) -> tuple[Suggestion, ...]:
    """Pure. `known`: all inboxes of the source; None: it was not asked."""
    seen = {each.inbox_id: each for each in unmapped}
    inboxes = {each.inbox_id: each for each in known or ()}
    tenants: dict[int, set[Owner]] = defaultdict(set)
    for inbox in inboxes.values():
        if inbox.account_id is not None and inbox.inbox_id in owners:
            tenants[inbox.account_id].add(owners[inbox.inbox_id])
    return tuple(
        _suggestion(inbox, seen.get(inbox), inboxes.get(inbox), tenants, was_asked=known is not None)
        for inbox in sorted(seen.keys() | (inboxes.keys() - owners.keys()))
    )


def _suggestion(
    inbox: int,
    seen: Unmapped | None,
    known: Known | None,
    tenants: Mapping[int, set[Owner]],
    *,
    was_asked: bool,
) -> Suggestion:
    account = known.account_id if known else None
    name = known.name if known else None
    owners = tenants.get(account, set()) if account is not None else set()
    tenant, reason = _decide(known, owners, was_asked=was_asked)
    command = None
    if tenant is not None:
        named = f" --inbox-name {shlex.quote(name)}" if name else ""
        command = f"consumers map add --inbox {inbox} --tenant {tenant}{named}"
    return Suggestion(
        inbox_id=inbox,
        inbox_name=name,
        account_id=account,
        events=seen.events if seen else 0,
        first_seen=seen.first_seen if seen else None,
        last_seen=seen.last_seen if seen else None,
        tenant_id=tenant,
        reason=reason,
        command=command,
    )


def _decide(known: Known | None, owners: set[Owner], *, was_asked: bool) -> tuple[int | None, str]:
    if not was_asked:
        return None, "its account is not known; set CONSUMERS_SOURCE_DSN to ask the source"
    if known is None:
        return None, "the source has it no more"
    if known.account_id is None:
        return None, "it has no account"
    if not owners:
        return None, f"no other inbox of account {known.account_id} belongs to a tenant"
    whose = ", ".join(f"{owner.tenant_id} {owner.name or ''}".rstrip() for owner in sorted(owners, key=_by_tenant))
    if len(owners) > 1:
        return None, f"ambiguous: inboxes of account {known.account_id} belong to tenants {whose}"
    (owner,) = owners
    if owner.is_deleted:
        return None, f"the other inboxes of account {known.account_id} belong to tenant {whose}, marked as deleted"
    return owner.tenant_id, f"every other inbox of account {known.account_id} that is mapped belongs to tenant {whose}"


def _by_tenant(owner: Owner) -> int:
    return owner.tenant_id


def _inboxes(settings: Settings, dsn: SecretStr) -> list[Known]:
    """Of the source, in one read-only transaction. Raises TargetRefused."""
    limit = int(settings.statement_timeout_s * 1000)
    try:
        with psycopg.connect(
            dsn.get_secret_value(),
            connect_timeout=settings.connect_timeout_s,
            application_name="inbox-replicator map suggest",
            tcp_user_timeout=30_000,
        ) as connection:
            connection.read_only = True
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(limit)])
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [str(limit)])
            table = sql.Identifier(settings.source_schema, "inboxes")
            return [
                Known(*row) for row in connection.execute(sql.SQL("SELECT id, name, account_id FROM {}").format(table))
            ]
    except psycopg.Error as error:
        raise TargetRefused(f"the source of CONSUMERS_SOURCE_DSN says: {first_line(error)}") from None
