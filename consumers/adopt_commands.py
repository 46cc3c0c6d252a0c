"""The `consumers adopt` commands, by which an installation leaves the batch ETL: arguments in, plans and tables out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from consumers.config import load
from consumers.terminal import Apply, AsJson, carry_out, faults, print_json, say_done

adopting = typer.Typer(no_args_is_help=True, help="From the batch ETL to this program, and back: docs/cutover.md.")


@adopting.command("copy", epilog="Example: CONSUMERS_TARGET_SCHEMA=replica consumers adopt copy --from public --apply")
def adopt_copy(
    source: Annotated[str, typer.Option("--from", help="The schema of the ETL's tables.")],
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Copy the ETL's tables into the schema of CONSUMERS_TARGET_SCHEMA, to be tried there beside it."""
    from consumers import copying

    with faults():
        settings = load()
        plan = copying.plan(settings, source)
        carry_out(plan, lambda: copying.apply(settings, source, say_done, _say_rows), apply=apply, as_json=as_json)


@adopting.command("compare", epilog="Example: CONSUMERS_TARGET_SCHEMA=replica consumers adopt compare --with public")
def adopt_compare(
    source: Annotated[str, typer.Option("--with", help="The schema of the ETL's tables.")],
    expect: Annotated[list[str] | None, typer.Option(help="A column whose differences are known; repeat it.")] = None,
    as_json: AsJson = False,
) -> None:
    """The ETL's rows beside ours, by tenant and column; exit code 1 if a difference is not explained."""
    from consumers import trial

    with faults():
        found = trial.compare(load(), source, frozenset(expect or ()))
        if as_json:
            print_json(trial.to_json(found))
        else:
            Console().print(trial.render(found))
        raise typer.Exit(0 if found.is_explained else 1)


@adopting.command("back", epilog="Example: CONSUMERS_TARGET_SCHEMA=public consumers adopt back --apply")
def adopt_back(apply: Apply = False, as_json: AsJson = False) -> None:
    """Give the ETL's tables back to it: our policies and triggers on them go, every row stays."""
    from consumers import undoing

    with faults():
        settings = load()
        plan = undoing.plan(settings)
        carry_out(plan, lambda: undoing.apply(settings, say_done), apply=apply, as_json=as_json)


def _say_rows(does: str, rows: int) -> None:
    print(f"{does}: {rows} so far", file=sys.stderr)
