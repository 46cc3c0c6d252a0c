"""One tenant's share of a batch, carried to the end: applied, or parked at the event that can't be, or abandoned.

Turns each error into the action that `errors` names. Runs in a worker's threads, each with a session of its own. Never
touches progress, parking or the mapping's cache: it returns what happened.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import psycopg
import structlog

from consumers.batch import ends_of, new_marks
from consumers.config import Settings
from consumers.errors import Action, ConsumersError, Fault, Overtaken, Verdict, classify_applying
from consumers.layout import Layout
from consumers.lead_columns import LeadColumns
from consumers.misfits import misfits, narrowed
from consumers.ordering import Event, steps
from consumers.parking import Reason
from consumers.staging import Schemas
from consumers.target import Outcome, Session, Work, end_frozen
from consumers.watermark import Mark, Place
from replicator import KeysRequest
from replicator.runtime import GrowingPause

log = structlog.get_logger(__name__)

_TRIES: Final = 5
"""Of what is tried again, before it counts as a fault of the row."""
_PATIENCE: Final = 2
"""Lock time-outs since the first failure, before what is no row's fault parks the tenant: the others wait for it."""


@dataclass(slots=True)
class Result:
    """What became of one tenant's events."""

    tenant: int
    marks: dict[Place, Mark] = field(default_factory=dict)
    """New watermarks that are committed."""
    upserts: int = 0
    deletes: int = 0
    incomplete: list[KeysRequest] = field(default_factory=list)
    bodiless: Counter[str] = field(default_factory=Counter)
    skipped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tableless: Counter[str] = field(default_factory=Counter)
    stuck: dict[int, int] = field(default_factory=dict)
    """By partition: the offset of the first event that is not applied."""
    reason: Reason | None = None
    overtaken: bool = False
    abandoned: bool = False

    def add(self, outcome: Outcome) -> None:
        self.upserts += outcome.upserts
        self.deletes += outcome.deletes
        self.incomplete.extend(outcome.incomplete)
        self.bodiless.update(outcome.bodiless)
        self.skipped.update(outcome.skipped)
        self.tableless.update(outcome.tableless)


class Applier:
    """Applies shares of batches; a session for each thread that it is called from."""

    def __init__(self, settings: Settings, layout: Layout, schemas: Schemas) -> None:
        self._settings, self._layout, self._schemas = settings, layout, schemas
        self._own = threading.local()
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
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
        is_parked: bool = False,
    ) -> Result:
        """Until all events are applied or the tenant is stuck, or `ended`. Raises what stops the worker.

        A parked tenant has had its tries: nobody waits for it for long.
        """
        result = Result(tenant)
        stretches = [list(events)]
        attempts = _Attempts(0.0 if is_parked else _PATIENCE * self._settings.lock_timeout_s)
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
            except (psycopg.Error, ConsumersError) as error:
                verdict = attempts.judge(error)
                self._drop_broken()
                if verdict.action in (Action.STOP, Action.PARK) and self._is_outdated(error):
                    continue
                match verdict.action:
                    case Action.STOP:
                        raise
                    case Action.HALVE | Action.PARK if _may_be_halved(stretch, verdict):
                        middle = len(stretch) // 2
                        stretches[:1] = [stretch[:middle], stretch[middle:]]
                    case Action.HALVE | Action.PARK:
                        return self._stuck(result, stretches, error, verdict)
                    case _:
                        self._wait(tenant, error, verdict, attempts, ended)
            else:
                result.marks.update(moved)
                del stretches[0]
                attempts.succeeded()
                self.waits_for = ""
        return result

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
        stretch: Sequence[Event],
        marks: Mapping[Place, Mark],
        leads: LeadColumns | None,
        result: Result,
    ) -> dict[Place, Mark]:
        moved = new_marks(tenant, stretch, ends_of(stretch), marks)
        named = {event.inbox for event in stretch if event.inbox is not None}
        without_inbox = {name for name, relation in self._layout.relations.items() if relation.inbox is None}
        work = Work(
            tenant=tenant,
            topic_id=topic_id,
            steps=steps(stretch, without_inbox),
            inboxes=frozenset(named.union(*(event.inboxes for event in stretch))),
            leads=leads,
            marks=moved,
        )
        result.add(self._session().apply(work, self._schemas))
        return {place: mark for place, (_, mark, _) in moved.items()}

    def _stuck(self, result: Result, stretches: Sequence[list[Event]], error: Exception, verdict: Verdict) -> Result:
        for stretch in stretches:
            for event in stretch:
                result.stuck.setdefault(event.partition, event.offset)
        result.reason = self._reason(stretches[0][0], error, verdict)
        self.waits_for = ""
        return result

    def _reason(self, event: Event, error: Exception, verdict: Verdict) -> Reason:
        """Names the table, and the columns that do not take what they should."""
        reason = Reason.of(error, verdict)
        if not isinstance(error, psycopg.Error) or event.table not in self._layout.relations:
            return reason
        try:
            narrow = misfits(self._session().connection, self._layout.relations[event.table], event, self._schemas)
        except (psycopg.Error, ConsumersError) as fault:
            log.warning("row.not_examined", table=event.table, error=type(fault).__name__)
            narrow = []
        if narrow:
            return narrowed(reason, event.table, narrow)
        return replace(reason, says=f"a row of {event.table}: {reason.says}")

    def _is_outdated(self, error: Exception) -> bool:
        """Whether the tables were altered since they were last looked at: then the error may be of yesterday."""
        try:
            return isinstance(error, psycopg.Error) and self._layout.read(self._session().connection)
        except psycopg.Error as fault:
            log.warning("target.not_looked_at", error=type(fault).__name__)
            return False

    def _wait(
        self, tenant: int, error: Exception, verdict: Verdict, attempts: _Attempts, ended: threading.Event
    ) -> None:
        if isinstance(error, psycopg.errors.LockNotAvailable) and self._end_frozen(tenant):
            return
        says = Reason.of(error, verdict)
        if attempts.are_many:
            self.waits_for = says.says
            log.warning("target.waits", tenant=tenant, reason=says.says, advice=says.advice)
        ended.wait(attempts.pause())

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
            session = Session(self._settings, self._layout.relations)
            self._own.session = session
            with self._lock:
                self._sessions.add(session)
        elif session.relations is not self._layout.relations:
            session.use(self._layout.relations)
        return session

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


def _may_be_halved(stretch: Sequence[Event], verdict: Verdict) -> bool:
    """What is no row's fault is no smaller for a part of them."""
    return len(stretch) > 1 and (verdict.action is Action.HALVE or verdict.fault is Fault.ROW)


class _Attempts:
    """How often one stretch has failed, and since when."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._count = 0
        self._began = 0.0
        self._pause = GrowingPause(first=0.05, longest=10.0)

    @property
    def are_many(self) -> bool:
        return self._count > 1

    def judge(self, error: Exception) -> Verdict:
        now = time.monotonic()
        if not self._count:
            self._began = now
        self._count += 1
        verdict = classify_applying(error)
        if verdict.action is not Action.RETRY:
            return verdict
        is_over = self._count > _TRIES if verdict.fault is Fault.ROW else now >= self._began + self._patience_s
        return Verdict(Action.PARK, verdict.fault, verdict.advice) if is_over else verdict

    def pause(self) -> float:
        return self._pause.next()

    def succeeded(self) -> None:
        self._count = 0
        self._pause.reset()
