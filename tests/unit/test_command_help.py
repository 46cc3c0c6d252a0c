"""Every command shows an example of itself, speaks JSON, and takes no id that no row can have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import consumers.__main__
import replicator.__main__

SERVICES = ("consumers run", "replicator run")
"""They go on until they are stopped; their log is JSON."""


def commands() -> Iterator[tuple[str, Any]]:
    for name, program in (("consumers", consumers.__main__), ("replicator", replicator.__main__)):
        yield from below(typer.main.get_command(program.app), name)


def below(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The command, if it does something by itself, and those under it."""
    under = getattr(command, "commands", {})
    if not under or command.invoke_without_command:
        yield path, command
    for name, each in under.items():
        yield from below(each, f"{path} {name}")


COMMANDS = dict(commands())


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_of_itself_that_can_be_parsed(path: str) -> None:
    command = COMMANDS[path]
    text = f"{command.help}\n{command.epilog or ''}"
    found = re.search(rf"Example: (?:[A-Z_]+=\S+ )*{path}((?: .*)?)$", text, re.MULTILINE)
    assert found is not None
    words = re.findall(r"'[^']*'|\S+", found[1])
    command.make_context(path, [word.strip("'") for word in words])


@pytest.mark.parametrize("path", [path for path in COMMANDS if path not in SERVICES])
def test_every_command_but_a_service_speaks_json(path: str) -> None:
    assert "--json" in options(COMMANDS[path])


BEYOND = 2**63


@pytest.mark.parametrize(
    "words",
    [
        f"replicator backfill --inbox {BEYOND}",
        f"replicator backfill --inbox 1 --table messages --keys 7,{BEYOND}",
        f"replicator backfill --inbox 1 --table messages --key-range 7..{BEYOND}",
        f"consumers trace --conversation {BEYOND}",
        "consumers trace --conversation 1 --hours 1e300",
        "consumers trace --conversation 1 --hours nan",
        f"consumers dead-letters show {BEYOND}",
        f"consumers map add --inbox 7 --tenant {2**31}",
    ],
)
def test_a_number_that_nothing_has_is_wrong_use(words: str) -> None:
    program, *rest = words.split()
    environment = {"REPLICATOR_SOURCE_DSN": "host=127.0.0.1", "REPLICATOR_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    app = (consumers if program == "consumers" else replicator).__main__.app
    done = CliRunner().invoke(app, rest, env=environment)
    assert (done.exit_code, type(done.exception)) == (2, SystemExit), done.output + done.stderr
