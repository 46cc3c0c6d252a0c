"""What is around the tables: the roles that use them, and rights and policies that others have given.

Setup changes none of it; it says what an operator must know. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from consumers.catalogue import Catalogue
from consumers.plan import Finding, finding, note, refusal

READERS: Final = "replication_readers"
_OURS: Final = frozenset({"tenant_rows", "own_tenant", "own_settings", "applier_reads", "analyser_rows"})
"""Our permissive policies on what tenants see."""
_DIVIDED: Final = frozenset({"tenants", "tenant_settings", "analysis_queue", "replication_set_aside", "lead_rules"})
"""Control tables whose rows are a tenant's."""


def about_roles(catalogue: Catalogue, applier: str, kinds: dict[str, bool], *, pending: bool) -> Iterator[Finding]:
    """Whether the applier is a role that row-level security binds. `kinds`: which tables are replicated."""
    role = catalogue.roles.get(applier)
    change = f"name another role in CONSUMERS_TARGET_DSN (a new one is created), not {applier}"
    if pending and catalogue.session_role == applier:
        yield refusal(
            f"{applier} would own the tables, and the owner of a table can switch its row-level security off: set"
            " CONSUMERS_SETUP_DSN to the owner's DSN, and keep CONSUMERS_TARGET_DSN for the workers' own role"
        )
    if role is None:
        return
    if role.is_superuser:
        yield refusal(f"{applier} is a superuser, whom row-level security does not bind: {change}")
    if role.bypasses_security:
        yield refusal(f"{applier} has BYPASSRLS: {change}, or ALTER ROLE ... NOBYPASSRLS")
    if not role.can_log_in:
        yield refusal(f"{applier} can't log in: {change}, or ALTER ROLE ... LOGIN")
    owned = [table for table, replicated in kinds.items() if replicated and _owner(catalogue, table) == applier]
    if owned:
        yield refusal(f"{applier} owns {', '.join(owned)} and could switch row-level security off: {change}")


def about_access(catalogue: Catalogue, kinds: dict[str, bool]) -> Iterator[Finding]:
    """Rights and policies that let a tenant's role see more than its own rows."""
    for table, replicated in kinds.items():
        if table not in catalogue.relations:
            continue
        if replicated or table in _DIVIDED:
            yield from _policies_of_others(catalogue, table)
            for part in catalogue.parts(table):
                if part.policies:
                    names = ", ".join(part.policies)
                    yield note(f"policies of {part.name}, a part of {table}, stay, and show what they say: {names}")
        else:
            yield from _open_to_readers(catalogue, table)
    for name in (READERS,):
        role = catalogue.roles.get(name)
        if role is not None and (role.is_superuser or role.bypasses_security):
            yield refusal(f"{name} is a superuser or has BYPASSRLS: its members would see every tenant")


def _owner(catalogue: Catalogue, table: str) -> str | None:
    relation = catalogue.relations.get(table)
    return None if relation is None else relation.owner


def _policies_of_others(catalogue: Catalogue, table: str) -> Iterator[Finding]:
    for (secured, name), policy in sorted(catalogue.policies.items()):
        if secured == table and policy.permissive and name not in _OURS:
            whom = ", ".join(policy.roles) or "PUBLIC"
            yield note(f"policy {name} on {table} stays, and lets {whom} see or write what it says")


def _open_to_readers(catalogue: Catalogue, table: str) -> Iterator[Finding]:
    for role in ("public", READERS):
        exists = role == "public" or role in catalogue.roles
        if exists and not catalogue.lacks(role, "table", table, ["SELECT"]):
            yield finding(
                f"{'everybody' if role == 'public' else role} may read {table}, which is not divided by tenant:"
                f" REVOKE SELECT ON {table} FROM {role}"
            )
            return  # what everybody may, readers may too
