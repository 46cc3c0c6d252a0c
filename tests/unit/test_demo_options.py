"""How the demo is told what to do."""

from __future__ import annotations

import pytest

from demo.compare import VIEW
from demo.manner import Mode, Scenario, manner_of
from demo.options import parse
from demo.stage import tenants_of, unclaimed_of


def test_the_usual_demo_needs_no_words() -> None:
    options = parse([], {})
    assert (options.tenants, options.conversations, options.keep) == (3, 5_000, False)


@pytest.mark.parametrize(("kept", "expected"), [("1", True), ("yes", True), ("", False), ("0", False), ("no", False)])
def test_the_environment_asks_for_keeping(kept: str, expected: bool) -> None:
    assert parse([], {"KEEP": kept}).keep is expected


def test_the_command_line_asks_for_keeping() -> None:
    assert parse(["--keep"], {"KEEP": ""}).keep


@pytest.mark.parametrize("wrong", ["0", "-3", "many", "1.5"])
def test_a_senseless_number_is_wrong_use(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--conversations", wrong], {})
    assert ended.value.code == 2
    assert "whole number" in capsys.readouterr().err


def test_the_source_is_streamed_and_a_worker_killed_unless_something_else_is_asked_for() -> None:
    usual, polled = parse([], {}), parse(["--mode", "poll-tables"], {})
    lost = parse(["--scenario", "slot-lost"], {})
    assert (usual.mode, usual.scenario) == (Mode.STREAM, Scenario.WORKER_KILLED)
    assert (polled.mode, polled.scenario) == (Mode.POLL_TABLES, Scenario.WORKER_KILLED)
    assert (lost.mode, lost.scenario) == (Mode.STREAM, Scenario.SLOT_LOST)


def test_a_tour_of_recovery_has_an_account_that_is_nobodys() -> None:
    tour = parse(["--scenario", "recovery", "--tenants", "2", "--inboxes", "3"], {})
    assert (tenants_of(tour), unclaimed_of(tour)) == ({10: (1, 2, 3), 20: (4, 5, 6)}, (7, 8, 9))
    assert unclaimed_of(parse([], {})) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--mode", "guess"],
        ["--mode", "poll", "--scenario", "slot-lost"],
        ["--mode", "poll", "--scenario", "recovery"],
        ["--scenario", "recovery", "--tenants", "1"],
    ],
)
def test_what_cannot_be_played_is_wrong_use(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong, {})
    assert ended.value.code == 2


def test_a_role_that_polls_the_view_may_read_nothing_else_and_nothing_else_is_compared() -> None:
    manner = manner_of(Mode.POLL, Scenario.WORKER_KILLED)
    assert manner.readable == (VIEW,)
    assert manner.compared == ("conversations_analytics",)
    assert "REPLICATION" not in manner.attributes


def test_inboxes_belong_to_the_tenant_of_the_account_that_the_seed_gives_them() -> None:
    assert tenants_of(parse(["--tenants", "2", "--inboxes", "3"], {})) == {10: (1, 2, 3), 20: (4, 5, 6)}
