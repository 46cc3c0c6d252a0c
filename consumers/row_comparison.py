"""One table of one tenant, source and target, row by row: pages of keys, hashes of either side, and a second look.

A difference at first sight may be on its way. So each is looked at again: the source, then a fence, the target, and the
source once more. Only what the source holds unchanged before and after counts; what changes is looked at again, a few
times. Rows are read by keys that the source has, then keys that only the target has are looked for in the source.
Memory holds a page, and some thousands of suspects.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from consumers.fence import Fence
from consumers.source_rows import Seen, SourceRows
from consumers.target_rows import TargetRows

SUSPECTS: Final = 5_000
"""Keys that are looked at again at once."""
LOOKS: Final = 5
KEPT: Final = 2_000
"""Keys that are remembered to be asked for; beyond that the whole table is."""
EXAMPLES: Final = 10


@dataclass(slots=True)
class Compared:
    """What one table has come to."""

    table: str
    equal: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    changing: int = 0
    """Rows that changed at every look: no difference, and not known to be equal."""
    columns: Counter[str] = field(default_factory=Counter)
    left_out: tuple[str, ...] = ()
    """Columns that are not compared."""
    examples: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Of what differs, by the inbox at which it is to be read again."""

    @property
    def unlike(self) -> int:
        return self.missing + self.extra + self.different

    def note(self, kind: str, key: int, inbox: int) -> None:
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(key)
        if self.unlike <= KEPT:
            self.keys[inbox].append(key)


def compare_table(
    found: Compared,
    source: SourceRows,
    target: TargetRows,
    fence: Fence,
    columns: Sequence[str],
    some_inbox: int,
    tell: Callable[[Compared], None],
) -> Compared:
    """Raises Refused if a fence is not passed, or psycopg.Error. `some_inbox`: for rows that say none."""
    looking = _SecondLook(found, source, target, fence, columns, some_inbox)
    for keys in source.pages():
        there, here = source.hashes(keys), target.hashes(keys)
        alike = [key for key, seen in there.items() if here.get(key) == seen.hashes]
        found.equal += len(alike)
        looking.add(there.keys() - set(alike))
        tell(found)
    for keys in target.pages():
        for first in range(0, len(keys), SUSPECTS):
            stretch = keys[first : first + SUSPECTS]
            looking.add(set(stretch) - source.present(stretch))
        tell(found)
    looking.settle()
    return found


class _SecondLook:
    """Keys that differ at first sight, judged some thousands at a time."""

    def __init__(
        self,
        found: Compared,
        source: SourceRows,
        target: TargetRows,
        fence: Fence,
        columns: Sequence[str],
        some_inbox: int,
    ) -> None:
        self._found, self._source, self._target, self._fence = found, source, target, fence
        self._columns, self._some_inbox = columns, some_inbox
        self._suspects: set[int] = set()

    def add(self, keys: Iterable[int]) -> None:
        self._suspects.update(keys)
        if len(self._suspects) >= SUSPECTS:
            self.settle()

    def settle(self) -> None:
        """Each suspect becomes equal, a difference, gone, or changing."""
        pending, self._suspects = sorted(self._suspects), set()
        for _ in range(LOOKS):
            if not pending:
                return
            before = self._source.hashes(pending, by_column=True)
            self._fence.wait()
            here = self._target.hashes(pending, by_column=True)
            after = self._source.hashes(pending, by_column=True)
            still = []
            for key in pending:
                if before.get(key) == after.get(key):
                    self._judge(key, before.get(key), here.get(key))
                else:
                    still.append(key)
            pending = still
        self._found.changing += len(pending)

    def _judge(self, key: int, there: Seen | None, here: Any) -> None:
        if there is None and here is None:
            return
        if there is not None and here == there.hashes:
            self._found.equal += 1
        elif there is None:
            self._found.extra += 1
            self._found.note("extra", key, self._target.inboxes([key]).get(key) or self._some_inbox)
        elif here is None:
            self._found.missing += 1
            self._found.note("missing", key, there.inbox)
        else:
            self._found.different += 1
            unlike = [name for name, a, b in zip(self._columns, there.hashes, here, strict=True) if a != b]
            self._found.columns.update(unlike)
            self._found.note("different", key, there.inbox)
