"""Which derived relations are read as a whole when their definitions are installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator import derivation
from replicator import reader as reader_module
from replicator.causes import WHOLE, Cause
from replicator.changes import RenderedRow
from replicator.derivation import Derivation
from replicator.derived import Derived
from replicator.dirty import FIRST_RETRY_S, OWE_S
from replicator.errors import SourceRefused
from replicator.event import Run
from replicator.lineage import Catalog, Lineage
from replicator.outlet import Outlet
from replicator.pgoutput import Column
from replicator.progress import Batch, Progress, Snapshot
from replicator.reader import Reader
from replicator.readings import KEY
from replicator.relations import Captured, DerivedRelation
from tests.unit.test_changes import ORIGIN

INT8 = 20
MOST_DIRTY = 10
PEOPLE = DerivedRelation(name="people", select="SELECT * FROM p", key=("id",), inbox="inbox_id")


def derived(digest: str) -> Derived:
    return Derived(
        relation=PEOPLE,
        catalog=Catalog(tables={}, views={}, search_path=("public",), functions=frozenset()),
        lineage=Lineage(key=("id",), outputs=("id", "inbox_id"), sources={}, clock={}, unstable={}),
        columns=(Column("id", INT8, -1, False), Column("inbox_id", INT8, -1, False)),
        type_names={(INT8, -1): "bigint"},
        digest=digest,
    )


@dataclass
class Remembering:
    """Stands for Memory: what a later run finds."""

    records: dict[str, Any] = field(default_factory=dict)
    acknowledges: bool = True
    unanswered: list[Batch] = field(default_factory=list)

    def write(self, key: str, content: dict[str, Any], batch: Batch) -> None:
        self.records[key] = content
        if not self.acknowledges:
            batch.sent += 1
            self.unanswered.append(batch)

    def answer(self) -> None:
        """Acknowledges what was written."""
        for batch in self.unanswered:
            batch.acknowledged += 1
        self.unanswered.clear()

    def forget(self, key: str, batch: Batch) -> None:
        self.records.pop(key, None)

    def under(self, prefix: str) -> dict[str, Any]:
        return {key: content for key, content in self.records.items() if key.startswith(prefix)}


class Runs:
    """One after another, with one memory."""

    def __init__(self) -> None:
        self.memory = Remembering()
        self.whole: list[str] = []

    def begin(self, found: dict[str, Derived | str], progress: Progress | None = None) -> Derivation:
        run = Derivation(
            Captured([PEOPLE]),
            cast(Any, self.memory),
            cast(Outlet, None),
            progress or Progress(0),
            lambda _: None,
            lambda _: ORIGIN,
            lambda relation, reason, batch: self.whole.append(relation),
            lambda relation, fan_out, batch: None,
            most_dirty=MOST_DIRTY,
            fingerprints=10,
        )
        run.install(found, {})
        return run

    def read_whole(self) -> bool:
        """Since it was asked last."""
        found, self.whole = bool(self.whole), []
        return found


@pytest.fixture
def runs() -> Runs:
    """After a first one that has read the relation."""
    runs = Runs()
    runs.begin({"people": derived("a")})
    assert runs.read_whole()
    return runs


def test_a_relation_that_is_as_it_was_is_not_read_again(runs: Runs) -> None:
    runs.begin({"people": derived("a")})
    assert not runs.read_whole()
    runs.begin({"people": derived("b")})
    assert runs.read_whole()


def test_a_relation_that_was_away_when_the_run_began_is_read_as_a_whole_when_it_returns(runs: Runs) -> None:
    run = runs.begin({"people": "it is away"})
    assert not runs.read_whole()
    run.install({"people": derived("a")}, {})
    assert runs.read_whole()


def test_it_is_read_as_a_whole_also_if_it_returns_in_a_later_run(runs: Runs) -> None:
    runs.begin({"people": "it is away"})
    runs.begin({"people": "it is away"})
    assert not runs.read_whole()
    runs.begin({"people": derived("a")})
    assert runs.read_whole()
    runs.begin({"people": derived("a")})
    assert not runs.read_whole()


def test_a_relation_that_a_run_did_not_ask_for_is_read_as_a_whole_later(runs: Runs) -> None:
    runs.begin({})
    runs.begin({"people": derived("a")})
    assert runs.read_whole()


def test_a_key_that_an_earlier_run_owes_is_unread_until_its_rows_are_acknowledged() -> None:
    runs = Runs()
    assert runs.begin({}).unread_inboxes("people") == frozenset()
    record = {"relation": "people", "path": "", "start": [7], "inboxes": [1, 2]}
    runs.memory.records["dirty/people//[7]"] = record
    assert runs.begin({}).unread_inboxes("people") == {1, 2}
    runs.memory.records["dirty/people//[8]"] = record | {"start": [8], "inboxes": []}
    assert runs.begin({}).unread_inboxes("people") is None, "it may belong anywhere"


def test_what_is_owed_of_a_key_says_the_inboxes_of_all_that_wait_for_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was touched again while it was read, and both wait for long: they have one record."""
    now = 100.0
    monkeypatch.setattr(derivation, "time", SimpleNamespace(monotonic=lambda: now))
    run = runs.begin({"people": derived("a")})
    for lsn, inbox in ((30, 1), (40, 2)):
        run.begin_transaction()
        run.touch([Cause("people", KEY, (7,), (inbox,))], lsn)
        run.end_transaction(lsn)
        now += 1.0
        assert run.take(10, {}) is not None
    run.write_down()
    now += OWE_S
    run.write_down()
    assert runs.begin({"people": derived("a")}).unread_inboxes("people") == {1, 2}


def delivered(run: Derivation, lsn: int, *causes: Cause) -> None:
    """One transaction."""
    run.begin_transaction()
    run.touch(causes, lsn)
    run.end_transaction(lsn)


def read_all(run: Derivation, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> None:
    """What is due, and each part of it, by the reading thread. `failure`: what becomes of each reading."""
    reader = Reader(
        *cast(Any, (None, None, SimpleNamespace(run=lambda call: call()), run, None, None, None)),
        known=cast(Any, None),
        hashed=False,
    )

    def read(*_: object) -> Any:
        raise failure or AssertionError("it can't be read")

    monkeypatch.setattr(reader, "_read_settled", read)
    while (reading := run.take(10, {})) is not None:
        reader.read(cast(Any, SimpleNamespace(connection=SimpleNamespace(broken=False))), reading)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        derivation, "time", SimpleNamespace(monotonic=lambda: clock.now, time_ns=lambda: int(clock.now * 1e9))
    )

    def passed(seconds: float) -> None:
        clock.now += seconds

    return passed


def test_what_is_read_as_a_whole_sees_the_transaction_that_is_being_delivered(
    runs: Runs, later: Callable[[float], None]
) -> None:
    """Its changes may be what had the relation given up, and nobody else reads them."""
    progress = Progress(0)
    run = runs.begin({"people": derived("a")}, progress)
    progress.begun(6)
    progress.committed(6, 20, 25)
    progress.begun(7)
    run.begin_transaction()
    run.touch([Cause("people", WHOLE, (), ())], 30)
    assert runs.read_whole()
    run.errand("people", [((1,), frozenset())])
    reading = run.take(10, {})
    assert reading is not None
    assert reading.unsettled == (6, 7)
    progress.committed(7, 30, 35)
    progress.settle(Snapshot(9, 9, frozenset()))
    assert run.to_be_seen == ()


def test_a_key_that_fails_is_written_down_before_who_asked_for_it_goes_on(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a crash would leave a backfill that is beyond a key which nobody has read."""
    run = runs.begin({"people": derived("a")})
    run.ask("people", [(8,)], 1)
    errand = run.errand("people", [((7,), frozenset({1})), ((8,), frozenset({2}))])
    run.finish()
    assert not errand.complete
    later(0.1)
    runs.memory.acknowledges = False
    read_all(run, monkeypatch, SourceRefused("22003"))
    run.finish()
    assert not errand.complete
    runs.memory.answer()
    run.finish()
    assert errand.complete
    assert runs.begin({"people": derived("a")}).unread_inboxes("people") == {1, 2}
    assert runs.memory.records["dirty/people//[8]"]["inboxes"] == [1, 2], "what had been asked for is owed too"


def test_a_key_that_could_not_be_read_is_spared_until_it_can(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it is tried again, or due again, and in a later run."""
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, Cause("people", KEY, (7,), (1,)), Cause("people", "inboxes(id) 1234abcd", (5,), (1,)))
    monkeypatch.setattr(Derived, "has_path", lambda *_: True)
    later(1.0)
    read_all(run, monkeypatch, SourceRefused("22003"))
    assert run.spared("people") == (7,)
    later(FIRST_RETRY_S)
    assert run.take(10, {}) is not None
    assert run.spared("people") == (7,)
    assert run.take(10, {}) is not None
    read_all(run, monkeypatch, SourceRefused("22003"))
    later_run = runs.begin({"people": derived("a")})
    assert later_run.spared("people") == (7,)
    delivered(later_run, 40, Cause("people", KEY, (7,), (1,)), Cause("people", KEY, (8,), (1,)))
    assert later_run.spared("people") == (7,)


@pytest.fixture
def unread(runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> Derivation:
    """A run with a key that could not be read, 7, and one that can be, 8."""
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, Cause("people", KEY, (7,), (1,)))
    later(1.0)
    read_all(run, monkeypatch, SourceRefused("22003"))
    delivered(run, 40, Cause("people", KEY, (8,), (1,)))
    return run


@pytest.mark.parametrize("again", ["failed", "due again", "being read"])
def test_a_key_that_could_not_be_read_is_spared_also_once_its_relation_is_read_as_a_whole(
    runs: Runs, unread: Derivation, later: Callable[[float], None], again: str
) -> None:
    """A backfill that is under way has come upon it already, and ends before the whole is read again."""
    if again == "due again":
        delivered(unread, 50, Cause("people", KEY, (7,), (2,)))
    if again == "being read":
        later(FIRST_RETRY_S)
        assert unread.take(1, {}) is not None
        assert unread.take(1, {}) is not None
    delivered(unread, 60, Cause("people", WHOLE, (), ()))
    assert runs.read_whole()
    assert unread.spared("people") == (7,)
    assert runs.begin({"people": derived("a")}).spared("people") == (7,)
    assert list(runs.memory.under("dirty/")) == ["dirty/people//[7]"], "what is read as a whole is owed no more"


def test_a_key_that_could_not_be_read_is_spared_while_its_relation_is_away_and_when_it_is_another(
    runs: Runs, unread: Derivation, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later(FIRST_RETRY_S)
    reading = unread.take(1, {})
    assert reading is not None
    unread.install({"people": "it is away"}, {})
    read_all(unread, monkeypatch)
    unread.put_back(reading, 1.0)
    unread.finish()
    assert unread.spared("people") == (7,)
    away = runs.begin({"people": "it is away"})
    assert away.spared("people") == (7,)
    away.install({"people": derived("b")}, {})
    assert away.spared("people") == (7,)
    assert runs.begin({"people": derived("c")}).spared("people") == (7,)


def test_a_key_that_could_not_be_read_is_tried_at_once_by_another_definition(
    runs: Runs, unread: Derivation, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.memory.acknowledges = False
    monkeypatch.setattr(derivation, "MOST_FAILED", 1)
    assert not unread.can_read("people")
    unread.install({"people": derived("b")}, {})
    assert unread.can_read("people")
    later(1.0)
    reading = unread.take(10, {})
    assert reading is not None
    assert [item.start for item in reading.items] == [(7,)]
    assert unread.hold() == 40, "that it is read as a whole is not durable yet"
    runs.memory.answer()
    assert unread.hold() is None


def test_a_record_that_is_still_on_its_way_does_not_let_the_slot_go_when_its_relation_returns(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.memory.acknowledges = False
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, Cause("people", KEY, (7,), (1,)))
    later(1.0)
    read_all(run, monkeypatch, SourceRefused("22003"))
    run.install({"people": "it is away"}, {})
    run.install({"people": derived("a")}, {})
    assert run.hold() == 30
    runs.memory.answer()
    assert run.hold() is None


def test_a_relation_that_can_not_be_read_holds_up_no_heartbeat(
    runs: Runs, unread: Derivation, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later(1.0)
    assert not unread.is_done(200.0), "8 is due"
    monkeypatch.setattr(derivation, "MOST_FAILED", 1)
    assert unread.is_done(200.0)


def test_a_broken_relation_heals_once_what_failed_can_be_read(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derivation, "MOST_FAILED", 2)
    monkeypatch.setattr(reader_module, "MOST_FAILED", 2)
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, *(Cause("people", KEY, (key,), (1,)) for key in (1, 2, 3)))
    later(1.0)
    read_all(run, monkeypatch, SourceRefused("22003"))
    assert run.failed("people") == 2
    assert not run.can_read("people")
    run._outlet = cast(Outlet, SimpleNamespace(run=Run(5, 1000), derived_absence=lambda *_: None))
    read: list[tuple[object, ...]] = []
    for _ in range(100):
        later(FIRST_RETRY_S)
        while (reading := run.take(10, {})) is not None:
            read += [item.start for item in reading.items]
            run.publish(reading, [], [], 35)
            run.finish()
    assert sorted(read) == [(1,), (2,), (3,)]
    assert run.can_read("people")
    assert not runs.memory.under("dirty/")


def test_a_key_that_failed_is_spared_no_more_once_a_backfill_has_read_it(
    runs: Runs, unread: Derivation, later: Callable[[float], None]
) -> None:
    """Its copy elsewhere is the sweep's; where it had been expected its absence is said."""
    said: list[object] = []
    unread._outlet = cast(
        Outlet,
        SimpleNamespace(
            run=Run(5, 1000),
            derived_row=lambda table, row, *_: said.append(("row", row.inbox)),
            derived_absence=lambda table, key, inbox, *_: said.append(("absence", inbox)),
        ),
    )
    delivered(unread, 60, Cause("people", WHOLE, (), ()))
    errand = unread.errand("people", [((7,), frozenset())])
    reading = unread.take(10, {})
    assert reading is not None
    assert reading.errand is errand
    unread.publish(reading, [RenderedRow(b"[7]", 2, b"{}", b"")], [], 65)
    unread.finish()
    assert said == [("row", 2), ("absence", 1)]
    assert errand.complete
    assert unread.spared("people") == ()
    assert not runs.memory.under("dirty/")
    later(FIRST_RETRY_S)
    assert unread.take(10, {}) is None


def test_keys_that_the_relation_can_not_have_are_not_asked_of_the_source(
    runs: Runs, later: Callable[[float], None]
) -> None:
    """They would fail for ever, and no sweep could be told of them."""
    run = runs.begin({"people": derived("a")})
    run.ask("people", [(1 << 63,), ("7",), (7, 8), (True,), ((1 << 63) - 1,)], 1)  # type: ignore[list-item]
    later(1.0)
    reading = run.take(10, {})
    assert reading is not None
    assert [item.start for item in reading.items] == [((1 << 63) - 1,)]


def test_rows_stand_where_their_reading_was_taken_not_where_they_are_published(
    runs: Runs, later: Callable[[float], None]
) -> None:
    """Of a backfill that begins in between, which may have seen that they are gone, the sweep takes them."""
    run, said = runs.begin({"people": derived("a")}), []
    run._outlet = cast(
        Outlet,
        SimpleNamespace(run=Run(5, 1000), derived_absence=lambda table, key, inbox, read, *_: said.append(2 * read)),
    )
    positions = []
    for key in (7, 8):
        delivered(run, 30 + key, Cause("people", KEY, (key,), (1,)))
        later(1.0)
        reading = run.take(10, {})
        assert reading is not None
        positions.append((reading, run.next_position()))
    for reading, _ in positions:
        run.publish(reading, [], [], 35)
    ordinals = [position.ordinal for _, position in positions]
    assert said[0] == said[1] < ordinals[0] <= said[2] == said[3] < ordinals[1]


def test_starts_that_lead_to_more_keys_than_are_remembered_have_their_relation_read_as_a_whole(
    runs: Runs, later: Callable[[float], None]
) -> None:
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, *(Cause("people", "inboxes(id) 1234abcd", (n,), (1,)) for n in range(MOST_DIRTY)))
    later(1.0)
    assert not runs.read_whole()
    for n in range(MOST_DIRTY):
        reading = run.take(1, {})
        if reading is None or reading.path == KEY:
            break
        run.looked_up(reading, [(key,) for key in range(100 * n, 100 * n + 5)])
        run.finish()
    assert runs.read_whole()
    assert run.take(10, {}) is None
    assert run.hold() is None


def test_what_was_being_read_of_a_relation_that_is_gone_holds_up_nothing(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a reading that failed because it is gone: heartbeats would wait for them until it returns."""
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, *(Cause("people", KEY, (key,), (1,)) for key in range(4)))
    later(1.0)
    reading = run.take(10, {})
    assert reading is not None
    run.split(reading)
    run.install({"people": "it is away"}, {})
    errand = run.errand("people", [((9,), frozenset())])
    assert run.is_done(100.0)
    read_all(run, monkeypatch)
    run.finish()
    assert run.hold() is None
    assert not errand.complete, "a backfill would go on without its keys"


def test_a_relation_of_which_too_much_fails_is_left_alone_by_backfills_until_it_heals(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.begin({"people": derived("a")})
    monkeypatch.setattr(derivation, "MOST_FAILED", 2)
    for key, expected in ((1, True), (2, False)):
        delivered(run, 30, Cause("people", KEY, (key,), (1,)))
        later(1.0)
        read_all(run, monkeypatch, SourceRefused("22003"))
        assert run.can_read("people") is expected
    assert run.can_read("messages")
    later(FIRST_RETRY_S)
    assert run.take(10, {}) is not None
    assert run.can_read("people")


def test_starts_whose_path_is_gone_have_their_relation_read_as_a_whole(
    runs: Runs, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unique index that comes or goes makes other paths of the same definition."""
    run = runs.begin({"people": derived("a")})
    delivered(run, 30, Cause("people", "inboxes(id) 1234abcd", (7,), (1,)))
    later(1.0)
    assert not runs.read_whole()
    read_all(run, monkeypatch)
    assert runs.read_whole()
    run.finish()
    assert run.hold() is None
