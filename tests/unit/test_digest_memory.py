"""Whatever was published is asked for again once it is gone: also before its page is known, and after a crash."""

from __future__ import annotations

from typing import Any, cast

import pytest

from replicator.digest_memory import DigestMemory
from replicator.digests import PAGE_SLOTS, Seen
from replicator.memory import Memory
from replicator.progress import Batch

TABLE = "conversations"


class Records:
    """A memory that is durable at once."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    def write(self, key: str, content: Any, batch: Batch) -> None:
        self.records[key] = content

    def forget(self, key: str, batch: Batch) -> None:
        self.records.pop(key, None)

    def under(self, prefix: str) -> dict[str, Any]:
        return {key: content for key, content in self.records.items() if key.startswith(prefix)}


@pytest.fixture
def records() -> Records:
    return Records()


def begun(records: Records) -> DigestMemory:
    """By a run."""
    return DigestMemory(1_000, cast("Memory", records), lambda batch: None)


def publish(digests: DigestMemory, *rows: Seen, keys: tuple[int, ...] = ()) -> None:
    named = keys or tuple(row.key for row in rows)
    digests.reopen(TABLE, named)
    digests.published(TABLE, named, rows, Batch())


def visit(digests: DigestMemory, key: int, *seen: Seen, afresh: bool = False) -> dict[int, frozenset[int]]:
    """What is named, and then read as it was seen."""
    look = digests.look(TABLE, key, afresh=afresh)
    named = dict(digests.compare(look, () if afresh else seen))
    again = {*named, *(row.key for row in seen)} if afresh else {*named}
    publish(digests, *(row for row in seen if row.key in again), keys=tuple(again))
    digests.settle(look)
    return named


def test_a_row_that_went_before_its_page_was_visited_is_named_with_where_it_was(records: Records) -> None:
    digests = begun(records)
    publish(digests, Seen(7, 3, 70), Seen(8, 3, 80))
    assert visit(digests, 8, Seen(8, 3, 80)) == {7: {3}, 8: {3}}
    assert visit(digests, 8, Seen(8, 3, 80)) == {}, "it is asked for once"


def test_so_it_is_where_all_is_published_again(records: Records) -> None:
    digests = begun(records)
    visit(digests, 8, Seen(7, 3, 70), Seen(8, 3, 80))
    assert visit(digests, 8, Seen(8, 4, 80), afresh=True) == {7: {3}, 8: {3}}
    assert visit(digests, 8, Seen(8, 4, 80)) == {}


def test_a_page_of_which_no_row_is_left_is_visited(records: Records) -> None:
    digests = begun(records)
    publish(digests, Seen(PAGE_SLOTS + 7, 3, 70))
    assert digests.first_known(TABLE, None) == digests.first_known(TABLE, PAGE_SLOTS) == PAGE_SLOTS + 7
    assert digests.first_known(TABLE, PAGE_SLOTS + 7) is None
    assert visit(digests, PAGE_SLOTS + 7) == {PAGE_SLOTS + 7: {3}}


def test_a_key_that_was_published_as_gone_need_not_be_asked_for(records: Records) -> None:
    digests = begun(records)
    publish(digests, Seen(7, 3, 70))
    publish(digests, keys=(7,))
    assert visit(digests, 7) == {}


@pytest.mark.parametrize("is_known", [False, True])
def test_a_crash_after_publishing_forgets_no_key(records: Records, *, is_known: bool) -> None:
    """Of those that were on their way it may be unknown where they were: then they are gone everywhere."""
    digests = begun(records)
    if is_known:
        visit(digests, 7, Seen(6, 2, 60))
        digests.write_down(at_once=True)
    publish(digests, Seen(7, 3, 70))
    named = visit(begun(records), 7)
    assert named == ({6: frozenset({2}), 7: frozenset()} if is_known else {7: frozenset()})


def test_a_stop_forgets_nothing(records: Records) -> None:
    digests = begun(records)
    publish(digests, Seen(7, 3, 70))
    digests.write_down(at_once=True)
    assert visit(begun(records), 7) == {7: {3}}
    digests = begun(records)
    visit(digests, 7, Seen(7, 3, 70))
    digests.write_down(at_once=True)
    assert visit(begun(records), 7, Seen(7, 3, 70)) == {}
