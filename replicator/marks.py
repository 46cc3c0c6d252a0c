"""How far polling is: by relation, in the state topic.

Record `poll/<relation>`: up to which stamp, or key, changes were found and published; up to when everything is known
to be published, and at which inboxes it is not. Lives in the run's loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from replicator.memory import Memory
from replicator.progress import Batch


@dataclass(frozen=True, slots=True)
class Walked:
    """A rolling pass that has not ended."""

    began_us: int
    after: int
    """Keys up to here were compared since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Of one relation. Times in microseconds since 1970, by the source's clock."""

    upto: int | None = None
    """All rows that are stamped up to here were published, or of a relation that is polled by its keys all up to here;
    None: it has not begun."""
    verified_us: int = 0
    """All that was committed before is published; 0: not known yet."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Inboxes with keys that can't be read → up to when they are verified."""
    walked: Walked | None = None
    """Set: a later run need not begin at the first key."""

    @property
    def has_begun(self) -> bool:
        """From when on its changes are candidates is known."""
        return self.upto is not None


class Marks:
    """Of one run."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._walked: dict[str, Walked] = {}
        """By relation: what is not written down yet."""

    def of(self, relation: str) -> Mark:
        record = self._memory.records.get(_record(relation))
        if record is None:
            return Mark()
        walked = record.get("walked")
        return Mark(**{**record, "walked": Walked(**walked) if walked is not None else None})

    def advance(self, relation: str, **changes: Any) -> Batch:
        """Fields of `Mark`. Durable with the batch."""
        batch = Batch()
        self._memory.write(_record(relation), asdict(replace(self.of(relation), **changes)), batch)
        return batch

    def verified(self, relation: str, at_us: int, unread: Iterable[int]) -> Batch:
        """All that was committed before is published, but for keys at these inboxes."""
        before = self.of(relation)
        held = {str(inbox): before.held.get(str(inbox), before.verified_us) for inbox in unread}
        return self.advance(relation, verified_us=at_us, held=held)

    def walk(self, relation: str, walked: Walked) -> None:
        """Written down now and then, behind the keys on the way that could not be read."""
        self._walked[relation] = walked

    def end_walk(self, relation: str) -> None:
        """The next one begins at the first key."""
        self._walked.pop(relation, None)
        if self.of(relation).walked is not None:
            self.advance(relation, walked=None)

    def write_down(self) -> None:
        for relation, walked in self._walked.items():
            self.advance(relation, walked=walked)
        self._walked.clear()

    def verified_us(self, relations: Iterable[str]) -> int:
        """Up to when everything of these is published, everywhere; 0: that is not known."""
        return min((min([mark.verified_us, *mark.held.values()]) for mark in map(self.of, relations)), default=0)


def _record(relation: str) -> str:
    return f"poll/{relation}"
