"""`consumers rules` as a person uses it, and a running worker that hears of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.__main__ import app
from consumers.status import Status, gather
from demo.servers import Servers, wait_until
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.sorted_out import Applied, applied
from tests.integration.targets import Target
from tests.integration.test_lead_signals import ASKS, put, recomputed
from tests.integration.whole import Whole

OWN = """
off = ['pergunta-preco']
[parts]
animal = '(capivaras?|antas?)'
[visit.client]
animais = { weight = 70, pattern = '\\b<animal>\\b' }
"""


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    with applied(servers, prepared, {1: (1,), 2: (4,)}) as made:
        yield made


def rules(log: Applied, *arguments: str, exits: int = 0) -> str:
    done = CliRunner().invoke(app, ["rules", *arguments], env=log.target.environment(COLUMNS="200"))
    assert done.exit_code == exits, done.output + done.stderr
    return done.output + done.stderr


def listed(log: Applied, tenant: str = "1") -> dict[str, Any]:
    found = json.loads(rules(log, "list", "--tenant", tenant, "--json"))
    return {each["name"]: each for each in found["rules"]}


def state_of(log: Applied) -> Status:
    return gather(log.target.settings())


def test_a_file_is_planned_then_applied_and_then_there_is_nothing_to_do(log: Applied, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(OWN)
    put(log, 1, 1, ASKS, 1)
    planned = rules(log, "set", "--tenant", "1", str(file))
    assert planned.splitlines() == [
        "add rule animais",
        "switch rule pergunta-preco off",
        "run again with --apply to carry this out",
    ]
    assert listed(log)["pergunta-preco"]["whose"] == "shipped"
    assert rules(log, "set", "--tenant", "1", str(file), "--apply").startswith("done: add rule animais")
    assert "nothing to do" in rules(log, "set", "--tenant", "1", str(file), "--apply")
    found = listed(log)
    assert found["animais"]["rule"]["pattern"] == r"\b(capivaras?|antas?)\b"
    assert (found["pergunta-preco"]["rule"], found["pergunta-preco"]["whose"]) == (None, "own")
    assert listed(log, "2")["pergunta-preco"]["rule"] is not None
    shown = rules(log, "list", "--tenant", "1")
    assert any(line.split() == ["animais", "own", "visit", "client", "70"] for line in shown.splitlines())
    assert [tenant.outdated_signals for tenant in state_of(log).tenants] == [1, 0]
    assert "older rules" in rules(log, "explain", "--tenant", "1", "--conversation", "1")
    assert recomputed(log, 1) == 1
    assert [tenant.outdated_signals for tenant in state_of(log).tenants] == [0, 0]
    file.write_text("")
    rules(log, "set", "--tenant", "1", str(file), "--apply")
    assert "animais" not in listed(log)


def test_what_cannot_be_taken_is_refused_before_anything_is_written(log: Applied, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text("[lead.client]\nx = { weight = 1, pattern = '(a' }\ny = { weight = 0, pattern = 'a' }")
    said = rules(log, "set", "--tenant", "1", str(file), "--apply", exits=1)
    assert "rule 'x': RE2: missing )" in said
    assert "rule 'y': the weight must be" in said
    file.write_text("off = ['nothing-of-this-name']")
    assert "no shipped rule is named" in rules(log, "set", "--tenant", "1", str(file), exits=1)
    assert "can't be read" in rules(log, "set", "--tenant", "1", str(tmp_path / "none.toml"), exits=1)
    assert "tenant 9 does not exist" in rules(log, "list", "--tenant", "9", exits=1)
    assert "one of auto, source" in rules(log, "origin", "nowhere", "--tenant", "1", exits=2)
    assert not log.target.rows("SELECT FROM lead_rules")


def test_a_rule_that_came_past_the_command_is_named_where_people_look(log: Applied) -> None:
    log.target.execute(
        "INSERT INTO lead_rules (tenant_id, name, signal, speaker, weight, pattern)"
        " VALUES (1, 'broken', 'lead', 'any', 1, '(a')"
    )
    assert "refused: RE2: missing )" in rules(log, "list", "--tenant", "1", exits=1)
    assert state_of(log).tenants[0].refused_rules["broken"].startswith("RE2: missing )")


def test_the_origin_is_decided_and_one_conversation_explained(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)
    said = rules(log, "explain", "--tenant", "1", "--conversation", "1").splitlines()
    assert said == [
        "is_lead              True",
        "visit_scheduled      False",
        "crm_converted        False",
        "ai_probability_label Baixo",
        "ai_probability_score 20.0",
        "made by              rules",
        "message 7: pergunta-preco",
    ]
    assert "no conversation 1" in rules(log, "explain", "--tenant", "2", "--conversation", "1", exits=1)
    rules(log, "origin", "external", "--tenant", "1", "--apply")
    assert [tenant.lead_signals for tenant in state_of(log).tenants] == ["external", "auto"]
    assert "nothing to do" in rules(log, "origin", "external", "--tenant", "1")
    rules(log, "origin", "auto", "--tenant", "1", "--apply")
    assert log.target.rows("SELECT lead_signals FROM tenant_settings") == [(None,)]


def test_a_running_worker_makes_the_rows_anew_when_rules_change(path: Whole, source: Source) -> None:
    fill(source, conversations=6, messages=1)
    path.map({1: (1, 2, 3), 2: (4, 5, 6)})
    path.replicator()
    worker = path.worker()
    path.wait_backfilled()
    for conversation in (5, 2):  # of inbox 6, tenant 2, and of inbox 3, tenant 1
        add_message(source, conversation, "Gostam de capivaras?")

    def leads() -> dict[int, bool]:
        return dict(path.target.rows("SELECT conversation_id, is_lead FROM conversations_analytics"))

    wait_until(lambda: leads() == dict.fromkeys(range(1, 7), False), "signals of all", 30)
    path.target.execute("SELECT pg_notify('lead_rules', 'nobody'), pg_notify('lead_rules', repeat('9', 5000))")
    path.target.execute(
        "INSERT INTO lead_rules (tenant_id, name, signal, speaker, weight, pattern)"
        " VALUES (1, 'capivaras', 'lead', 'any', 30, 'capivaras')"
    )
    wait_until(lambda: leads() == {**dict.fromkeys(range(1, 7), False), 2: True}, "by the new rule", 30)
    wait_until(lambda: worker.logged("signals.recomputed"), "the log says so", 20)
    assert [line["tenant"] for line in worker.logged("signals.recomputed")] == [1]
    path.wait_equal()
    assert worker.stop() == 0


def test_a_rule_of_any_name_and_reason_is_shown_as_it_is(log: Applied) -> None:
    for name in ("a[/x]", "[bold]b"):
        log.target.execute(
            "INSERT INTO lead_rules (tenant_id, name, signal, speaker, weight, pattern)"
            " VALUES (1, %s, 'lead', 'any', 1, '[[:^print:]')",
            name,
        )
    shown = rules(log, "list", "--tenant", "1", exits=1)
    assert all(name in shown for name in ("a[/x]", "[bold]b", "[:^print:]"))


@pytest.fixture
def two(path: Whole, source: Source) -> Whole:
    """Two tenants, and what comes of them after the initial load."""
    fill(source, conversations=6, messages=1)
    path.map({1: (1, 2, 3), 2: (4, 5, 6)})
    path.replicator()
    return path


def test_a_worker_that_cannot_read_the_rules_says_so_and_loses_nothing(two: Whole, source: Source) -> None:
    worker = two.worker()
    two.wait_backfilled()
    role = two.target.role("applier")
    two.target.execute(f"REVOKE SELECT ON lead_rules FROM {role}", what="owner")
    two.target.execute("NOTIFY lead_rules, 'all'")
    for number in range(20):
        add_message(source, 1 + number % 6, f"number {number}")
    wait_until(lambda: not worker.running, "the worker has stopped", 30)
    assert worker.wait(1) == 1
    assert "lacks a right" in worker.tail()
    two.target.execute(f"GRANT SELECT ON lead_rules TO {role}", what="owner")
    again = two.worker()
    two.wait_equal()
    assert again.stop() == 0


def arrived(path: Whole, messages: list[int]) -> int:
    ((count,),) = path.target.rows("SELECT count(*) FROM messages WHERE id = ANY (%s)", messages)
    return int(count)


def test_nobody_waits_for_a_tenants_rules_that_are_locked(two: Whole, source: Source) -> None:
    worker = two.worker(CONSUMERS_LOCK_TIMEOUT_S="30")
    two.wait_backfilled()
    two.target.execute(
        "INSERT INTO lead_rules (tenant_id, name, signal, speaker, weight, pattern)"
        " VALUES (1, 'broken', 'lead', 'any', 1, '(a')"
    )
    wait_until(lambda: worker.logged("rules.refused"), "the log says that the rule is refused", 30)
    locks = ("SELECT FROM lead_rules FOR UPDATE", "LOCK TABLE lead_rules IN ACCESS EXCLUSIVE MODE")
    for number, lock in enumerate(locks):
        with two.target.connected() as session, session.transaction():
            session.execute(lock)
            two.target.execute("NOTIFY lead_rules, 'all'")
            written = [add_message(source, conversation, f"meanwhile {number}") for conversation in range(1, 7)]
            wait_until(lambda ids=written: arrived(two, ids) == 6, f"all arrive in spite of {lock}", 20)
    assert worker.logged("rules.not_read")
    two.wait_equal()
    assert worker.stop() == 0
