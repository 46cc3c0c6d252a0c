"""Settings of the consumers, the table of faults, and the pure parts of setup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import psycopg_pool
import pytest

from consumers import migrations
from consumers.adoption import holds
from consumers.comparison import canonical
from consumers.config import load
from consumers.errors import (
    BY_CLASS,
    BY_SQLSTATE,
    Action,
    Fault,
    LogUnavailable,
    Overtaken,
    SettingsError,
    classify,
    classify_applying,
)
from consumers.mapping_admin import slug_of
from consumers.reasons import Reason

SECRET = "sw0rdfish"
GOOD = {
    "CONSUMERS_TARGET_DSN": f"postgresql://applier:{SECRET}@db/analytics",
    "CONSUMERS_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
}


@pytest.fixture(autouse=True)
def _only_given_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's environment nor a .env file takes part."""
    for name in [name for name in os.environ if name.startswith("CONSUMERS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def set_environment(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**GOOD, **changes}.items():
        monkeypatch.setenv(name, value)


def test_two_settings_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)
    settings = load()
    assert settings.applier == "applier"
    assert settings.owner_dsn is settings.target_dsn
    assert (settings.pool, settings.target_schema, settings.topic_prefix) == ("default", "public", "inbox-replicator")


def test_settings_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\n".join(f"{name}={value}" for name, value in GOOD.items()))
    assert load().applier == "applier"


def test_all_faults_are_reported_at_once_each_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUMERS_TARGET_DSN", f"postgresql://:{SECRET}@db/x y=")
    monkeypatch.setenv("CONSUMERS_SETUP_DSN", f"host=db password={SECRET}")
    monkeypatch.setenv("CONSUMERS_BATCH_MESSAGES", "many")
    monkeypatch.setenv("CONSUMERS_KAFKA_OPTIONS", "{not json")
    monkeypatch.setenv("CONSUMERS_TARGET_SCHEMA", 'a"; DROP')
    monkeypatch.setenv("CONSUMERS_LOG_LEVEL", "LOUD")
    with pytest.raises(SettingsError) as raised:
        load()
    named = {line.partition(":")[0] for line in str(raised.value).splitlines()}
    assert named == {
        "CONSUMERS_TARGET_DSN",
        "CONSUMERS_SETUP_DSN",
        "CONSUMERS_BATCH_MESSAGES",
        "CONSUMERS_KAFKA_OPTIONS",
        "CONSUMERS_TARGET_SCHEMA",
        "CONSUMERS_LOG_LEVEL",
        "CONSUMERS_KAFKA_BOOTSTRAP_SERVERS",
    }
    assert SECRET not in str(raised.value)
    assert "names no user" in str(raised.value)


def test_kafka_options_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, CONSUMERS_KAFKA_OPTIONS='{"security.protocol": "SSL", "queued.min.messages": 10}')
    assert load().kafka_options == {"security.protocol": "SSL", "queued.min.messages": 10}
    set_environment(monkeypatch, CONSUMERS_KAFKA_OPTIONS='["a"]')
    with pytest.raises(SettingsError, match=r"CONSUMERS_KAFKA_OPTIONS: .*no JSON object"):
        load()
    set_environment(monkeypatch, CONSUMERS_KAFKA_OPTIONS='{"a": [1]}')
    with pytest.raises(SettingsError, match=r"CONSUMERS_KAFKA_OPTIONS \(a\)"):
        load()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch,
        CONSUMERS_SETUP_DSN=f"postgresql://owner:{SECRET}@db/analytics",
        CONSUMERS_KAFKA_OPTIONS=f'{{"sasl.password": "{SECRET}"}}',
    )
    settings = load()
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.kafka_options["sasl.password"] == SECRET


def test_settings_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)
    with pytest.raises(ValueError, match="frozen"):
        load().pool = "other"


def test_a_wrong_setting_ends_the_program_with_2_and_no_traceback(tmp_path: Path) -> None:
    repository = Path(migrations.__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "setup"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(repository), "CONSUMERS_HTTP_PORT": "99999"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "CONSUMERS_HTTP_PORT" in done.stderr
    assert "CONSUMERS_TARGET_DSN" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("sqlstate", "action", "fault"),
    [
        ("40001", Action.RETRY, Fault.NOBODY),
        ("40P01", Action.RETRY, Fault.NOBODY),
        ("55P03", Action.RETRY, Fault.ENVIRONMENT),
        ("57014", Action.HALVE, Fault.ENVIRONMENT),
        ("57P01", Action.WAIT, Fault.ENVIRONMENT),
        ("08006", Action.WAIT, Fault.ENVIRONMENT),
        ("53100", Action.WAIT, Fault.ENVIRONMENT),
        ("53400", Action.WAIT, Fault.ENVIRONMENT),
        ("58030", Action.WAIT, Fault.ENVIRONMENT),
        ("25006", Action.WAIT, Fault.ENVIRONMENT),
        ("28P01", Action.STOP, Fault.OPERATOR),
        ("42501", Action.STOP, Fault.OPERATOR),
        ("42P01", Action.STOP, Fault.OPERATOR),
        ("42703", Action.STOP, Fault.OPERATOR),
        ("22001", Action.PARK, Fault.ROW),
        ("22P02", Action.PARK, Fault.ROW),
        ("23502", Action.PARK, Fault.ROW),
        ("23503", Action.RETRY, Fault.ROW),
        ("21000", Action.STOP, Fault.OURS),
        ("XX000", Action.STOP, Fault.OURS),
    ],
)
def test_a_fault_of_the_target_has_one_action(sqlstate: str, action: Action, fault: Fault) -> None:
    verdict = classify(psycopg.errors.lookup(sqlstate)("a value that must not be shown"))
    assert (verdict.action, verdict.fault) == (action, fault)
    assert "must not be shown" not in verdict.advice


def test_a_missing_object_names_the_command_that_makes_it() -> None:
    for error in (psycopg.errors.UndefinedTable(), psycopg.errors.UndefinedColumn()):
        assert "consumers setup" in classify(error).advice
        assert "--apply" in classify(error).advice


def test_a_lost_connection_is_waited_out() -> None:
    for error in (psycopg.OperationalError("connection lost"), psycopg_pool.PoolTimeout(), LogUnavailable()):
        assert classify(error).action is Action.WAIT


def test_what_nobody_expected_stops_the_worker() -> None:
    assert classify(RuntimeError()).fault is Fault.OURS
    assert classify(Overtaken()).action is Action.RETRY


def test_what_psycopg_itself_refuses_while_rows_are_applied_is_a_rows_fault() -> None:
    error = psycopg.DataError("a value that must not be shown")
    verdict = classify_applying(error)
    assert (verdict.action, verdict.fault) == (Action.PARK, Fault.ROW)
    assert Reason.of(error, verdict).says == "DataError"
    assert classify(error).fault is Fault.OURS, "elsewhere there is no row to blame"


def test_every_verdict_is_a_sentence() -> None:
    assert all(verdict.advice.endswith(".") for verdict in (*BY_SQLSTATE.values(), *BY_CLASS.values()))


@pytest.mark.parametrize(
    ("found", "expected", "enough"),
    [
        ("integer", "integer", True),
        ("bigint", "integer", True),
        ("integer", "bigint", False),
        ("text", "character varying", True),
        ("character varying", "text", True),
        ("character varying(255)", "character varying", False),
        ("character varying(255)", "character varying(50)", True),
        ("character varying(20)", "character varying(50)", False),
        ("timestamp with time zone", "timestamp without time zone", False),
        ("timestamp(0) without time zone", "timestamp without time zone", False),
        ("jsonb", "json", False),
        ("numeric", "bigint", True),
        ("numeric(5,2)", "numeric", False),
    ],
)
def test_a_column_holds_what_it_must(found: str, expected: str, enough: bool) -> None:
    assert holds(found, expected) is enough


def test_migrations_are_numbered_without_gaps() -> None:
    found = migrations.load(schema="public", applier="a")
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))


def test_names_are_quoted_and_do_not_change_the_checksum() -> None:
    plain = migrations.load(schema="public", applier="applier")
    odd = migrations.load(schema="other", applier='we"ird; DROP')
    assert [m.checksum for m in plain] == [m.checksum for m in odd]
    assert '"we""ird; DROP"' in odd[0].statements[2].sql


def test_a_policy_is_recognised_as_postgresql_prints_it() -> None:
    written = "tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer)"
    printed = (
        "(tenant_id = ( SELECT (NULLIF(current_setting('app.current_tenant_id'::text, true), ''::text))::integer"
        ' AS "nullif"))'
    )
    assert canonical(written) == canonical(printed)
    assert canonical(written) != canonical(printed.replace("current_tenant_id", "current_tenant"))
    assert canonical(written) != canonical("true")


def test_a_slug_is_plain_ascii() -> None:
    assert slug_of("  Escola São José / Unidade 2 ") == "escola-sao-jose-unidade-2"
