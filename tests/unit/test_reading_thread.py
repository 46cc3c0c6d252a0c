"""What the reading thread does with a relation that can't be read: others go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.changes import RenderedRow
from replicator.derived import READ_BYTES
from replicator.digests import Seen
from replicator.dirty import COALESCE_S, DirtyKeys
from replicator.errors import SourceUnavailable
from replicator.progress import Batch
from replicator.reader import BROKEN_PAUSE_S, KEYS_AT_ONCE, Keys, Reader, Rows
from replicator.readings import KEY, Errand, Reading, Start


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

    def take(self, most: int, fewer: Mapping[str, int]) -> Reading | None:
        return self.dirty.take(self.now, most, (), whole=True, fewer=fewer)

    def publish(self, reading: Reading, rows: list[RenderedRow], hashes: list[Seen], lsn: int) -> None:
        self.said.append([item.start[0] for item in reading.items])
        self.dirty.published(reading, Batch(), len(rows), 0)
        list(self.dirty.finish())

    def set_aside(self, reading: Reading, starts: Collection[Start]) -> None:
        self.dirty.set_aside(reading, starts)

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


def reader_of(loop: Loop) -> Reader:
    return Reader(
        *cast(Any, (None, None, loop, loop, None, None, None)),
        known=cast(Any, None),
        hashed=False,
    )


def test_a_slow_relation_is_read_in_halves_between_others_and_pauses_after_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    reader = reader_of(loop)

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


@pytest.mark.parametrize("sizes", [{}, {n: 1 + n % 7 for n in range(2000)}, {9: 100}, dict.fromkeys(range(2000), 90)])
def test_rows_are_read_with_as_many_others_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[int, int]
) -> None:
    """Room is for a hundred of size one."""
    json = cache(lambda size: bytes(size * READ_BYTES // 100))
    loop = Loop()
    reader = reader_of(loop)
    read: list[int] = []

    def bounded(source: Any, derived: Any, reading: Reading) -> Any:
        keys = [int(item.start[0]) for item in reading.items]  # type: ignore[arg-type]
        read.append(len(keys))
        crowded = frozenset(key for key in keys if len(keys) > 1 and sizes.get(key, 0) * len(keys) > 100)
        whole = [RenderedRow(b"", 1, json(sizes.get(key, 0)), b"") for key in keys if key not in crowded]
        return Rows(whole, [], crowded), 1

    monkeypatch.setattr(reader, "_read_settled", bounded)
    monkeypatch.setattr(reader, "_watch_due", float("inf"))
    errand = Errand("view", [((key,), frozenset()) for key in range(2000)])
    loop.dirty.send(errand)
    while reader.serve(cast(Any, Session())):
        pass
    assert errand.complete
    assert sorted(key for keys in loop.said for key in keys) == list(range(2000)), "each once"
    assert sum(read) < 2000 + 5 * KEYS_AT_ONCE, "what is read in vain stays little"
    assert max(read) == KEYS_AT_ONCE


def test_a_look_up_that_names_many_inboxes_is_split_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its keys is expected at all of them: two hundred would make thirty thousand events of 150 rows."""
    loop, found = Loop(), list[tuple[int, int]]()
    reader = Reader(
        *cast(Any, (SimpleNamespace(fan_out_keys=100), None, loop, loop, None, None, None)),
        known=cast(Any, None),
        hashed=False,
    )

    def looked_up(reading: Reading, keys: list[Start]) -> None:
        found.append((len(keys), len(frozenset[int]().union(*(item.inboxes for item in reading.items)))))
        loop.dirty.published(reading, Batch(), 0, 0)

    monkeypatch.setattr(loop, "looked_up", looked_up, raising=False)
    monkeypatch.setattr(loop, "derived", lambda _: SimpleNamespace(has_path=lambda _: True))
    monkeypatch.setattr(
        reader, "_read_settled", lambda source, derived, reading: (Keys([item.start for item in reading.items]), 1)
    )
    for start in range(100):
        loop.dirty.touch("view", "conversations(id)", (start,), (start % 20,), 1, loop.now)
    loop.now += COALESCE_S
    while (reading := loop.dirty.take(loop.now, 100, (), whole=True)) is not None:
        reader.read(cast(Any, Session()), reading)
    assert sum(keys for keys, _ in found) == 100
    assert max(keys * inboxes for keys, inboxes in found) <= 100
    assert len(found) == 8
