"""How often one stretch of a tenant's events has failed, and since when: whether it is tried once more.

Says how long to pause; never waits itself.
"""

from __future__ import annotations

import time
from typing import Final

from consumers.errors import Action, Fault, Verdict, classify_applying
from replicator.runtime import GrowingPause

_TRIES: Final = 5
"""Of one event that is tried again, before it counts as a fault of its row; several are halved sooner."""


class Attempts:
    """Of the stretch that is being applied."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._count = 0
        self._began = 0.0
        self._pause = GrowingPause(first=0.05, longest=10.0)

    @property
    def are_many(self) -> bool:
        return self._count > 1

    @property
    def lasted_s(self) -> float:
        """Since the first failure."""
        return time.monotonic() - self._began if self._count else 0.0

    def begin_later(self) -> None:
        """What everybody waits for takes none of its time."""
        self._began = time.monotonic()

    def judge(self, error: Exception, *, is_one: bool) -> Verdict:
        now = time.monotonic()
        if not self._count:
            self._began = now
        self._count += 1
        verdict = classify_applying(error)
        if verdict.action is not Action.RETRY:
            return verdict
        tries = _TRIES if is_one else 1
        is_over = self._count > tries if verdict.fault is Fault.ROW else now >= self._began + self._patience_s
        return Verdict(Action.PARK, verdict.fault, verdict.advice) if is_over else verdict

    def pause(self) -> float:
        return self._pause.next()

    def begin_anew(self) -> None:
        self._count = 0
        self._pause.reset()
