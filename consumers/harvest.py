"""What tenants' threads have come to, told on: marks to the ledger, counts to whoever counts, what is asked for again.

A committed part counts, whatever becomes of the rest. Belongs to the worker's loop.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog

from consumers import metrics
from consumers.apply import Result
from consumers.audit import Audit
from consumers.ledger import Ledger
from consumers.missing import MissingTables
from consumers.requests import Requests
from consumers.skipped import SkippedColumns

log = structlog.get_logger(__name__)

_BODILESS: Final = (
    "Stubs until their rows can be sent: raise REPLICATOR_MAX_MESSAGE_BYTES and the topic's max.message.bytes, or make"
    " the rows smaller in the source."
)


class Harvest:
    """Of one worker."""

    def __init__(
        self, ledger: Ledger, audit: Audit, skipped: SkippedColumns, missing: MissingTables, requests: Requests
    ) -> None:
        self._ledger, self._audit, self._skipped, self._missing, self._requests = (
            ledger,
            audit,
            skipped,
            missing,
            requests,
        )
        self.rows = 0
        self.applied: dict[int, dict[str, object]] = {}
        """By tenant: when something of its was last applied."""

    def take(self, result: Result) -> None:
        self._ledger.take_marks(result)
        outcome = result.outcome
        rows = outcome.upserts + outcome.deletes
        if rows:
            self._audit.add(result.tenant, outcome.upserts, outcome.deletes)
            metrics.APPLIED.labels(tenant=result.tenant).inc(rows)
            self.rows += rows
        if result.marks:
            self.applied[result.tenant] = {"applied_at": datetime.now(UTC).isoformat()}
        self._skipped.add(outcome.skipped)
        self._missing.add(outcome.tableless)
        for table, buried in result.buried.items():
            metrics.DEAD_LETTERS.labels(table=table).inc(buried)
        for table, bodiless in outcome.bodiless.items():
            metrics.BODILESS.labels(table=table).inc(bodiless)
            log.warning("rows.without_body", tenant=result.tenant, table=table, rows=bodiless, advice=_BODILESS)
        if outcome.stubs:
            self._requests.expect_stubs(result.tenant)
        for request in outcome.incomplete:
            self._requests.send(request)
