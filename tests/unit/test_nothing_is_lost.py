"""The poller against a source that is written to while it polls, and a Kafka that loses what it had not acknowledged.

The poller, its rolling pass, marks, horizon and digests are the real ones, and so is what a new epoch begins with; of
the source there are only its answers, of Kafka its order. Each inbox is a tenant of its own, so a row that has moved
must have been taken back where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicator import poller, rolling_pass, walk
from replicator.agenda import Agenda
from replicator.backfill_job import BackfillJob, of_epoch
from replicator.beyond import Stamped
from replicator.config import load
from replicator.derivation import Derivation
from replicator.digest_memory import DigestMemory
from replicator.digests import Seen
from replicator.errors import SourceUnavailable
from replicator.event import Position, Run, Topics
from replicator.marks import Marks
from replicator.memory import Memory, Records
from replicator.poller import Poller
from replicator.progress import Batch, Progress, Snapshot
from replicator.relations import Captured, DerivedRelation
from replicator.request import BackfillRequest
from replicator.source import PollSample
from replicator.takeover import _begin_epoch

SETTINGS = load(
    _env_file=None,
    source_dsn="postgresql://nowhere",
    kafka_bootstrap_servers="nowhere:1",
    mode="poll",
    poll_share=1,
    poll_clock_margin_s=0.00001,
    digest_keys_per_second=10**9,
)
MARGIN_US = 10
STAMPED = DerivedRelation(name="stamped", select="", key=("id",), inbox="inbox_id")
APPENDED = DerivedRelation(name="appended", select="", key=("id",), inbox="inbox_id", is_appended=True)
RELATIONS = {each.name: each for each in (STAMPED, APPENDED)}
KEYS = st.sampled_from([1, 511, 512])
PLACES = (1, 2, 3)
INBOXES = st.sampled_from([*PLACES, None, None])
"""None: the row is deleted."""


class Crash(Exception):
    """Of the replicator."""


class Row(NamedTuple):
    inbox: int
    stamp_us: int
    content: int


Name = tuple[str, int]
"""Relation and key."""


class Open(NamedTuple):
    """A transaction."""

    xid: int
    name: Name
    row: Row | None


class Database:
    """The source: what is committed, what is open; and a session on it, whose snapshot is of its first question."""

    def __init__(self) -> None:
        self.now_us = 1_000_000
        self.rows: dict[Name, Row] = {}
        self.changed_us: dict[Name, int] = {}
        self.open: list[Open] = []
        self.next_xid = 100
        self.ended = 99
        """The greatest xid that has ended."""
        self.meanwhile: list[Open] = []
        """To be committed before the next questions, one before each."""
        self.busy_s = 0.0
        self.connection: Any = SimpleNamespace(closed=False, broken=False)
        self._snapshot: tuple[dict[Name, Row], PollSample] | None = None

    def commit(self, transaction: Open) -> None:
        self.now_us += 1
        self.open.remove(transaction)
        self.ended = max(self.ended, transaction.xid)
        self.changed_us[transaction.name] = self.now_us
        if transaction.row is None:
            self.rows.pop(transaction.name, None)
        else:
            self.rows[transaction.name] = transaction.row
        self.now_us += 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        if self.meanwhile:
            self.commit(self.meanwhile.pop(0))
        self.now_us += 1
        xmax = self.ended + 1
        running = frozenset(each.xid for each in self.open if each.xid < xmax)
        snapshot = Snapshot(min(running, default=xmax), xmax, running)
        sample = PollSample(at_us=self.now_us, snapshot=snapshot, next_xid=self.next_xid, lsn=0)
        self._snapshot = dict(self.rows), sample
        yield
        self._snapshot = None

    def poll_sample(self) -> PollSample:
        assert self._snapshot is not None
        return self._snapshot[1]

    def of(self, derived: Any) -> dict[int, Row]:
        assert self._snapshot is not None
        name = derived.relation.name
        return {key: row for (relation, key), row in sorted(self._snapshot[0].items()) if relation == name}

    # what the statements answer

    def stamped_after(self, _: Any, derived: Any, after: Stamped, upto_us: int, most: int) -> list[Stamped]:
        found = sorted(Stamped(row.stamp_us, key) for key, row in self.of(derived).items())
        return [each for each in found if after < each and each.at <= upto_us][:most]

    def appended_after(self, _: Any, derived: Any, after: Stamped, upto: int, most: int) -> list[Stamped]:
        return [Stamped(key, key) for key in self.of(derived) if after.at < key <= upto][:most]

    def greatest_key(self, _: Any, derived: Any) -> int:
        return max(self.of(derived), default=-1)

    def keys_after(self, _: Any, derived: Any, inbox: int | None, after: Any, most: int) -> list[tuple[int]]:
        assert inbox is None
        return [(key,) for key in self.of(derived) if after is None or key > after[0]][:most]

    def read_hashes(self, _: Any, derived: Any, keys: Sequence[int]) -> list[Seen]:
        rows = self.of(derived)
        return [Seen(key, rows[key].inbox, hash(rows[key])) for key in keys if key in rows]


class Log:
    """Kafka: two topics, of which all that is acknowledged stays, and of the rest as much as it likes."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.target: dict[tuple[str, int, int], tuple[Position, Row | None]] = {}
        """(relation, key, inbox) → as a tenant of each inbox has it."""
        self.flying: dict[str, deque[tuple[Callable[[], None], Batch]]] = {"state": deque(), "changes": deque()}

    def send(self, _: str, __: int, key: bytes, value: bytes | None, ___: Any, batch: Batch) -> None:
        """Of the state topic: what `Memory` asks of a publisher."""
        name = key.decode()
        if value is None:
            self._add("state", lambda: self.state.pop(name, None), batch)
        else:
            self._add("state", lambda: self.state.__setitem__(name, orjson.loads(value)), batch)

    def put(self, relation: str, key: int, inbox: int, position: Position, row: Row | None, batch: Batch) -> None:
        def stored() -> None:
            before = self.target.get((relation, key, inbox))
            if before is None or before[0] < position or (row is None and before[0] == position):
                self.target[relation, key, inbox] = position, row

        self._add("changes", stored, batch)

    def put_everywhere(self, relation: str, key: int, position: Position, batch: Batch) -> None:
        for inbox in PLACES:
            self.put(relation, key, inbox, position, None, batch)

    def sweep(self, relations: Sequence[str], start: Position, batch: Batch) -> None:
        def swept() -> None:
            for name, (position, _) in self.target.items():
                if name[0] in relations and position < start:
                    self.target[name] = position, None

        self._add("changes", swept, batch)

    def _add(self, topic: str, stored: Callable[[], Any], batch: Batch) -> None:
        batch.sent += 1
        self.flying[topic].append((stored, batch))

    def store(self, topic: str, count: int | None = None) -> None:
        """So many of those on their way (None: all), in their order."""
        flying = self.flying[topic]
        for _ in range(len(flying) if count is None else min(count, len(flying))):
            stored, batch = flying.popleft()
            stored()
            batch.acknowledged += 1


class Outlet:
    """Of one run."""

    def __init__(self, log: Log, run: Run) -> None:
        self._log, self.run = log, run

    def derived_row(self, table: str, row: Any, read: int, _: Any, batch: Batch) -> None:
        position = Position(*self.run, 2 * read + 1)
        self._log.put(table, orjson.loads(row.key)[0], row.inbox, position, row.row, batch)

    def derived_absence(self, table: str, key: bytes, inbox: int | None, read: int, _: Any, batch: Batch) -> None:
        position, (number,) = Position(*self.run, 2 * read), orjson.loads(key)
        if inbox is None:
            self._log.put_everywhere(table, number, position, batch)
        else:
            self._log.put(table, number, inbox, position, None, batch)

    def marker(self, marker: Any, _: int, batch: Batch) -> None:
        if marker.boundary == "end":
            self._log.sweep(marker.tables, marker.start_read, batch)


class Life:
    """One run of the poller, without threads: whoever waits has Kafka acknowledge."""

    def __init__(self, database: Database, log: Log, run: Run, *, limit: int, begins: bool) -> None:
        self.log, self.dies_in = log, -1
        memory = Memory(log, Topics("t"), run, Records(log.state.items()))  # type: ignore[arg-type]
        batch, outlet = Batch(), Outlet(log, run)
        if begins:
            present: Any = SimpleNamespace(
                system_id="", timeline=1, slot="", published={}, mode="polling", generation=run.generation
            )
            _begin_epoch(memory, present, tuple(RELATIONS), 0, batch)
        log.store("state")
        captured = Captured(list(RELATIONS.values()), streamed={})
        self.digests = DigestMemory(limit, memory, self._wait_for)
        self.derivation = Derivation(
            captured,
            memory,
            outlet,  # type: ignore[arg-type]
            Progress(0),
            lambda table: None,
            lambda table: None,  # type: ignore[arg-type, return-value]
            lambda relation, reason, given: None,
            lambda relation, fan_out, given: None,
            self.digests,
            most_dirty=1000,
            fingerprints=0,
        )
        derivation: Any = self.derivation
        derivation._available = {name: SimpleNamespace(relation=relation) for name, relation in RELATIONS.items()}
        derivation._tables = {name: name for name in RELATIONS}
        nothing: Any = lambda *_: None  # noqa: E731
        agenda = Agenda(captured, memory, outlet, nothing, nothing, self.derivation)  # type: ignore[arg-type]
        self.marks = Marks(memory)
        self.poller = Poller(
            SETTINGS,
            SimpleNamespace(run=lambda call: call()),  # type: ignore[arg-type]
            agenda,
            self.derivation,
            self.digests,
            self.marks,
            lambda settled: SimpleNamespace(serve=self._read),  # type: ignore[arg-type, return-value]
            nothing,
            source=database,  # type: ignore[arg-type]
            start=Position(run.epoch, run.generation, 0),
            fresh_us=1000 * memory.records["confirmed"].get("fresh_ms", 0),
        )
        self.poller._wait = lambda seconds: self._wait_for(None)  # type: ignore[method-assign]

    def _read(self, source: Any) -> bool:
        reading = self.derivation.take(500, {})
        if reading is None:
            return False
        with source.reading():
            rows = source.of(self.derivation.derived(reading.relation))
        keys = [int(item.start[0]) for item in reading.items]  # type: ignore[arg-type]
        found = [
            SimpleNamespace(key=b"[%d]" % key, inbox=rows[key].inbox, row=rows[key]) for key in keys if key in rows
        ]
        seen = [Seen(key, rows[key].inbox, hash(rows[key])) for key in keys if key in rows]
        self.derivation.publish(reading, found, seen, 0)  # type: ignore[arg-type]
        return True

    def _wait_for(self, batch: Batch | None) -> None:
        if self.dies_in == 0:
            raise Crash
        self.dies_in -= 1
        self.log.store("state")
        self.log.store("changes")
        self.derivation.finish()


class NothingIsLost(RuleBasedStateMachine):
    """What was committed before the time up to which a relation is verified is what every tenant has."""

    @initialize(limit=st.sampled_from([8, 1000]), listed=st.sampled_from([2, 20_000]), most=st.sampled_from([2, 2000]))
    def begun(self, limit: int, listed: int, most: int) -> None:
        self.database, self.log, self.limit = Database(), Log(), limit
        self.run, self.content, self.sequence = Run(1, 1), 0, 0
        self.patch = pytest.MonkeyPatch()
        for name in ("stamped_after", "appended_after", "greatest_key"):
            self.patch.setattr(poller, name, getattr(self.database, name))
        self.patch.setattr(poller, "stamp_of", lambda derived: "updated_at")
        self.patch.setattr(poller, "expected_keys", lambda *_: 0)
        self.patch.setattr(poller, "CANDIDATES", most)
        self.patch.setattr(walk, "keys_after", self.database.keys_after)
        self.patch.setattr(walk, "LISTED", listed)
        self.patch.setattr(rolling_pass, "read_hashes", self.database.read_hashes)
        self.patch.setattr(rolling_pass, "IDLE_S", 0.0)
        self.begin(begins=True)
        self.look_around(8)

    def begin(self, *, begins: bool) -> None:
        self.life = Life(self.database, self.log, self.run, limit=self.limit, begins=begins)

    # --- the source

    @rule(key=KEYS, inbox=INBOXES, lag=st.integers(0, MARGIN_US - 5), stamps=st.booleans(), commits=st.booleans())
    def write(self, key: int, inbox: int | None, lag: int, stamps: bool, commits: bool) -> None:
        before = self.database.rows.get((STAMPED.name, key))
        stamp = self.database.now_us - lag if stamps or before is None else before.stamp_us
        self._write((STAMPED.name, key), inbox, stamp, commits)

    @precondition(lambda self: self.sequence < 600)
    @rule(inbox=INBOXES, commits=st.booleans(), step=st.sampled_from([1, 300]))
    def append(self, inbox: int | None, commits: bool, step: int) -> None:
        self.sequence += step
        self._write((APPENDED.name, self.sequence), inbox, 0, commits)

    @precondition(lambda self: self.sequence)
    @rule(data=st.data(), inbox=INBOXES)
    def edit(self, data: st.DataObject, inbox: int | None) -> None:
        keys = sorted(key for relation, key in self.database.rows if relation == APPENDED.name)
        if keys:
            self._write((APPENDED.name, data.draw(st.sampled_from(keys))), inbox, 0, commits=True)

    def _write(self, name: Name, inbox: int | None, stamp_us: int, commits: bool) -> None:
        if any(name == each.name for each in self.database.open):
            return
        self.content += 1
        row = Row(inbox, stamp_us, self.content) if inbox is not None else None
        transaction = Open(self.database.next_xid, name, row)
        self.database.next_xid += 1
        self.database.open.append(transaction)
        if commits:
            self.database.commit(transaction)

    @precondition(lambda self: self.database.open)
    @rule(data=st.data(), later=st.booleans())
    def commit(self, data: st.DataObject, later: bool) -> None:
        """Now, or in the middle of what the poller does next."""
        waiting = [each for each in self.database.open if each not in self.database.meanwhile]
        if waiting:
            transaction = data.draw(st.sampled_from(waiting))
            if later:
                self.database.meanwhile.append(transaction)
            else:
                self.database.commit(transaction)

    @rule(us=st.sampled_from([1, MARGIN_US, 100]))
    def pass_by(self, us: int) -> None:
        self.database.now_us += us

    # --- the replicator

    @rule(dies_in=st.sampled_from([-1, -1, -1, 0, 1, 2]))
    def poll(self, dies_in: int) -> None:
        self._do(lambda: self.life.poller._poll(self.database), dies_in)  # type: ignore[arg-type]

    @rule(steps=st.integers(1, 8), dies_in=st.sampled_from([-1, -1, -1, -1, 0, 1, 2, 5]))
    def go_on(self, steps: int, dies_in: int) -> None:
        """Pages of the backfill, or of the pass."""

        def go() -> None:
            for _ in range(steps):
                self.life.poller._go_on(self.database)  # type: ignore[arg-type]

        self._do(go, dies_in)

    @rule(pages=st.integers(1, 8))
    def look_around(self, pages: int) -> None:
        """Whatever was written is old enough to be found, and some pages are compared."""
        self.database.now_us += 100
        self.poll(-1)
        self.go_on(pages, -1)

    @rule()
    def rest(self) -> None:
        """Kafka takes all, and what rests is written down."""
        self.log.store("changes")
        self.log.store("state")
        self.life.marks.write_down()
        self.life.digests.write_down(at_once=True)

    def _do(self, call: Callable[[], None], dies_in: int) -> None:
        self.life.dies_in = dies_in
        try:
            call()
        except Crash:
            self._start_again(state=0, changes=0)
        self.life.dies_in = -1

    @rule(state=st.integers(0, 3), changes=st.integers(0, 3))
    def crash(self, state: int, changes: int) -> None:
        self._start_again(state, changes)

    def _start_again(self, state: int, changes: int) -> None:
        """Of what was on its way only so much was stored."""
        for topic, count in (("state", state), ("changes", changes)):
            self.log.store(topic, count)
            self.log.flying[topic].clear()
        self.run = Run(self.run.epoch, self.run.generation + 1)
        self.begin(begins=False)

    @rule(key=KEYS, inbox=INBOXES)
    def change_while_dead(self, key: int, inbox: int | None) -> None:
        """What was published just before is not written down."""
        self._start_again(state=0, changes=0)
        self.write(key, inbox, 0, stamps=True, commits=True)

    @rule(fresh=st.booleans())
    def switch(self, fresh: bool) -> None:
        """It was streamed for a while, and all of it published."""
        self.log.store("changes")
        self.log.store("state")
        position = Position(self.run.epoch + 1, 0, 0)
        self.log.target = {
            (relation, key, row.inbox): (position, row) for (relation, key), row in self.database.rows.items()
        }
        self.log.state["confirmed"] = {"lsn": 1, "fresh_ms": self.database.now_us // 1000 if fresh else 0}
        self.run = Run(self.run.epoch + 2, self.run.generation + 1)
        self.begin(begins=True)

    # --- what must hold

    @invariant()
    def all_that_is_verified_is_there(self) -> None:
        for name in RELATIONS:
            verified_us = self.log.state.get(f"poll/{name}", {}).get("verified_us", 0)
            if verified_us:
                self._compare(name, verified_us)

    def teardown(self) -> None:
        try:
            if hasattr(self, "life"):
                self._left_alone_it_finds_everything()
        finally:
            if hasattr(self, "patch"):
                self.patch.undo()

    def _left_alone_it_finds_everything(self) -> None:
        for transaction in list(self.database.open):
            self.database.commit(transaction)
        self.database.meanwhile.clear()
        changed_us = self.database.now_us
        for _ in range(200):
            self.database.now_us += 2 * MARGIN_US
            self.poll(-1)
            self.go_on(1, -1)
            self.rest()
            records = [self.log.state.get(f"poll/{name}", {}) for name in RELATIONS]
            if all(record.get("verified_us", 0) > changed_us for record in records):
                break
        else:
            raise AssertionError("it never ends")
        for name in RELATIONS:
            self._compare(name, self.database.now_us)

    def _compare(self, relation: str, verified_us: int) -> None:
        named = {key for name, key in self.database.changed_us if name == relation}
        for key in named:
            if self.database.changed_us[relation, key] < verified_us:
                row = self.database.rows.get((relation, key))
                for inbox in PLACES:
                    held = self.log.target.get((relation, key, inbox), (None, None))[1]
                    assert held == (row if row is not None and row.inbox == inbox else None), (relation, key, inbox)


TestNothingIsLost = NothingIsLost.TestCase
TestNothingIsLost.settings = settings(max_examples=400, stateful_step_count=25, deadline=None)


@pytest.fixture
def history() -> Iterator[NothingIsLost]:
    """One that is told, not drawn; at its end the poller is left alone, and must have found everything."""
    machine = NothingIsLost()
    machine.begun(limit=1000, listed=20_000, most=2000)
    yield machine
    machine.teardown()


@pytest.mark.parametrize("then", [None, 1, 3], ids=["goes", "returns", "moves on"])
@pytest.mark.parametrize("recorded", [False, True])
def test_what_had_just_been_published_when_the_poller_died(
    history: NothingIsLost, then: int | None, recorded: bool
) -> None:
    if recorded:
        history.write(511, 1, 0, stamps=True, commits=True)
        history.look_around(3)
        history.rest()
    history.write(511, 2, 0, stamps=True, commits=True)
    history.look_around(3)
    history.change_while_dead(511, then)


def test_a_row_that_comes_and_goes_while_the_source_is_read_for_the_first_time(history: NothingIsLost) -> None:
    """Its page had been listed before it came, and is read after it was published."""
    history.write(1, 1, 0, stamps=True, commits=True)
    history.write(512, 1, 0, stamps=True, commits=True)
    history.switch(fresh=False)
    history.database.now_us += 100
    history.poll(-1)
    history.go_on(1, -1)
    history.write(513, 2, 0, stamps=True, commits=True)
    history.database.now_us += 100
    history.poll(-1)
    history.write(513, None, 0, stamps=True, commits=True)


def test_the_newest_transaction_holds_the_bound_back_too(history: NothingIsLost) -> None:
    """No snapshot says that it runs: it is beyond the last that has ended."""
    history.look_around(8)
    history.write(1, 1, 0, stamps=True, commits=False)
    for _ in range(3):
        history.database.now_us += 100
        history.poll(-1)
    history.database.commit(history.database.open[0])
    history.poll(-1)
    history.rest()
    history._compare(STAMPED.name, history.database.now_us + 1)


def test_what_was_open_when_polling_began_is_waited_for(history: NothingIsLost) -> None:
    """Its stamp is older than what candidates begin with, so the first reading of all must see it."""
    history.switch(fresh=False)
    history.write(1, 1, 0, stamps=True, commits=False)
    for _ in range(3):
        history.database.now_us += 100
        history.poll(-1)
        history.go_on(1, -1)
    assert history.log.state[f"backfill/{of_epoch(history.run.epoch)}"]["start"] is None
    history.database.commit(history.database.open[0])
    history.poll(-1)
    history.go_on(8, -1)
    history.rest()
    assert f"backfill/{of_epoch(history.run.epoch)}" not in history.log.state
    history._compare(STAMPED.name, history.database.now_us + 1)


def test_a_pass_goes_on_where_an_earlier_run_has_left_it(history: NothingIsLost) -> None:
    """Else one that takes longer than any run would never end."""
    for key in (1, 512, 1025, 2000):
        history.write(key, 1, 0, stamps=True, commits=True)
    history.look_around(30)
    history.rest()
    verified_us = history.log.state[f"poll/{STAMPED.name}"]["verified_us"]
    history.write(2000, None, 0, stamps=False, commits=True)
    for _ in range(10):
        history.poll(-1)
        history.go_on(1, -1)
        history.rest()
        history.log.store("state")
        history.change_while_dead(1, 2)
    assert history.log.state[f"poll/{STAMPED.name}"]["verified_us"] > verified_us
    assert history.log.target[STAMPED.name, 2000, 1][1] is None


def test_a_pass_that_a_later_time_began_is_not_gone_on_with(history: NothingIsLost) -> None:
    """What is read now may be a standby that is further behind: keys on the way were compared with another's."""
    history.write(2000, 1, 0, stamps=True, commits=True)
    history.look_around(30)
    history.rest()
    began_us = history.database.now_us + 1_000_000
    history.log.state[f"poll/{STAMPED.name}"]["walked"] = {"began_us": began_us, "after": 5000}
    history.change_while_dead(2000, None)
    history.database.now_us += 100
    history.poll(-1)
    history.go_on(1, -1)
    history.rest()
    assert history.log.state[f"poll/{STAMPED.name}"]["verified_us"] < began_us


def test_what_never_ends_is_not_waited_for_for_ever(history: NothingIsLost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared transaction that everybody has forgotten; if it does end, the rolling pass finds it."""
    history.switch(fresh=False)
    history.write(1, 1, 0, stamps=True, commits=False)
    history.database.now_us += 100
    history.poll(-1)
    history.go_on(1, -1)
    record = f"backfill/{of_epoch(history.run.epoch)}"
    assert history.log.state[record]["start"] is None
    monkeypatch.setattr(poller, "PATIENCE_S", 0.0)
    history.go_on(8, -1)
    history.rest()
    assert record not in history.log.state


def test_a_backfill_that_can_not_go_on_lets_others_pass(
    history: NothingIsLost, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller, agenda = history.life.poller, history.life.poller._agenda
    for name in ("a", "b"):
        agenda.request(BackfillRequest(id=name, tables=(STAMPED.name,), inboxes=(ord(name),)), Batch())
    tried: list[str] = []

    def refuse(_: object, job: BackfillJob) -> None:
        tried.append(job.id)
        raise SourceUnavailable("too slow to be listed")

    for name in ("_has_begun", "_may_begin"):
        monkeypatch.setattr(poller, name, lambda: True)
    monkeypatch.setattr(poller, "_read_next", refuse)
    while len(tried) < 3:
        with suppress(SourceUnavailable):
            poller._go_on(history.database)  # type: ignore[arg-type]
    assert tried == ["a", "b", "a"]
    agenda.jobs.clear()  # no session lists the keys of an inbox here
