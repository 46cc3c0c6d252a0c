"""Sessions in the target: everything that changes how a statement is read, planned or waited for is pinned.

And whether a session's role is one that row-level security binds. Never knows what is done in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from itertools import count
from typing import Any, Final

import psycopg
from psycopg import Connection

from consumers.config import Settings
from consumers.errors import TargetRefused
from consumers.relation import Relation
from replicator import PINNED_SETTINGS

_times: Final = count(1)

_IDLE_LIMIT_S: Final = 15
"""A worker that is frozen inside its transaction loses it after so long, should nobody end it before."""

_SESSION: Final = {
    **PINNED_SETTINGS,
    # How text is read, where the database or the role says otherwise.
    "array_nulls": "on",
    "xmloption": "content",
    # Batches are small beside the tables, and temporary tables have no statistics: always by index.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    # A plan kept from when a table was empty would look up rows by tenant alone (measured: 30 s instead of 0.1). Where
    # rows are few it is kept, for a second.
    "plan_cache_mode": "force_custom_plan",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": f"{_IDLE_LIMIT_S}s",
}


def open_session(settings: Settings, purpose: str, *, is_brief: bool = False, prepares: bool = True) -> Connection[Any]:
    """A connection with everything pinned and limited. Raises psycopg.Error.

    `is_brief`: others wait while it waits. `prepares`: psycopg prepares what is sent again and again.
    """
    connection = psycopg.connect(
        settings.target_dsn.get_secret_value(),
        autocommit=True,
        connect_timeout=settings.connect_timeout_s,
        application_name=f"inbox-replicator {purpose}",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,  # milliseconds
        prepare_threshold=5 if prepares else None,
    )
    wanted = {
        **_SESSION,
        "search_path": f'"{settings.target_schema}", pg_temp',
        "lock_timeout": f"{settings.brief_lock_timeout_s if is_brief else settings.lock_timeout_s}s",
        "statement_timeout": f"{settings.statement_timeout_s}s",
    }
    for name, value in wanted.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    return connection


def forget_plans(connection: Connection[Any]) -> None:
    """Statements that were prepared for other columns would fail."""
    # psycopg looks at what a statement did, and so forgets its own list, only where the text is new to it.
    connection.execute(f"DEALLOCATE ALL -- {next(_times)}".encode())


def refuse_shared(settings: Settings, connection: Connection[Any]) -> None:
    """Raises TargetRefused if a pooler gives several of our sessions one of the server's, or one of ours several.

    What is staged, set and prepared there would be missing, or another's.
    """
    with closing(open_session(settings, "worker probe", is_brief=True)) as other:
        first, second, *again = (
            each.execute("SELECT pg_backend_pid()").fetchone() for each in (connection, other, other, connection)
        )
    if first == second or again != [second, first]:
        raise TargetRefused(
            "a pooler gives every transaction another session of the server, so temporary tables, settings and locks"
            " do not last; let CONSUMERS_TARGET_DSN name the server itself, or a pooler in session mode"
        )


def refuse_unbound(connection: Connection[Any], relations: Mapping[str, Relation]) -> None:
    """Raises TargetRefused if row-level security would not bind this session's role."""
    found = connection.execute(
        "SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if found is None:
        raise TargetRefused("the role of CONSUMERS_TARGET_DSN is not in the catalogue")
    role, is_super, bypasses = found
    if is_super or bypasses:
        raise TargetRefused(
            f"{role} is a superuser or has BYPASSRLS: row-level security would not bind the worker;"
            " name the applier's role in CONSUMERS_TARGET_DSN"
        )
    for name, owns, secured, bound in connection.execute(
        "SELECT c.relname, pg_has_role(c.relowner, 'MEMBER'), c.relrowsecurity AND c.relforcerowsecurity,"
        " EXISTS (SELECT FROM pg_policy AS p CROSS JOIN unnest(p.polroles) AS r (oid)"
        " WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd = '*'"
        " AND CASE WHEN r.oid = 0 THEN true ELSE pg_has_role(r.oid, 'USAGE') END"
        " AND pg_get_expr(p.polqual, p.polrelid) LIKE '%%app.current_tenant_id%%')"
        " FROM pg_class AS c WHERE c.relname = ANY (%s) AND c.relnamespace = current_schema()::regnamespace",
        [list(relations)],
    ):
        if owns:
            raise TargetRefused(f"{role} owns {name} and could switch its row-level security off: use another role")
        if not secured:
            raise TargetRefused(f"row-level security is not forced on {name}: run `consumers setup`")
        if not bound:
            raise TargetRefused(f"no restrictive policy binds {role} to one tenant on {name}: run `consumers setup`")
