"""KEEP=1: everything goes on running, and the user is told how to look at it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from demo.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("replicator check", "replicator status", "consumers status", "consumers map list")


def write_environment(stage: Stage, folder: Path) -> Path:
    """A file of settings for the product's commands; readable by its owner alone, because passwords are in it."""
    path = folder / "demo.env"
    comparing = {"CONSUMERS_SOURCE_DSN": stage.replicator["REPLICATOR_SOURCE_DSN"]}
    settings = {**stage.replicator, **stage.consumers, **stage.owner, **comparing}
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return path


def advice(stage: Stage, environment: Path) -> Iterator[str]:
    """Lines to be copied into another terminal. The traffic has stopped, so both sides stay alike."""
    yield "The source, as Chatwoot:"
    yield f"  {stage.psql} {shlex.quote(stage.source_dsn)}"
    yield "The target, as a dashboard that reads for one tenant:"
    for tenant in stage.tenants:
        option = shlex.quote(f"-c app.current_tenant_id={tenant}")
        yield f"  PGOPTIONS={option} {stage.psql} {shlex.quote(stage.reader_dsn)}"
    yield "  (in a session: SET app.current_tenant_id = '10'; SELECT * FROM replication_freshness;)"
    yield f"The product's own commands, from {ROOT}:"
    yield f"  set -a; . {shlex.quote(str(environment))}; set +a"
    for words in COMMANDS:
        yield f"  .venv/bin/{words}"
