"""What the commands of `consumers` share: options, faults as sentences, plans shown and carried out, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from consumers.errors import ConsumersError, SettingsError
from consumers.plan import Plan, Severity, Step

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Apply = Annotated[bool, typer.Option("--apply", help="Carry the plan out; without it, only show it.")]
MOST: Final = 2**63 - 1
"""No id is beyond a bigint..."""
MOST_OF_TENANTS: Final = 2**31 - 1
"""...and that of a tenant, or of an inbox in the mapping, beyond an integer."""
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


def carry_out(plan: Plan, carry: Callable[[], None], *, apply: bool, as_json: bool) -> None:
    """Shows the plan, or does it; ends the command with its exit code."""
    refused = bool(plan.of(Severity.REFUSAL))
    if not as_json:
        _show_plan(plan, with_steps=not apply or refused)
    if apply and plan.steps and not refused:
        carry()
    if as_json:
        print_json(_plan_to_json(plan, applied=apply and not refused))
    elif plan.steps and not apply and not refused:
        print(AGAIN)
    raise typer.Exit(1 if refused or plan.of(Severity.FINDING) else 0)


def say_done(step: Step) -> None:
    print(f"done: {step.does}", file=sys.stderr)


def _show_plan(plan: Plan, *, with_steps: bool) -> None:
    for step in plan.steps if with_steps else ():
        print(f"{step.version:03d} {step.does}" if step.version else f"    {step.does}")
    for finding in plan.findings:
        print(f"{finding.severity.value}: {finding.says}")
    if not plan.steps and not plan.of(Severity.REFUSAL):
        print("nothing to do")


def _plan_to_json(plan: Plan, *, applied: bool) -> dict[str, Any]:
    return {
        "steps": [{"version": step.version, "does": step.does, "sql": step.sql} for step in plan.steps],
        "findings": [{"severity": found.severity.value, "says": found.says} for found in plan.findings],
        "applied": applied,
    }
