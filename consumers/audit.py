"""`etl_control`: one row for each run of a worker and tenant, as the batch ETL kept it.

Written by the loop, never in a tenant's transaction. A worker that was killed leaves its rows `running`; what counts
is the watermark. A table that refuses the rows (an adopted one, with rules of its own) is said once, and disturbs
nothing.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Final, NamedTuple

import psycopg
import structlog
from psycopg import Connection

from consumers.errors import classify
from consumers.reasons import Reason
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


class _Run(NamedTuple):
    row: int
    upserts: int = 0
    deletes: int = 0

    def plus(self, upserts: int, deletes: int) -> _Run:
        return self._replace(upserts=self.upserts + upserts, deletes=self.deletes + deletes)


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
        tenants = sorted({*self._pending, *(self._runs if finished else ())})
        if tenants and not self._try(connection, tenants, finished=finished):
            for tenant in tenants:  # which of them is refused?
                if time.monotonic() >= self._not_before:
                    self._try(connection, [tenant], finished=finished, is_told=True)

    def _try(self, connection: Connection[Any], tenants: list[int], *, finished: bool, is_told: bool = False) -> bool:
        """Whether they are written, all or none. Raises psycopg.Error if the connection is lost."""
        try:
            with connection.transaction():
                begun = self._begin(connection, [tenant for tenant in tenants if tenant not in self._runs])
                runs = {**{tenant: self._runs[tenant] for tenant in tenants if tenant in self._runs}, **begun}
                counted = {tenant: run.plus(*self._pending.get(tenant, (0, 0))) for tenant, run in runs.items()}
                self._update(connection, list(counted.values()), finished=finished)
        except psycopg.Error as error:
            if connection.broken:
                raise
            is_late = isinstance(error, psycopg.OperationalError)
            if is_late:
                self._not_before = time.monotonic() + _AGAIN_S
            if is_late or is_told:
                self._tell(error)
            return is_late
        self._runs.update(counted)
        for tenant in tenants:  # one that is gone is forgotten, with all that was written for it
            self._pending.pop(tenant, None)
        return True

    def _tell(self, error: psycopg.Error) -> None:
        if error.sqlstate not in self._told:
            self._told.add(error.sqlstate)
            log.warning("audit.not_written", reason=Reason.of(error, classify(error)).says)

    def _begin(self, connection: Connection[Any], tenants: list[int]) -> dict[int, _Run]:
        """Without tenants that are gone."""
        if not tenants:
            return {}
        found = connection.execute(
            f"INSERT INTO etl_control ({', '.join(GIVEN)})"
            " SELECT t.id, %s, now() AT TIME ZONE 'UTC', 'stream', false, 'running', 'worker', 'chatwoot', %s, 0, 0, 0"
            " FROM tenants AS t WHERE t.id = ANY (%s) RETURNING tenant_id, id".encode(),
            [self._execution, VERSION, tenants],
        )
        return {tenant: _Run(row) for tenant, row in found}

    def _update(self, connection: Connection[Any], runs: list[_Run], *, finished: bool) -> None:
        connection.execute(
            "UPDATE etl_control AS e SET records_extracted = least(r.upserts + r.deletes, 2147483647),"
            " records_updated = least(r.upserts, 2147483647),"
            " error_details = jsonb_build_object('deleted', r.deletes),"
            " status = CASE WHEN %(finished)s THEN 'success' ELSE e.status END,"
            " finished_at = CASE WHEN %(finished)s THEN now() AT TIME ZONE 'UTC' END,"
            " duration_seconds = EXTRACT(epoch FROM now() AT TIME ZONE 'UTC' - e.started_at)"
            " FROM unnest(%(rows)s::bigint[], %(upserts)s::bigint[], %(deletes)s::bigint[]) AS r (id, upserts, deletes)"
            " WHERE e.id = r.id",
            {
                "finished": finished,
                "rows": [run.row for run in runs],
                "upserts": [run.upserts for run in runs],
                "deletes": [run.deletes for run in runs],
            },
        )
