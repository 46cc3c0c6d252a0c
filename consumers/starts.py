"""From where a replay reads: what a person may ask for, and the offset that it comes to in each partition.

What the log no longer has is refused before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumers.errors import Refused, SettingsError
from consumers.stretch import LogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Neither: the first offsets that the log still has."""

    moment: datetime | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)
    """By partition; others are not read."""


def parse(given: Sequence[str]) -> Start:
    """`start`, a time, or `offset:P:O` as often as there are partitions. Raises SettingsError."""
    offsets: dict[int, int] = {}
    moment: datetime | None = None
    for each in given:
        kind, _, rest = each.partition(":")
        if kind == "offset":
            partition, _, offset = rest.partition(":")
            if not (partition.isdecimal() and offset.isdecimal()):
                raise SettingsError(f"--from {each}: offset:PARTITION:OFFSET, for instance offset:3:120000")
            offsets[int(partition)] = int(offset)
        elif each != "start":
            moment = _moment(each)
    if len(given) > 1 and len(offsets) < len(given):
        raise SettingsError("--from: several only as offset:PARTITION:OFFSET, one for each partition")
    return Start(moment=moment, offsets=offsets)


def resolve(start: Start, reader: LogReader, ends: Mapping[int, int], inboxes: Iterable[int]) -> dict[int, int]:
    """The first offset by partition, in the log of which `ends` is what is applied. Raises Refused, LogUnavailable."""
    if strange := sorted(set(start.offsets) - set(ends)):
        raise Refused(
            f"partition {', '.join(map(str, strange))} holds nothing of these inboxes:"
            f" theirs are {', '.join(map(str, sorted(ends)))}"
        )
    found: dict[int, int] = {}
    short: list[str] = []
    for partition in start.offsets or ends:
        low, _ = reader.bounds(partition)
        asked = start.offsets.get(partition, low)
        if start.moment is not None:
            milliseconds = int(start.moment.timestamp() * 1000)
            at = reader.offset_at(partition, milliseconds)
            asked = ends[partition] if at is None else at
            if asked <= low and low > 0 and _begins_later(reader, partition, low, milliseconds):
                asked = low - 1
        if asked < low:
            short.append(f"partition {partition} begins at offset {low}")
        found[partition] = min(asked, ends[partition])
    if short:
        raise Refused(
            f"the log no longer reaches back so far: {', '.join(short)}. Nothing was read. Replay from there, or read"
            f" the source instead: {backfill_of(inboxes)}"
        )
    return found


def backfill_of(inboxes: Iterable[int]) -> str:
    """The command that reads them from the source."""
    return "replicator backfill " + " ".join(f"--inbox {inbox}" for inbox in sorted(inboxes))


def _begins_later(reader: LogReader, partition: int, low: int, milliseconds: int) -> bool:
    written = reader.written_ms(partition, low)
    return written is None or written > milliseconds


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"--from {text}: start, offset:PARTITION:OFFSET, or a time such as 2026-03-01T12:00:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
