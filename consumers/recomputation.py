"""Lead signals of rows that older rules have made, made anew beside the stream.

A thread with a session of its own. Some rows at a time are read, evaluated, and written under the tenant's lock where
they still are what was read and nobody holds them; as much time as that takes is left to others before the turn of the
next tenant. Which rows are still to be done stands in the rows themselves (`lead_rules_digest`), so a restart goes on.
Who asks is the worker that reads the partition of the tenant's first inbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import psycopg
import structlog
from psycopg import Connection

from consumers import target_session, tenants
from consumers.config import Settings
from consumers.errors import classify
from consumers.identifiers import quoted
from consumers.lead_columns import FROM_SOURCE, LAST, LeadColumns
from consumers.leads import read_origin
from consumers.live import ANALYTICS
from consumers.reasons import Reason
from consumers.relation import LEAD_COLUMNS, LEAD_SIGNALS, Relation
from consumers.upsert import TENANT

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 50
"""Rows; the longest conversation known has 150 kB."""
_BYTES_AT_ONCE: Final = 8 << 20
"""Of their documents; one document may be longer by itself."""
_LOOK_S: Final = 10.0
"""Between two looks for rows that are to be done."""
_STOP_S: Final = 3.0
_LOCK_LIMIT: Final = "500ms"
"""Whoever waits for the tenant's lock behind us waits so much longer at the most."""
_BEFORE_ALL: Final = -(2**63)

# Ranges, not differences: of the tenant's rows the index gives those alone. From `digest` to `last` are rows of these
# rules; `kept` are made otherwise, come later, and stay.
_OUTDATED: Final = f"""
    FROM {ANALYTICS} AS t
    WHERE t.tenant_id = %(tenant)s AND t.message_compiled IS NOT NULL AND t.synced_at IS NOT NULL
        AND (t.lead_rules_digest IS NULL
            OR t.lead_rules_digest < %(digest)s
            OR t.lead_rules_digest > %(last)s AND t.lead_rules_digest < %(kept)s
            OR t.lead_rules_digest > %(kept)s)"""
_SIGNALS: Final = ", ".join(LEAD_SIGNALS)
# Documents are fetched and printed when it is known which rows they are of.
_READ: Final = f"""
    SELECT conversation_id, source_epoch, source_point, source_ordinal, document, lead_rules_digest, {_SIGNALS}
    FROM (
        SELECT *, sum(octet_length(document)) OVER (ORDER BY conversation_id) - octet_length(document) AS before
        FROM (
            SELECT *, message_compiled::text AS document
            FROM (
                SELECT conversation_id, source_epoch, source_point, source_ordinal, message_compiled,
                    lead_rules_digest, {_SIGNALS}
                {_OUTDATED} AND t.conversation_id > %(after)s
                ORDER BY t.conversation_id LIMIT %(limit)s
            ) AS found
            OFFSET 0
        ) AS printed
    ) AS measured
    WHERE before < %(bytes)s
    ORDER BY conversation_id"""
_COUNT: Final = f"SELECT count(*) FROM (SELECT {_OUTDATED} LIMIT %(limit)s) AS found"
MOST_COUNTED: Final = 100_000

_REFUSALS: Final = (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException)
"""Of a row: the target's owner may have rules of their own."""


class RowsRefused(Exception):
    """The target takes one of these rows' signals not."""

    def __init__(self, before: int, last: int, rows: int, cause: psycopg.Error) -> None:
        super().__init__(f"{rows} rows")
        self.before, self.last, self.rows, self.cause = before, last, rows, cause


Wanted = Mapping[int, tuple[LeadColumns, Relation]]
"""By tenant: its rules, and the table."""


class Recomputation:
    """`want` says for whom; nothing is done before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted: Wanted = {}
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._connection: Connection[Any] | None = None
        self._thread = threading.Thread(target=self._work, name="recomputation", daemon=True)
        self._thread.start()

    def want(self, wanted: Wanted) -> None:
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
            self._round(self._wanted.keys())
            self._changed.wait(_LOOK_S)
            self._changed.clear()
        if self._connection is not None:
            self._connection.close()

    def _round(self, tenants: Collection[int]) -> None:
        """Some rows of each tenant in turn, until none has any left. What one tenant's rows fail of is its own.

        What is wanted of a tenant may change on the way: each turn is by what is wanted then.
        """
        after = dict.fromkeys(tenants, _BEFORE_ALL)
        done = dict.fromkeys(tenants, 0)
        most = dict.fromkeys(tenants, _AT_ONCE)
        while after and not self._ended.is_set():
            for tenant in list(after):
                now_wanted = self._wanted.get(tenant)
                if now_wanted is None:
                    del after[tenant]
                    continue
                began = time.monotonic()
                try:
                    last, written = recompute(self._session(), tenant, *now_wanted, most[tenant], after[tenant])
                    most[tenant] = min(2 * most[tenant], _AT_ONCE)
                except RowsRefused as refused:
                    last, written = refused.before if refused.rows > 1 else refused.last, 0
                    most[tenant] = max(1, refused.rows // 2)
                    if refused.rows == 1:  # the rows behind it do not wait for it
                        self._failed(tenant, refused.cause)
                except Exception as error:  # whatever it is: the others go on, and it is tried again at the next look
                    last, written = None, 0
                    self._failed(tenant, error)
                done[tenant] += written
                if last is None:
                    del after[tenant]
                else:
                    after[tenant] = last
                if self._ended.wait(time.monotonic() - began):
                    return
        for tenant, rows in done.items():
            if rows:
                log.info("signals.recomputed", tenant=tenant, rows=rows)

    def _failed(self, tenant: int, error: Exception) -> None:
        """Nothing here is worth stopping for: the worker says what it can't do without."""
        if not self._ended.is_set():
            reason = Reason.of(error, classify(error))
            log.warning("signals.not_recomputed", tenant=tenant, reason=reason.says, advice=reason.advice)

    def _session(self) -> Connection[Any]:
        if self._connection is None or self._connection.broken:
            self._connection = target_session.open_session(self._settings, "worker recomputation")
        return self._connection


def recompute(
    connection: Connection[Any],
    tenant: int,
    leads: LeadColumns,
    relation: Relation,
    limit: int,
    after: int = _BEFORE_ALL,
) -> tuple[int | None, int]:
    """Makes some rows anew that other rules have made: the last one's key (None: there are none), and how many.

    Rows that others hold, or have altered since they were read, are left for another time; so are all of a tenant
    whose signals have come to be made by others. Raises RowsRefused, psycopg.Error.
    """
    given = {**_asked(tenant, leads, limit), "after": after, "bytes": _BYTES_AT_ONCE}
    with connection.transaction():
        connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
        found = connection.execute(_READ.encode(), given).fetchall()
    if not found:
        return None, 0
    rows = [
        b'{"id":%d,"e":%d,"p":%d,"o":%d,"l":%b}' % (*row[:4], leads.anew(row[4], row[5], _as_json(row[6:])))
        for row in found
    ]
    packed = b"".join((b"[", b",".join(rows), b"]")).decode()
    with connection.transaction():
        connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_LIMIT])
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [tenants.TENANT_LOCK, tenant])
        if read_origin(connection, tenant) != leads.origin:
            return None, 0
        try:
            written = connection.execute(_write(relation).encode(), {"tenant": tenant, "rows": packed}).rowcount
        except _REFUSALS as error:
            raise RowsRefused(after, found[-1][0], len(found), error) from None
    return found[-1][0], written


def outdated(connection: Connection[Any], tenant: int, leads: LeadColumns) -> int:
    """Rows that are still to be made anew, in the transaction that is open; MOST_COUNTED at the most."""
    if leads.origin not in (None, "rules"):
        return 0
    found = connection.execute(_COUNT.encode(), _asked(tenant, leads, MOST_COUNTED)).fetchone()
    return int(found[0]) if found else 0


def _asked(tenant: int, leads: LeadColumns, limit: int) -> dict[str, object]:
    kept, last = (FROM_SOURCE, leads.digest + LAST) if leads.origin is None else (leads.digest, leads.digest)
    return {"tenant": tenant, "digest": leads.digest, "last": last, "kept": kept, "limit": limit}


def _as_json(signals: Iterable[object]) -> dict[str, object]:
    """As an event would have them."""
    return {
        name: str(value) if isinstance(value, Decimal) else value
        for name, value in zip(LEAD_SIGNALS, signals, strict=True)
    }


def _write(relation: Relation) -> str:
    table = quoted(relation.name)
    kinds = ", ".join(f"{quoted(name)} {relation.columns[name]}" for name in LEAD_COLUMNS)
    sets = ", ".join(f"{quoted(name)} = n.{quoted(name)}" for name in LEAD_COLUMNS)
    return (
        f"UPDATE {table} AS t SET {sets} FROM ("
        f"SELECT h.conversation_id, l.* FROM {table} AS h"
        " JOIN json_to_recordset(%(rows)s::json) AS x (id bigint, e bigint, p bigint, o bigint, l json)"
        " ON h.conversation_id = x.id AND (h.source_epoch, h.source_point, h.source_ordinal) = (x.e, x.p, x.o)"
        f" CROSS JOIN LATERAL json_to_record(x.l) AS l ({kinds})"
        f" WHERE h.tenant_id = {TENANT} FOR UPDATE OF h SKIP LOCKED"
        f") AS n WHERE t.tenant_id = {TENANT} AND t.conversation_id = n.conversation_id"
    )
