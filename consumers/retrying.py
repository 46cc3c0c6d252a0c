"""Dead letters that are asked for are tried again, beside the stream.

A thread with a session of its own takes the rows in the order in which they came to be dead letters: all events of one
row in the order of its history, in the tenant's own kind of transaction, under its lock. Each write compares with the
row's stored position, so an event that is older than what stands there changes nothing. What is applied is no dead
letter any more, with that transaction. Who asks: an operator, the tables (they were altered), a worker's start. Who
does it: the worker that reads the event's partition.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from queue import SimpleQueue
from typing import Final

import psycopg
import structlog

from consumers import dead_letters, tenants
from consumers.config import Settings
from consumers.dead_letters import Letters
from consumers.errors import (
    Action,
    ConsumersError,
    Fault,
    LettersMoved,
    Overtaken,
    Verdict,
    classify,
    classify_applying,
)
from consumers.forms import Schemas
from consumers.layout import Layout
from consumers.leads import Leads
from consumers.misfits import blame
from consumers.ordering import Event, steps
from consumers.reasons import Reason
from consumers.relation import without_inbox
from consumers.target import Session, Work
from consumers.waiting import Stand
from replicator import KeysRequest
from replicator.runtime import GrowingPause

log = structlog.get_logger(__name__)

_LOOK_S: Final = 1.0
_STOP_S: Final = 3.0
_GONE: Final = "its inbox is not the tenant's any more, or the tenant was set aside"


class Retrying:
    """`want` says in which partitions; nothing is done before."""

    def __init__(
        self, settings: Settings, layout: Layout, schemas: Schemas, send: Callable[[KeysRequest], None]
    ) -> None:
        """`send`: where to ask for rows of which only a part is known; called from this thread."""
        self._settings, self._layout, self._schemas, self._send = settings, layout, schemas, send
        self._leads = Leads(settings.mapping_ttl_s)
        self._partitions: Collection[int] = ()
        self._altered: SimpleQueue[str] = SimpleQueue()
        self._ended = threading.Event()
        self._session: Session | None = None
        self._is_left = False
        """Something could not be tried, for no row's fault."""
        self._thread = threading.Thread(target=self._work, name="dead letters", daemon=True)
        self._thread.start()

    def want(self, partitions: Collection[int]) -> None:
        """From now on of these, which this worker reads."""
        self._partitions = tuple(partitions)

    def altered(self, tables: Iterable[str]) -> None:
        """Whatever these refused, they may take now: all of it is asked for."""
        for table in tables:
            self._altered.put(table)

    def close(self) -> bool:
        """Whether the thread has ended: nothing of it is left behind."""
        self._ended.set()
        session = self._session
        if session is not None and self._thread.is_alive():
            try:
                session.cancel()
            except psycopg.Error as error:
                log.warning("target.cancel_failed", error=type(error).__name__)
        self._thread.join(_STOP_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        pause = GrowingPause(first=_LOOK_S, longest=30.0)
        while not self._ended.wait(_LOOK_S):
            try:
                if self._partitions and self._layout.relations and not self._round():
                    self._ended.wait(pause.next())
                else:
                    pause.reset()
            except Exception as error:  # whatever it is: nothing of the stream waits for it, and it is tried again
                self._failed(error)
                self._ended.wait(pause.next())
        if self._session is not None:
            self._session.close()

    def _round(self) -> bool:
        """Whether everything that was asked for has been tried."""
        self._is_left = False
        self._ask_for_altered()
        healed: Counter[int] = Counter()
        for tenant, table, key in dead_letters.due(self._open().connection, self._settings.pool, self._partitions):
            if self._ended.is_set():
                break
            began = time.monotonic()
            healed[tenant] += self._row(tenant, table, key)
            self._ended.wait(time.monotonic() - began)  # as much is left to others
        for tenant, events in healed.items():
            if events:
                log.info("dead_letters.healed", tenant=tenant, events=events)
        return not self._is_left

    def _ask_for_altered(self) -> None:
        tables = set()
        while not self._altered.empty():
            tables.add(self._altered.get())
        try:
            if tables:
                dead_letters.ask_again(self._open().connection, tables)
        except psycopg.Error:
            self.altered(tables)
            raise

    def _row(self, tenant: int, table: str, key: str) -> int:
        """How many of one row's dead letters were applied: all together, or else one by one up to one that can't be."""
        connection = self._open().connection
        applied, is_together = 0, True
        while True:
            stand = dead_letters.stand(connection, tenant)
            letters = dead_letters.of_row(connection, tenant, table, key)
            some = letters if is_together else letters[:1]
            if not some:
                return applied
            try:
                self._apply(tenant, stand, some)
            except LettersMoved:
                return applied  # still asked for
            except (psycopg.Error, ConsumersError) as error:
                verdict = classify_applying(error)
                is_gone = isinstance(error, Overtaken) and self._is_gone(tenant, some)
                if verdict.fault is not Fault.ROW and not is_gone:
                    if verdict.action in (Action.WAIT, Action.STOP):
                        raise
                    self._is_left = True
                    log.warning("dead_letter.not_tried", tenant=tenant, table=table, reason=_says(error, verdict))
                    return applied  # still asked for
                if len(some) == 1:
                    self._refused(tenant, some[0], error, verdict)
                    dead_letters.asked_no_more(connection, tenant, table, key)
                    return applied
                is_together = False
            else:
                applied += len(some)

    def _apply(self, tenant: int, stand: Stand, letters: Sequence[tuple[int, Event]]) -> None:
        session = self._open()
        events = [event for _, event in letters]
        work = Work(
            tenant=tenant,
            topic_id="",
            steps=steps(events, without_inbox(self._layout.relations)),
            inboxes=frozenset(event.inbox for event in events if event.inbox is not None),
            leads=self._leads.of(session.connection, tenant) if self._are_led(events) else None,
            marks={},
            letters=Letters(stand, healed=[number for number, _ in letters]),
        )
        try:
            outcome = session.apply(work, self._schemas)
        except Overtaken:
            self._leads.expire(tenant)
            raise
        for request in outcome.incomplete:
            self._send(request)

    def _is_gone(self, tenant: int, letters: Sequence[tuple[int, Event]]) -> bool:
        """Whether the mapping refuses them; else the tenant has left the pool, or its leads come from elsewhere now."""
        inboxes = {event.inbox for _, event in letters if event.inbox is not None}
        try:
            tenants.verify(self._open().connection, tenant, inboxes)
        except Overtaken:
            return True
        return False

    def _are_led(self, events: Sequence[Event]) -> bool:
        return any(
            each.has_leads and each.name in {e.table for e in events} for each in self._layout.relations.values()
        )

    def _refused(self, tenant: int, letter: tuple[int, Event], error: Exception, verdict: Verdict) -> None:
        number, event = letter
        connection = self._open().connection
        if isinstance(error, Overtaken):
            reason = Reason(kind="Overtaken", says=_GONE, advice="Give the inbox back, or discard it.")
        else:
            reason = blame(connection, self._layout.relations, event, error, verdict, self._schemas)
        dead_letters.failed(connection, number, reason)
        log.info("dead_letter.tried", tenant=tenant, table=event.table, error=reason.says)

    def _open(self) -> Session:
        if self._session is None or self._session.connection.broken:
            self._session = Session(self._settings, self._layout.relations, "worker dead letters")
        elif self._session.relations is not self._layout.relations:
            self._session.use(self._layout.relations)
        return self._session

    def _failed(self, error: Exception) -> None:
        if not self._ended.is_set():
            log.warning("dead_letters.not_tried", reason=_says(error, classify(error)))


def _says(error: Exception, verdict: Verdict) -> str:
    return Reason.of(error, verdict).says
