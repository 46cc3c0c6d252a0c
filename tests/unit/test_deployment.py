"""What operators are given names the settings that exist, all of them, with their true defaults."""

import json
import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from consumers.config import Settings as ConsumersSettings
from replicator.config import Settings as ReplicatorSettings
from replicator.modes import RULES

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SETTINGS = {"REPLICATOR_": ReplicatorSettings, "CONSUMERS_": ConsumersSettings}
NAMES = {f"{prefix}{field.upper()}" for prefix, settings in SETTINGS.items() for field in settings.model_fields}


def test_the_composition_sets_only_what_exists_and_all_that_is_needed() -> None:
    given = set(re.findall(r"^ +((?:REPLICATOR|CONSUMERS)_[A-Z_]+):", COMPOSE, re.MULTILINE))
    needed = {
        f"{prefix}{name.upper()}"
        for prefix, settings in SETTINGS.items()
        for name, field in settings.model_fields.items()
        if field.is_required()
    }
    assert needed <= given
    assert given - NAMES == {"REPLICATOR_ROLE_PASSWORD"}  # the source's own: its init script makes the role with it


def test_the_reasons_to_poll_are_those_of_the_table() -> None:
    assert all(f"| {rule.sentence} | {rule.back} |" in OPERATIONS for rule in RULES)


@pytest.mark.parametrize("prefix", SETTINGS)
def test_every_setting_is_documented_with_its_default(prefix: str) -> None:
    rows = dict(re.findall(rf"^\| `({prefix}[A-Z_]+)` \| ([^|]*) \|", OPERATIONS, re.MULTILINE))
    fields = _fields(SETTINGS[prefix])
    assert set(rows) == {f"{prefix}{name.upper()}" for name in fields}
    for name, field in fields.items():
        shown = rows[f"{prefix}{name.upper()}"]
        if field.is_required():
            assert shown == "needed", name
        elif field.default is not None and field.default is not PydanticUndefined:
            assert shown == f"`{_written(field.default)}`", name


def _fields(settings: type[BaseSettings]) -> dict[str, FieldInfo]:
    return settings.model_fields


def _written(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)


def test_the_image_is_built_from_what_is_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {name for line in copied for name in line.split()}
    assert sources == allowed
    assert all((ROOT / name).exists() for name in sources)
