"""`etl_control`: one row for each run of a worker and tenant, as the batch ETL kept it.

Written by the loop, never in a tenant's transaction. A worker that was killed leaves its rows `running`; what counts
is the watermark.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from replicator import VERSION


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

    def add(self, tenant: int, upserts: int, deletes: int) -> None:
        """Counts what was committed; written at the next `write`."""
        before = self._pending.get(tenant, (0, 0))
        self._pending[tenant] = before[0] + upserts, before[1] + deletes

    def write(self, connection: Connection[Any], *, finished: bool = False) -> None:
        """The counts so far; `finished` when the worker stops."""
        for tenant, (upserts, deletes) in list(self._pending.items()):
            run = self._runs.get(tenant) or self._begin(connection, tenant)
            run.upserts += upserts
            run.deletes += deletes
            run.changed = True
            del self._pending[tenant]
        for run in self._runs.values():
            if run.changed or finished:
                self._update(connection, run, finished=finished)
                run.changed = False

    def _begin(self, connection: Connection[Any], tenant: int) -> _Run:
        found = connection.execute(
            "INSERT INTO etl_control (tenant_id, execution_id, started_at, load_type, is_full_load, status,"
            " triggered_by, source_system, etl_version, records_inserted, records_updated, records_failed)"
            " VALUES (%s, %s, now() AT TIME ZONE 'UTC', 'stream', false, 'running', 'worker', 'chatwoot', %s, 0, 0, 0)"
            " RETURNING id",
            [tenant, self._execution, VERSION],
        ).fetchone()
        assert found is not None  # noqa: S101  # RETURNING
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
