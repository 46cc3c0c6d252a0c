"""How the source is read: by its stream, or by polling; and what makes the one give way to the other.

One table (`RULES`) says all. Into polling: as soon as its reason holds. Back to the stream: when no reason holds any
more, and not before a pause that doubles with each fall that followed soon on the last, so that a source which fills
its WAL budget every minute is not read anew as a whole every minute.

Pure: facts and times in, the next standing out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

LONGEST_PAUSE_MS: Final = 3_600_000
LEFT_OUT: Final = "they stand still while the view alone is polled: REPLICATOR_POLL_TABLES=true follows them"
"""Said of tables that were streamed."""
STEADY_MS: Final = 3_600_000
"""A stream that lasted so long has paid for its falls."""


class Mode(StrEnum):
    STREAM = "streaming"
    POLL = "polling"


class Why(StrEnum):
    """Why the source is polled."""

    SETTING = "setting"
    STANDBY = "standby"
    RIGHT = "right"
    WAL_LEVEL = "wal-level"
    WAL_BUDGET = "wal-budget"
    SLOT_LOST = "slot-lost"
    NONE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the source and its owner allow now."""

    setting: str
    """`auto` or `poll`: where it is `stream` nobody asks."""
    in_recovery: bool
    may_replicate: bool
    wal_level: str
    budget_is_spent: bool
    """Our slot kept more WAL than it may, and was dropped."""
    slot_is_lost: bool
    """We had streamed by a slot that does not exist any more, or lacks WAL."""
    can_poll: Callable[[], bool]
    """Whether there is anything that could be polled: asked only where it matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The mode, why, since when, and when it may end. Kept in the state topic."""

    mode: Mode
    why: Why = Why.NONE
    since_ms: int
    not_before_ms: int = 0
    """Polling: the stream is not tried again before."""
    falls: int = 0
    """From the stream into polling, each soon after the last."""
    switches: int = 0

    def to_record(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "why": self.why,
            "since_ms": self.since_ms,
            "not_before_ms": self.not_before_ms,
            "falls": self.falls,
            "switches": self.switches,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Standing:
        return cls(**{**record, "mode": Mode(record["mode"]), "why": Why(record["why"])})


class Rule(NamedTuple):
    """One reason to poll. The first that holds counts."""

    why: Why
    holds: Callable[[Facts], bool]
    sentence: str
    back: str
    """What brings the stream back."""


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        Why.SETTING,
        lambda facts: facts.setting == "poll",
        "REPLICATOR_MODE says so",
        "another REPLICATOR_MODE",
    ),
    Rule(
        Why.STANDBY,
        lambda facts: facts.in_recovery,
        "the source is a standby",
        "a primary at REPLICATOR_SOURCE_DSN",
    ),
    Rule(
        Why.RIGHT,
        lambda facts: not facts.may_replicate,
        "the role may not replicate",
        "ALTER ROLE … REPLICATION",
    ),
    Rule(
        Why.WAL_LEVEL,
        lambda facts: facts.wal_level != "logical",
        "wal_level is not logical",
        "ALTER SYSTEM SET wal_level = logical, and a restart of the source",
    ),
    Rule(
        Why.WAL_BUDGET,
        lambda facts: facts.budget_is_spent,
        "our slot kept more WAL than REPLICATOR_WAL_BUDGET_BYTES, and was dropped",
        "the end of a pause",
    ),
    Rule(
        Why.SLOT_LOST,
        lambda facts: facts.slot_is_lost,
        "the replication slot was lost",
        "the end of a pause",
    ),
)
BY_WHY: Final[dict[Why, Rule]] = {rule.why: rule for rule in RULES}


def why_poll(facts: Facts) -> Why:
    """`NONE` if the source can be streamed, or must be: where nothing can be polled either, `check` says what lacks."""
    why = next((rule.why for rule in RULES if rule.holds(facts)), Why.NONE)
    return why if why in (Why.NONE, Why.SETTING) or facts.can_poll() else Why.NONE


def next_standing(now: Standing | None, facts: Facts, at_ms: int, pause_ms: int) -> Standing:
    """What holds from now on: `now` itself if nothing changes. `pause_ms`: after a first fall."""
    why = why_poll(facts)
    if now is None:
        return Standing(mode=Mode.POLL if why else Mode.STREAM, why=why, since_ms=at_ms)
    if now.mode is Mode.STREAM:
        return _fallen(now, why, at_ms, pause_ms) if why else now
    if why:
        return replace(now, why=why) if why is not now.why else now
    if at_ms < now.not_before_ms:
        return now
    return Standing(mode=Mode.STREAM, since_ms=at_ms, falls=now.falls, switches=now.switches + 1)


def _fallen(now: Standing, why: Why, at_ms: int, pause_ms: int) -> Standing:
    falls = 1 if at_ms - now.since_ms > STEADY_MS else now.falls + 1
    pause = min(pause_ms << min(falls - 1, 32), LONGEST_PAUSE_MS)
    return Standing(
        mode=Mode.POLL,
        why=why,
        since_ms=at_ms,
        not_before_ms=at_ms + pause,
        falls=falls,
        switches=now.switches + 1,
    )


def quick_epochs(last: Mapping[str, Any], mode: Mode, begun_ms: int) -> int:
    """How many epochs of the stream have begun, each soon after the last. `last`: the record of the one before."""
    if mode is Mode.POLL or last.get("mode") != Mode.STREAM or begun_ms - last.get("begun_ms", 0) > STEADY_MS:
        return 0
    return int(last.get("quick", 0)) + 1


def rest_until_ms(begun_ms: int, quick: int, pause_ms: int) -> int:
    """Before when no new slot is made where nothing can be polled meanwhile: each brings a backfill of everything.

    `begun_ms`: when the last epoch of the stream began; `quick`: how many had done so, each soon after the last.
    """
    return begun_ms + min(pause_ms << min(quick - 1, 32), LONGEST_PAUSE_MS) if quick else 0
