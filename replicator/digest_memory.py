"""What was published last of every derived relation, as digests that outlive a run in the state topic.

Lives in the run's loop. A record is written only of what Kafka has acknowledged. Before anything is published anew it
is written down of which keys, and where they will have been: those are in doubt until the record of their page is
written again. So after a crash no record claims more than was published, and nothing that was is forgotten.

Records: `digest/<relation>/<page>`, `doubt/<relation>/<page>`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from replicator.digests import Digests, Seen, Visit, by_key
from replicator.memory import Memory
from replicator.progress import Batch

log = structlog.get_logger(__name__)

MOST_RECORDED: Final = 4 << 20
"""Characters of one record, which the state topic must take."""
CROWDED: Final = (
    "neighbouring rows are at too many inboxes for REPLICATOR_DIGEST_ENTRIES: more is remembered than it says, and one"
    " change has hundreds of rows read again; raised, it holds from the next epoch on"
)
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
        self._flying: list[tuple[Batch, str, int]] = []
        """Pages of which something is on its way to Kafka."""
        self._doubts: dict[tuple[str, int], dict[int, frozenset[int]]] = {}
        """By relation and page: keys that were published since the record of their page was written → where."""
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
            by_page = {_page(name): record for name, record in records.items()}
            found = self._relations[relation] = Digests.from_records(self._limit, by_page)
            self._load_doubts(relation, found)
            self._note_changes(relation)
        return found

    def _load_doubts(self, relation: str, digests: Digests) -> None:
        records = self._memory.under(_doubts(relation)) if self._memory is not None else {}
        for name, record in records.items():
            doubts = {key: frozenset(inboxes) for key, inboxes in record["keys"]}
            self._doubts[relation, _page(name)] = doubts
            for key, inboxes in doubts.items():
                digests.doubt(key, inboxes)
                self._changed[relation, _page(name)] = time.monotonic()

    def inboxes(self, relation: str, key: int) -> frozenset[int]:
        """Where it was published last, as far as that is known."""
        return self.of(relation).inboxes(key)

    # --- what is published

    def doubt(self, relation: str, keys: Iterable[int], rows: Iterable[Seen]) -> None:
        """These keys are published next, with these rows. Returns when it is durable where they will have been."""
        if self._memory is None:
            return
        digests, found, batch = self.of(relation), by_key(rows), Batch()
        pages = set[int]()
        for key in keys:
            page = digests.page_of(key)
            doubts = self._doubts.setdefault((relation, page), {})
            before, inboxes = doubts.get(key), digests.inboxes(key) | found.get(key, {}).keys()
            if inboxes and (before is None or not inboxes <= before):
                doubts[key] = inboxes | (before or frozenset())
                pages.add(page)
        for page in pages:
            doubts = self._doubts[relation, page]
            record = {"keys": [[key, sorted(inboxes)] for key, inboxes in doubts.items()]}
            self._memory.write(f"{_doubts(relation)}{page}", record, batch)
        if pages:
            self._wait_for(batch)

    def published(self, relation: str, keys: Sequence[int], rows: Iterable[Seen], batch: Batch) -> None:
        """These keys were read and their rows sent with this batch; a key that is in no row has none."""
        digests, found = self.of(relation), by_key(rows)
        for key in keys:
            digests.put(key, found.get(key, {}))
        now = time.monotonic()
        for page in set(map(digests.page_of, keys)):
            self._flying.append((batch, relation, page))
            self._changed[relation, page] = now

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
        digests = self.of(look.relation)
        was_crowded = digests.is_crowded
        digests.settle(look.visit)
        if digests.is_crowded and not was_crowded:
            log.warning("digests.crowded", relation=look.relation, entries=digests.entries, advice=CROWDED)
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
        batch, flying = Batch(), {(relation, page) for _, relation, page in self._flying}
        for (relation, page), at in sorted(self._changed.items()):
            if at > rested or (relation, page) in flying:
                continue
            del self._changed[relation, page]
            record = self.of(relation).to_record(page)
            if record is None or len(record["entries"]) > MOST_RECORDED:
                continue  # what was written before stands, and what was published since stays in doubt
            self._memory.write(f"{_prefix(relation)}{page}", record, batch)
            self._doubts.pop((relation, page), None)  # what became of its keys is in the record
            if (name := f"{_doubts(relation)}{page}") in self._memory.records:
                self._memory.forget(name, batch)

    def describe(self) -> dict[str, Any]:
        """By relation, for the status."""
        return {
            name: {"entries": each.entries, "width": each.width, "crowded": each.is_crowded}
            for name, each in self._relations.items()
        }


def _prefix(relation: str) -> str:
    return f"digest/{relation}/"


def _doubts(relation: str) -> str:
    return f"doubt/{relation}/"


def _page(name: str) -> int:
    return int(name.rpartition("/")[2])
