"""A key that was dirtied is read in a later snapshot, and holds the slot until that is acknowledged or owed."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicator.dirty import COALESCE_S, FIRST_RETRY_S, LONGEST_S, OWE_S, DirtyKeys
from replicator.progress import Batch
from replicator.readings import KEY, Errand, Item, Reading

VIEW, LOOKUP = "view", "contacts(id)"


def acknowledged() -> Batch:
    return Batch()


def unacknowledged() -> Batch:
    batch = Batch()
    batch.sent = 1
    return batch


class At:
    """A set, and the time."""

    def __init__(self, limit: int = 1000) -> None:
        self.dirty = DirtyKeys(limit)
        self.now = 100.0
        self.whole = True

    def touch(self, key: int, lsn: int = 1, inboxes: tuple[int, ...] = (1,), path: str = KEY) -> Item:
        return self.dirty.touch(VIEW, path, (key,), inboxes, lsn, self.now)

    def take(self, most: int = 100) -> list[int]:
        reading = self.reading(most)
        return [] if reading is None else [item.start[0] for item in reading.items]  # type: ignore[misc]

    def reading(self, most: int = 100) -> Reading | None:
        return self.dirty.take(self.now, most, (), whole=self.whole)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def overdue(self) -> list[Item]:
        return [item for *_, item in self.dirty.overdue(self.now)]

    def finish(self, reading: Reading, batch: Batch | None = None) -> list[Item]:
        self.dirty.published(reading, batch or acknowledged(), 0, 0)
        return [item for _, _, item in self.dirty.finish()]


def test_changes_of_one_key_are_read_once_when_they_have_stopped() -> None:
    at = At()
    for _ in range(3):
        at.touch(7, inboxes=(at.dirty.transaction,))
        at.dirty.transaction += 1
        assert at.take() == []
        at.wait(COALESCE_S / 2)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    assert [(item.start, item.inboxes) for item in reading.items] == [((7,), {0, 1, 2})]
    assert at.take() == []


def test_a_key_that_never_rests_is_read_all_the_same() -> None:
    at = At()
    began = at.now
    while not at.take():
        at.touch(7)
        at.wait(COALESCE_S / 2)
        assert at.now - began <= LONGEST_S + COALESCE_S


def test_a_key_of_a_half_delivered_transaction_waits_and_others_do_not() -> None:
    at = At()
    at.dirty.transaction = 1
    at.touch(1)
    at.dirty.transaction = 2
    at.whole = False
    at.touch(2)
    at.wait(LONGEST_S)
    assert at.take() == [1]
    assert at.take() == []
    at.whole = True
    assert at.take() == [2]


def test_what_comes_back_to_keys_of_a_half_delivered_transaction_is_read_before_its_end() -> None:
    at = At()
    at.touch(1)
    at.touch(9, path=LOOKUP)
    at.wait(COALESCE_S)
    key, start = at.reading(), at.reading()
    assert key is not None
    assert start is not None
    at.dirty.transaction += 1
    at.whole = False
    at.touch(2)
    at.wait(LONGEST_S)
    assert at.take() == []
    at.dirty.put_back(key, at.now)
    assert [at.take(), at.take()] == [[1], []]
    at.dirty.looked_up(start, [(3,)], at.now)
    assert [at.take(), at.take()] == [[3], []]
    at.whole = True
    assert at.take() == [2]


def test_the_slot_is_held_at_the_first_commit_until_the_rows_are_acknowledged() -> None:
    at = At()
    at.touch(1, lsn=30)
    at.touch(1, lsn=50)
    at.touch(2, lsn=40)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    assert at.dirty.hold() == 30
    batch = unacknowledged()
    assert at.finish(reading, batch) == []
    assert at.dirty.hold() == 30
    batch.acknowledged = 1
    assert len(list(at.dirty.finish())) == 2
    assert at.dirty.hold() is None


def test_a_change_while_the_key_is_read_makes_it_dirty_again() -> None:
    at = At()
    at.touch(1, lsn=30)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.touch(1, lsn=60)
    at.finish(reading)
    assert at.dirty.hold() == 60
    at.wait(COALESCE_S)
    assert at.take() == [1]


def test_what_waits_for_long_is_owed_and_lets_the_slot_go_once_that_is_durable() -> None:
    at = At()
    item = at.touch(1, lsn=30)
    at.dirty.delivered = 30
    assert at.overdue() == []
    at.wait(OWE_S)
    assert at.overdue() == [item]
    item.owed, item.is_recorded = unacknowledged(), True
    assert at.overdue() == []
    assert at.dirty.hold() == 30
    item.owed.acknowledged = 1
    assert at.dirty.hold() is None


def test_keys_of_a_huge_transaction_are_not_owed_while_it_is_delivered_nor_at_once_when_it_has_ended() -> None:
    at = At()
    older = at.touch(1, lsn=30)
    at.dirty.delivered = 30
    assert at.overdue() == []
    at.dirty.transaction += 1
    item = at.touch(2, lsn=40)
    for _ in range(3):
        at.wait(OWE_S)
        assert at.overdue() == [older]
    at.dirty.delivered = 40
    assert at.overdue() == [older]
    at.wait(OWE_S / 2)
    assert at.overdue() == [older]
    at.wait(OWE_S / 2)
    assert at.overdue() == [older, item]


def test_a_key_that_never_rests_is_owed_by_the_commit_that_touched_it_first() -> None:
    at = At()
    item = at.touch(1, lsn=30)
    for lsn in range(30, 30 + int(OWE_S) + 1):
        assert at.overdue() == []
        at.touch(1, lsn=lsn)
        at.dirty.delivered = lsn
        at.wait(1.0)
    assert at.overdue() == [item]


def test_a_set_that_was_emptied_keeps_no_room() -> None:
    at = At()
    at.touch(1)
    at.wait(COALESCE_S)
    assert at.take() == [1]
    assert not at.dirty._groups


def test_an_owed_key_that_is_touched_at_an_inbox_not_written_down_holds_again() -> None:
    at = At()
    item = at.touch(1, lsn=30)
    item.owed, item.is_recorded = acknowledged(), True
    at.touch(1, lsn=40, inboxes=(1,))
    assert at.dirty.hold() is None
    at.touch(1, lsn=50, inboxes=(2,))
    assert at.dirty.hold() == 50
    at.dirty.delivered = 50
    assert at.overdue() == []
    at.wait(OWE_S)
    assert at.overdue() == [item]


def test_a_record_that_a_newer_item_relies_on_stays() -> None:
    at = At()
    older = at.touch(1, lsn=30)
    older.owed, older.is_recorded = acknowledged(), True
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    newer = at.touch(1, lsn=40)
    newer.owed, newer.is_recorded = acknowledged(), True
    (finished,) = at.finish(reading)
    assert not finished.is_recorded
    assert newer.is_recorded


def test_a_record_that_another_reading_relies_on_stays() -> None:
    """Kafka may acknowledge them in any order: they are of several partitions."""
    for order in ((0, 1), (1, 0)):
        at, items, batches = At(), list[Item](), [unacknowledged(), unacknowledged()]
        for inbox, batch in enumerate(batches):
            items.append(at.touch(1, lsn=30 + inbox, inboxes=(inbox,)))
            items[-1].owed, items[-1].is_recorded = acknowledged(), True
            at.wait(COALESCE_S)
            reading = at.reading()
            assert reading is not None
            at.dirty.published(reading, batch, 0, 0)
        for number, is_last in zip(order, (False, True), strict=True):
            batches[number].acknowledged = 1
            assert [(item, item.is_recorded) for *_, item in at.dirty.finish()] == [(items[number], is_last)]


def test_a_record_that_a_failed_item_relies_on_stays() -> None:
    at = At()
    first = at.touch(1, lsn=30)
    at.wait(COALESCE_S)
    sent = at.reading()
    assert sent is not None
    batch = unacknowledged()
    at.dirty.published(sent, batch, 0, 0)
    second = at.touch(1, lsn=40)
    at.wait(COALESCE_S)
    failing = at.reading()
    assert failing is not None
    at.dirty.fail(failing, second, "22012", at.now)
    at.dirty.published(failing, acknowledged(), 0, 0)
    for item in (first, second):
        item.owed, item.is_recorded = acknowledged(), True
    batch.acknowledged = 1
    assert [(item, item.is_recorded) for *_, item in at.dirty.finish()] == [(first, False)]


def test_keys_that_were_looked_up_hold_what_their_start_held() -> None:
    at = At()
    start = at.touch(9, lsn=30, inboxes=(4,), path=LOOKUP)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    assert at.dirty.looked_up(reading, [(1,), (2,)], at.now) == []
    at.finish(reading)
    assert at.dirty.hold() == 30
    keys = at.reading()
    assert keys is not None
    assert [(item.start, item.inboxes) for item in keys.items] == [((1,), {4}), ((2,), {4})]
    assert start not in keys.items
    at.finish(keys)
    assert at.dirty.hold() is None


def test_keys_of_an_owed_start_are_to_be_written_down_before_its_record_goes() -> None:
    at = At()
    start = at.touch(9, lsn=30, path=LOOKUP)
    start.owed, start.is_recorded = acknowledged(), True
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    assert [item.start for item in at.dirty.looked_up(reading, [(1,), (2,)], at.now)] == [(1,), (2,)]


def test_a_key_that_is_owed_already_is_written_down_anew_if_a_start_that_is_owed_names_another_inbox() -> None:
    at = At()
    key, start = at.touch(5, inboxes=(1,)), at.touch(1, path=LOOKUP, inboxes=(2,))
    for item in (key, start):
        item.owed, item.is_recorded = acknowledged(), True
    reading = Reading(VIEW, LOOKUP, [start], ())
    assert at.dirty.looked_up(reading, [(5,)], at.now) == [key]
    assert key.inboxes == {1, 2}


def test_a_change_to_a_looked_up_key_holds_the_slot_while_its_record_is_on_its_way() -> None:
    at = At()
    start = at.touch(1, lsn=30, path=LOOKUP)
    start.owed, start.is_recorded = acknowledged(), True
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    (key,) = at.dirty.looked_up(reading, [(5,)], at.now)
    key.owed, key.is_recorded = unacknowledged(), True
    at.dirty.published(reading, acknowledged(), 0, 0)
    assert at.touch(5, lsn=40, inboxes=(2,)) is key
    assert at.dirty.hold() == 40


def test_a_look_up_never_makes_a_key_of_an_open_transaction_readable() -> None:
    at = At()
    at.touch(9, path=LOOKUP)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.dirty.transaction += 1
    at.whole = False
    at.touch(1)
    at.dirty.looked_up(reading, [(1,)], at.now)
    at.wait(LONGEST_S)
    assert at.take() == []


def test_a_failed_key_is_tried_again_by_itself_ever_later_and_at_once_when_it_changes() -> None:
    at = At()
    at.touch(1)
    at.touch(2)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.dirty.split(reading)
    bad, good = at.reading(), at.reading()
    assert bad is not None
    assert good is not None
    at.dirty.fail(bad, bad.items[0], "22012", at.now)
    at.finish(bad)
    at.finish(good)
    assert [item.start for item in at.dirty.failed(VIEW)] == [(1,)]
    assert [each.start for each in at.overdue()] == [(1,)]
    at.wait(FIRST_RETRY_S)
    again = at.reading()
    assert again is not None
    at.dirty.fail(again, again.items[0], "22012", at.now)
    at.finish(again)
    at.wait(FIRST_RETRY_S)
    assert at.take() == []
    at.touch(1)
    at.touch(3)
    at.wait(COALESCE_S)
    assert at.take() == [1, 3]
    assert at.dirty.failed(VIEW) == []


def test_a_reading_that_was_put_back_comes_again_with_what_was_touched_meanwhile() -> None:
    at = At()
    at.touch(1, lsn=30, inboxes=(1,))
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.touch(1, lsn=60, inboxes=(2,))
    at.dirty.put_back(reading, at.now)
    assert at.dirty.hold() == 30
    at.wait(COALESCE_S)
    again = at.reading()
    assert again is not None
    assert [item.inboxes for item in again.items] == [{1, 2}]


def test_halves_come_behind_the_work_of_other_relations() -> None:
    at = At()
    for key in range(4):
        at.touch(key)
    at.wait(COALESCE_S)
    for expected in ([0, 1, 2, 3], [0, 1]):
        reading = at.reading()
        assert reading is not None
        assert [item.start[0] for item in reading.items] == expected
        at.dirty.split(reading)
    at.touch(9)
    at.dirty.touch("contacts", KEY, (7,), (1,), 1, at.now)
    at.wait(COALESCE_S)
    assert [at.take() for _ in range(6)] == [[7], [0], [1], [2, 3], [9], []]
    assert at.dirty.hold() == 1


def test_halves_get_their_turn_however_much_other_relations_have_to_be_read() -> None:
    """As much time as the others, so that a slow one doesn't hold them up."""
    for took in (0.01, 5.0):
        at, spent = At(), {VIEW: 0.0, "contacts": 0.0}
        for key in range(64):
            at.touch(key)
        at.wait(LONGEST_S)
        for contact in range(1_000):
            at.dirty.touch("contacts", KEY, (contact,), (1,), 1, at.now - LONGEST_S)
            reading = at.reading()
            assert reading is not None
            begun = at.now
            at.wait(took if reading.relation == VIEW else 0.01)
            if len(reading.items) > 1 and reading.relation == VIEW:
                at.dirty.split(reading)
            else:
                at.finish(reading)
            spent[reading.relation] += at.now - begun
            if not at.dirty.oldest(VIEW, at.now):
                break
            assert spent[VIEW] <= spent["contacts"] + 2 * took
        else:
            assert spent[VIEW] > spent["contacts"] - 2 * took


def test_what_is_set_aside_is_read_by_itself_and_holds_what_it_held() -> None:
    at = At()
    for key in range(4):
        at.touch(key, lsn=10 + key)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.dirty.set_aside(reading, {(0,), (2,)})
    assert [item.start for item in at.finish(reading)] == [(1,), (3,)]
    assert at.dirty.hold() == 10
    aside = at.reading()
    assert aside is not None
    assert [item.start for item in at.finish(aside)] == [(0,), (2,)]
    assert at.dirty.hold() is None


def test_an_errand_is_not_complete_before_what_was_set_aside_of_it() -> None:
    at = At()
    errand = Errand(VIEW, [((n,), frozenset({3})) for n in range(3)])
    at.dirty.send(errand)
    reading = at.reading()
    assert reading is not None
    at.dirty.set_aside(reading, {(1,)})
    at.finish(reading)
    assert not errand.complete
    aside = at.reading()
    assert aside is not None
    assert [item.start for item in at.finish(aside)] == [(1,)]
    assert errand.complete


def test_of_a_relation_with_large_rows_fewer_keys_are_read_at_once() -> None:
    at = At()
    for key in range(3):
        at.touch(key)
        at.touch(key, path=LOOKUP)
        at.dirty.touch("contacts", KEY, (key,), (1,), 1, at.now)
    at.dirty.send(Errand(VIEW, [((n,), frozenset()) for n in range(3, 6)]))
    at.wait(COALESCE_S)
    taken = []
    while reading := at.dirty.take(at.now, 100, (), whole=True, fewer={VIEW: 2}):
        taken.append((reading.relation, reading.path, len(reading.items)))
    assert sorted(taken) == [("contacts", KEY, 3), *[(VIEW, KEY, n) for n in (1, 1, 2, 2)], (VIEW, LOOKUP, 3)]


def test_a_backfill_that_fails_on_a_failed_key_leaves_what_it_holds() -> None:
    """Where its row was must be said once it can be read."""
    at = At()
    item = at.touch(5, lsn=7, inboxes=(3,))
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.dirty.fail(reading, item, "22003", at.now)
    at.dirty.published(reading, acknowledged(), 0, 0)
    at.dirty.send(Errand(VIEW, [((5,), frozenset())]))
    errand = at.reading()
    assert errand is not None
    (again,) = errand.items
    at.dirty.fail(errand, again, "22003", at.now)
    at.dirty.published(errand, acknowledged(), 0, 0)
    (failed,) = at.dirty.failed(VIEW)
    assert (failed.inboxes, failed.lsn, at.dirty.hold()) == ({3}, 7, 7)


def test_slow_keys_that_fail_again_and_again_do_not_starve_errands() -> None:
    at = At()
    for key in (1, 2):
        item = at.touch(key)
        at.wait(COALESCE_S)
        reading = at.reading()
        assert reading is not None
        at.dirty.fail(reading, item, "57014", at.now - FIRST_RETRY_S)
        at.dirty.published(reading, acknowledged(), 0, 0)
    at.dirty.send(Errand(VIEW, [((9,), frozenset())]))
    taken = []
    for _ in range(3):
        reading = at.reading()
        assert reading is not None
        taken += [item.start[0] for item in reading.items]
        if reading.errand is None:
            at.dirty.fail(reading, reading.items[0], "57014", at.now - 10_000)
            at.dirty.published(reading, acknowledged(), 0, 0)
    assert 9 in taken


def test_nothing_of_a_relation_is_read_while_it_pauses() -> None:
    at = At()
    for key in range(4):
        at.touch(key)
    at.wait(COALESCE_S)
    reading = at.reading(2)
    assert reading is not None
    at.dirty.split(reading)
    at.dirty.send(Errand(VIEW, [((5,), frozenset())]))
    failing = at.reading(1)
    assert failing is not None
    at.dirty.fail(failing, failing.items[0], "57014", at.now - FIRST_RETRY_S)
    at.dirty.pause(VIEW, at.now + 10.0)
    assert at.dirty.waiting(VIEW) == 3
    at.dirty.touch("contacts", KEY, (7,), (1,), 1, at.now)
    at.wait(COALESCE_S)
    assert [at.take(), at.take()] == [[7], []]
    at.wait(10.0)
    assert [at.take() for _ in range(5)] == [[1], [2, 3], [0], [5], []]


def test_errands_come_behind_live_keys_and_are_complete_when_acknowledged() -> None:
    at = At()
    errand = Errand(VIEW, [((n,), frozenset({3})) for n in range(5)])
    at.dirty.send(errand)
    at.touch(77)
    first = at.reading(3)
    assert first is not None
    assert [item.start for item in first.items] == [(0,), (1,), (2,)]
    at.wait(COALESCE_S)
    assert at.take(3) == [77]
    at.dirty.put_back(first, at.now)
    assert not errand.complete
    for expected in ([0, 1, 2], [3, 4]):
        reading = at.reading(3)
        assert reading is not None
        assert [item.start[0] for item in reading.items] == expected
        batch = unacknowledged()
        at.finish(reading, batch)
        assert not errand.complete
        batch.acknowledged = 1
        list(at.dirty.finish())
    assert errand.complete


def test_of_a_broken_relation_only_what_failed_is_read_and_of_one_that_is_gone_nothing() -> None:
    """Live keys would fail and pause it again and again, and what failed, perhaps well by now, never have its turn."""
    at = At()
    at.touch(1)
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.dirty.fail(reading, reading.items[0], "22012", at.now)
    at.finish(reading)
    at.touch(2)
    at.dirty.send(Errand(VIEW, [((3,), frozenset())]))
    at.wait(FIRST_RETRY_S)
    taken = [at.dirty.take(at.now, 9, (), whole=True, broken=[VIEW], gone=gone) for gone in ([VIEW], (), ())]
    assert [each and [item.start for item in each.items] for each in taken] == [None, [(1,)], None]
    assert at.take() == [2]


def test_a_broken_relation_heals_however_much_of_others_there_is_to_read() -> None:
    at = At()
    for key in (1, 2):
        at.touch(key)
        at.wait(COALESCE_S)
        reading = at.reading()
        assert reading is not None
        at.dirty.fail(reading, reading.items[0], "22012", at.now)
        at.finish(reading)
    at.wait(FIRST_RETRY_S)
    for key in range(4):
        at.dirty.touch("other", KEY, (key,), [1], 1, at.now)
    at.wait(COALESCE_S)
    taken = [at.dirty.take(at.now, 1, (), whole=True, broken=[VIEW]) for _ in range(4)]
    assert [each and each.relation for each in taken] == [VIEW, "other", VIEW, "other"]


def test_an_errand_that_is_done_is_kept_no_longer_though_it_stands_behind_another() -> None:
    at = At()
    at.dirty.pause("slow", at.now + 1000)
    for relation in ("slow", VIEW, VIEW):
        at.dirty.send(Errand(relation, [((1,), frozenset())]))
    for _ in range(2):
        assert at.take() == [1]
    assert at.take() == []
    assert [errand.relation for errand in at.dirty._errands] == ["slow"]


def test_an_errand_that_was_given_up_does_not_come_again() -> None:
    """Whoever tries again asks for its keys anew."""
    at = At()
    errand = Errand(VIEW, [((n,), frozenset({3})) for n in range(5)])
    at.dirty.send(errand)
    reading = at.reading(3)
    assert reading is not None
    errand.give_up()
    at.dirty.put_back(reading, at.now)
    assert at.take() == []
    assert errand.complete


def test_a_relation_that_is_read_as_a_whole_holds_until_that_is_durable() -> None:
    at = At()
    at.touch(1, lsn=30)
    at.touch(2, lsn=20, path=LOOKUP)
    batch = unacknowledged()
    at.dirty.release(VIEW, batch)
    assert len(at.dirty) == 0
    assert at.dirty.hold() == 20
    batch.acknowledged = 1
    assert at.dirty.hold() is None


def test_what_was_owed_and_is_being_read_relies_on_no_record_once_its_relation_is_read_as_a_whole() -> None:
    at = At()
    item = at.touch(1, lsn=30)
    item.owed, item.is_recorded = acknowledged(), True
    at.wait(COALESCE_S)
    reading = at.reading()
    assert reading is not None
    at.dirty.release(VIEW, acknowledged())
    at.dirty.put_back(reading, at.now)
    assert at.dirty.hold() is None
    at.touch(1, lsn=90)
    assert at.dirty.hold() == 90


KEYS = st.dictionaries(st.integers(1, 4), st.integers(1, 2), min_size=2)
"""With an inbox each."""


class NothingIsLost(RuleBasedStateMachine):
    """Whatever happens to readings: what was touched is read later, and until then is held, or owed."""

    @initialize()
    def begin(self) -> None:
        self.dirty = DirtyKeys(1_000)
        self.now = 0.0
        self.lsn = 10
        self.open = False
        self.flying: list[tuple[Reading, int]] = []
        """With the last commit that its snapshot sees."""
        self.unread: dict[int, set[tuple[int, int]]] = {}
        """Key → LSN and inbox of its changes that no acknowledged reading has covered."""
        self.records: dict[int, frozenset[int]] = {}
        """Key → inboxes, as the state topic has them."""
        self.tried: set[int] = set()
        """Keys of which the record says that they could not be read."""
        self.errands: list[tuple[Errand, dict[int, int]]] = []
        """With the keys, each with its inbox, that nobody has read."""

    # --- the stream

    @rule(touched=KEYS, whole=st.booleans())
    def transaction(self, touched: dict[int, int], whole: bool) -> None:
        self.commit()
        self.dirty.transaction += 1
        self.lsn += 10
        self.open = True
        for key, inbox in touched.items():
            self.touch(key, inbox)
        if whole:
            self.commit()

    @rule()
    def commit(self) -> None:
        if self.open:
            self.dirty.delivered = self.lsn
        self.open = False

    @precondition(lambda self: self.open)
    @rule(key=st.integers(1, 4), inbox=st.integers(1, 2))
    def touch(self, key: int, inbox: int) -> None:
        self.dirty.touch(VIEW, KEY, (key,), [inbox], self.lsn, self.now)
        self.unread.setdefault(key, set()).add((self.lsn, inbox))

    @rule(keys=KEYS)
    def ask(self, keys: dict[int, int]) -> None:
        """As a backfill does."""
        errand = Errand(VIEW, [((key,), frozenset({inbox})) for key, inbox in keys.items()])
        self.dirty.send(errand)
        self.errands.append((errand, keys))

    @rule(seconds=st.sampled_from([0.1, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- readings

    @rule(most=st.integers(1, 4), fewer=st.integers(1, 4), rests=st.booleans())
    def take(self, most: int, fewer: int, rests: bool) -> None:
        self.now += COALESCE_S if rests else 0.0
        known = [id(item) for reading in self.dirty._flying for item in reading.items]
        reading = self.dirty.take(self.now, most, (), whole=not self.open, fewer={VIEW: fewer})
        if reading is not None:
            assert 0 < len(reading.items) <= max(most, fewer)
            seen = self.lsn - 10 if self.open else self.lsn
            fresh = [self._key(item) for item in reading.items if id(item) not in known and reading.errand is None]
            newest = [lsn for key in fresh for lsn, _ in self.unread.get(key, ())]
            assert max(newest, default=0) <= seen, "a change not delivered whole"
            self.flying.append((reading, seen))

    def _drawn(self, data: st.DataObject, least: int = 0) -> tuple[Reading, int]:
        """One of those under way, of so many items."""
        fit = [n for n, (reading, _) in enumerate(self.flying) if len(reading.items) >= least]
        return self.flying.pop(data.draw(st.sampled_from(fit)))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        reading, seen = self._drawn(data)
        if data.draw(st.booleans()) and seen == max(self.lsn - 10 if self.open else self.lsn, 0):
            self.dirty.absolve(reading)  # only by what was taken since they failed
        self.dirty.published(reading, acknowledged(), 0, 0)
        for item in self._finish():
            self._covered(item, seen)

    def _finish(self) -> list[Item]:
        finished = [item for _, _, item in self.dirty.finish()]
        for item in finished:
            if item.is_recorded:
                del self.records[self._key(item)]
                self.tried.discard(self._key(item))
        return finished

    def _covered(self, item: Item, seen: int) -> None:
        """Its row, and its absence where it was expected, are in the log."""
        key = self._key(item)
        left = {(lsn, inbox) for lsn, inbox in self.unread.pop(key, ()) if lsn > seen or inbox not in item.inboxes}
        if left:
            self.unread[key] = left
        for _, keys in self.errands:
            if keys.get(key) in item.inboxes:
                del keys[key]

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        reading, _ = self._drawn(data)
        self.dirty.put_back(reading, self.now)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        reading, _ = self._drawn(data)
        for item in list(reading.items):
            self._owe(self.dirty.fail(reading, item, "22012", self.now))
        self.dirty.published(reading, acknowledged(), 0, 0)
        assert not self._finish()

    @precondition(lambda self: any(len(reading.items) > 1 for reading, _ in self.flying))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        reading, _ = self._drawn(data, least=2)
        self.dirty.split(reading)

    @precondition(lambda self: any(len(reading.items) > 1 for reading, _ in self.flying))
    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        """Of what is left the rows are still on their way."""
        reading, seen = self._drawn(data, least=2)
        starts = [item.start for item in reading.items]
        aside = data.draw(st.sets(st.sampled_from(starts), min_size=1, max_size=len(starts) - 1))
        self.dirty.set_aside(reading, aside)
        assert {item.start for item in reading.items} == set(starts) - aside
        self.flying.append((reading, seen))

    # --- the state topic

    @rule()
    def write_down(self) -> None:
        """What was delivered by now, after as long as it may hold the slot."""
        list(self.dirty.overdue(self.now))
        self.now += OWE_S
        for _, _, item in list(self.dirty.overdue(self.now)):
            self._owe(item)

    def _owe(self, item: Item) -> None:
        key = self._key(item)
        self.records[key] = item.inboxes | self.records.get(key, frozenset())
        item.tries = max(item.tries, int(key in self.tried))
        if item.tries:
            self.tried.add(key)
        item.owed, item.is_recorded = acknowledged(), True

    @rule(happens=st.sampled_from([False, False, True]))
    def read_whole(self, happens: bool) -> None:
        """What could not be read stays so; of everything else no record is needed."""
        if not happens:
            return
        failed = set(self.dirty.unread(VIEW))
        self.dirty.release(VIEW, acknowledged())
        assert set(self.dirty.unread(VIEW)) == failed
        self.unread.clear()
        self.records = {key: inboxes for key, inboxes in self.records.items() if key in self.tried}

    @rule(happens=st.sampled_from([False, False, False, True]))
    def crash(self, happens: bool) -> None:
        """The stream comes again from what was held, records are loaded, backfills go on."""
        if not happens:
            return
        held = self.dirty.hold()
        changes = sorted((lsn, key, inbox) for key, each in self.unread.items() for lsn, inbox in each)
        self.dirty, self.open, self.flying = DirtyKeys(1_000), False, []
        for key, inboxes in self.records.items():
            item = self.dirty.touch(VIEW, KEY, (key,), inboxes, 0, self.now, transaction=0)
            item.owed, item.is_recorded, item.tries = acknowledged(), True, int(key in self.tried)
        for lsn, key, inbox in changes if held is not None else ():
            if lsn >= held:  # type: ignore[operator]  # mypy does not see the condition
                self.dirty.transaction += 1
                self.dirty.touch(VIEW, KEY, (key,), [inbox], lsn, self.now)
                self.dirty.delivered = lsn
        errands, self.errands = self.errands, []
        for errand, keys in errands:
            if not errand.complete and keys:
                self.ask(keys)

    # --- what must hold

    @invariant()
    def what_is_not_read_is_held_or_owed(self) -> None:
        if not hasattr(self, "unread"):
            return
        held = self.dirty.hold()
        for key, changes in self.unread.items():
            for lsn, inbox in changes:
                assert inbox in self.records.get(key, ()) or (held is not None and held <= lsn)

    @invariant()
    def what_a_complete_errand_has_not_read_is_owed(self) -> None:
        for errand, keys in getattr(self, "errands", ()):
            for key, inbox in keys.items() if errand.complete else ():
                assert inbox in self.records.get(key, ())

    def teardown(self) -> None:
        if not hasattr(self, "unread"):
            return
        self.commit()
        while self.flying:
            reading, _ = self.flying.pop()
            self.dirty.put_back(reading, self.now)
        for _ in range(100):
            self.now += 1_000
            taken = self.dirty.take(self.now, 10, (), whole=True)
            if taken is not None:
                self.dirty.published(taken, acknowledged(), 0, 0)
                for item in self._finish():
                    self._covered(item, self.lsn)
        assert not self.unread, "dirtied and never read"
        assert not any(keys for _, keys in self.errands), "asked for and never read"
        assert not self.records, "read and still owed"
        assert self.dirty.hold() is None

    @staticmethod
    def _key(item: Item) -> int:
        return int(item.start[0])  # type: ignore[arg-type]  # of any JSON type elsewhere


TestNothingIsLost = NothingIsLost.TestCase
TestNothingIsLost.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
