"""What the reading thread does with a relation that can't be read: others go on."""

from __future__ import annotations

from typing import Any, cast

import pytest

from replicator.dirty import COALESCE_S, KEY, DirtyKeys, Reading
from replicator.errors import SourceUnavailable
from replicator.progress import Batch
from replicator.reader import BROKEN_PAUSE_S, Reader


class Loop:
    """Stands for the loop and its Work: one set of dirty keys, and what became of them."""

    def __init__(self) -> None:
        self.dirty = DirtyKeys(100)
        self.now = 100.0
        self.said: list[Any] = []

    def run(self, call: Any) -> Any:
        return call()

    def derived(self, relation: str) -> str:
        return relation

    def failed(self, relation: str) -> int:
        return len(self.dirty.failed(relation))

    def split(self, reading: Reading) -> None:
        self.dirty.split(reading)

    def fail(self, reading: Reading, reason: str) -> None:
        self.said.append(("failed", reading.items[0].start[0]))
        self.dirty.fail(reading, reading.items[0], reason, self.now)
        self.dirty.published(reading, Batch(), 0, 0)

    def pause(self, relation: str, seconds: float) -> None:
        self.said.append(("pause", relation, seconds))
        self.dirty.pause(relation, self.now + seconds)


class Session:
    """Stands for a source of which one statement is cancelled after the other."""

    connection = cast(Any, type("Connection", (), {"broken": False}))


def test_a_slow_relation_is_read_in_halves_between_others_and_pauses_after_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    reader = Reader(
        *cast(Any, (None, None, loop, loop, None, None, None)),
        known=cast(Any, None),
        hashed=False,
    )

    def slow(source: Any, derived: Any, reading: Reading) -> Any:
        loop.said.append([item.start[0] for item in reading.items])
        raise SourceUnavailable("the source is too slow")

    monkeypatch.setattr(reader, "_read_settled", slow)
    for key in range(4):
        loop.dirty.touch("view", KEY, (key,), (), 1, loop.now)
    loop.now += COALESCE_S
    while (reading := loop.dirty.take(loop.now, 10, (), whole=True)) is not None:
        reader.read(cast(Any, Session()), reading)
    assert loop.said == [[0, 1, 2, 3], [0, 1], [0], ("failed", 0), ("pause", "view", BROKEN_PAUSE_S)]
    assert loop.dirty.waiting("view") == 3
    loop.now += BROKEN_PAUSE_S
    while (reading := loop.dirty.take(loop.now, 10, (), whole=True)) is not None:
        reader.read(cast(Any, Session()), reading)
    assert loop.said[5:] == [[1], ("failed", 1), ("pause", "view", BROKEN_PAUSE_S)]
