"""Whether the source that we find is the one that we left, and what its epoch is.

Positions are only compared within one unbroken history. A new slot, another system identifier or timeline, a slot that
is further than we ever confirmed, WAL that has gone back, or a table that may have changed while it was not published:
each begins a new epoch, and a new epoch brings a full backfill with sweep.

Pure: the facts are handed in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from replicator.lsn import format_lsn
from replicator.modes import Mode

Published = Mapping[str, Sequence[int]]
"""Table → numbers that stay the same as long as all its changes are published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the state topic remembers."""

    epoch: int
    begun: int
    """The latest epoch of which anything was written: beyond `epoch` if a run ended while it began one."""
    system_id: str
    timeline: int
    slot: str
    published: Published
    generation: int
    confirmed: int
    mode: str
    """Of `modes`: by which the epoch was read."""
    hidden: int = 0
    """Records that a zombie's have taken the place of."""
    last_commit: int = 0
    """Of those that were read."""
    went_back: bool = False
    """That commit was not found again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What the source shows now."""

    system_id: str
    timeline: int
    slot: str
    slot_is_new: bool
    published: Published
    slot_confirmed: int
    """Polling: 0."""
    generation: int
    mode: str


def why_new_epoch(past: Past | None, present: Present, watched: Collection[str]) -> str | None:
    """The reason why an epoch must begin, or None if the old one goes on.

    `watched`: the tables of which something is made.
    """
    if past is None:
        return "nothing is remembered of an earlier run"
    if past.begun > past.epoch:
        return f"epoch {past.begun} was begun and not finished"
    if past.hidden:
        return f"{past.hidden} records of the state topic were overwritten by an earlier run that woke up late"
    if past.system_id != present.system_id:
        return f"the source is another cluster ({present.system_id}, was {past.system_id})"
    if past.timeline != present.timeline:
        return f"the source was restored or failed over (timeline {present.timeline}, was {past.timeline})"
    if past.mode != present.mode:
        return f"the source was read by {past.mode} before, and by {present.mode} now"
    if present.slot_is_new or (present.mode == Mode.STREAM and past.slot != present.slot):
        return "the replication slot is new"
    if changed := changed_tables(past.published, present.published, watched):
        return f"the publication was changed or made anew, or a table of it: {', '.join(changed)}"
    if present.slot_confirmed > past.confirmed:
        return (
            f"the slot stands at {format_lsn(present.slot_confirmed)}, beyond {format_lsn(past.confirmed)},"
            " the last that was ever confirmed: somebody else has moved it"
        )
    if present.generation <= max(past.generation, past.confirmed, past.last_commit):
        return f"the source's WAL has gone back to {format_lsn(present.generation)}"
    if past.went_back:
        return f"the source was taken back: the commit at {format_lsn(past.last_commit)} is not there any more"
    return None


def changed_tables(before: Published, now: Published, watched: Collection[str]) -> list[str]:
    """Tables of which changes may have been left out of the stream between the two."""
    return sorted(name for name in watched if before.get(name) != now.get(name))


def next_epoch(last: int, now_s: int) -> int:
    """Greater than every epoch before, also when the memory of them is lost."""
    return max(last + 1, now_s)
