"""What the commands of `consumers` share: options, faults as sentences, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Final

import typer

from consumers.errors import ConsumersError, SettingsError

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Apply = Annotated[bool, typer.Option("--apply", help="Carry the plan out; without it, only show it.")]
AGAIN: Final = "run again with --apply to carry this out"


@contextmanager
def faults() -> Iterator[None]:
    """Every fault that we know is one sentence and an exit code, never a traceback."""
    try:
        yield
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except ConsumersError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def print_json(content: object) -> None:
    print(json.dumps(content, indent=2, default=_iso))


def _iso(moment: datetime) -> str:
    return moment.isoformat()
