"""The rolling pass beside the stream: a proof that the stream misses nothing.

Of the derived relations: their rows are read with hashes, so that what was published last is known. What differs in a
settled snapshot, once the stream has passed it, was missed: it is counted, and read again. Nothing else repairs, so the
count is the measure. A thread of its own with a session of its own; never holds up the stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from replicator.agenda import Agenda
from replicator.calls import Calls, Ended
from replicator.config import Settings
from replicator.derivation import Derivation
from replicator.digest_memory import DigestMemory
from replicator.errors import SourceUnavailable
from replicator.progress import Batch
from replicator.rolling_pass import Keys, RollingPass, describe
from replicator.runtime import GrowingPause
from replicator.source import Source
from replicator.source_thread import SourceThread

log = structlog.get_logger(__name__)

IDLE_S = 0.05


class Verifier(SourceThread):
    """The thread."""

    def __init__(
        self,
        settings: Settings,
        calls: Calls,
        agenda: Agenda,
        derivation: Derivation,
        digests: DigestMemory,
        passed: Callable[[int], bool],
        *,
        born: int,
    ) -> None:
        """`passed(lsn)`: whether everything up to there was delivered. Called in the loop's thread."""
        super().__init__("verifier", settings, born)
        self._calls, self._agenda, self._derivation, self._passed = calls, agenda, derivation, passed
        self._verified: dict[str, int] = {}
        self._pass = RollingPass(
            calls,
            derivation,
            digests,
            have_read=self._have_read,
            published_upto=self._published_upto,
            verified=self._note,
            keys_per_second=settings.digest_keys_per_second,
        )

    def describe(self) -> dict[str, Any]:
        """By relation, for the status. From any thread."""
        return describe(self._pass.checked, self._verified)

    def _delayed(self, reason: str) -> None:
        log.warning("verify.waits", reason=reason)

    def _serve(self, source: Source, pause: GrowingPause) -> None:
        source.plan_once()
        while not self._stop.is_set():
            if self._pass.serve(source):
                pause.reset()
            else:
                self._wait(IDLE_S)
            self._held_up = ""

    def _note(self, relation: str, at_us: int, unread: frozenset[int]) -> Batch:
        if not unread:
            self._verified[relation] = at_us
        return Batch()

    def _published_upto(self, lsn: int) -> None:
        """Until the stream has passed there, and what it dirtied on the way is published."""
        while not self._calls.run(lambda: self._passed(lsn)):
            self._wait(IDLE_S)
        since = time.monotonic()
        while not self._calls.run(lambda: self._derivation.is_done(since) and not self._agenda.is_behind(since)):
            self._wait(IDLE_S)

    def _have_read(self, source: Source, relation: str, keys: Keys) -> None:
        del source  # the stream's own reader reads them
        items = [((key,), inboxes) for key, inboxes in keys.items()]
        errand = self._calls.run(lambda: self._agenda.errand(relation, items))
        while not errand.complete:
            self._wait(IDLE_S)
            if not self._calls.run(lambda: self._agenda.can_read(relation)):
                self._calls.run(errand.give_up)
                raise SourceUnavailable(f"{relation} can't be read at the moment")

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Ended
