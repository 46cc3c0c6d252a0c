"""Whether a replicator runs, from what it said last."""

from __future__ import annotations

import time
from typing import Any

import pytest
from typer.testing import CliRunner

from replicator import __main__ as program
from replicator import status


@pytest.mark.parametrize(("age_s", "recent"), [(0, True), (5, True), (11, False), (-5, True), (-3600, False)])
def test_what_was_said_long_ago_or_by_a_clock_far_ahead_is_not_recent(age_s: float, recent: bool) -> None:
    assert status._is_recent(int((time.time() - age_s) * 1000)) is recent


def test_the_exit_code_after_watching_is_that_of_what_was_shown_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = [{"running": running, "faults": []} for running in (False, False, True)]
    monkeypatch.setattr(status, "gather", lambda *_: shown.pop(0))
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if not shown:
            raise KeyboardInterrupt

    monkeypatch.setattr(program.time, "sleep", nap)
    environment = {"REPLICATOR_SOURCE_DSN": "postgresql://nowhere", "REPLICATOR_KAFKA_BOOTSTRAP_SERVERS": "nowhere:1"}
    assert CliRunner().invoke(program.app, ["status", "--watch"], env=environment).exit_code == 0
