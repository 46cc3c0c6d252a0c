"""The `consumers rules` commands: arguments in, a table, a plan or JSON out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.config import load
from consumers.errors import Refused
from consumers.terminal import AGAIN, MOST, MOST_OF_TENANTS, Apply, AsJson, faults, print_json

if TYPE_CHECKING:
    from consumers.mapping_admin import Change
    from consumers.rules_admin import Listing

rules = typer.Typer(no_args_is_help=True, help="By which rules a tenant's lead signals are made.")
Tenant = Annotated[int, typer.Option(max=MOST_OF_TENANTS, help="Whose.")]


@rules.command("list", epilog="Example: consumers rules list --tenant 7")
def rules_list(tenant: Tenant, as_json: AsJson = False) -> None:
    """Every rule that applies, shipped or the tenant's own, and those that are off or refused."""
    from consumers.rules_admin import listing

    with faults():
        found = listing(load(), tenant)
        if as_json:
            print_json(asdict(found))
        else:
            _show(found)
        raise typer.Exit(1 if any(each.refused for each in found.rules) else 0)


@rules.command("set", epilog="Example: consumers rules set --tenant 7 rules.toml --apply")
def rules_set(
    tenant: Tenant,
    file: Annotated[Path, typer.Argument(help="A TOML file with all rules that are the tenant's own.")],
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Make the tenant's own rules those of a file; its rows are then made anew in the background."""
    from consumers.rules_admin import put
    from consumers.rules_file import parse

    with faults():
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{file} can't be read: {type(error).__name__}") from None
        _report(put(load(), tenant, parse(text), apply=apply), apply=apply, as_json=as_json)


@rules.command("origin", epilog="Example: consumers rules origin external --tenant 7 --apply")
def rules_origin(
    tenant: Tenant,
    origin: Annotated[str, typer.Argument(help="source, rules, external, or auto: the source's, else by rules.")],
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Say where a tenant's lead signals come from."""
    from consumers.rules_admin import ORIGINS, decide

    if origin not in ORIGINS:
        raise typer.BadParameter(f"one of {', '.join(ORIGINS)}", param_hint="origin")
    with faults():
        _report(decide(load(), tenant, origin, apply=apply), apply=apply, as_json=as_json)


@rules.command("explain", epilog="Example: consumers rules explain --tenant 7 --conversation 42")
def rules_explain(
    tenant: Tenant,
    conversation: Annotated[int, typer.Option(max=MOST, help="Its id in the source.")],
    as_json: AsJson = False,
) -> None:
    """The signals of one conversation, and which message hit which rule."""
    from consumers.rules_admin import explain

    with faults():
        found = explain(load(), tenant, conversation)
        if as_json:
            print_json(asdict(found))
            return
        for name, value in (
            ("is_lead", found.is_lead),
            ("visit_scheduled", found.visit_scheduled),
            ("crm_converted", found.crm_converted),
            ("ai_probability_label", found.label),
            ("ai_probability_score", found.score),
            ("made by", found.by),
        ):
            print(f"{name:20} {'-' if value is None else value}")
        for rule, message in found.evidence:
            print(f"message {message}: {rule}")


def _show(listing: Listing) -> None:
    table = Table("rule", "whose", "signal", "speaker", "weight", "", box=None, pad_edge=False)
    for each in listing.rules:
        rule = each.rule
        details = (rule.signal, rule.speaker, str(rule.weight)) if rule else ("", "", "")
        fate = f"refused: {each.refused}" if each.refused else "" if rule else "off"
        table.add_row(Text(each.name), each.whose, *details, Text(fate))  # a tenant's words are no markup
    Console().print(f"tenant {listing.tenant}: lead signals from {listing.origin or 'the source, else by these rules'}")
    Console().print(table)


def _report(changes: tuple[Change, ...], *, apply: bool, as_json: bool) -> None:
    if as_json:
        print_json({"changes": [change.does for change in changes], "applied": apply})
        return
    for change in changes:
        print(f"{'done: ' if apply else ''}{change.does}")
    if not changes:
        print("all of it is so already: nothing to do")
    elif not apply:
        print(AGAIN)
