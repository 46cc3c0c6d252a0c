"""A relation's keys in their order, page by page of its digests: what a rolling pass looks at next.

Keys are listed some thousands at a time, which costs little (`candidates`); pages of which something is known are
visited too where no key is left in them. Relies on an open transaction for listing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import Connection

from replicator.derived import Derived, keys_after

LISTED: Final = 20_000
"""Keys at once."""


@dataclass(slots=True)
class Walk:
    """One way through a relation."""

    relation: str
    after: int | None = None
    """All up to here was visited."""
    visited: int = 0
    _listed: deque[int] = field(default_factory=deque)
    _ended: bool = False
    """All keys are listed."""

    def fill(self, connection: Connection[Any], derived: Derived, page_of: Callable[[int], int]) -> None:
        """More keys, if fewer than those of one page are known. `page_of`: as `Digests` has it now."""
        while not self._ended and (not self._listed or page_of(self._listed[0]) == page_of(self._listed[-1])):
            last = self._listed[-1] if self._listed else self.after
            found = keys_after(connection, derived, None, None if last is None else (last,), LISTED)
            self._listed.extend(int(key) for (key,) in found)  # type: ignore[arg-type]  # an integer, by `definitions`
            self._ended = len(found) < LISTED

    def next_key(self, known: int | None) -> int | None:
        """A key of the page that is to be visited next; None: there is no more. `known`: the first key behind `after`
        of which something is known.
        """
        candidates = [key for key in (self._listed[0] if self._listed else None, known) if key is not None]
        return min(candidates, default=None)

    def take(self, page: range) -> list[int]:
        """The listed keys of a page, which counts as visited."""
        keys = []
        while self._listed and self._listed[0] in page:
            keys.append(self._listed.popleft())
        self.after = page.stop - 1
        self.visited += len(keys)
        return keys
