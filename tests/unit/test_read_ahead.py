"""What a worker has read ahead: bounded, and every batch begins where the one before ended."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from consumers import ahead
from consumers.ahead import ReadAhead
from consumers.batch import Message


def messages(partition: int, offsets: Iterable[int], body: bytes = b"{}") -> list[Message]:
    return [Message(partition, offset, b"11", [], body) for offset in offsets]


def read(*found: Message, most: int = 100, wait_ms: int = 0) -> ReadAhead:
    made = ReadAhead(most, wait_ms)
    made.add(found)
    return made


def test_a_batch_that_does_not_begin_where_the_last_one_ended_is_torn_off() -> None:
    """What was fetched before a seek may still come, and is passed over."""
    made = read(*messages(0, [7, 8]), *messages(1, [3, 4, 5, 6]))
    assert made.next_batch({0: 5, 1: 5}) == (messages(1, [5, 6]), {0})
    assert len(made) == 0


def test_offsets_that_the_log_itself_does_not_have_are_passed() -> None:
    made = read()
    for found in (7, 9, 8):
        made.add(messages(0, [found, 10]))
        assert made.next_batch({0: 5}) == ([], {0})
    made.add(messages(0, [8, 10]))
    assert made.next_batch({0: 5}) == (messages(0, [8, 10]), set())


def test_a_batch_goes_off_when_it_is_whole_or_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not read().is_ripe
    assert read(*messages(0, [5])).is_ripe, "it has waited"
    waiting = read(*messages(0, [5]), most=2, wait_ms=60_000)
    assert (waiting.is_ripe, waiting.room) == (False, 1)
    waiting.add(messages(0, [6, 7]))
    assert (waiting.is_ripe, waiting.room) == (True, 0)
    assert waiting.next_batch({0: 5}) == (messages(0, [5, 6]), set())
    assert (waiting.is_ripe, waiting.room) == (False, 1)
    monkeypatch.setattr(ahead, "MOST_BYTES", 10)
    large = read(*messages(0, [5], b"x" * 10), wait_ms=60_000)
    assert (large.is_ripe, large.room) == (True, 0), "by its bytes"


def test_a_batch_of_many_inboxes_is_larger_in_proportion_up_to_a_bound() -> None:
    made = read(most=10, wait_ms=60_000)
    for inboxes, size in ((250, 10), (375, 15), (1_000, 40), (3_000, 40)):
        made.drop([0])
        made.add([Message(0, inbox, b"%d" % inbox, [], b"{}") for inbox in range(inboxes)])
        assert (made.room, made.is_ripe) == (0, True)
        batch, torn = made.next_batch({0: 0})
        assert (len(batch), torn) == (size, set())


def test_partitions_that_are_gone_leave_nothing_behind() -> None:
    made = read(*messages(0, [5]), *messages(1, [5]), *messages(0, [6]))
    made.drop([0])
    assert made.next_batch({1: 5}) == (messages(1, [5]), set())
