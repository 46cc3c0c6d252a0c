"""What a worker has read and not sent off yet: bounded, and a batch of it begins where the one before ended.

Where it does not, the partition is torn off: its place must be read again. If the same comes again then, the log itself
has nothing in between. Belongs to the worker's loop; never reads or seeks by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from consumers.batch import Message

log = structlog.get_logger(__name__)

MOST_BYTES: Final = 16 << 20
"""Of a batch, and of what is read ahead of it."""
_MANY: Final = 250
"""Inboxes. A batch of more is larger in proportion, for a transaction of a few rows costs as much as the rows."""
_LARGEST: Final = 4
"""Times as large as one of few inboxes."""


class ReadAhead:
    """Messages of several partitions, in the order of reading."""

    def __init__(self, most: int, wait_ms: int) -> None:
        """A batch has at most so many messages, more where they are of many inboxes, and waits so long for more."""
        self._most, self._wait_ms = most, wait_ms
        self._messages: list[Message] = []
        self._bytes = 0
        self._inboxes: set[bytes | None] = set()
        self._since = 0.0
        self._holes: dict[int, tuple[int, int]] = {}
        """By partition: offsets, the one that was due and the one that came."""

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def room(self) -> int:
        """Messages that may still come; 0: what is there is a whole batch."""
        return max(0, self._size - len(self._messages)) if self._bytes < MOST_BYTES else 0

    @property
    def is_ripe(self) -> bool:
        """Whether a batch should go off."""
        waited_ms = (time.monotonic() - self._since) * 1000
        return bool(self._messages) and (not self.room or waited_ms >= self._wait_ms)

    @property
    def _size(self) -> int:
        """Messages of a batch."""
        return self._most * min(max(len(self._inboxes), _MANY), _LARGEST * _MANY) // _MANY

    def add(self, messages: Sequence[Message]) -> None:
        if messages and not self._messages:
            self._since = time.monotonic()
        self._messages.extend(messages)
        self._bytes += size_of(messages)
        self._inboxes.update(message.key for message in messages)

    def drop(self, partitions: Iterable[int]) -> None:
        """They are another worker's, or are read again."""
        gone = set(partitions)
        self._keep([message for message in self._messages if message.partition not in gone])

    def next_batch(self, due: Mapping[int, int]) -> tuple[list[Message], set[int]]:
        """The next messages, and the partitions that are torn off, of which none is among them.

        `due`: by partition, the offset that comes next.
        """
        size = self._size
        messages = self._messages[:size]
        self._keep(self._messages[size:])
        # After a seek some of what was fetched before may still come.
        messages = [each for each in messages if each.offset >= due[each.partition]]
        torn = self._torn_off(messages, due)
        return [each for each in messages if each.partition not in torn], torn

    def _torn_off(self, messages: Sequence[Message], due: Mapping[int, int]) -> set[int]:
        torn = set()
        for partition, found in {each.partition: each.offset for each in reversed(messages)}.items():
            hole = (due[partition], found)
            if found == hole[0]:
                continue
            log.error("log.hole", partition=partition, expected=hole[0], found=found)
            if self._holes.get(partition) != hole:
                torn.add(partition)
            self._holes[partition] = hole
        return torn

    def _keep(self, messages: list[Message]) -> None:
        self._messages, self._bytes = messages, size_of(messages)
        self._inboxes = {message.key for message in messages}


def size_of(messages: Iterable[Message]) -> int:
    """The bytes of their bodies."""
    return sum(len(message.body) for message in messages)
