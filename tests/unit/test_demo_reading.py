"""What the demo tells of the replicator's mode is what its status and its log say."""

from __future__ import annotations

from typing import Any

import pytest

from demo.reading import POLLING, STREAMING, Reading, missing_switches, switch_of, told

STREAMED: dict[str, Any] = {
    "mode": "streaming",
    "mode_since_ms": 1_000_000,
    "mode_because": "",
    "mode_back": "",
    "mode_not_before_ms": 0,
    "at_ms": 1_010_000,
}
POLLED = STREAMED | {
    "mode": "polling",
    "mode_because": "a slot was lost",
    "mode_back": "the end of a pause",
    "mode_not_before_ms": 1_015_000,
    "verified_through": "1970-01-01T00:16:48.500+00:00",
    "verified": {"inboxes": {"repaired": 2}, "messages": {"repaired": 3}},
    "polls": 7,
    "candidates": 11,
    "poll_s": 0.01,
    "source_s": 1.5,
}


def reading(status: dict[str, Any]) -> Reading:
    found = Reading.of(status)
    assert found is not None
    return found


def chosen(mode: str, second: int, **more: str) -> dict[str, Any]:
    return {"event": "mode.chosen", "mode": mode, "timestamp": f"1970-01-01T00:00:{second:02}Z", **more}


def test_a_program_between_two_runs_says_nothing() -> None:
    assert Reading.of({}) is None
    assert Reading.of({"healthy": False, "waits_for": "the source"}) is None


def test_a_stream_needs_one_word() -> None:
    assert reading(STREAMED).sentence(1_020.0) == "streaming"
    assert reading(STREAMED).verified_sentence(1_020.0) == ""


def test_polling_says_why_and_for_how_long_and_up_to_when_all_is_published() -> None:
    found = reading(POLLED)
    assert found.sentence(1_010.0) == "polling for 10 s: a slot was lost (back by the end of a pause, in 5 s)"
    assert found.sentence(1_020.0) == "polling for 20 s: a slot was lost (back by the end of a pause)"
    assert found.verified_sentence(1_010.0) == "00:16:48 UTC, 1.5 s ago"
    assert reading({**POLLED, "verified_through": None}).verified_sentence(1_010.0) == "nothing yet"
    assert (found.polls, found.candidates, found.repaired) == (7, 11, 5)


def test_what_the_log_says_of_modes_is_told() -> None:
    fallen = chosen("polling", 3, why="a slot was lost", back="the end of a pause")
    switch = switch_of(fallen)
    assert switch is not None
    assert (switch.at, switch.mode, switch.why, switch.back) == (3.0, POLLING, "a slot was lost", "the end of a pause")
    assert told(fallen) == "mode: polling, because a slot was lost; back by the end of a pause"
    assert told(chosen("streaming", 9)) == "mode: streaming"
    other = {"event": "schema.announced", "table": "messages"}
    assert (switch_of(other), told(other)) == (None, "")


@pytest.mark.parametrize(
    ("wanted", "chosen_modes", "is_missed"),
    [
        ([STREAMING], [STREAMING], False),
        ([POLLING], [], True),
        ([STREAMING, POLLING, STREAMING], [STREAMING, POLLING, STREAMING], False),
        ([STREAMING, POLLING, STREAMING], [STREAMING], True),
        ([STREAMING, POLLING, STREAMING], [STREAMING, POLLING], True),
        ([STREAMING], [STREAMING, POLLING, STREAMING], True),
    ],
)
def test_switches_that_did_not_happen_or_should_not_have_are_named(
    wanted: list[str], chosen_modes: list[str], *, is_missed: bool
) -> None:
    switches = [switch for n, mode in enumerate(chosen_modes) if (switch := switch_of(chosen(mode, n)))]
    assert bool(missing_switches(wanted, switches)) is is_missed
