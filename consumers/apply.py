"""One tenant's share of a batch, carried to the end: applied but for its dead letters, or parked, or abandoned.

Turns each error into the action that `errors` names. An event that its row alone is to blame for becomes a dead letter,
in a transaction of its own with the watermark, and the next one's turn comes. Runs in a worker's threads, each with a
session of its own. Never touches progress, parking or the mapping's cache: it returns what happened.

A lock that is in one tenant's way, or a statement of its that takes long, is not waited for in a live batch: others
would wait too. A lock of a whole table is: it is in everybody's way.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import psycopg
import structlog

from consumers import dead_letters
from consumers.attempts import Attempts
from consumers.batch import ends_of, new_marks
from consumers.blocking import end_frozen, is_peer_at_work, is_table_locked
from consumers.config import Settings
from consumers.dead_letters import Letter, Letters
from consumers.errors import Action, ConsumersError, Fault, LettersMoved, Overtaken, Verdict
from consumers.forms import Schemas
from consumers.layout import Layout
from consumers.lead_columns import LeadColumns
from consumers.misfits import blame
from consumers.ordering import Event, steps
from consumers.reasons import Reason
from consumers.relation import without_inbox
from consumers.target import Outcome, Session, Work
from consumers.waiting import Held, Sorted, is_of_one_row, sort
from consumers.watermark import Mark, Place
from replicator import KeysRequest

log = structlog.get_logger(__name__)

_PATIENCE: Final = 2
"""Lock time-outs since the first failure, before what is no row's fault parks the tenant: the others wait for it."""
_PEERS_S: Final = 2.0
"""For so long the others wait, at most, while a peer's batches of the tenant are before ours. Stood aside, the tenant
would have its log read twice; and its readings hold its lock for longer, so that the peer would stand aside in turn."""
_LOCK_PAUSE_S: Final = 1.0
"""Between tries at a lock that all wait for, so that they go on soon after it is gone."""
_TELL_S: Final = 10.0
"""The same trouble is told that often, however many tenants meet it."""


@dataclass(slots=True)
class Result:
    """What became of one tenant's events."""

    tenant: int
    marks: dict[Place, Mark] = field(default_factory=dict)
    """New watermarks that are committed."""
    outcome: Outcome = field(default_factory=Outcome)
    """Of all its committed transactions."""
    buried: Counter[str] = field(default_factory=Counter)
    """By table: events that became dead letters."""
    stuck: dict[int, int] = field(default_factory=dict)
    """By partition: the offset of the first event that is not applied."""
    reason: Reason | None = None
    overtaken: bool = False
    abandoned: bool = False


@dataclass(slots=True)
class _Stretch:
    """Events that are applied in one transaction."""

    events: list[Event]
    blamed: Reason | None = None
    """Of one event: why it is to become a dead letter."""

    def halves(self) -> list[_Stretch]:
        middle = len(self.events) // 2
        return [_Stretch(self.events[:middle]), _Stretch(self.events[middle:])]


class Applier:
    """Applies shares of batches; a session for each thread that it is called from."""

    def __init__(self, settings: Settings, layout: Layout, schemas: Schemas, *, is_beside: bool = False) -> None:
        """`is_beside`: for parked tenants. Nobody waits for them, so they wait in a lock's queue, and have one try."""
        self._settings, self._layout, self._schemas, self._is_beside = settings, layout, schemas, is_beside
        self._own = threading.local()
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
        self._held: dict[int, Held] = {}
        """By tenant: its dead letters when they were last read. Each transaction sees whether they still are."""
        self._told_at = float("-inf")
        self.waits_for = ""

    def run(
        self,
        tenant: int,
        topic_id: str,
        events: Sequence[Event],
        marks: Mapping[Place, Mark],
        ended: threading.Event,
        *,
        leads: LeadColumns | None = None,
    ) -> Result:
        """Until all events are applied or the tenant is stuck, or `ended`. Raises what stops the worker."""
        try:
            return self._run(tenant, topic_id, events, marks, ended, leads)
        finally:
            self.waits_for = ""

    def _run(
        self,
        tenant: int,
        topic_id: str,
        events: Sequence[Event],
        marks: Mapping[Place, Mark],
        ended: threading.Event,
        leads: LeadColumns | None,
    ) -> Result:
        result = Result(tenant)
        stretches = [_Stretch(list(events))]
        attempts = Attempts(0.0 if self._is_beside else _PATIENCE * self._settings.lock_timeout_s)
        while stretches:
            if ended.is_set():
                result.abandoned = True
                return result
            stretch = stretches[0]
            try:
                moved = self._apply(tenant, topic_id, stretch, {**marks, **result.marks}, leads, result)
            except Overtaken:
                result.overtaken = True
                return result
            except LettersMoved:
                self._held.pop(tenant, None)
            except (psycopg.Error, ConsumersError) as error:
                if not self._goes_on(result, stretches, error, attempts, ended):
                    return result
            else:
                result.marks.update(moved)
                del stretches[0]
                attempts.begin_anew()
                self.waits_for = ""
        return result

    def _goes_on(
        self,
        result: Result,
        stretches: list[_Stretch],
        error: Exception,
        attempts: Attempts,
        ended: threading.Event,
    ) -> bool:
        """What to do about an error of the first stretch; False: the tenant is stuck there. Raises what stops all."""
        stretch, verdict = stretches[0], attempts.judge(error, is_one=len(stretches[0].events) == 1)
        self._drop_broken()
        if not ended.is_set():
            verdict = self._as_others_see_it(result.tenant, error, verdict, attempts)
        is_final = verdict.action is Action.PARK and not _may_be_halved(stretch, verdict)
        if (is_final or verdict.action is Action.STOP) and self._is_outdated(error):
            return True
        match verdict.action:
            case Action.STOP:
                raise error
            case Action.HALVE | Action.PARK if _may_be_halved(stretch, verdict):
                stretches[:1] = stretch.halves()
                attempts.begin_anew()
            case Action.PARK if _may_be_buried(stretch, error, verdict):
                stretch.blamed = self._reason(stretch.events[0], error, verdict)
                attempts.begin_anew()
            case Action.HALVE | Action.PARK:
                self._stuck(result, stretches, error, verdict)
                return False
            case _:
                self._wait(result.tenant, error, verdict, attempts, ended)
        return True

    def _as_others_see_it(self, tenant: int, error: Exception, verdict: Verdict, attempts: Attempts) -> Verdict:
        """What others would wait for is left to the tenant's own reading, which has more time."""
        if isinstance(error, psycopg.errors.LockNotAvailable):
            if is_everybodys := self._is_everybodys_lock():
                attempts.begin_later()  # once it is gone, what waited for it comes at once
            is_soon_ours = attempts.lasted_s < _PEERS_S and self._is_peer_at_work(tenant)
            is_waited_for = self._end_frozen(tenant) or is_everybodys or is_soon_ours
            return replace(verdict, action=Action.RETRY if is_waited_for else Action.PARK)
        has_more_time = self._settings.brief_statement_timeout_s < self._settings.statement_timeout_s
        if isinstance(error, psycopg.errors.QueryCanceled) and has_more_time and not self._is_beside:
            return replace(verdict, action=Action.PARK)
        return verdict

    def cancel(self) -> None:
        """Ends what every thread is doing in the target."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            try:
                session.cancel()
            except psycopg.Error as error:
                log.warning("target.cancel_failed", error=type(error).__name__)

    def close(self) -> None:
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()

    def _apply(
        self,
        tenant: int,
        topic_id: str,
        stretch: _Stretch,
        marks: Mapping[Place, Mark],
        leads: LeadColumns | None,
        result: Result,
    ) -> dict[Place, Mark]:
        events = stretch.events
        named = {event.inbox for event in events if event.inbox is not None}
        held = self._held_of(tenant)
        sorting = Sorted() if stretch.blamed else sort(events, held)
        letters = _letters(stretch, sorting, held)
        moved = new_marks(tenant, events, ends_of(events), marks)
        work = Work(
            tenant=tenant,
            topic_id=topic_id,
            steps=steps(sorting.going, without_inbox(self._layout.relations)),
            inboxes=frozenset(named.union(*(event.inboxes for event in events))),
            leads=leads,
            marks=moved,
            letters=letters,
        )
        result.outcome.add(self._session().apply(work, self._schemas))
        if letters.changes:
            self._held.pop(tenant, None)
            self._tell(tenant, letters, result)
        return {place: mark for place, (_, mark, _) in moved.items()}

    def _held_of(self, tenant: int) -> Held:
        held = self._held.get(tenant)
        if held is None:
            held = self._held[tenant] = dead_letters.read(self._session().connection, tenant)
        return held

    def _tell(self, tenant: int, letters: Letters, result: Result) -> None:
        waiting = [letter.event for letter in letters.buried if letter.waits]
        result.outcome.incomplete.extend(_asked_again(waiting))
        for letter in letters.buried:
            result.buried[letter.event.table] += 1
            if not letter.waits:
                log.warning(
                    "event.dead_letter",
                    tenant=tenant,
                    table=letter.event.table,
                    partition=letter.event.partition,
                    offset=letter.event.offset,
                    error=letter.reason.says,
                    advice=letter.reason.advice,
                )

    def _stuck(self, result: Result, stretches: Sequence[_Stretch], error: Exception, verdict: Verdict) -> None:
        for stretch in stretches:
            for event in stretch.events:
                result.stuck.setdefault(event.partition, event.offset)
        result.reason = self._reason(stretches[0].events[0], error, verdict)

    def _reason(self, event: Event, error: Exception, verdict: Verdict) -> Reason:
        try:
            connection = self._session().connection
        except psycopg.Error:
            return Reason.of(error, verdict)
        return blame(connection, self._layout.relations, event, error, verdict, self._schemas)

    def _is_outdated(self, error: Exception) -> bool:
        """Whether the tables were altered since they were last looked at: then the error may come of what they were."""
        try:
            return isinstance(error, psycopg.Error) and self._layout.read(self._session().connection)
        except psycopg.Error as fault:
            log.warning("target.not_looked_at", error=type(fault).__name__)
            return False

    def _wait(
        self, tenant: int, error: Exception, verdict: Verdict, attempts: Attempts, ended: threading.Event
    ) -> None:
        says = Reason.of(error, verdict)
        if attempts.are_many:
            self.waits_for = says.says
            self._tell_of_waiting(tenant, says)
        pause = attempts.pause()
        ended.wait(min(pause, _LOCK_PAUSE_S) if isinstance(error, psycopg.errors.LockNotAvailable) else pause)

    def _tell_of_waiting(self, tenant: int, reason: Reason) -> None:
        with self._lock:
            is_due = time.monotonic() >= self._told_at + _TELL_S
            if is_due:
                self._told_at = time.monotonic()
        if is_due:
            log.warning("target.waits", tenant=tenant, reason=reason.says, advice=reason.advice)

    def _is_peer_at_work(self, tenant: int) -> bool:
        if self._is_beside:
            return False
        try:
            return is_peer_at_work(self._session().connection, tenant)
        except psycopg.Error as error:
            log.warning("target.peer_not_found", tenant=tenant, error=type(error).__name__)
            return False

    def _is_everybodys_lock(self) -> bool:
        try:
            return is_table_locked(self._session().connection)
        except psycopg.Error as error:
            log.warning("target.locks_not_looked_at", error=type(error).__name__)
            return False

    def _end_frozen(self, tenant: int) -> bool:
        """Whether a frozen worker's session was in the way, and was ended."""
        try:
            pids = end_frozen(self._session().connection, tenant)
        except psycopg.Error as error:
            log.warning("target.frozen_session_not_found", tenant=tenant, error=type(error).__name__)
            return False
        if pids:
            log.warning("target.frozen_session_ended", tenant=tenant, pids=pids)
        return bool(pids)

    def _session(self) -> Session:
        session: Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._made()
            self._own.session = session
            with self._lock:
                self._sessions.add(session)
        elif session.relations is not self._layout.relations:
            session.use(self._layout.relations)
        return session

    def _made(self) -> Session:
        if self._is_beside:
            return Session(self._settings, self._layout.relations, "worker beside")
        return Session(self._settings, self._layout.relations, is_brief=True)

    def _drop_broken(self) -> None:
        """A session that is of no use any more is made anew at the next try."""
        session: Session | None = getattr(self._own, "session", None)
        if session is not None and session.connection.broken:
            self._drop(session)

    def _drop(self, session: Session) -> None:
        del self._own.session
        with self._lock:
            self._sessions.discard(session)
        session.close()


def _letters(stretch: _Stretch, sorting: Sorted, held: Held) -> Letters:
    if stretch.blamed is None:
        return Letters(held.stand, list(map(dead_letters.behind, sorting.waiting)), sorting.closings)
    (event,) = stretch.events
    return Letters(held.stand, [Letter(event, stretch.blamed, is_new=(event.table, event.key) not in held.rows)])


def _may_be_halved(stretch: _Stretch, verdict: Verdict) -> bool:
    """What is no row's fault is no smaller for a part of them."""
    return len(stretch.events) > 1 and (verdict.action is Action.HALVE or verdict.fault is Fault.ROW)


def _may_be_buried(stretch: _Stretch, error: Exception, verdict: Verdict) -> bool:
    """Of one event, after what is no row's fault has had its tries."""
    # A right that a trigger of the target lacks is no row's fault, though it is met at a row.
    is_rows = verdict.fault is Fault.ROW and not isinstance(error, psycopg.errors.InsufficientPrivilege)
    return is_rows and stretch.blamed is None and is_of_one_row(stretch.events[0])


def _asked_again(events: Sequence[Event]) -> list[KeysRequest]:
    """Rows of which a part waits: their whole state heals them."""
    asked: dict[tuple[str, int], dict[int, None]] = defaultdict(dict)
    for event in events:
        row = dead_letters.row_of(event.key)
        if event.inbox is not None and row is not None:
            asked[event.table, event.inbox][row] = None
    return [
        KeysRequest(table=table, inbox=inbox, keys=tuple((row,) for row in rows))
        for (table, inbox), rows in asked.items()
    ]
