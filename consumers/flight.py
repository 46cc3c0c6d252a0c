"""A stretch of the log on its way into the target: sorted out by tenant, each tenant's share with a thread.

Belongs to the worker's loop, as all does that it is sorted out by; the threads own nothing but their sessions.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection

from consumers import target
from consumers.apply import Applier, Result
from consumers.batch import Batch, Message, View, begins_backfill, sort_out
from consumers.layout import Layout
from consumers.leads import Leads
from consumers.ledger import Ledger
from consumers.tenants import Mapping
from consumers.watermark import read_progress


@dataclass(slots=True)
class Flight:
    """Of the pool's, or of one tenant's own reading."""

    messages: list[Message]
    only: int | None = None
    """Set: the tenant whose own reading it is."""
    batch: Batch | None = None
    jobs: list[Future[Result]] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set: to be abandoned."""

    @property
    def is_done(self) -> bool:
        # The last ones first: asked every two milliseconds, of a thousand jobs.
        return self.batch is not None and all(job.done() for job in reversed(self.jobs))

    @property
    def partitions(self) -> set[int]:
        return {message.partition for message in self.messages}


class Departures:
    """Sorts flights out by what the loop knows, and sends them off."""

    def __init__(self, pool: str, layout: Layout, mapping: Mapping, leads: Leads, ledger: Ledger) -> None:
        self._pool, self._layout, self._mapping, self._leads, self._ledger = pool, layout, mapping, leads, ledger

    def read_mapping(self, control: Connection[Any]) -> None:
        """Whose the inboxes are, and only then who is parked.

        A tenant that comes from another pool is parked at once. Known as ours but not as parked, its next event would
        be applied before those that its own reading is to bring, and they would count as applied.
        """
        self._mapping.read(control)
        self._ledger.read_parked_again(control)

    def prepare(self, control: Connection[Any], messages: Sequence[Message]) -> None:
        """What these are sorted out by is as new as they ask for."""
        begins = any(map(begins_backfill, messages))
        if self._mapping.is_stale or begins:
            self.read_mapping(control)
        if begins:  # of a table, perhaps, that `consumers setup` has just made or widened
            self._layout.read(control)

    def send_off(self, control: Connection[Any], flight: Flight, applier: Applier, threads: Executor) -> None:
        """After `prepare`. If it raises, nothing was sent off."""
        view = View(
            owners=self._mapping.owners,
            marks=self._ledger.marks,
            generations=self._ledger.generations,
            partitions=self._ledger.partitions,
            parked=self._ledger.parked,
            only=flight.only,
            holders=lambda table, ids: target.holders(control, table, ids) if table in self._layout.relations else {},
            serves=self._mapping.serves,
            is_elsewhere=self._mapping.is_elsewhere,
        )
        batch = sort_out(flight.messages, view)
        marks = dict(self._ledger.marks)
        led = {name for name, relation in self._layout.relations.items() if relation.has_leads}
        leads = {
            tenant: self._leads.of(control, tenant)
            for tenant, events in batch.events.items()
            if any(event.table in led for event in events)
        }
        # From here on it is not made again. After all that may fail: without its jobs a batch would count as applied.
        flight.batch = batch
        flight.jobs = [
            threads.submit(
                applier.run, tenant, self._ledger.topic_id, events, marks, flight.ended, leads=leads.get(tenant)
            )
            for tenant, events in batch.events.items()
        ]

    def read_again(self, control: Connection[Any]) -> set[int]:
        """Somebody else was faster: the truth of all that the worker knows. Partitions that are elsewhere by now.

        Of all partitions: watermarks that went back must not meet events from beyond the place they went back to.
        """
        self._mapping.read(control)  # before who is parked, as above
        self._ledger.read_again(control, list(self._ledger.progress))
        self._leads.expire()
        stored = read_progress(control, self._pool)
        return {partition for partition, known in self._ledger.progress.items() if stored.get(partition) != known}
