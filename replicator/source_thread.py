"""A thread that reads from the source, by one session, beside the run's loop.

What the thread says may be waited out (`WAITED_OUT`) is, with growing pauses, and never stops the loop; any other fault
is handed to the loop, which ends the run with it. Never knows what is read.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import ClassVar

from replicator.calls import Ended
from replicator.config import Settings
from replicator.errors import SourceBusy, SourceRefused, SourceUnavailable
from replicator.runtime import GrowingPause
from replicator.settled import SettledReads
from replicator.source import Source


class SourceThread(ABC):
    """`error` is set when it ended by a fault that is not the environment's."""

    WAITED_OUT: ClassVar[tuple[type[Exception], ...]] = (SourceUnavailable, SourceBusy, SourceRefused)
    """A refusal too: one table that can't be read any more must not hold up the stream of the others."""

    def __init__(self, name: str, settings: Settings, born: int) -> None:
        """`born`: reads wait until a snapshot's xmin has reached this transaction id (64 bit)."""
        self._settings = settings
        self._stop = threading.Event()
        self._settled = SettledReads(born, self._stop)
        self._source: Source | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._held_up = ""
        self.error: BaseException | None = None

    @abstractmethod
    def _serve(self, source: Source, pause: GrowingPause) -> None:
        """Reads until the stop is asked for, and resets the pause whenever that went well."""

    @abstractmethod
    def _delayed(self, reason: str) -> None:
        """Something is waited out: said, and made easier for the next try."""

    def _open(self) -> AbstractContextManager[Source]:
        """Its session."""
        return Source(self._settings)

    @property
    def waits_for(self) -> str:
        """What reading waits for at the moment, in words; empty when it does not wait."""
        return self._settled.waits_for or self._held_up

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end."""
        self._stop.set()
        source = self._source
        if source is not None:
            source.cancel()

    def join(self, seconds: float) -> bool:
        """Whether the thread has ended, waited for at most so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = GrowingPause()
        while not self._stop.is_set():
            try:
                with self._open() as self._source:
                    self._serve(self._source, pause)
            except Ended:
                return
            except self.WAITED_OUT as error:
                if self._stop.is_set():
                    return
                self._held_up = str(error)
                self._delayed(self._held_up)
                self._stop.wait(pause.next())
            except BaseException as error:  # handed to the loop, which ends the run with it
                self.error = error
                return
            finally:
                self._source = None
