"""`etl_control`: one row for each run of a worker and tenant, as the batch ETL kept it.

Written by the loop, never in a tenant's transaction. A worker that was killed leaves its rows `running`; what counts
is the watermark. A table that refuses the rows (an adopted one, with rules of its own) is said once, and disturbs
nothing.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import structlog
from psycopg import Connection

from consumers.errors import classify
from consumers.parking import Reason
from replicator import VERSION

log = structlog.get_logger(__name__)

GIVEN: Final = (
    "tenant_id",
    "execution_id",
    "started_at",
    "load_type",
    "is_full_load",
    "status",
    "triggered_by",
    "source_system",
    "etl_version",
    "records_inserted",
    "records_updated",
    "records_failed",
)
"""Columns that a new row says."""
_AGAIN_S: Final = 60.0
"""After a time-out (somebody locks the table) the loop is not held up again for so long."""


@dataclass(slots=True)
class _Run:
    row: int
    upserts: int = 0
    deletes: int = 0
    changed: bool = False


class Audit:
    """The rows of this run, by tenant."""

    def __init__(self) -> None:
        self._execution = uuid.uuid4()
        self._pending: dict[int, tuple[int, int]] = {}
        self._runs: dict[int, _Run] = {}
        self._told: set[str | None] = set()
        self._not_before = 0.0

    def add(self, tenant: int, upserts: int, deletes: int) -> None:
        """Counts what was committed; written at the next `write`."""
        before = self._pending.get(tenant, (0, 0))
        self._pending[tenant] = before[0] + upserts, before[1] + deletes

    def write(self, connection: Connection[Any], *, finished: bool = False) -> None:
        """The counts so far; `finished` when the worker stops. Raises psycopg.Error if the connection is lost."""
        if time.monotonic() < self._not_before:
            return
        for tenant in {*self._pending, *self._runs}:
            try:
                self._write(connection, tenant, finished=finished)
            except psycopg.Error as error:
                if connection.broken:
                    raise
                self._tell(error)
                if isinstance(error, psycopg.OperationalError):
                    self._not_before = time.monotonic() + _AGAIN_S
                    return

    def _write(self, connection: Connection[Any], tenant: int, *, finished: bool) -> None:
        run = self._runs.get(tenant) or self._begin(connection, tenant)
        if run is None:
            del self._pending[tenant]
            return
        if tenant in self._pending:
            upserts, deletes = self._pending.pop(tenant)
            run.upserts += upserts
            run.deletes += deletes
            run.changed = True
        if run.changed or finished:
            self._update(connection, run, finished=finished)
            run.changed = False

    def _tell(self, error: psycopg.Error) -> None:
        if error.sqlstate not in self._told:
            self._told.add(error.sqlstate)
            log.warning("audit.not_written", reason=Reason.of(error, classify(error)).says)

    def _begin(self, connection: Connection[Any], tenant: int) -> _Run | None:
        """None: the tenant is gone, with all that was written for it."""
        found = connection.execute(
            f"INSERT INTO etl_control ({', '.join(GIVEN)})"
            " SELECT t.id, %s, now() AT TIME ZONE 'UTC', 'stream', false, 'running', 'worker', 'chatwoot', %s, 0, 0, 0"
            " FROM tenants AS t WHERE t.id = %s RETURNING id".encode(),
            [self._execution, VERSION, tenant],
        ).fetchone()
        if found is None:
            return None
        self._runs[tenant] = _Run(found[0])
        return self._runs[tenant]

    def _update(self, connection: Connection[Any], run: _Run, *, finished: bool) -> None:
        connection.execute(
            "UPDATE etl_control SET records_extracted = least(%s, 2147483647), records_updated = least(%s, 2147483647),"
            " error_details = jsonb_build_object('deleted', %s::bigint)"
            " , status = CASE WHEN %s THEN 'success' ELSE status END,"
            " finished_at = CASE WHEN %s THEN now() AT TIME ZONE 'UTC' END,"
            " duration_seconds = EXTRACT(epoch FROM now() AT TIME ZONE 'UTC' - started_at) WHERE id = %s",
            [run.upserts + run.deletes, run.upserts, run.deletes, finished, finished, run.row],
        )
