"""How the replicator reads the source, as its own status and log tell it. Pure.

Moments are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

STREAMING, POLLING = "streaming", "polling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One status."""

    mode: str
    since: float
    """When this mode was chosen; 0: it is not said."""
    because: str
    """Why the source is not streamed; empty: it is."""
    back: str
    """What brings the stream back."""
    not_before: float
    verified: float | None
    """Everything that was committed before is published; None: nothing is known yet, or it is not polled."""
    polls: int
    candidates: int
    """Rows that polls have found..."""
    repaired: int
    """...and rows that only the rolling pass has."""
    poll_seconds: float
    """Of the last poll, in queries on the source."""
    source_seconds: float
    """Of this run, in queries on the source."""
    at: float

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self | None:
        """None if the status is not that of a run."""
        if "mode" not in status:
            return None
        verified = status.get("verified_through")
        return cls(
            mode=status["mode"],
            since=status["mode_since_ms"] / 1000,
            because=status["mode_because"],
            back=status["mode_back"],
            not_before=status["mode_not_before_ms"] / 1000,
            verified=datetime.fromisoformat(verified).timestamp() if verified else None,
            polls=status.get("polls", 0),
            candidates=status.get("candidates", 0),
            repaired=sum(each["repaired"] for each in status.get("verified", {}).values()),
            poll_seconds=status.get("poll_s", 0.0),
            source_seconds=status.get("source_s", 0.0),
            at=status["at_ms"] / 1000,
        )

    @property
    def is_polling(self) -> bool:
        return self.mode == POLLING

    def sentence(self, now: float) -> str:
        """The mode; of polling why, for how long, and what ends it."""
        if not self.is_polling:
            return self.mode
        pause = f", in {self.not_before - now:.0f} s" if self.not_before > now else ""
        return f"{self.mode} for {max(0.0, now - self.since):.0f} s: {self.because} (back by {self.back}{pause})"

    def verified_sentence(self, now: float) -> str:
        """Up to when everything is known to be published; empty if it is not polled."""
        if not self.is_polling:
            return ""
        if self.verified is None:
            return "nothing yet"
        return f"{clock(self.verified)} UTC, {max(0.0, now - self.verified):.1f} s ago"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A mode that was chosen."""

    at: float
    mode: str
    why: str
    back: str


def switch_of(fields: Mapping[str, Any]) -> Switch | None:
    """What a line of the replicator's log says of this."""
    if fields.get("event") != "mode.chosen":
        return None
    return Switch(
        at=datetime.fromisoformat(fields["timestamp"]).timestamp(),
        mode=fields["mode"],
        why=fields.get("why", ""),
        back=fields.get("back", ""),
    )


def told(fields: Mapping[str, Any]) -> str:
    """What a line of its log means for those who watch; empty if it is of no interest."""
    match fields.get("event"):
        case "mode.chosen" if "why" in fields:
            return f"mode: {fields['mode']}, because {fields['why']}; back by {fields['back']}"
        case "mode.chosen":
            return f"mode: {fields['mode']}"
        case "epoch.begins":
            return f"epoch {fields['epoch']} begins: {fields['reason']}"
        case "slot.created":
            return f"a new slot stands at {fields['slot_at']}"
        case "backfill.finished":
            return f"the source was read as a whole: {fields['rows']:,} rows"
    return ""


def missing_switches(wanted: Sequence[str], switches: Iterable[Switch]) -> list[str]:
    """A sentence if the modes that were chosen are not these."""
    found = [switch.mode for switch in switches]
    if found == list(wanted):
        return []
    return [f"the source should be read by {_in_turn(wanted)}; it was by {_in_turn(found)}"]


def clock(moment: float) -> str:
    """The time of day in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}"


def _in_turn(modes: Sequence[str]) -> str:
    return ", then ".join(modes) or "nothing"
