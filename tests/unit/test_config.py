"""Settings: all faults at once, named as the operator wrote them, and no secret in any text."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from replicator.config import PREFIX, load
from replicator.definitions import captured_by
from replicator.errors import SettingsError
from replicator.relations import ANALYTICS

SECRET = "hunter2-the-password"
DSN = f"postgresql://replicator:{SECRET}@db/chatwoot"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """What a test sets and nothing else: no variable of ours, no `.env` file."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", DSN)
    monkeypatch.setenv("REPLICATOR_KAFKA_BOOTSTRAP_SERVERS", " kafka:9092 ")
    return monkeypatch


def test_two_settings_are_enough() -> None:
    settings = load()
    assert settings.source_dsn.get_secret_value() == DSN
    assert settings.kafka_bootstrap_servers == "kafka:9092"
    assert (settings.partitions, settings.retention_days) == (24, 14)


def test_an_env_file_is_read_and_the_environment_wins(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("REPLICATOR_PARTITIONS=3\nREPLICATOR_SLOT=from_file\nSOMEBODY_ELSES=1\n")
    environment.setenv("REPLICATOR_SLOT", "from_environment")
    settings = load()
    assert (settings.partitions, settings.slot) == (3, "from_environment")


def test_all_faults_are_reported_at_once_each_by_its_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("REPLICATOR_SOURCE_DSN")
    environment.setenv("REPLICATOR_SLOT", "Not A Slot")
    environment.setenv("REPLICATOR_PARTITIONS", "many")
    environment.setenv("REPLICATOR_HEARTBEAT_S", "0")
    with pytest.raises(SettingsError) as faults:
        load()
    named = {line.split(":")[0] for line in str(faults.value).splitlines()}
    assert named == {
        *("REPLICATOR_SOURCE_DSN", "REPLICATOR_SLOT", "REPLICATOR_PARTITIONS", "REPLICATOR_HEARTBEAT_S"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLOT", "a-b"),
        ("SLOT", "x" * 64),
        ("PUBLICATION", "p'; DROP"),
        ("TOPIC_PREFIX", "a b"),
        ("PARTITIONS", "0"),
        ("MAX_MESSAGE_BYTES", "1000"),
        ("HTTP_PORT", "65536"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_names_its_variable(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name}: "):
        load()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("not json", r"^REPLICATOR_KAFKA_OPTIONS: .*no JSON \("),
        ('["a"]', r"^REPLICATOR_KAFKA_OPTIONS: .*no JSON object"),
        ('{"a": [1]}', r"^REPLICATOR_KAFKA_OPTIONS \(a\): [^\n]*$"),
    ],
)
def test_options_that_are_no_json_object_are_a_fault_like_any_other(
    environment: pytest.MonkeyPatch, options: str, says: str
) -> None:
    environment.setenv("REPLICATOR_KAFKA_OPTIONS", options)
    with pytest.raises(SettingsError, match=says):
        load()


def test_options_are_a_json_object(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPLICATOR_KAFKA_OPTIONS", '{"security.protocol": "SSL", "queue.buffering.max.ms": 10}')
    assert load().kafka_options == {"security.protocol": "SSL", "queue.buffering.max.ms": 10}
    environment.setenv("REPLICATOR_KAFKA_OPTIONS", "")
    assert load().kafka_options == {}


@pytest.mark.parametrize(
    "name",
    [
        *("contacts", "messages", "conversations_analytics", "conversations_analytics_live"),
        *("tenants", "etl_control", "replication_watermarks"),
    ],
)
def test_a_relation_of_ones_own_takes_nobodys_name(environment: pytest.MonkeyPatch, name: str) -> None:
    own = {"select": "SELECT id, inbox_id FROM conversations", "key": "id", "inbox": "inbox_id"}
    environment.setenv("REPLICATOR_DERIVED", json.dumps({name: own}))
    with pytest.raises(SettingsError, match=rf"^REPLICATOR_DERIVED \({name}\): .*every target has[^\n]*$"):
        load()
    environment.setenv("REPLICATOR_DERIVED", json.dumps({f"{name}_of_ours".removeprefix("replication_"): own}))
    assert load().derived


@pytest.mark.parametrize(
    "dsn", [f"postgresql://u:{SECRET}@db/x y=", f"host=db password={SECRET} nonsense", f"postgresql://u@db?a={SECRET}"]
)
def test_a_malformed_dsn_is_a_fault_that_quotes_nothing(environment: pytest.MonkeyPatch, dsn: str) -> None:
    """libpq's own message quotes a part of it."""
    environment.setenv("REPLICATOR_SOURCE_DSN", dsn)
    with pytest.raises(SettingsError, match=r"^REPLICATOR_SOURCE_DSN: .*no PostgreSQL connection string") as fault:
        load()
    assert SECRET not in "".join(traceback.format_exception(fault.value))


def test_a_fault_never_prints_what_was_written(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPLICATOR_PARTITIONS", SECRET)
    with pytest.raises(SettingsError) as fault:
        load()
    assert SECRET not in str(fault.value)
    assert fault.value.__cause__ is None
    assert fault.value.__suppress_context__


def test_the_dsn_is_unprintable() -> None:
    settings = load()
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_password_among_kafkas_options_is_unprintable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REPLICATOR_KAFKA_OPTIONS", f'{{"sasl.password": "{SECRET}"}}')
    settings = load()
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.kafka_options["sasl.password"] == SECRET


def test_paths_of_the_view_are_a_json_list(environment: pytest.MonkeyPatch) -> None:
    path = {"table": "teams", "columns": ["id"], "lookup": "SELECT id FROM conversations WHERE team_id = ANY(%s)"}
    environment.setenv("REPLICATOR_VIEW_PATHS", json.dumps([path]))
    settings = load()
    view = next(each for each in captured_by(settings).derived if each.name == ANALYTICS)
    assert [(each.table, each.start, each.lookup) for each in view.paths] == [
        (("public", "teams"), ("id",), path["lookup"])
    ]
    environment.setenv("REPLICATOR_VIEW_PATHS", "")
    assert load().view_paths == ()


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        ("not json", r"^REPLICATOR_VIEW_PATHS: .*no JSON \("),
        ('{"table": "teams"}', r"^REPLICATOR_VIEW_PATHS: "),
        ('[{"table": "teams", "columns": [], "lookup": ""}]', r"^REPLICATOR_VIEW_PATHS \(0\): "),
    ],
)
def test_paths_that_are_none_are_a_fault_like_any_other(environment: pytest.MonkeyPatch, paths: str, says: str) -> None:
    environment.setenv("REPLICATOR_VIEW_PATHS", paths)
    with pytest.raises(SettingsError, match=says):
        load()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load().partitions = 3
