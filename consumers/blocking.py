"""Whose session is in the way of a tenant's transaction: a frozen one, a peer's at work, or one in everybody's way.

Asked after a lock time-out, on the session that met it: the answer is of the moment after. Never waits for a lock.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from consumers.tenants import TENANT_LOCK


def end_frozen(connection: Connection[Any], tenant: int) -> list[int]:
    """Ends sessions that hold the tenant's lock and do nothing with it (a frozen worker's): their process ids."""
    found = connection.execute(
        # Found first and ended then: the planner would ask a function in a condition on one table before it joins.
        "WITH frozen AS MATERIALIZED (SELECT a.pid FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.classid = %s AND l.objid = %s AND l.objsubid = 2 AND l.granted"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND a.usename = current_user AND a.pid <> pg_backend_pid()"
        " AND a.state LIKE 'idle in transaction%%' AND a.state_change < now() - interval '1 second')"
        " SELECT pid FROM frozen WHERE pg_terminate_backend(pid)",
        [TENANT_LOCK, tenant],
    )
    return [pid for (pid,) in found]


def is_peer_at_work(connection: Connection[Any], tenant: int) -> bool:
    """Whether another worker holds the tenant's lock for a live batch: it is as brief as our own."""
    found = connection.execute(
        "SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.classid = %s AND l.objid = %s AND l.objsubid = 2 AND l.granted"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND a.usename = current_user AND a.pid <> pg_backend_pid()"
        " AND a.application_name = current_setting('application_name') LIMIT 1",
        [TENANT_LOCK, tenant],
    )
    return found.fetchone() is not None


def is_table_locked(connection: Connection[Any]) -> bool:
    """Whether somebody holds, or waits for, a lock that lets nobody write one of our tables: no tenant's own affair.

    Whoever waits for such a lock is as much in the way: those who come later queue behind it.
    """
    found = connection.execute(
        "SELECT FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
        " LEFT JOIN pg_index AS i ON i.indexrelid = c.oid"
        " WHERE l.locktype = 'relation' AND l.pid <> pg_backend_pid()"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
        # The schema may be others' too: ours are those that the worker's role has a right on.
        " AND c.relnamespace = current_schema()::regnamespace"
        " AND has_table_privilege(COALESCE(i.indrelid, c.oid), 'SELECT') LIMIT 1"
    )
    return found.fetchone() is not None
