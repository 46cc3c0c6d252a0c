"""Rows that a poll has read although its mark has not passed them yet.

A mark moves only to what is safe (`horizon`), which an open transaction holds back; fresh rows beyond it are read all
the same, once under each stamp. Bounded: beyond that many rows, polling stops at what is safe.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MOST: Final = 100_000


class Stamped(NamedTuple):
    """One row that was written."""

    at: int
    """As its writer stamped it: microseconds since 1970; of a relation that is polled by its keys, the key."""
    key: int


@dataclass(slots=True)
class Beyond:
    """Of one relation."""

    most: int = MOST
    _read: dict[int, int] = field(default_factory=dict)
    """Key → the stamp under which it was read."""

    @property
    def is_full(self) -> bool:
        return len(self._read) >= self.most

    def unread(self, found: Iterable[Stamped]) -> list[int]:
        """Keys that were not read under these stamps."""
        return list(dict.fromkeys(key for at, key in found if self._read.get(key) != at))

    def note(self, found: Iterable[Stamped]) -> None:
        """They were read."""
        self._read.update((key, at) for at, key in found)

    def pass_by(self, mark: int) -> None:
        """Nothing up to here is asked for again."""
        self._read = {key: at for key, at in self._read.items() if at > mark}
