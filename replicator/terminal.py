"""What the commands of `replicator` share: options, and faults as sentences."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from replicator.errors import ReplicatorError, SettingsError, action_for

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Apply = Annotated[bool, typer.Option("--apply", help="Carry the plan out; without it, only show it.")]
MOST: Final = 2**63 - 1
"""No id is beyond a bigint."""


@contextmanager
def faults() -> Iterator[None]:
    """Every fault that we know is one sentence and an exit code, never a traceback."""
    try:
        yield
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except ReplicatorError as error:
        print(f"{error}\n{action_for(error)[1]}", file=sys.stderr)
        raise typer.Exit(1) from None
