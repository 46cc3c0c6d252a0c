"""Asks the source and the state topic what `modes` must know, and has it decide.

A slot that keeps more WAL than it may is dropped here, also while Kafka is away: that is when it grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog

from replicator import topics
from replicator.config import Settings
from replicator.definitions import polled_by, read_definitions
from replicator.errors import ModeChanged, SlotRests, SourceRefused
from replicator.event import Topics
from replicator.memory import read_memory
from replicator.modes import (
    BY_WHY,
    LONGEST_PAUSE_MS,
    STEADY_MS,
    Facts,
    Mode,
    Standing,
    Why,
    next_standing,
    rest_until_ms,
)
from replicator.runtime import Stop
from replicator.source import Source
from replicator.takeover import KAFKA_SECONDS, name_left_behind

log = structlog.get_logger(__name__)

LET_GO_S = 10.0
"""How long the server may take to notice that its walsender's client is gone."""


class ModeChoice:
    """Of one process."""

    def __init__(self, settings: Settings, kafka: Mapping[str, Any], stop: Stop) -> None:
        self._settings, self._kafka, self._stop = settings, kafka, stop
        self.budget_is_spent = False
        """Known here only until a run has begun to poll: the state topic may be away."""
        self._not_before_ms = 0
        self._is_return = False
        """The stream is to be tried after polling."""
        self._failed_returns = 0
        self._drops, self._dropped_ms, self._rests_until_ms = 0, 0, 0
        """Of slots that kept too much, each soon after the last."""
        self._said: Standing | None = None
        self.held_bytes = 0
        """WAL that our slot kept when it was last looked at: while polling it is one that the role may not drop."""

    def choose(self) -> Standing:
        """How the next run reads, once there are topics to remember that in. Raises what keeps it from being known.

        SlotRests: the source can only be streamed, and must be left alone for a while.
        """
        self._is_return = False
        with Source(self._settings) as source:
            self._spare(source)
            topics.ensure(self._kafka, self._settings)
            records = read_memory(self._kafka, Topics(self._settings.topic_prefix), KAFKA_SECONDS).records
            epoch = records.get("epoch", {})
            has_streamed = epoch.get("mode") == Mode.STREAM and epoch["slot"] == self._settings.slot
            if self._settings.mode == "stream":
                self._refuse_to_begin_anew(source, epoch if has_streamed else {})
                return Standing(mode=Mode.STREAM, since_ms=_now_ms())
            known = Standing.from_record(records["mode"]) if "mode" in records else None
            if known is None and has_streamed:
                known = Standing(mode=Mode.STREAM, since_ms=_now_ms())
            facts = self._facts(source, has_streamed=has_streamed, can_poll=partial(self._can_poll, source))
            standing = self._next(known, facts)
            if standing.mode is Mode.STREAM:
                self._refuse_to_begin_anew(source, epoch if has_streamed else {})
        self._is_return = known is not None and known.mode is Mode.POLL and standing.mode is Mode.STREAM
        self._say(standing)
        return standing

    def postpone(self) -> bool:
        """The run that was chosen has failed before it began. Whether polling is left to go on with; for longer each
        time."""
        if not self._is_return:
            return False
        pause_ms = min(self._pause_ms << min(self._failed_returns, 32), LONGEST_PAUSE_MS)
        self._failed_returns += 1
        self._not_before_ms = _now_ms() + pause_ms
        return True

    def note_begun(self) -> None:
        """The run that was chosen has begun: what becomes of it later is no failed return."""
        if self._is_return:
            self._is_return, self._failed_returns = False, 0

    def leave_polling(self, standing: Standing, source: Source) -> None:
        """Asked now and then while polling. Raises ModeChanged when the stream is to be tried."""
        # What is polled at this moment can be: to ask would take a new look at every definition, each time.
        following = self._next(standing, self._facts(source, has_streamed=False, can_poll=lambda: True))
        if following.mode is Mode.STREAM:
            raise ModeChanged("the source can be streamed, it seems")

    @property
    def _pause_ms(self) -> int:
        return round(1000 * self._settings.stream_retry_s)

    def _next(self, known: Standing | None, facts: Facts) -> Standing:
        now_ms = _now_ms()
        following = next_standing(known, facts, now_ms, self._pause_ms)
        if known is None or known.mode is Mode.STREAM or following.mode is Mode.POLL:
            return following
        # While a new slot would have to rest the source is polled on.
        return known if now_ms < max(self._not_before_ms, self._rests_until_ms) else following

    def _say(self, standing: Standing) -> None:
        said, self._said = self._said, standing
        if said is None or said.mode is not standing.mode:
            rule = BY_WHY.get(standing.why)
            because = {"why": rule.sentence, "back": rule.back} if rule is not None else {}
            log.info("mode.chosen", mode=standing.mode.value, switches=standing.switches, **because)

    def _spare(self, source: Source) -> None:
        """The source's disk wins."""
        slot = source.slot()
        if slot is None or slot.held_bytes is None or slot.held_bytes <= self._settings.wal_budget_bytes:
            return
        deadline = time.monotonic() + LET_GO_S
        while slot is not None and slot.active_pid is not None and time.monotonic() < deadline:
            self._stop.wait(0.1)
            slot = source.slot()
        try:
            source.drop_slot()
        except SourceRefused as error:
            name_left_behind(source, str(error))
            return
        if source.slot() is None:
            log.warning("slot.dropped", reason=BY_WHY[Why.WAL_BUDGET].sentence)
            self.budget_is_spent = True
            self._note_drop(_now_ms())

    def _note_drop(self, now_ms: int) -> None:
        self._drops = 1 if now_ms - self._dropped_ms > STEADY_MS else self._drops + 1
        self._dropped_ms = now_ms
        self._rests_until_ms = now_ms + min(self._pause_ms << min(self._drops - 1, 32), LONGEST_PAUSE_MS)

    def _refuse_to_begin_anew(self, source: Source, epoch: Mapping[str, Any]) -> None:
        """A new slot brings a backfill of everything: a source that can't be polled meanwhile is not to have it again
        and again, whatever takes the slot. `epoch`: the record of the one that streamed by it."""
        slot = source.slot()
        if slot is not None and slot.wal_status != "lost":
            return
        lost_ms = rest_until_ms(epoch.get("begun_ms", 0), epoch.get("quick", 0), self._pause_ms)
        why = Why.WAL_BUDGET if self._rests_until_ms >= lost_ms else Why.SLOT_LOST
        # A longer rest than the longest is that of a clock which was set back since.
        if 0 < (rest_ms := max(self._rests_until_ms, lost_ms) - _now_ms()) <= LONGEST_PAUSE_MS:
            raise SlotRests(f"{BY_WHY[why].sentence}; a new one is made in {rest_ms / 1000:.0f} s")

    def _can_poll(self, source: Source) -> bool:
        return bool(read_definitions(source, polled_by(self._settings)).available)

    def _facts(self, source: Source, *, has_streamed: bool, can_poll: Callable[[], bool]) -> Facts:
        in_recovery, may_replicate, wal_level = source.may_stream()
        slot = source.slot()
        self.held_bytes = (slot.held_bytes or 0) if slot is not None else 0
        # A slot that is within its budget is another than the one that was not.
        self.budget_is_spent &= has_streamed and (slot is None or self.held_bytes > self._settings.wal_budget_bytes)
        return Facts(
            setting=self._settings.mode,
            in_recovery=in_recovery,
            may_replicate=may_replicate,
            wal_level=wal_level,
            budget_is_spent=self.budget_is_spent,
            slot_is_lost=has_streamed and (slot is None or slot.wal_status == "lost"),
            can_poll=can_poll,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
