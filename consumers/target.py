"""One session to the target, and one transaction of one tenant in it.

Rows are staged before the transaction begins, so that no client stalls inside one. Then, in one READ COMMITTED
transaction: the tenant for row-level security, the tenant's advisory lock in a statement of its own, a second look at
the mapping and the pool, compare-and-set of its watermarks, its dead letters, the rows, commit. Relies on `upsert` for
every statement that touches rows. Never decides what to do about an error: psycopg's errors and our own go up.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import orjson
import psycopg
from psycopg import Connection

from consumers import dead_letters, leads, tenants, upsert, watermark
from consumers.config import Settings
from consumers.dead_letters import Letters
from consumers.forms import Forms, Schemas, Writing
from consumers.lead_columns import LeadColumns
from consumers.ordering import Begin, Rows, Step, Sweep, Truncate
from consumers.relation import Relation
from consumers.script import Answer, Script
from consumers.staging import pack, readable
from consumers.target_session import forget_plans, open_session
from consumers.watermark import Mark, Place
from replicator import KeysRequest

_MOST_STAGED: Final = 5_000
_MOST_STAGED_BYTES: Final = 32 << 20
"""After so many rows, or bytes of them, the staging tables are emptied: deletes that were left are read over by every
statement (1 ms more for 5000, 15 ms for 20000), and each emptying writes to the catalogue and takes milliseconds."""

_MOST_LOADS: Final = 1 << 30
"""Their number is an integer. A transaction may have one without a row."""

_FEW: Final = 200
"""Rows that cost less to write than to plan for (measured at ten: 1.7 ms for our statements, 0.4 for what foreign keys
ask; half of all): their plans are kept, and do not know them. For more rows all are made anew in each step, and kept
for it: what foreign keys ask would else be planned for each row, a quarter of what an insert costs (15 of 62 us)."""
_PLANS_S: Final = 1.0
"""How long plans for few rows are kept. One from when a table was empty may look up rows by tenant alone: so it does
that among what a second has written. Making all of them anew takes milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one tenant's transaction is to do."""

    tenant: int
    topic_id: str
    steps: Sequence[Step]
    inboxes: frozenset[int]
    """All inboxes that the events speak of."""
    leads: LeadColumns | None = None
    """Where the tenant's lead signals come from; None: what stands there stays."""
    marks: Mapping[Place, tuple[Mark | None, Mark, int | None]]
    """By place: expected, new, and the source's time of the last change in milliseconds."""
    letters: Letters | None = None
    """What becomes of the tenant's dead letters; None: nothing, and nothing is known of them."""


@dataclass(slots=True)
class Outcome:
    """What a committed transaction leaves to its caller."""

    upserts: int = 0
    deletes: int = 0
    incomplete: list[KeysRequest] = field(default_factory=list)
    """Rows of which only a part is known: to be read again."""
    bodiless: Counter[str] = field(default_factory=Counter)
    """By table: rows whose state could not be sent; stubs until it can."""
    stubs: int = 0
    """That rows were made, or made again: for a reference, of a row without a body, of a part of one."""
    skipped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By (table, column, type in the source): rows written without a column that the target lacks."""
    tableless: Counter[str] = field(default_factory=Counter)
    """By relation that the target has no table for: changes of rows that came to nothing."""

    def add(self, later: Outcome) -> None:
        self.upserts += later.upserts
        self.deletes += later.deletes
        self.incomplete.extend(later.incomplete)
        self.bodiless.update(later.bodiless)
        self.stubs += later.stubs
        self.skipped.update(later.skipped)
        self.tableless.update(later.tableless)


class Session:
    """A connection of its own, with staging tables. Not for two threads at once, but for `cancel`."""

    _holds_all: ClassVar[bool] = True
    """Whatever refers to a row is in the tables that are written."""

    def __init__(
        self,
        settings: Settings,
        relations: Mapping[str, Relation],
        purpose: str = "worker",
        *,
        is_brief: bool = False,
    ) -> None:
        """`purpose` is shown in pg_stat_activity; `is_brief`: other tenants wait for it. Raises psycopg.Error."""
        self._forms = Forms({})
        self._load = 0
        self._staged = self._staged_bytes = 0
        self._has_few = False
        self._planned_at = time.monotonic()
        self._noted: set[str] = set()
        """Tables of which rows stand among the orphans."""
        self._pool = settings.pool
        # What psycopg had prepared it would let go after a rollback, and ours with it.
        self.connection: Connection[Any] = open_session(settings, purpose, is_brief=is_brief, prepares=False)
        self._script = Script(self.connection)
        if is_brief:
            limit = f"{settings.brief_statement_timeout_s}s"
            self.connection.execute("SELECT set_config('statement_timeout', %s, false)", [limit])
        # A pooler may hand on a session of the server with what somebody before has staged there: another tenant's
        # rows, under the numbers that come next.
        for statement in ("DISCARD TEMP", *upsert.STAGING):
            self.connection.execute(statement.encode())
        self.use(relations)

    def use(self, relations: Mapping[str, Relation]) -> None:
        """The tables have been altered, or are looked at for the first time."""
        self._forget_plans()
        self._forms = Forms(relations)

    @property
    def relations(self) -> Mapping[str, Relation]:
        """The tables as this session knows them."""
        return self._forms.relations

    def apply(self, work: Work, schemas: Schemas) -> Outcome:
        """Raises psycopg.Error, Overtaken, LettersMoved, TooManyLetters, BadEvent; then nothing of it is written."""
        if self._script.is_full:
            self._forget_plans()
        forms = self._stage(work, schemas)
        outcome = Outcome(tableless=_tableless(work.steps, self.relations))
        self._noted.clear()
        with self._transaction(work.tenant):
            self._claim(work)
            for number, step in enumerate(work.steps):
                self._carry_out(work.tenant, number, step, forms[number], outcome)
            self._delete_orphans(work.tenant)
        return outcome

    def cancel(self) -> None:
        """From another thread: ends what the session is doing."""
        self.connection.cancel_safe(timeout=1.0)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def _transaction(self, tenant: int) -> Iterator[None]:
        """Begins with the first message that is sent."""
        if time.monotonic() > self._planned_at + _PLANS_S:
            self._planned_at = time.monotonic()
            self._script.say("DISCARD PLANS")
        self._script.say("BEGIN")
        if self._has_few:
            self._script.say("SET LOCAL plan_cache_mode = force_generic_plan")
        self._script.say(f"SELECT set_config('app.current_tenant_id', '{tenant}', true)")
        try:
            yield
            self._script.say("COMMIT")
            self._script.send()
        except BaseException:
            self._script.drop()
            with suppress(psycopg.Error):  # a connection that is lost has rolled back
                self.connection.rollback()
            raise

    def _claim(self, work: Work) -> None:
        """From here on nobody else writes the tenant's rows, and what the caller knew of it holds.

        Sending it raises Overtaken. It may go with the first rows: what is written before the answers were looked at is
        not committed.
        """
        script, tenant = self._script, work.tenant
        script.say(f"SELECT pg_advisory_xact_lock({tenants.TENANT_LOCK}, {tenant})")
        tenants.look_again(script, tenant, work.inboxes, self._pool)
        if work.leads is not None:
            leads.expect_origin(script, tenant, work.leads.origin)
        for place, (expected, mark, source_ms) in sorted(work.marks.items(), key=lambda item: item[0]):
            watermark.advance_mark(script, work.topic_id, place, expected, mark, source_ms)
        if work.letters is not None:
            dead_letters.expect(script, tenant, work.letters.stand)
            if work.letters.changes:
                script.send()
                dead_letters.settle(self.connection, tenant, work.topic_id, work.letters)

    def _stage(self, work: Work, schemas: Schemas) -> list[list[Writing]]:
        """Sends the rows of every step; the forms of each step by number."""
        if self._staged > _MOST_STAGED or self._staged_bytes > _MOST_STAGED_BYTES or self._load > _MOST_LOADS:
            self._execute("TRUNCATE pg_temp.staged_rows, pg_temp.staged_deletes, pg_temp.orphans")
            self._staged = self._staged_bytes = self._load = 0
        self._load += 1
        forms: list[list[Writing]] = []
        rows: list[bytes] = []
        deletes: list[bytes] = []
        for number, step in enumerate(work.steps):
            place = b"%d\t%d" % (self._load, number)
            forms.append([])
            if isinstance(step, Rows):
                forms[-1] = pack(step, place, self._forms, schemas, work.leads, rows)
                deletes.extend(
                    orjson.dumps({"s": number, "r": table, "i": row, "n": inbox, "e": epoch, "p": point, "o": ordinal})
                    for table, found in step.deletes.items()
                    if table in self.relations
                    for row, inbox, (epoch, point, ordinal) in found
                )
        self._has_few = len(rows) + len(deletes) <= _FEW
        self._staged += len(rows) + len(deletes)  # before: what fails half-way leaves dead rows behind
        self._staged_bytes += sum(map(len, rows)) + sum(map(len, deletes))
        if rows:
            pieces = list(readable(rows))
            with self.connection.cursor() as cursor, cursor.copy(upsert.STAGE_ROWS) as copy:
                for piece in pieces:
                    copy.write(piece)
        if deletes:
            packed = b"".join((b"[", b",".join(deletes), b"]")).decode()
            self._execute(upsert.STAGE_DELETES, load=self._load, rows=packed)
        return forms

    def _carry_out(self, tenant: int, number: int, step: Step, forms: list[Writing], outcome: Outcome) -> None:
        given = {"tenant": tenant, "load": self._load, "step": number}
        match step:
            case Rows():
                if not self._has_few:
                    self._make_plans_anew()
                self._delete([name for name in step.deletes if name in self.relations], given, outcome)
                for index, form in enumerate(forms):
                    self._upsert(form, {**given, "form": index}, outcome)
            case Truncate():
                if relation := self.relations.get(step.table):
                    self._make_plans_anew()
                    self._stage_older(relation, step.position, given)
                    self._delete([relation.name], given, outcome)
            case Begin():
                self._execute(
                    "UPDATE inbox_tenant_mapping SET backfill_id = %(id)s"
                    " WHERE tenant_id = %(tenant)s AND inbox_id = ANY (%(inboxes)s)"
                    " AND backfill_id IS DISTINCT FROM %(id)s",
                    id=step.backfill,
                    inboxes=list(step.inboxes),
                    tenant=tenant,
                )
            case Sweep():
                self._make_plans_anew()
                self._sweep(step, given, outcome)

    def _make_plans_anew(self) -> None:
        """When the rows that this step refers to are there, and keep them for all of its rows, as many as it finds."""
        self._script.say("SET LOCAL plan_cache_mode = auto")
        self._script.say("DISCARD PLANS")

    def _delete(self, names: Sequence[str], given: dict[str, int], outcome: Outcome) -> None:
        """Children before parents; what has children left becomes a stub."""

        def gone(answer: Answer) -> None:
            outcome.deletes += answer.count

        for name in reversed(self._forms.order):
            if name not in names:
                continue
            deleting = self._forms.deleting(name)
            self._note(deleting.note_parents, self.relations[name].parent_names, given)
            self._script.ask(deleting.delete, given, gone)
            if deleting.wipe is not None:
                self._script.ask(deleting.wipe, given)

    def _delete_orphans(self, tenant: int) -> None:
        """Stubs that have lost their last child; children before parents, so that a row's own parents come after it."""
        self._script.send()
        if not self._noted:
            return
        for name in reversed(self._forms.order):
            if name in self._noted:
                relation = self.relations[name]
                self._note(upsert.delete_orphans(relation), relation.parent_names, {"tenant": tenant})
                self._script.send()
        self._script.say("DELETE FROM pg_temp.orphans")
        self._noted.clear()

    def _note(self, statement: str | None, names: Iterable[str], given: dict[str, int]) -> None:
        """A statement that notes rows of these tables, if there are any."""

        def noted(answer: Answer) -> None:
            if answer.count:
                self._noted.update(names)

        if statement is not None:
            self._script.ask(statement, given, noted)

    def _upsert(self, writing: Writing, given: dict[str, int], outcome: Outcome) -> None:
        form, table = writing.form, writing.form.relation.name

        def written(answer: Answer) -> None:
            outcome.upserts += answer.count
            for name, kind in form.skipped if answer.count else ():
                outcome.skipped[table, name, kind] += answer.count

        def emptied(answer: Answer) -> None:
            outcome.bodiless[table] += answer.count
            outcome.stubs += answer.count

        def made(answer: Answer) -> None:
            outcome.stubs += answer.count

        def incomplete(answer: Answer) -> None:
            outcome.stubs += len(answer.rows)
            asked: dict[int, list[int]] = defaultdict(list)
            for row, inbox in answer.rows:
                if row is not None and inbox is not None:
                    asked[int(inbox)].append(int(row))
            outcome.incomplete.extend(
                KeysRequest(table=table, inbox=inbox, keys=tuple((row,) for row in rows))
                for inbox, rows in asked.items()
            )

        for statement in writing.make_parents:
            self._script.ask(statement, given, made)
        self._note(writing.note_parents_left, form.relation.parent_names, given)
        if self._holds_all:
            self._note(writing.note_unheld, (table,), given)
        self._script.ask(writing.upsert, given, written)
        if form.is_lost:
            self._script.ask(upsert.empty(form), given, emptied)
        elif form.is_partial:
            self._script.ask(upsert.partial_stubs(form), given, incomplete)

    def _stage_older(
        self,
        relation: Relation,
        position: tuple[int, int, int],
        given: dict[str, Any],
        inboxes: list[int] | None = None,
        spared: list[int] | None = None,
        keys: tuple[int, int] | None = None,
        read: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> None:
        epoch, point, ordinal = position
        statement = upsert.stage_older(relation, of_inboxes=inboxes is not None, of_keys=keys is not None, read=read)
        self._staged += self._execute(
            statement,
            **given,
            epoch=epoch,
            point=point,
            ordinal=ordinal,
            **({"inboxes": inboxes, "spared": spared or []} if inboxes else {}),
            **({"first": keys[0], "last": keys[1]} if keys else {}),
        )

    def _sweep(self, step: Sweep, given: dict[str, int], outcome: Outcome) -> None:
        """Counts only for inboxes that have had this backfill's begin since they last changed hands."""
        marker = step.marker
        begun = self._rows(
            "SELECT inbox_id FROM inbox_tenant_mapping"
            " WHERE tenant_id = %(tenant)s AND inbox_id = ANY (%(inboxes)s) AND backfill_id = %(id)s",
            tenant=given["tenant"],
            inboxes=list(step.inboxes),
            id=marker.id,
        )
        inboxes = [inbox for (inbox,) in begun]
        if not inboxes:
            return
        swept = [name for name in marker.tables if name in self.relations]
        ends = {name: start._replace(ordinal=start.ordinal - 1) for name in swept for start in [marker.start_of(name)]}
        for name, older in ends.items():
            scope = self.connection, given["tenant"], name, older
            spared = [*marker.spared.get(name, ()), *dead_letters.spared(*scope)]
            read = {} if marker.keys else ends
            self._stage_older(self.relations[name], older, given, inboxes, spared, marker.keys, read)
            dead_letters.sweep(*scope, inboxes=inboxes, spared=spared, keys=marker.keys)
        self._delete(swept, given, outcome)
        # An inbox that still waits after a backfill of some tables waits for another one.
        self._execute(
            "UPDATE inbox_tenant_mapping SET backfilled_at = CASE WHEN %(complete)s THEN now() END,"
            " backfill_id = CASE WHEN %(complete)s THEN backfill_id END"
            " WHERE tenant_id = %(tenant)s AND inbox_id = ANY (%(inboxes)s)"
            " AND (%(complete)s OR backfilled_at IS NULL)",
            tenant=given["tenant"],
            inboxes=inboxes,
            complete=marker.is_complete,
        )

    def _forget_plans(self) -> None:
        forget_plans(self.connection)
        self._script.forget()

    def _execute(self, statement: str, **parameters: Any) -> int:
        """At once, after all that was asked before."""
        self._script.send()
        return self.connection.execute(statement.encode(), parameters).rowcount

    def _rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        self._script.send()
        return self.connection.execute(statement.encode(), parameters).fetchall()


def _tableless(steps: Iterable[Step], relations: Container[str]) -> Counter[str]:
    rows: Counter[str] = Counter()
    for step in steps:
        for changes in (step.upserts, step.deletes) if isinstance(step, Rows) else ():
            rows.update({table: len(found) for table, found in changes.items() if table not in relations})
    return rows


def holders(connection: Connection[Any], table: str, ids: Sequence[int] | None) -> dict[int | None, list[int]]:
    """By id the tenants that hold such a row of a replicated table, or a dead letter of it; ids None: any, by None."""
    packed = None if ids is None else orjson.dumps(list(ids)).decode()
    found: dict[int | None, list[int]] = defaultdict(list)
    with connection.transaction():  # the function sets the tenant locally
        for tenant, held in connection.execute(
            "SELECT tenant_id, held FROM replication_holders(%s, %s::jsonb)", [table, packed]
        ):
            found[held].append(tenant)
        for tenant, held in dead_letters.holders(connection, table, ids):
            if tenant not in found[held]:
                found[held].append(tenant)
    return found
