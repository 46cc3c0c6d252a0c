"""Lead signals of rows that older rules have made, made anew beside the stream.

A thread with a session of its own. Some rows at a time are read, evaluated, and written under the tenant's lock where
they still are what was read; as much time as that takes is left to others before the next. Which rows are still to be
done stands in the rows themselves (`lead_rules_digest`), so a restart goes on. Who asks is the worker that reads the
partition of the tenant's first inbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import Connection

from consumers import target, tenants
from consumers.config import Settings
from consumers.errors import classify
from consumers.identifiers import quoted
from consumers.lead_columns import FROM_SOURCE, LeadColumns
from consumers.live import ANALYTICS
from consumers.parking import Reason
from consumers.upsert import LEAD_COLUMNS, Relation
from replicator.runtime import GrowingPause

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 100
"""Rows; the longest conversation known has 150 kB."""
_LOOK_S: Final = 10.0
"""Between two looks for rows that are to be done."""
_STOP_S: Final = 3.0

_OUTDATED: Final = f"""
    FROM {ANALYTICS} AS t
    WHERE t.tenant_id = %(tenant)s AND t.message_compiled IS NOT NULL AND t.synced_at IS NOT NULL
        AND (t.lead_rules_digest IS NULL OR t.lead_rules_digest < %(digest)s OR t.lead_rules_digest > %(digest)s)
        AND (%(source_too)s OR t.lead_rules_digest IS DISTINCT FROM '{FROM_SOURCE}')"""
_READ: Final = f"""
    SELECT t.conversation_id, t.source_epoch, t.source_point, t.source_ordinal, t.message_compiled::text {_OUTDATED}
    LIMIT %(limit)s"""
_COUNT: Final = f"SELECT count(*) FROM (SELECT {_OUTDATED} LIMIT %(limit)s) AS found"
MOST_COUNTED: Final = 100_000


class Recomputation:
    """`want` says for whom; nothing is done before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted: dict[int, tuple[LeadColumns, Relation]] = {}
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._connection: Connection[Any] | None = None
        self._pause = GrowingPause(first=1.0, longest=60.0)
        self._thread = threading.Thread(target=self._work, name="recomputation", daemon=True)
        self._thread.start()

    def want(self, wanted: Mapping[int, tuple[LeadColumns, Relation]]) -> None:
        """From now on of these tenants, by these rules, in this table."""
        if dict(wanted) != self._wanted:
            self._wanted = dict(wanted)
            self._changed.set()

    def close(self) -> bool:
        """Whether the thread has ended: nothing of it is left behind."""
        self._ended.set()
        self._changed.set()
        connection = self._connection
        if connection is not None and self._thread.is_alive():
            try:
                connection.cancel_safe(timeout=1.0)
            except psycopg.Error as error:
                log.warning("target.cancel_failed", error=type(error).__name__)
        self._thread.join(_STOP_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                for tenant, (leads, relation) in self._wanted.items():
                    self._tenant(tenant, leads, relation)
            except psycopg.Error as error:
                if not self._ended.is_set():
                    self._wait_out(error)
            else:
                self._pause.reset()
                self._changed.wait(_LOOK_S)
                self._changed.clear()
        if self._connection is not None:
            self._connection.close()

    def _wait_out(self, error: psycopg.Error) -> None:
        """Nothing here is worth stopping for: the worker says what it can't do without."""
        reason = Reason.of(error, classify(error))
        log.warning("signals.recomputation_waits", reason=reason.says, advice=reason.advice)
        self._ended.wait(self._pause.next())

    def _tenant(self, tenant: int, leads: LeadColumns, relation: Relation) -> None:
        done = 0
        while not self._ended.is_set() and not self._changed.is_set():
            began = time.monotonic()
            written = recompute(self._session(), tenant, leads, relation, _AT_ONCE)
            done += written
            if not written:
                break
            self._ended.wait(time.monotonic() - began)
        if done:
            log.info("signals.recomputed", tenant=tenant, rows=done)

    def _session(self) -> Connection[Any]:
        if self._connection is None or self._connection.broken:
            self._connection = target.open_session(self._settings, "worker recomputation")
        return self._connection


def recompute(connection: Connection[Any], tenant: int, leads: LeadColumns, relation: Relation, limit: int) -> int:
    """Makes some rows anew that other rules have made: their number, 0 if there are none (or others are faster)."""
    with connection.transaction():
        connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
        found = connection.execute(_READ.encode(), _asked(tenant, leads, limit)).fetchall()
    if not found:
        return 0
    rows = [b'{"id":%d,"e":%d,"p":%d,"o":%d,"l":%b}' % (*place, leads.derived(document)) for *place, document in found]
    packed = b"".join((b"[", b",".join(rows), b"]")).decode()
    with connection.transaction():
        connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [tenants.TENANT_LOCK, tenant])
        return connection.execute(_write(relation).encode(), {"tenant": tenant, "rows": packed}).rowcount


def outdated(connection: Connection[Any], tenant: int, leads: LeadColumns) -> int:
    """Rows that are still to be made anew, in the transaction that is open; MOST_COUNTED at the most."""
    if leads.origin not in (None, "rules"):
        return 0
    found = connection.execute(_COUNT.encode(), _asked(tenant, leads, MOST_COUNTED)).fetchone()
    return int(found[0]) if found else 0


def _asked(tenant: int, leads: LeadColumns, limit: int) -> dict[str, object]:
    return {"tenant": tenant, "digest": leads.digest, "source_too": leads.origin == "rules", "limit": limit}


def _write(relation: Relation) -> str:
    kinds = ", ".join(f"{quoted(name)} {relation.columns[name]}" for name in LEAD_COLUMNS)
    sets = ", ".join(f"{quoted(name)} = l.{quoted(name)}" for name in LEAD_COLUMNS)
    return (
        f"UPDATE {quoted(relation.name)} AS t SET {sets}"
        " FROM json_to_recordset(%(rows)s::json) AS x (id bigint, e bigint, p bigint, o bigint, l json)"
        f" CROSS JOIN LATERAL json_to_record(x.l) AS l ({kinds})"
        " WHERE t.tenant_id = %(tenant)s AND t.conversation_id = x.id"
        " AND (t.source_epoch, t.source_point, t.source_ordinal) = (x.e, x.p, x.o)"
    )
