"""Whether a replicator runs, from what it said last."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rich.table import Table
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


def test_who_polls_says_why_since_when_and_what_brings_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1_000.0)
    found = {"mode_because": "a slot was lost", "mode_since_ms": 880_000, "mode_back": "the end of a pause"}
    told = status._mode_because({**found, "mode_not_before_ms": 1_030_000})
    assert told == " for 2 min: a slot was lost (back by the end of a pause, in 30 s at the earliest)"
    assert status._mode_because({**found, "mode_not_before_ms": 0}).endswith("(back by the end of a pause)")
    assert status._mode_because({"mode_because": ""}) == ""


@pytest.mark.parametrize(("crowded", "told"), [(True, "contacts (1,536): neighbouring rows"), (False, "")])
def test_inboxes_that_do_not_fit_are_told_with_what_is_remembered(crowded: bool, told: str) -> None:
    polls: dict[str, Any] = {"polls": 1, "poll_s": 0.1, "held_back_s": 0.0, "candidates": 0, "events": 0}
    found = {**polls, "verified_through": None, "left_out": [], "held_inboxes": {}, "poll_waits_for": ""}
    found["digests"] = {
        "contacts": {"entries": 1_536, "width": 256, "crowded": crowded},
        "view": {"entries": 3, "width": 1, "crowded": False},
    }
    table = Table()
    status._polling(table, found)
    rows = dict(zip(*(column.cells for column in table.columns), strict=True))
    assert str(rows.get("remembered", "")).removeprefix("[yellow]").startswith(told)
    assert ("remembered" in rows) is crowded
