"""The thread that reads derived relations beside the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from replicator.calls import Calls
from replicator.config import Settings
from replicator.definitions import Definitions
from replicator.event import Origin
from replicator.reader import Reader, Work
from replicator.relations import Captured
from replicator.runtime import GrowingPause
from replicator.source import Source
from replicator.source_thread import SourceThread

log = structlog.get_logger(__name__)

IDLE_S: Final = 0.02
"""Between two looks for something due, while anything is waiting."""


class Deriver(SourceThread):
    """The thread."""

    def __init__(
        self,
        settings: Settings,
        captured: Captured,
        calls: Calls,
        work: Work,
        install: Callable[[Definitions], None],
        origin: Callable[[str], Origin],
        *,
        known: Definitions,
        born: int,
        hashed: bool = False,
    ) -> None:
        """As `Reader` has them."""
        super().__init__("deriver", settings, born)
        self._reader = Reader(
            settings, captured, calls, work, install, origin, self._settled, known=known, hashed=hashed
        )

    def _delayed(self, reason: str) -> None:
        log.warning("derived.waits", reason=reason)

    def _serve(self, source: Source, pause: GrowingPause) -> None:
        source.plan_once()
        while not self._stop.is_set():
            if self._reader.serve(source):
                pause.reset()
                self._held_up = ""
            else:
                self._held_up = ""
                self._stop.wait(IDLE_S)
