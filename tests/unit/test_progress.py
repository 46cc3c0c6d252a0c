"""Invariant 1: the confirmed LSN never passes what is not settled or not acknowledged, and only grows."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from replicator.progress import Batch, Progress, Snapshot

XID_SPACE = 1 << 32


def seeing(*, but: frozenset[int] = frozenset(), xmax: int = 1_000_000) -> Snapshot:
    return Snapshot(min(but, default=xmax), xmax, but)


def test_a_snapshot_is_read_as_postgres_prints_it() -> None:
    assert Snapshot.parse("10:20:10,14,15") == Snapshot(10, 20, frozenset({10, 14, 15}))
    assert Snapshot.parse("795:795:") == Snapshot(795, 795, frozenset())


@pytest.mark.parametrize("text", ["", "10:20", "10:20:30:40", "a:20:", "10:20:x", "10:20:,"])
def test_what_is_no_snapshot_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Snapshot.parse(text)


def test_a_snapshot_sees_what_had_ended() -> None:
    snapshot = Snapshot.parse("10:20:10,14")
    assert {xid for xid in range(5, 25) if snapshot.sees(xid)} == {*range(5, 10), 11, 12, 13, *range(15, 20)}


@pytest.mark.parametrize("epoch", [1, 2, 4096])
@pytest.mark.parametrize(("offset", "distance"), [(5, -8), (5, -5), (5, -6), (0, -1), (0, 0), (-5, 8), (-5, -3)])
def test_xids_are_widened_across_the_wraparound(epoch: int, offset: int, distance: int) -> None:
    """xmax on one side of a multiple of 2**32, the transaction on the same side or the other."""
    xmax = epoch * XID_SPACE + offset
    full = xmax + distance
    assert Snapshot(xmax, xmax, frozenset()).widen(full % XID_SPACE) == full


@given(xmax=st.integers(XID_SPACE, 1 << 50), distance=st.integers(1 - (1 << 31), (1 << 31) - 1))
def test_widening_finds_any_transaction_less_than_2_to_31_away(xmax: int, distance: int) -> None:
    """PostgreSQL itself lets no two living xids be further apart."""
    assert Snapshot(xmax, xmax, frozenset()).widen((xmax + distance) % XID_SPACE) == xmax + distance


def test_a_commit_before_the_wraparound_is_seen_after_it_and_a_later_one_is_not() -> None:
    snapshot = Snapshot(2 * XID_SPACE - 2, 2 * XID_SPACE + 3, frozenset({2 * XID_SPACE - 2, 2 * XID_SPACE + 1}))
    assert snapshot.sees(XID_SPACE - 3)
    assert not snapshot.sees(XID_SPACE - 2)  # running
    assert snapshot.sees(XID_SPACE - 1)
    assert not snapshot.sees(1)  # running
    assert snapshot.sees(2)
    assert not snapshot.sees(3)  # not begun


def test_nothing_is_confirmed_before_its_acknowledgement() -> None:
    progress = Progress(100)
    batch = progress.batch
    batch.sent = 2
    progress.committed(7, 150, 160)
    progress.seal()
    progress.settle(seeing())
    batch.acknowledged = 1
    assert progress.confirm() == 100
    batch.acknowledged = 2
    assert progress.confirm() == 160


def test_an_acknowledged_transaction_that_is_not_settled_would_be_sent_again() -> None:
    """The confirmed LSN does not pass its commit record: the server sends what commits at or after that LSN."""
    progress = Progress(100)
    progress.committed(7, 150, 160)
    progress.committed(8, 170, 180)
    progress.seal()
    progress.settle(seeing(but=frozenset({8})))
    assert progress.confirm() == 170
    progress.settle(seeing())
    assert progress.confirm() == 180


def test_a_younger_transaction_settles_without_the_older_but_confirms_nothing() -> None:
    progress = Progress(100)
    progress.committed(7, 150, 160)
    progress.committed(8, 170, 180)
    progress.seal()
    progress.settle(seeing(but=frozenset({7})))
    assert progress.unsettled == (7,)
    assert progress.confirm() == 150


def test_a_transaction_over_many_batches_is_confirmed_with_its_last_event() -> None:
    progress = Progress(100)
    batches: list[Batch] = []
    for _ in range(5):
        batches.append(progress.batch)
        progress.batch.sent = 10
        progress.seal()
    batches.append(progress.batch)
    progress.batch.sent = 1
    progress.committed(7, 900, 910)
    progress.seal()
    progress.settle(seeing())
    for batch in reversed(batches[1:]):
        batch.acknowledged = batch.sent
        assert progress.confirm() == 100
    batches[0].acknowledged = 10
    assert progress.confirm() == 910


def test_the_head_of_the_next_transaction_holds_only_itself() -> None:
    progress = Progress(100)
    progress.committed(7, 150, 160)
    progress.settle(seeing())
    first = progress.batch
    progress.seal()
    progress.batch.sent = 3
    progress.seal()
    assert first.complete
    assert progress.confirm() == 160


def test_an_idle_keepalive_confirms() -> None:
    progress = Progress(100)
    progress.idle_at(500)
    assert progress.confirm() == 500
    progress.idle_at(400)
    assert progress.confirm() == 500


@pytest.mark.parametrize("seal", [True, False])
def test_a_keepalive_confirms_nothing_while_an_event_is_in_flight(seal: bool) -> None:
    progress = Progress(100)
    batch = progress.batch
    batch.sent = 1
    if seal:
        progress.seal()
    progress.idle_at(500)
    assert progress.confirm() == 100
    batch.acknowledged = 1
    progress.idle_at(500)
    assert progress.confirm() == 500


def test_a_keepalive_confirms_nothing_while_a_transaction_is_unsettled() -> None:
    progress = Progress(100)
    progress.committed(7, 150, 160)
    progress.seal()
    progress.idle_at(500)
    assert progress.confirm() == 150
    progress.settle(seeing())
    progress.idle_at(500)
    assert progress.confirm() == 500


def test_a_dirtied_row_that_is_not_published_holds_what_is_acknowledged_and_settled() -> None:
    progress = Progress(100)
    progress.committed(5, 110, 120)
    progress.seal()
    progress.settle(seeing())
    assert progress.confirm(dirty=110) == 110
    assert progress.confirm(dirty=None) == 120
    progress.idle_at(300)
    assert progress.confirm(dirty=None) == 300


def test_sealing_an_empty_batch_keeps_it() -> None:
    progress = Progress(0)
    batch = progress.batch
    progress.seal()
    assert progress.batch is batch


@dataclass
class Sent:
    """The model's transaction: which batches its events are in, and what it waits for."""

    xid: int
    commit_lsn: int
    end_lsn: int
    unacknowledged: list[Batch] = field(default_factory=list)
    settled: bool = False


class Streaming(RuleBasedStateMachine):
    """Random transactions, acknowledgements in any order and snapshots, against the rule in its simplest words."""

    def __init__(self) -> None:
        super().__init__()
        self.xid = XID_SPACE - 20  # a long run wraps around
        self.lsn = 1_000
        self.progress = Progress(self.lsn)
        self.confirmed = self.lsn
        self.begun: list[Batch] = []
        self.batches: list[Batch] = []
        self.transactions: list[Sent] = []

    @rule(events=st.integers(1, 4))
    def send(self, events: int) -> None:
        batch = self.progress.batch
        batch.sent += events
        if batch not in self.begun:
            self.begun.append(batch)
        if batch not in self.batches:
            self.batches.append(batch)

    @rule(length=st.integers(1, 50))
    def commit(self, length: int) -> None:
        self.xid += 1
        sent = Sent(self.xid, self.lsn + length, self.lsn + length + 8, self.begun)
        self.begun = []
        self.lsn = sent.end_lsn
        self.transactions.append(sent)
        self.progress.committed(sent.xid % XID_SPACE, sent.commit_lsn, sent.end_lsn)
        self.note_acknowledged()

    @rule()
    def seal(self) -> None:
        self.progress.seal()

    @precondition(lambda self: any(not batch.complete for batch in self.batches))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from([each for each in self.batches if not each.complete]))
        batch.acknowledged += data.draw(st.integers(1, batch.sent - batch.acknowledged))
        self.note_acknowledged()

    def note_acknowledged(self) -> None:
        """Once a batch was complete, what it held by then is acknowledged, whatever is added later."""
        for sent in self.transactions:
            sent.unacknowledged = [batch for batch in sent.unacknowledged if not batch.complete]

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        waiting = [sent.xid for sent in self.transactions if not sent.settled]
        running = frozenset(data.draw(st.sets(st.sampled_from(waiting)))) if waiting else frozenset()
        for sent in self.transactions:
            sent.settled = sent.settled or sent.xid not in running
        self.progress.settle(Snapshot(min(running, default=self.xid + 1), self.xid + 1, running))

    @precondition(lambda self: not self.begun)
    @rule(length=st.integers(0, 50))
    def keepalive(self, length: int) -> None:
        self.lsn += length
        self.progress.idle_at(self.lsn)

    @rule()
    def confirm(self) -> None:
        confirmed = self.progress.confirm()
        assert self.confirmed <= confirmed <= self.lsn
        self.confirmed = confirmed

    @invariant()
    def nothing_is_passed_that_would_be_missed(self) -> None:
        for sent in self.transactions:
            if sent.unacknowledged or not sent.settled:
                assert self.confirmed <= sent.commit_lsn

    @invariant()
    def the_unsettled_are_known_in_order(self) -> None:
        waiting = tuple(sent.xid % XID_SPACE for sent in self.transactions if not sent.settled)
        assert self.progress.unsettled == waiting

    def teardown(self) -> None:
        """Nothing is held for ever: what is acknowledged and settled is confirmed to its end."""
        if self.begun:
            self.commit(1)
        self.progress.seal()
        for batch in self.batches:
            batch.acknowledged = batch.sent
        self.progress.settle(seeing(xmax=self.xid + 1))
        ends = [sent.end_lsn for sent in self.transactions]
        assert self.progress.idle
        assert self.progress.confirm() >= max(ends, default=0)


class TestStreaming(Streaming.TestCase):  # type: ignore[valid-type,misc]  # Hypothesis makes it
    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
