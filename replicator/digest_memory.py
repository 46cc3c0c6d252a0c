"""What was published last of every derived relation, as digests that outlive a run in the state topic.

Lives in the run's loop. A record is written only of what Kafka has acknowledged, and is void from the moment at which
anything of its page is published anew until that is acknowledged too: a crash in between leaves the page unknown, and
unknown pages are published again. So a record never claims more than was published.

Records: `digest/<relation>/<page>`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from replicator.digests import Digests, Seen, Visit, by_key
from replicator.memory import Memory
from replicator.progress import Batch

RESTS_S: Final = 5.0
"""A page is written down when nothing of it was published for so long."""


@dataclass(frozen=True, slots=True)
class Look:
    """A page of a relation that is being looked at."""

    relation: str
    visit: Visit
    keys: range
    """That the page covers."""
    is_known: bool
    known: tuple[int, ...]
    """Keys of which something is known, so that rows which are gone are asked for too."""


class DigestMemory:
    """Of one run."""

    def __init__(self, limit: int, memory: Memory | None, wait_for: Callable[[Batch], None]) -> None:
        """`limit`: entries of one relation. `memory` None: nothing outlives the run.

        `wait_for` returns when a batch is durable.
        """
        self._limit, self._memory, self._wait_for = limit, memory, wait_for
        self._relations: dict[str, Digests] = {}
        self._flying: list[tuple[Batch, str, range]] = []
        """Keys of which something is on its way to Kafka, as the pages that they were in."""
        self._changed: dict[tuple[str, int], float] = {}
        """Pages whose record does not say what is known → when they changed last."""

    @classmethod
    def unrecorded(cls, limit: int) -> DigestMemory:
        """One that begins with nothing and leaves nothing."""
        return cls(limit, None, lambda batch: None)

    def of(self, relation: str) -> Digests:
        """What is known of a relation, from earlier runs too."""
        found = self._relations.get(relation)
        if found is None:
            records = self._memory.under(_prefix(relation)) if self._memory is not None else {}
            by_page = {int(name.rpartition("/")[2]): record for name, record in records.items()}
            found = self._relations[relation] = Digests.from_records(self._limit, by_page)
            self._note_changes(relation)
        return found

    def inboxes(self, relation: str, key: int) -> frozenset[int]:
        """Where it was published last, as far as that is known."""
        return self.of(relation).inboxes(key)

    # --- what is published

    def reopen(self, relation: str, keys: Iterable[int]) -> None:
        """These keys are published next: what is recorded of their pages is void. Returns when that is durable."""
        self._void(relation, set(map(self.of(relation).page_of, keys)))

    def published(self, relation: str, keys: Sequence[int], rows: Iterable[Seen], batch: Batch) -> None:
        """These keys were read and their rows sent with this batch; a key that is in no row has none."""
        digests, found = self.of(relation), by_key(rows)
        for key in keys:
            digests.put(key, found.get(key, {}))
        now = time.monotonic()
        for page in set(map(digests.page_of, keys)):
            self._flying.append((batch, relation, digests.keys_of(page)))
            self._changed[relation, page] = now

    def forget(self, relation: str, batch: Batch) -> None:
        """Nothing is known of it any more."""
        self._relations[relation] = Digests(self._limit)
        self._changed = {each: at for each, at in self._changed.items() if each[0] != relation}
        if self._memory is not None:
            for name in self._memory.under(_prefix(relation)):
                self._memory.forget(name, batch)

    # --- what a rolling pass looks at

    def look(self, relation: str, key: int, *, afresh: bool = False) -> Look:
        """Before the rows of this key's page are looked at. `afresh`: nothing is taken to be known of it."""
        digests = self.of(relation)
        page = digests.page_of(key)
        if afresh:
            self._void(relation, {page})
            digests.forget(page)
        visit = digests.begin(page)
        return Look(relation, visit, digests.keys_of(page), digests.is_known(page), digests.keys(page))

    def compare(self, look: Look, seen: Iterable[Seen]) -> Mapping[int, frozenset[int]]:
        """Keys whose rows are not as they were published, each with the inboxes where they were known.

        What was published since the look began is not among them.
        """
        named = self.of(look.relation).compare(look.visit, seen)
        return {key: inboxes for key, inboxes in named.items() if key not in look.visit.read}

    def settle(self, look: Look) -> None:
        """All that was named was read, or can't be."""
        self.of(look.relation).settle(look.visit)
        self._note_changes(look.relation)

    def _note_changes(self, relation: str) -> None:
        now = time.monotonic()
        for page in self._relations[relation].take_changed():
            self._changed[relation, page] = now

    # --- by the clock

    def write_down(self, *, at_once: bool = False) -> None:
        """Pages that rest, and of which everything is acknowledged."""
        self._flying = [each for each in self._flying if not each[0].complete]
        if self._memory is None:
            self._changed.clear()
            return
        rested = time.monotonic() - (0.0 if at_once else RESTS_S)
        batch = Batch()
        for (relation, page), at in list(self._changed.items()):
            digests = self.of(relation)
            if at > rested or self._is_flying(relation, digests.keys_of(page)):
                continue
            del self._changed[relation, page]
            if (record := digests.to_record(page)) is not None:
                self._memory.write(_record(relation, page), record, batch)
            elif _record(relation, page) in self._memory.records:
                self._memory.forget(_record(relation, page), batch)

    def _is_flying(self, relation: str, keys: range) -> bool:
        return any(
            name == relation and each.start < keys.stop and keys.start < each.stop for _, name, each in self._flying
        )

    def describe(self) -> dict[str, Any]:
        """By relation, for the status."""
        return {name: {"entries": each.entries, "width": each.width} for name, each in self._relations.items()}

    def _void(self, relation: str, pages: Iterable[int]) -> None:
        batch = Batch()
        for page in pages:
            if self._memory is not None and (name := _record(relation, page)) in self._memory.records:
                self._memory.forget(name, batch)
                self._changed[relation, page] = time.monotonic()
        if batch.sent:
            self._wait_for(batch)


def _prefix(relation: str) -> str:
    return f"digest/{relation}/"


def _record(relation: str, page: int) -> str:
    return f"{_prefix(relation)}{page}"
