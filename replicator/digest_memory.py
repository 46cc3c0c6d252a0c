"""What was published last of every derived relation, as digests that outlive a run in the state topic.

Lives in the run's loop. A record is written only of what Kafka has acknowledged, and is void from the moment at which
anything of its page is published anew until that is acknowledged too: a crash in between leaves the page unknown, and
unknown pages are published again. So a record never claims more than was published.

Rows of an unknown page that were published already may be gone by the time of its visit. So their keys are remembered,
as early ones, and the visit asks for them too; a record that is void names them, unless several keys share a slot.

Records: `digest/<relation>/<page>`, of digests or of early keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from replicator.digests import Digests, Seen, Visit, by_key
from replicator.memory import Memory
from replicator.progress import Batch

EARLY: Final = "early"
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
        self._early: dict[str, dict[int, frozenset[int]]] = {}
        """By relation: keys that were published on pages which are not known → the inboxes where they were."""
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
            by_page = {int(name.rpartition("/")[2]): record for name, record in records.items() if EARLY not in record}
            for record in records.values():
                self._early_of(relation).update((key, frozenset(at)) for key, at in record.get(EARLY, ()))
            found = self._relations[relation] = Digests.from_records(self._limit, by_page)
            self._note_changes(relation)
        return found

    def first_known(self, relation: str, after: int | None) -> int | None:
        """The first key behind `after` (None: of all) of which something is known."""
        digests = self.of(relation)
        known = [key for key in self._early_of(relation) if after is None or key > after]
        if (first := digests.first_known(after)) is not None:
            known.append(first)
        return min(known, default=None)

    def inboxes(self, relation: str, key: int) -> frozenset[int]:
        """Where it was published last, as far as that is known."""
        return self.of(relation).inboxes(key) | self._early_of(relation).get(key, frozenset())

    # --- what is published

    def reopen(self, relation: str, keys: Iterable[int]) -> None:
        """These keys are published next: what is recorded of their pages is void. Returns when that is durable."""
        pages: dict[int, list[int]] = {}
        for key in keys:
            pages.setdefault(self.of(relation).page_of(key), []).append(key)
        self._void(relation, pages)

    def published(self, relation: str, keys: Sequence[int], rows: Iterable[Seen], batch: Batch) -> None:
        """These keys were read and their rows sent with this batch; a key that is in no row has none."""
        digests, found = self.of(relation), by_key(rows)
        for key in keys:
            digests.put(key, found.get(key, {}))
            if not digests.is_known(digests.page_of(key)):
                self._note_early(relation, key, found.get(key, {}))
        now = time.monotonic()
        for page in set(map(digests.page_of, keys)):
            self._flying.append((batch, relation, digests.keys_of(page)))
            self._changed[relation, page] = now

    def forget(self, relation: str, batch: Batch) -> None:
        """Nothing is known of it any more."""
        self._relations[relation] = Digests(self._limit)
        self._early.pop(relation, None)
        self._changed = {each: at for each, at in self._changed.items() if each[0] != relation}
        if self._memory is not None:
            for name in self._memory.under(_prefix(relation)):
                self._memory.forget(name, batch)

    # --- what a rolling pass looks at

    def look(self, relation: str, key: int, *, afresh: bool = False) -> Look:
        """Before the rows of this key's page are looked at. `afresh`: all of them are to be published again."""
        digests = self.of(relation)
        page = digests.page_of(key)
        if afresh:
            self._void(relation, {page: ()})
            for each in digests.keys(page):
                self._early_of(relation)[each] = digests.inboxes(each)
            digests.forget(page)
        visit, covered = digests.begin(page), digests.keys_of(page)
        known = {*digests.keys(page), *self._early_within(relation, covered)}
        return Look(relation, visit, covered, digests.is_known(page), tuple(sorted(known)))

    def compare(self, look: Look, seen: Iterable[Seen]) -> Mapping[int, frozenset[int]]:
        """Keys whose rows are not as they were published, each with the inboxes where they were known.

        What was published since the look began is not among them.
        """
        named = dict(self.of(look.relation).compare(look.visit, seen))
        for key, inboxes in self._early_within(look.relation, look.keys).items():
            named[key] = named.get(key, frozenset()) | inboxes
        return {key: inboxes for key, inboxes in named.items() if key not in look.visit.read}

    def settle(self, look: Look) -> None:
        """All that was named was read, or can't be."""
        digests = self.of(look.relation)
        digests.settle(look.visit)
        if digests.is_known(digests.page_of(look.keys.start)):
            for key in self._early_within(look.relation, look.keys):
                del self._early[look.relation][key]
        self._note_changes(look.relation)

    def _early_of(self, relation: str) -> dict[int, frozenset[int]]:
        return self._early.setdefault(relation, {})

    def _early_within(self, relation: str, keys: range) -> dict[int, frozenset[int]]:
        early = self._early_of(relation)
        if len(early) < len(keys):
            return {key: inboxes for key, inboxes in early.items() if key in keys}
        return {key: early[key] for key in keys if key in early}

    def _note_early(self, relation: str, key: int, inboxes: Iterable[int]) -> None:
        """Where it is now; of one that is nowhere nothing need be asked."""
        early = self._early_of(relation)
        if now := frozenset(inboxes):
            early[key] = now
        else:
            early.pop(key, None)

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
            if (record := digests.to_record(page) or self._early_record(relation, page)) is not None:
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

    def _void(self, relation: str, pages: Mapping[int, Iterable[int]]) -> None:
        """Pages with keys that are published next."""
        if self._memory is None:
            return
        batch = Batch()
        for page, keys in pages.items():
            name = _record(relation, page)
            before = self._memory.records.get(name)
            early = self._early_record(relation, page, keys)
            if early is None:
                if before is None:
                    continue
                self._memory.forget(name, batch)
            elif before is None or EARLY not in before or not {*keys} <= {key for key, _ in before[EARLY]}:
                self._memory.write(name, early, batch)
            else:
                continue
            self._changed[relation, page] = time.monotonic()
        if batch.sent:
            self._wait_for(batch)

    def _early_record(self, relation: str, page: int, keys: Iterable[int] = ()) -> dict[str, Any] | None:
        """What a page is remembered by as long as it is not known. None: there is nothing, or too much of it."""
        digests = self.of(relation)
        if digests.width > 1:
            return None
        early = {key: digests.inboxes(key) for key in digests.keys(page)}
        early |= self._early_within(relation, digests.keys_of(page))
        early |= {key: self.inboxes(relation, key) for key in keys}
        return {EARLY: [[key, sorted(at)] for key, at in early.items()]} if early else None


def _prefix(relation: str) -> str:
    return f"digest/{relation}/"


def _record(relation: str, page: int) -> str:
    return f"{_prefix(relation)}{page}"
