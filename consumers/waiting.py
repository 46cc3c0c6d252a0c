"""Which of a tenant's events go on although some of its rows have dead letters, and which of these they close.

A partial event of such a row would be written over what the dead letter should have brought: it waits behind it. A
whole row and a delete need nothing that came before, and close what they outdate: dead letters of the row that are not
beyond their position, a delete at an inbox only those of that inbox. A row whose state was too large to be sent goes on
as a stub, and closes nothing.

Pure: the dead letters are given, and what is found is done by `dead_letters` in the transaction of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from consumers.ordering import UPSERTS, Event
from replicator import Position

Row = tuple[str, bytes]
"""(table, key as the event has it)."""


class Kept(NamedTuple):
    """A dead letter, as far as order needs it."""

    position: Position
    inbox: int | None
    """None: of every inbox."""


class Stand(NamedTuple):
    """What a tenant's dead letters are known by: no two states of them have the same."""

    letters: int
    latest: int
    """The highest id, which only grows; 0: there are none."""


NONE: Final = Stand(0, 0)


@dataclass(frozen=True, slots=True)
class Held:
    """A tenant's dead letters at some time."""

    stand: Stand = NONE
    rows: Mapping[Row, Sequence[Kept]] = field(default_factory=dict)


class Closing(NamedTuple):
    """Dead letters that an applied event outdates."""

    table: str
    key: bytes | None
    """None: of every row."""
    inbox: int | None
    """None: of every inbox."""
    position: Position


@dataclass(slots=True)
class Sorted:
    """A stretch of a tenant's events, each list in the order of reading."""

    going: list[Event] = field(default_factory=list)
    waiting: list[Event] = field(default_factory=list)
    closings: list[Closing] = field(default_factory=list)


def is_whole(event: Event) -> bool:
    """Whether the event says all of its row, or that it is gone."""
    if event.op == "d":
        return True
    return event.op in UPSERTS and not event.error and not event.absent and bool(event.body)


def is_truncate(event: Event) -> bool:
    return event.op == "t" and not event.key


def is_of_one_row(event: Event) -> bool:
    """What alone can be a dead letter: not a truncate, not a backfill's marker."""
    return event.marker is None and not is_truncate(event)


def sort(events: Sequence[Event], held: Held) -> Sorted:
    """Costs nothing where there are no dead letters."""
    if not held.rows:
        return Sorted(list(events))
    sorting = _Sorting({row: list(kept) for row, kept in held.rows.items()})
    for event in events:
        sorting.take(event)
    return sorting.done


class _Sorting:
    def __init__(self, rows: dict[Row, list[Kept]]) -> None:
        self._rows = rows
        self.done = Sorted()

    def take(self, event: Event) -> None:
        if is_truncate(event):
            self.done.going.append(event)
            self._close(Closing(event.table, None, None, event.position))
        elif not is_of_one_row(event) or not self._rows.get((event.table, event.key)):
            self.done.going.append(event)
        elif is_whole(event):
            self.done.going.append(event)
            inbox = event.inbox if event.op == "d" else None
            self._close(Closing(event.table, event.key, inbox, event.position))
        elif event.op in UPSERTS and not event.error:
            self.done.waiting.append(event)
            self._rows[event.table, event.key].append(Kept(event.position, event.inbox))
        else:
            self.done.going.append(event)

    def _close(self, closing: Closing) -> None:
        self.done.closings.append(closing)
        if closing.key is not None:
            concerned = [self._rows[closing.table, closing.key]]
        else:
            concerned = [kept for (table, _), kept in self._rows.items() if table == closing.table]
        for kept in concerned:
            kept[:] = [each for each in kept if not closes(closing, each.position, each.inbox)]
        if self.done.waiting:
            self.done.waiting = [event for event in self.done.waiting if not _outdates(closing, event)]


def closes(closing: Closing, position: Position, inbox: int | None) -> bool:
    """Whether it closes a dead letter of its row with this position and inbox."""
    return position <= closing.position and closing.inbox in (None, inbox)


def _outdates(closing: Closing, event: Event) -> bool:
    is_of_row = event.table == closing.table and closing.key in (None, event.key)
    return is_of_row and closes(closing, event.position, event.inbox)
