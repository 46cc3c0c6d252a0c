"""What differs from what was published last is named, whatever was read, put and changed meanwhile."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicator.digests import PAGE_KEYS, WIDEST, Digest, Digests, Found, Seen, Visit, by_key

EDGE = 1 << 63
HASHES = st.integers(-EDGE, EDGE - 1)
SEEN = st.builds(Seen, st.integers(-3000, 3000), st.integers(1, 3), HASHES)


def known(seen: list[Seen], *pages: int, limit: int = 1_000_000) -> Digests:
    """After these pages were visited, and what was named there was read as it was seen."""
    digests = Digests(limit)
    for page in pages:
        visit = digests.begin(page)
        rows = [row for row in seen if row.key in digests.keys_of(page)]
        digests.compare(visit, rows)
        read_as_seen(digests, visit)
        digests.settle(visit)
    return digests


def read_as_seen(digests: Digests, visit: Visit) -> None:
    assert visit.seen is not None
    for key in visit.named:
        digests.put(key, visit.seen.get(key, {}))


def named(digests: Digests, page: int, seen: list[Seen]) -> dict[int, set[int]]:
    return {key: set(inboxes) for key, inboxes in digests.compare(digests.begin(page), seen).items()}


def halved(seen: list[Seen], *pages: int) -> Digests:
    """At width 2."""
    digests = known(seen, *pages)
    digests._double()
    return digests


def test_of_an_unknown_page_every_key_is_named_and_known_nowhere() -> None:
    assert named(Digests(100), 0, [Seen(3, 1, 30), Seen(3, 2, 31), Seen(4, 1, 40)]) == {3: set(), 4: set()}
    assert named(Digests(100), 0, []) == {}


def test_a_page_without_rows_is_known_all_the_same() -> None:
    digests = known([], 0)
    assert digests.pages() == [0]
    assert named(digests, 0, [Seen(3, 1, 30)]) == {3: set()}


def test_what_is_new_other_gone_or_elsewhere_is_named_with_where_it_was() -> None:
    digests = known([Seen(1, 1, 10), Seen(2, 1, 20), Seen(3, 1, 30), Seen(4, 1, 40), Seen(4, 2, 41)], 0)
    assert named(digests, 0, [Seen(0, 1, 9), Seen(1, 1, 10), Seen(2, 1, -20), Seen(4, 1, 40), Seen(4, 3, 41)]) == {
        0: set(),
        2: {1},
        3: {1},
        4: {1, 2},
    }


def test_rows_of_one_key_at_one_inbox_add_up() -> None:
    digests = known([Seen(1, 1, -1), Seen(1, 1, EDGE - 1), Seen(1, 1, EDGE - 1)], 0)
    assert named(digests, 0, [Seen(1, 1, EDGE - 1), Seen(1, 1, -1), Seen(1, 1, EDGE - 1)]) == {}
    assert named(digests, 0, [Seen(1, 1, -3)]) == {1: {1}}, "the same sum of fewer rows"


def test_a_put_is_what_is_known() -> None:
    digests = known([Seen(1, 1, 10), Seen(2, 1, 20)], 0)
    digests.put(1, {2: (1, 11)})
    digests.put(2, {})
    digests.put(3, {1: (2, 30)})
    assert [digests.inboxes(key) for key in (1, 2, 3, 4)] == [{2}, set(), {1}, set()]
    assert named(digests, 0, [Seen(1, 2, 11), Seen(3, 1, 10), Seen(3, 1, 20)]) == {}


def test_what_was_put_to_a_page_that_was_never_visited_is_missed_when_it_is_gone() -> None:
    digests = Digests(100)
    digests.put(1, {1: (1, 10)})
    digests.put(2, {1: (1, 20)})
    assert (digests.pages(), digests.is_known(0), digests.inboxes(1)) == ([0], False, {1})
    assert named(digests, 0, [Seen(2, 1, 20), Seen(3, 1, 30)]) == {1: {1}, 3: set()}


def test_what_is_in_doubt_is_named_whatever_is_seen_of_it() -> None:
    digests = known([Seen(1, 1, 10)], 0)
    digests.doubt(1, [2])
    digests.doubt(600, [3])
    assert named(digests, 0, [Seen(1, 1, 10)]) == {1: {1, 2}}
    assert named(digests, 1, []) == {600: {3}}
    digests.put(1, {1: (1, 10)})
    assert named(digests, 0, [Seen(1, 1, 10)]) == {}


def test_what_is_put_after_the_hashes_were_read_is_newer_than_they_are() -> None:
    digests = Digests(100)
    visit = digests.begin(0)
    digests.put(9, {1: (1, 90)})
    digests.compare(visit, [Seen(1, 1, 10), Seen(2, 1, 20)])
    digests.put(1, {1: (1, 11)})
    digests.put(2, {2: (1, 20)})
    assert digests.inboxes(2) == {2}
    digests.settle(visit)
    assert named(digests, 0, [Seen(1, 1, 11), Seen(2, 2, 20), Seen(9, 1, 90)]) == {}


def test_a_key_that_could_not_be_read_is_named_again() -> None:
    digests = known([Seen(1, 1, 10), Seen(2, 1, 20)], 0)
    visit = digests.begin(0)
    digests.compare(visit, [Seen(1, 2, 10), Seen(2, 1, 21)])
    digests.put(2, {1: (1, 21)})
    digests.settle(visit)
    assert named(digests, 0, [Seen(1, 2, 10), Seen(2, 1, 21)]) == {1: {1}}


def test_a_visit_that_is_void_settles_nothing() -> None:
    digests = Digests(100)
    visit = digests.begin(0)
    digests.compare(visit, [])
    digests.begin(1)
    digests.settle(visit)
    assert digests.pages() == []


def test_nothing_is_settled_unless_it_was_compared() -> None:
    digests = Digests(100)
    with pytest.raises(ValueError, match="nothing was compared"):
        digests.settle(digests.begin(0))
    with pytest.raises(ValueError, match="another page"):
        digests.compare(digests.begin(0), [Seen(PAGE_KEYS, 1, 1)])


@pytest.mark.parametrize("key", [-EDGE, -513, -512, -1, 0, 511, 512, 1 << 31, EDGE - 1])
def test_a_page_covers_its_keys(key: int) -> None:
    for digests in (Digests(100), halved([], 0, 1)):
        keys = digests.keys_of(digests.page_of(key))
        assert key in keys
        assert -EDGE <= keys.start < keys.stop <= EDGE
        assert {digests.page_of(each) for each in (keys[0], keys[-1])} == {digests.page_of(key)}
        assert len(keys) == PAGE_KEYS


def test_of_a_wide_slot_any_key_may_be_the_one_that_is_gone() -> None:
    digests = halved([Seen(4, 1, 40), Seen(5, 1, 50), Seen(6, 2, 60)], 0, 1)
    assert named(digests, 0, [Seen(4, 1, 40), Seen(5, 1, 50), Seen(6, 2, 60)]) == {}
    assert named(digests, 0, [Seen(4, 1, 40), Seen(6, 2, 60)]) == {4: {1}, 5: {1}}
    assert named(digests, 0, [Seen(4, 1, 40), Seen(5, 1, 50), Seen(9, 1, 90)]) == {6: {2}, 7: {2}, 9: set()}


def test_a_put_to_a_wide_slot_is_uncertain_until_the_next_visit() -> None:
    seen = [Seen(4, 1, 40), Seen(5, 1, 50)]
    digests = halved(seen, 0, 1)
    digests.put(4, {2: (1, 40)})
    assert digests.inboxes(5) == {1, 2}
    seen[0] = Seen(4, 2, 40)
    assert named(digests, 0, seen) == {4: {1, 2}, 5: {1, 2}}
    visit = digests.begin(0)
    digests.compare(visit, seen)
    read_as_seen(digests, visit)
    digests.settle(visit)
    assert named(digests, 0, seen) == {}


def test_more_inboxes_than_the_limit_has_room_for_leave_a_change_few_keys_to_name() -> None:
    """Else a slot would grow until it has keys without number, and all of these would be read again."""
    seen = [Seen(key, key % 600, key) for key in range(3 * PAGE_KEYS)]
    digests = known(seen, 0, 1, 2, limit=1_000)
    assert (digests.width, digests.entries, digests.is_crowded) == (WIDEST, len(seen), True), "nothing is forgotten"
    other = [Seen(5, 1_000, 5), *(row for row in seen if row.key < PAGE_KEYS and row.key != 5)]
    assert named(digests, 0, other).keys() == set(range(WIDEST))


def test_who_has_room_in_the_widest_slots_is_not_crowded() -> None:
    seen = [Seen(key, key % 2, key) for key in range(2 * PAGE_KEYS)]
    digests = known(seen, 0, 1, limit=10)
    assert (digests.width, digests.entries, digests.is_crowded) == (WIDEST, 8, False)
    digests.limit = 9
    assert digests.is_crowded


def test_the_next_page_that_is_known_is_found_from_any_key() -> None:
    digests = known([], 4, -1, 2)
    assert digests.pages() == [-1, 2, 4]
    asked: list[int | None] = [None, -PAGE_KEYS - 5, -2, -1, 2 * PAGE_KEYS, 3 * PAGE_KEYS, 5 * PAGE_KEYS - 1]
    firsts: list[int | None] = [-PAGE_KEYS, -PAGE_KEYS, -1, 2 * PAGE_KEYS, 2 * PAGE_KEYS + 1, 4 * PAGE_KEYS, None]
    assert [digests.first_known(after) for after in asked] == firsts


@settings(deadline=None)
@given(st.lists(SEEN, max_size=60), st.integers(1, 200))
def test_to_double_the_width_is_the_same_as_to_begin_with_it(seen: list[Seen], limit: int) -> None:
    pages = range(-8, 8)
    doubled = known(seen, *pages)
    doubled.limit = limit
    visit = doubled.begin(0)
    doubled.compare(visit, [row for row in seen if row.key in doubled.keys_of(0)])
    doubled.settle(visit)
    begun = Digests(1_000_000)
    begun.width = doubled.width
    for page in doubled.pages():
        visit = begun.begin(page)
        begun.compare(visit, [row for row in seen if row.key in begun.keys_of(page)])
        read_as_seen(begun, visit)
        begun.settle(visit)
    entries = [{n: record["entries"] for n, record in records_of(each).items()} for each in (begun, doubled)]
    assert entries[0] == entries[1]
    assert doubled.entries == begun.entries
    assert doubled.entries + len(doubled.pages()) <= limit or doubled.is_crowded


@settings(deadline=None)
@given(st.lists(SEEN, max_size=60), st.integers(1, 200))
def test_a_record_says_all_of_its_page(seen: list[Seen], limit: int) -> None:
    digests = known(seen, *range(-8, 8), limit=limit)
    records = records_of(digests)
    again = Digests.from_records(1_000_000, json.loads(json.dumps(records), object_hook=_numbered))
    assert (again.width if records else 1, again.entries) == (digests.width if records else 1, digests.entries)
    assert records_of(again) == records
    assert again.take_changed() == set()


def _numbered(found: dict[str, object]) -> dict[object, object]:
    return {int(name) if name.lstrip("-").isdigit() else name: value for name, value in found.items()}


def records_of(digests: Digests) -> dict[int, dict[str, Any]]:
    return {page: record for page in digests.pages() if (record := digests.to_record(page)) is not None}


def test_it_is_told_whose_records_are_others() -> None:
    digests = known([Seen(1, 1, 10)], 0, 1, 2, 3)
    assert digests.take_changed() == {0, 1, 2, 3}
    digests.put(1, {1: (1, 10)})
    assert digests.take_changed() == set()
    digests.put(1, {1: (1, 11)})
    assert digests.take_changed() == {0}
    digests._double()
    assert digests.take_changed() == {0, 1, 2, 3}, "how wide its slots are is in each"


@settings(deadline=None)
@given(st.lists(SEEN, max_size=60), st.integers(1, 4), st.integers(0, 32))
def test_nothing_is_forgotten_by_a_crash_while_wider_records_are_written(
    seen: list[Seen], doublings: int, written: int
) -> None:
    digests = known(seen, *range(-8, 8))
    records = records_of(digests)
    digests.take_changed()
    for _ in range(doublings):
        digests._double()
    for page in sorted(digests.take_changed())[:written]:
        record = digests.to_record(page)
        assert record is not None
        records[page] = record
    again = Digests.from_records(1_000_000, records)
    for row in seen:
        assert row.inbox in again.inboxes(row.key)
        page = again.page_of(row.key)
        assert named(again, page, [each for each in seen if each.key in again.keys_of(page)]) == {}


def test_a_full_page_of_many_takes_as_many_bytes_as_its_entries() -> None:
    digests = known([Seen(key, 1, key) for key in range(PAGE_KEYS)], 0)
    (packed,) = digests._pages.values()
    assert sys.getsizeof(packed) <= 24 * digests.entries


KEYS = st.sampled_from([0, 1, 2, 512, -1])
INBOXES = st.integers(1, 2)


class Replicated(RuleBasedStateMachine):
    """A source, a target, and a pass between them: what differs is named."""

    def __init__(self) -> None:
        super().__init__()
        self.digests = Digests(1_000_000)
        self.source: defaultdict[int, list[Seen]] = defaultdict(list)
        self.target: defaultdict[int, dict[int, Digest]] = defaultdict(dict)
        self.flying: list[tuple[int, Found]] = []
        self.visit: Visit | None = None
        self.hashes: list[Seen] = []

    @initialize(keys=st.lists(KEYS, unique=True), pages=st.sampled_from([4, 0]))
    def begun(self, keys: list[int], pages: int) -> None:
        """All pages are known, or none."""
        for key in keys:
            self.change(key, [(1, key)])
        for page in range(-pages, pages):
            self.begin(page * PAGE_KEYS)
            self.compare()
            self.visited(fails=False)

    @rule(key=KEYS, rows=st.lists(st.tuples(INBOXES, st.integers(-2, 2)), max_size=2))
    def change(self, key: int, rows: list[tuple[int, int]]) -> None:
        # As a row's hash is also of its key: else rows of two neighbours could stand for each other in their sum.
        self.source[key] = [Seen(key, inbox, hash((key, hashed))) for inbox, hashed in rows]

    @rule(key=KEYS)
    def read(self, key: int) -> None:
        self.flying.append((key, self._found(key)))

    @rule(key=KEYS, inbox=INBOXES)
    def move(self, key: int, inbox: int) -> None:
        """It is read and published at once."""
        self.change(key, [(inbox, key)])
        if not any(key == flying for flying, _ in self.flying):
            self._publish(key, self._found(key), frozenset())

    @precondition(lambda self: self.flying)
    @rule()
    def publish(self) -> None:
        self._publish(*self.flying.pop(0), frozenset())

    @precondition(lambda self: self.visit is None)
    @rule(key=KEYS)
    def begin(self, key: int) -> None:
        page = self.digests.page_of(key)
        self.visit = self.digests.begin(page)
        self.hashes = [row for key in self._keys(page) for row in self.source[key]]

    @precondition(lambda self: self.visit is not None and self.visit.seen is None)
    @rule()
    def compare(self) -> None:
        assert self.visit is not None
        self.digests.compare(self.visit, self.hashes)

    @precondition(lambda self: self.visit is not None and self.visit.seen is not None)
    @rule(fails=st.booleans())
    def visited(self, fails: bool) -> None:
        """What was named is read, or all but one."""
        assert self.visit is not None
        failing = next(iter(self.visit.named), None) if fails else None
        for key, inboxes in self.visit.named.items():
            if key != failing:
                self._publish(key, self._found(key), inboxes)
        self.digests.settle(self.visit)
        self.visit = None

    @precondition(lambda self: self.visit is None and self.digests.width < 8)
    @rule()
    def shrink(self) -> None:
        self.digests._double()

    @precondition(lambda self: self.visit is None)
    @rule()
    def start_again(self) -> None:
        self.digests = Digests.from_records(self.digests.limit, records_of(self.digests))

    @invariant()
    def every_difference_is_named(self) -> None:
        digests = self.digests
        for page in {digests.page_of(key) for key in (*self.source, *self.target)}:
            keys = self._keys(page)
            named = digests.compare(Visit(page), [row for key in keys for row in self.source[key]])
            different = {key for key in keys if self.target[key] != self._found(key)}
            assert different <= named.keys()
            for key in different:
                assert self.target[key].keys() - self._found(key).keys() <= named[key]
                assert named[key] == digests.inboxes(key) or (self.visit is not None and key in self.visit.read)
            if digests.width == 1:
                assert named.keys() == different
        assert digests.entries == sum(len(packed) // 22 for packed in digests._pages.values())

    def _keys(self, page: int) -> list[int]:
        covered = self.digests.keys_of(page)
        return [key for key in {*self.source, *self.target} if key in covered]

    def _found(self, key: int) -> Found:
        return by_key(self.source[key]).get(key, {})

    def _publish(self, key: int, found: Mapping[int, Digest], named: frozenset[int]) -> None:
        """Its rows, and absences where it may have been."""
        absent = named | self.digests.inboxes(key)
        self.target[key] = {inbox: each for inbox, each in self.target[key].items() if inbox not in absent} | {**found}
        self.digests.put(key, found)


TestReplicated = Replicated.TestCase
TestReplicated.settings = settings(max_examples=250, stateful_step_count=30, deadline=None)
