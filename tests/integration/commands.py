"""Commands of `consumers`, for tests of the whole path: in this process, which spares it the time to start."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import structlog
from typer.testing import CliRunner

from consumers.__main__ import app
from tests.integration.whole import Whole


class Done(NamedTuple):
    stdout: str
    stderr: str


def consumers(path: Whole, *arguments: object, expect: int = 0, **settings: str) -> Done:
    """One command; fails if its exit code is another."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env={**path.worker_environment, **settings})
    structlog.reset_defaults()  # the command has configured it for streams that are closed now
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code == expect, (done.exit_code, done.stdout, done.stderr)
    return Done(done.stdout, done.stderr)


def answer(path: Whole, command: str, *arguments: object, expect: int = 0, **settings: str) -> dict[str, Any]:
    """What it says to machines."""
    found: dict[str, Any] = json.loads(consumers(path, command, "--json", *arguments, expect=expect, **settings).stdout)
    return found


def unlike(found: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """By table and kind the first keys of what differs."""
    kinds = ("missing", "extra", "different")
    return {
        table["table"]: {kind: table["examples"][kind] for kind in kinds if table[kind]}
        for table in found["tables"]
        if any(table[kind] for kind in kinds)
    }
