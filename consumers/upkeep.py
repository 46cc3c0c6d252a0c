"""What a worker looks after every few seconds, whatever it reads: mapping, tables, what it has to note and to ask for.

Belongs to the loop's thread and its connection to the target. The loop waits for it: what it does at once is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from psycopg import Connection

from consumers import leads, tenants
from consumers.audit import Audit
from consumers.config import Settings
from consumers.flight import Departures
from consumers.inbound import Inbound
from consumers.layout import Layout
from consumers.lead_columns import LeadColumns
from consumers.leads import Leads
from consumers.ledger import Ledger
from consumers.live import ANALYTICS
from consumers.missing import MissingTables
from consumers.recomputation import Recomputation
from consumers.relation import Relation
from consumers.requests import Requests
from consumers.retrying import Retrying
from consumers.skipped import SkippedColumns
from consumers.topic import TopicWatch
from replicator import partition_of

log = structlog.get_logger(__name__)

UPKEEP_S: Final = 2.0
_STUBS_S: Final = 10.0
_AUDIT_S: Final = 10.0
_MOST_DIGITS: Final = 10
"""Of a tenant, which is an integer."""


class Upkeep:
    """Over what the loop owns."""

    def __init__(
        self,
        settings: Settings,
        *,
        departures: Departures,
        layout: Layout,
        mapping: tenants.Mapping,
        leads: Leads,
        ledger: Ledger,
        requests: Requests,
        skipped: SkippedColumns,
        missing: MissingTables,
        audit: Audit,
        retrying: Retrying,
    ) -> None:
        self._layout, self._mapping, self._leads, self._ledger = layout, mapping, leads, ledger
        self._requests, self._skipped, self._missing, self._audit = requests, skipped, missing, audit
        self._departures, self._retrying = departures, retrying
        self._known_relations: Mapping[str, Relation] = {}
        """Of the layout, when it was last looked after."""
        self._topic = TopicWatch(settings)
        self._recomputation = Recomputation(settings)
        self._due = self._stubs_due = self._audit_due = 0.0
        self._pool, self._has_warned = settings.pool, False

    def listen(self, control: Connection[Any]) -> None:
        """The connection is new: it is to tell of changes, and what was told before it is not known."""
        for channel in (tenants.CHANNEL, leads.CHANNEL):
            control.execute(f"LISTEN {channel}".encode())
        self._mapping.expire()
        self._leads.expire()

    def close(self) -> bool:
        """Whether nothing is left behind that runs."""
        return self._recomputation.close()

    def look_after(self, control: Connection[Any], inbound: Inbound) -> set[int]:
        """What is due. Partitions whose topic was made anew: the truth must be read again there."""
        for notice in control.notifies(timeout=0):
            if notice.channel == tenants.CHANNEL:
                self._mapping.expire()
            else:
                # Anybody may notify, of anything; the triggers name the tenant.
                is_tenant = notice.payload.isdecimal() and len(notice.payload) <= _MOST_DIGITS
                self._leads.expire(int(notice.payload) if is_tenant else None)
                self._due = 0.0
        now = time.monotonic()
        if now < self._due:
            return set()
        self._due = now + UPKEEP_S
        topic_id = self._topic.topic_id()
        made_anew = self._ledger.of_another_topic(topic_id) if topic_id else set()
        if self._mapping.is_stale:
            self._departures.read_mapping(control)
            self._warn_if_idle()
        self._layout.read(control)
        self._skipped.write(control)
        self._missing.write(control)
        if self._layout.relations is not self._known_relations:  # others may have looked before
            known, self._known_relations = self._known_relations, self._layout.relations
            altered = [name for name, each in self._known_relations.items() if each != known.get(name)]
            self._retrying.altered(altered)
            self._ledger.try_parked_again()
            self._skipped.forget_added(control, self._known_relations)
            self._missing.forget_made(control, self._known_relations)
        self._recomputation.want(self._recomputed(control))
        self._retrying.want(self._ledger.progress)
        served = self.served(inbound)
        self._requests.ask_for_backfills(self._mapping.owners, served)
        if now >= self._stubs_due:
            self._stubs_due = now + _STUBS_S  # before: where it fails each time, what comes after it has its turns
            if not self._requests.ask_for_stubs(control, self._layout.relations, self._mapping.owners, served):
                self._stubs_due = now
        if now >= self._audit_due:
            self._audit_due = now + _AUDIT_S
            self._audit.write(control)
        return made_anew

    def _warn_if_idle(self) -> None:
        """Once: a pool that nobody was assigned to may be a slip of the pen."""
        if self._pool != tenants.DEFAULT_POOL and not self._mapping.owners and not self._has_warned:
            self._has_warned = True
            log.warning(
                "pool.serves_nobody",
                pool=self._pool,
                advice=f"`consumers pool assign --tenant N --pool {self._pool}` gives it a tenant.",
            )

    def _recomputed(self, control: Connection[Any]) -> dict[int, tuple[LeadColumns, Relation]]:
        """Tenants whose lead signals are made by rules, and whose first inbox's partition is ours."""
        relation = self._layout.relations.get(ANALYTICS)
        if relation is None or not relation.has_leads or not self._ledger.progress:
            return {}
        first: dict[int, int] = {}
        for inbox, owner in self._mapping.owners.items():
            first[owner.tenant] = min(inbox, first.get(owner.tenant, inbox))
        ours = self._ledger.progress.keys()
        mine = sorted(t for t, inbox in first.items() if partition_of(inbox, self._ledger.partitions) in ours)
        found = self._leads.of_many(control, mine)
        return {tenant: (each, relation) for tenant, each in found.items() if each and each.origin in (None, "rules")}

    def served(self, inbound: Inbound) -> dict[int, tuple[int, int]]:
        """Inboxes whose partitions are ours, with how far their log was read, and where it ends.

        Without those of parked tenants: what answered a request would not be read before they have caught up.
        """
        ends = {
            partition: (known.next_offset, inbound.end(partition)) for partition, known in self._ledger.progress.items()
        }
        if not ends:
            return {}
        places = {
            inbox: (owner.tenant, partition_of(inbox, self._ledger.partitions))
            for inbox, owner in self._mapping.owners.items()
        }
        parked = self._ledger.parked
        return {inbox: ends[place[1]] for inbox, place in places.items() if place[1] in ends and place not in parked}
