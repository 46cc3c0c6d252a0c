"""What was published last of every derived relation, as digests that outlive a run in the state topic.

Lives in the run's loop. A record is written only of what Kafka has acknowledged. Before anything is published anew it
is written down of which keys, and where they will have been: those are in doubt until the record of their page is
written again. So after a crash no record claims more than was published, and nothing that was is forgotten.

Records: `digest/<relation>/<number of page>`, `doubt/<relation>/<number>`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from replicator.digests import PAGE_SLOTS, Digests, Seen, Visit, by_key
from replicator.memory import Memory
from replicator.progress import Batch

MOST_RECORDED: Final = 4 << 20
"""Characters of one record, which the state topic must take."""
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
    knows_keys: bool
    """Each by itself; else neighbours together, and `known` is empty."""


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
        self._doubts: dict[tuple[str, int], dict[int, frozenset[int]]] = {}
        """By relation and number: keys that were published since the record of their page was written → where."""
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
            by_number = {_number(name): record for name, record in records.items()}
            found = self._relations[relation] = Digests.from_records(self._limit, by_number)
            self._load_doubts(relation, found)
            self._note_changes(relation)
        return found

    def _load_doubts(self, relation: str, digests: Digests) -> None:
        records = self._memory.under(_doubts(relation)) if self._memory is not None else {}
        for name, record in records.items():
            doubts = {key: frozenset(inboxes) for key, inboxes in record["keys"]}
            self._doubts[relation, _number(name)] = doubts
            for key, inboxes in doubts.items():
                digests.doubt(key, inboxes)
                self._changed[relation, digests.number_of(digests.page_of(key))] = time.monotonic()

    def inboxes(self, relation: str, key: int) -> frozenset[int]:
        """Where it was published last, as far as that is known."""
        return self.of(relation).inboxes(key)

    # --- what is published

    def doubt(self, relation: str, keys: Iterable[int], rows: Iterable[Seen]) -> None:
        """These keys are published next, with these rows. Returns when it is durable where they will have been."""
        if self._memory is None:
            return
        digests, found, batch = self.of(relation), by_key(rows), Batch()
        numbers = set[int]()
        for key in keys:
            number = key // PAGE_SLOTS
            doubts = self._doubts.setdefault((relation, number), {})
            before, inboxes = doubts.get(key), digests.inboxes(key) | found.get(key, {}).keys()
            if inboxes and (before is None or not inboxes <= before):
                doubts[key] = inboxes | (before or frozenset())
                numbers.add(number)
        for number in numbers:
            doubts = self._doubts[relation, number]
            record = {"keys": [[key, sorted(inboxes)] for key, inboxes in doubts.items()]}
            self._memory.write(f"{_doubts(relation)}{number}", record, batch)
        if numbers:
            self._wait_for(batch)

    def published(self, relation: str, keys: Sequence[int], rows: Iterable[Seen], batch: Batch) -> None:
        """These keys were read and their rows sent with this batch; a key that is in no row has none."""
        digests, found = self.of(relation), by_key(rows)
        for key in keys:
            digests.put(key, found.get(key, {}))
        now = time.monotonic()
        for page in set(map(digests.page_of, keys)):
            self._flying.append((batch, relation, digests.keys_of(page)))
            self._changed[relation, digests.number_of(page)] = now

    def forget(self, relation: str, batch: Batch) -> None:
        """Nothing is known of it any more."""
        self._relations[relation] = Digests(self._limit)
        self._changed = {each: at for each, at in self._changed.items() if each[0] != relation}
        self._doubts = {each: keys for each, keys in self._doubts.items() if each[0] != relation}
        if self._memory is not None:
            for name in (*self._memory.under(_prefix(relation)), *self._memory.under(_doubts(relation))):
                self._memory.forget(name, batch)

    # --- what a rolling pass looks at

    def look(self, relation: str, key: int) -> Look:
        """Before the rows of this key's page are looked at."""
        digests = self.of(relation)
        page = digests.page_of(key)
        visit = digests.begin(page)
        return Look(
            relation, visit, digests.keys_of(page), digests.is_known(page), digests.keys(page), digests.width == 1
        )

    def compare(self, look: Look, seen: Iterable[Seen]) -> Mapping[int, frozenset[int]]:
        """Keys whose rows are not as they were published, each with the inboxes where they were known.

        What was published since the look began is not among them.
        """
        digests = self.of(look.relation)
        if not digests.is_open(look.visit):  # the relation is another meanwhile
            return {}
        named = digests.compare(look.visit, seen)
        return {key: inboxes for key, inboxes in named.items() if key not in look.visit.read}

    def settle(self, look: Look) -> None:
        """All that was named was read, or can't be."""
        self.of(look.relation).settle(look.visit)
        self._note_changes(look.relation)

    def _note_changes(self, relation: str) -> None:
        now = time.monotonic()
        for number in self._relations[relation].take_changed():
            self._changed[relation, number] = now

    # --- by the clock

    def write_down(self, *, at_once: bool = False) -> None:
        """Pages that rest, and of which everything is acknowledged."""
        self._flying = [each for each in self._flying if not each[0].complete]
        if self._memory is None:
            self._changed.clear()
            return
        rested = time.monotonic() - (0.0 if at_once else RESTS_S)
        batch = Batch()
        for (relation, number), at in sorted(self._changed.items()):
            digests = self.of(relation)
            page = digests.page_at(number)
            is_its_own = digests.number_of(page) == number
            if at > rested or self._is_flying(relation, digests.keys_of(page)):
                continue
            if not is_its_own and (relation, digests.number_of(page)) in self._changed:
                continue  # the wider page is written before what it takes in goes
            del self._changed[relation, number]
            record = digests.to_record(number)
            if record is not None and len(record["entries"]) > MOST_RECORDED:
                continue  # what was written before stands, and what was published since stays in doubt
            if record is not None:
                self._memory.write(f"{_prefix(relation)}{number}", record, batch)
                self._settle_doubts(relation, range(number, number + digests.width), batch)
            elif f"{_prefix(relation)}{number}" in self._memory.records:
                self._memory.forget(f"{_prefix(relation)}{number}", batch)

    def _settle_doubts(self, relation: str, numbers: range, batch: Batch) -> None:
        """What became of these keys is in the record."""
        for each in [each for each in self._doubts if each[0] == relation and each[1] in numbers]:
            del self._doubts[each]
            if self._memory is not None and (name := f"{_doubts(relation)}{each[1]}") in self._memory.records:
                self._memory.forget(name, batch)

    def _is_flying(self, relation: str, keys: range) -> bool:
        return any(
            name == relation and each.start < keys.stop and keys.start < each.stop for _, name, each in self._flying
        )

    def describe(self) -> dict[str, Any]:
        """By relation, for the status."""
        return {name: {"entries": each.entries, "width": each.width} for name, each in self._relations.items()}


def _prefix(relation: str) -> str:
    return f"digest/{relation}/"


def _doubts(relation: str) -> str:
    return f"doubt/{relation}/"


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])
