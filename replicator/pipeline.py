"""Runs, one after another: which kind comes next, what their faults mean, and the pauses between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog

from replicator.config import Settings
from replicator.errors import Action, ModeChanged, ReplicatorError, SourceRefused, WalBudgetSpent, action_for
from replicator.mode_choice import ModeChoice
from replicator.modes import Mode, Standing
from replicator.polling import Polling
from replicator.run import Run, Stopped
from replicator.runtime import GrowingPause, Stop
from replicator.streaming import SILENT_S, Streaming, next_patience

log = structlog.get_logger(__name__)


class Pipeline:
    """Until a stop or a fault that only an operator can mend."""

    def __init__(
        self, settings: Settings, kafka: Mapping[str, Any], stop: Stop, prepare: Callable[[Mode], None]
    ) -> None:
        """`prepare` is called before each run and raises a ReplicatorError if the run must not begin."""
        self._settings, self._kafka, self._stop, self._prepare = settings, kafka, stop, prepare
        self._choice = ModeChoice(settings, kafka, stop)
        self._run: Run | None = None
        self._waits_for = "the first run"

    def serve(self) -> None:
        """Returns after a stop. Raises the ReplicatorError that only an operator can mend."""
        pause, patience_s = GrowingPause(longest=10.0), SILENT_S
        while not self._stop.asked:
            began = time.monotonic()
            try:
                self._serve_once(patience_s)
            except Stopped:
                return
            except ModeChanged as error:
                log.info("run.ended", reason=str(error))
                pause.reset()
            except ReplicatorError as error:
                action, sentence = action_for(error)
                goes_on = self._choice.postpone() and isinstance(error, SourceRefused)
                if action is Action.STOP and not goes_on:
                    raise
                self._waits_for = str(error)
                if isinstance(self._run, Streaming):
                    patience_s = next_patience(patience_s, error, advanced=self._run.advanced)
                    self._choice.budget_is_spent |= isinstance(error, WalBudgetSpent)
                if time.monotonic() - began > 30:
                    pause.reset()
                seconds = pause.next()
                log.warning("run.ended", reason=str(error), advice=sentence, next_in_s=round(seconds, 1))
                self._stop.wait(seconds)

    def _serve_once(self, patience_s: float) -> None:
        standing = self._choice.choose()
        self._prepare(standing.mode)
        self._run = run = self._made(standing, patience_s)
        self._waits_for = ""
        try:
            run.serve()
        finally:
            if run.has_begun:
                self._choice.note_begun()

    def _made(self, standing: Standing, patience_s: float) -> Run:
        if standing.mode is Mode.POLL:
            look = partial(self._choice.leave_polling, standing)
            return Polling(self._settings, self._kafka, self._stop, standing, look, lambda: self._choice.held_bytes)
        return Streaming(self._settings, self._kafka, self._stop, standing, patience_s=patience_s)

    def status(self) -> dict[str, object]:
        """For `/healthz` and `/status`."""
        run = self._run
        waits_for = self._waits_for or (run.waits_for(time.monotonic()) if run is not None else "")
        return {"healthy": not waits_for, "waits_for": waits_for, **(run.status if run is not None else {})}
