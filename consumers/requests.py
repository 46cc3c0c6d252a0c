"""What a worker asks of the replicator over the control topic: backfills of new inboxes, rows that are incomplete.

A request that gets lost is made again later, so sending never waits. Who asks is the worker that reads the inbox's
partition.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import KafkaException
from psycopg import Connection

from consumers import clients, upsert
from consumers.config import Settings
from consumers.relation import Relation
from consumers.tenants import Owner
from replicator import MOST_INBOXES, BackfillRequest, KeysRequest, Request, Topics, encode_request

log = structlog.get_logger(__name__)

_AGAIN_S: Final = 30.0
"""After so long without an end of its backfill an inbox is asked for again."""
_FIRST_S: Final = 1.0
"""An inbox is asked for when it has waited so long: a backfill of everything may just be on its way."""


@dataclass(slots=True)
class _Asking:
    """One inbox that waits for its backfill."""

    due: float
    fence: int | None = None
    """When it was due its partition's log ended here: a marker that answers may stand before."""


@dataclass(slots=True)
class _Awaited:
    """A stub, and when it is asked for (again)."""

    due: float
    pause_s: float


_STUBS_AT_ONCE: Final = 500
_TENANTS_AT_ONCE: Final = 25
"""The loop waits for them: four messages for each table."""
_AHEAD_AT_ONCE: Final = 10
"""Beside these, some 5 ms each (measured): who is known to have stubs does not wait for the turn."""
_SETTLES_S: Final = 5.0
"""Nearly every stub is filled sooner, by what was on its way already."""
_BEFORE_ALL: Final = -(2**63)
"""No key comes before: ids may be negative."""
_LONGEST_PAUSE_S: Final = 3600.0
"""Between two readings of a row that may never come, for instance one too large to be sent."""


class Requests:
    """The writing end of the control topic."""

    def __init__(self, settings: Settings) -> None:
        self._topic = Topics(settings.topic_prefix).control
        self._producer = clients.producer(
            settings,
            {"acks": "all", "linger.ms": 5, "message.timeout.ms": 30_000, "queue.buffering.max.messages": 10_000},
        )
        self._backfills: dict[int, _Asking] = {}
        self._stubs = Stubs(settings.stub_patience_s)
        self._last_tenant = _BEFORE_ALL
        self._expected: dict[int, float] = {}
        """Tenants that have stubs, or may have → when to look."""

    def send(self, request: Request) -> None:
        """Leaves it to librdkafka."""
        try:
            self._producer.produce(self._topic, encode_request(request))
            self._producer.poll(0)
        except (BufferError, KafkaException) as error:
            log.warning("request.not_sent", kind=type(request).__name__, error=type(error).__name__)

    def ask_for_backfills(self, owners: Mapping[int, Owner], served: Mapping[int, tuple[int, int]]) -> None:
        """Inboxes of ours whose rows are not complete, once each half minute, but not while we are behind.

        `served`: by inbox the next offset of its partition, and the log's end.
        """
        now = time.monotonic()
        waiting: dict[str, list[int]] = defaultdict(list)
        for inbox in self._backfills.keys() - owners.keys():
            del self._backfills[inbox]  # nobody's now: should it come back, it is asked for anew
        for inbox, owner in owners.items():
            if owner.is_complete or inbox not in served:
                self._backfills.pop(inbox, None)
                continue
            next_offset, end = served[inbox]
            asking = self._backfills.setdefault(inbox, _Asking(now + _FIRST_S))
            if now >= asking.due and asking.fence is None:
                asking.fence = end
            if asking.fence is not None and next_offset >= asking.fence:
                self._backfills[inbox] = _Asking(now + _AGAIN_S)
                waiting[owner.backfill].append(inbox)
        for known, inboxes in waiting.items():
            inboxes.sort()
            log.info("backfill.asked", inboxes=inboxes, known=known)
            for first in range(0, len(inboxes), MOST_INBOXES):
                some = tuple(inboxes[first : first + MOST_INBOXES])
                self.send(BackfillRequest(id=f"inboxes-{uuid.uuid4()}", tables=None, inboxes=some, known=known))

    def ask_for_stubs(
        self,
        connection: Connection[Any],
        relations: Mapping[str, Relation],
        owners: Mapping[int, Owner],
        served: Iterable[int],
    ) -> bool:
        """Rows that have been stubs for longer than the settings' patience: some of some tenants, in turn, and of some
        more where stubs are known to wait.

        Whether each tenant has had its turn.
        """
        inboxes: dict[int, list[int]] = defaultdict(list)
        for inbox in sorted(served):
            if inbox in owners:
                inboxes[owners[inbox].tenant].append(inbox)
        left = sorted(tenant for tenant in inboxes if tenant > self._last_tenant)
        for tenant in left[:_TENANTS_AT_ONCE]:
            self._last_tenant = tenant  # before: one that can't be looked at keeps the turn of no other
            self._look(connection, relations, tenant, inboxes[tenant])
        is_over = len(left) <= _TENANTS_AT_ONCE
        if is_over:
            self._last_tenant = _BEFORE_ALL
        for tenant in self._due(inboxes):  # last: where one can't be looked at each time, the others have their turns
            self._look(connection, relations, tenant, inboxes[tenant])
        return is_over

    def expect_stubs(self, tenant: int) -> None:
        """Some were made, and may be filled by now."""
        soon = time.monotonic() + _SETTLES_S
        self._expected[tenant] = min(soon, self._expected.get(tenant, soon))

    def _due(self, served: Container[int]) -> list[int]:
        """Tenants that are to be looked at whosever turn it is, who waits longest first."""
        self._expected = {tenant: at for tenant, at in self._expected.items() if tenant in served}
        now = time.monotonic()
        due = sorted((at, tenant) for tenant, at in self._expected.items() if at <= now)
        return [tenant for _, tenant in due[:_AHEAD_AT_ONCE]]

    def _look(
        self, connection: Connection[Any], relations: Mapping[str, Relation], tenant: int, inboxes: list[int]
    ) -> None:
        self._expected.pop(tenant, None)
        for relation in relations.values():
            for request in self._stubs.overdue(connection, relation, tenant, inboxes):
                self.send(request)
        if (due := self._stubs.next_due(tenant, relations)) is not None:
            self._expected[tenant] = due

    def close(self) -> None:
        """What is still queued has some seconds."""
        self._producer.flush(2)


class Stubs:
    """When stubs are to be asked for, in a rotation over each table of each tenant."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._after: dict[tuple[int, str], int] = {}
        self._seen: dict[tuple[int, str], dict[int, _Awaited]] = defaultdict(dict)

    def next_due(self, tenant: int, names: Iterable[str]) -> float | None:
        """When the next of those that were seen is to be asked for; None: none is. What is due by now and was not asked
        for is another worker's, or waits for its stretch's turn."""
        now = time.monotonic()
        seen = (awaited for name in names for awaited in self._seen.get((tenant, name), {}).values())
        return min((awaited.due for awaited in seen if awaited.due > now), default=None)

    def overdue(
        self, connection: Connection[Any], relation: Relation, tenant: int, inboxes: list[int]
    ) -> Iterable[KeysRequest]:
        place = (tenant, relation.name)
        after = self._after.get(place, _BEFORE_ALL)
        with connection.transaction():
            connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
            found = connection.execute(
                upsert.stubs(relation).encode(), {"tenant": tenant, "after": after, "limit": _STUBS_AT_ONCE}
            ).fetchall()
        self._after[place] = found[-1][0] if len(found) == _STUBS_AT_ONCE else _BEFORE_ALL
        now = time.monotonic()
        seen, stretch = self._seen[place], {row for row, _ in found}
        upto = found[-1][0] if len(found) == _STUBS_AT_ONCE else None
        for row in [row for row in seen if row > after and (upto is None or row <= upto) and row not in stretch]:
            del seen[row]  # filled, or gone
        asked: dict[int, list[int]] = defaultdict(list)
        for row, inbox in found:
            awaited = seen.setdefault(row, _Awaited(now + self._patience_s, self._patience_s))
            if now >= awaited.due and inbox in (None, *inboxes):
                awaited.pause_s = min(awaited.pause_s * 2, _LONGEST_PAUSE_S)
                awaited.due = now + awaited.pause_s
                asked[inboxes[0] if inbox is None else inbox].append(row)
        return [
            KeysRequest(table=relation.name, inbox=inbox, keys=tuple((row,) for row in rows))
            for inbox, rows in asked.items()
        ]
