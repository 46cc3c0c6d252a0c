"""The `consumers map` commands: arguments in, a table, a plan or JSON out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.config import load
from consumers.terminal import AGAIN, MOST_OF_TENANTS, Apply, AsJson, faults, print_json

if TYPE_CHECKING:
    from consumers.mapping_admin import Listing
    from consumers.mapping_moves import Handover
    from consumers.suggestions import Suggestion

mapping = typer.Typer(no_args_is_help=True, help="Which inbox belongs to which tenant.")
Inbox = Annotated[int, typer.Option(max=MOST_OF_TENANTS, help="Its id in the source.")]


@mapping.command("list", epilog="Example: consumers map list --json")
def map_list(as_json: AsJson = False) -> None:
    """Every inbox with its tenant and its backfill, and the inboxes with events that belong to nobody."""
    from consumers.mapping_admin import listing

    with faults():
        found = listing(load())
        if as_json:
            print_json(
                asdict(found) | {"mapped": [asdict(each) | {"progress": each.progress} for each in found.mapped]}
            )
        else:
            _show_listing(found)


@mapping.command(
    "suggest", epilog="Example: CONSUMERS_SOURCE_DSN=postgresql://reader@chatwoot/app consumers map suggest"
)
def map_suggest(as_json: AsJson = False) -> None:
    """Propose tenants for inboxes that belong to nobody, by the account they share with others. Changes nothing."""
    from consumers.suggestions import suggest

    with faults():
        found = suggest(load())
        if as_json:
            print_json([asdict(each) for each in found])
            return
        for each in found:
            _show_suggestion(each)
        if not found:
            print("every inbox belongs to a tenant")


@mapping.command("add", epilog="Example: consumers map add --inbox 61 --tenant 7 --tenant-name 'Escola Um' --apply")
def map_add(
    inbox: Inbox,
    tenant: Annotated[int, typer.Option(max=MOST_OF_TENANTS, help="Whose it is.")],
    tenant_name: Annotated[str | None, typer.Option(help="Make the tenant with this name if it is missing.")] = None,
    tenant_slug: Annotated[str | None, typer.Option(help="Its slug; else made from the name.")] = None,
    inbox_name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Give an inbox to a tenant, or activate it again; its rows are then backfilled."""
    from consumers.mapping_admin import Wish, add

    with faults():
        wish = Wish(inbox=inbox, tenant=tenant, tenant_name=tenant_name, tenant_slug=tenant_slug, inbox_name=inbox_name)
        changes = add(load(), wish, apply=apply)
        if as_json:
            print_json({"changes": [change.does for change in changes], "applied": apply})
            return
        for change in changes:
            print(f"{'done: ' if apply else ''}{change.does}")
        if not changes:
            print(f"inbox {inbox} belongs to tenant {tenant} already: nothing to do")
        elif not apply:
            print(AGAIN)


@mapping.command("move", epilog="Example: consumers map move --inbox 61 --to 8 --apply")
def map_move(
    inbox: Inbox,
    to: Annotated[int, typer.Option(max=MOST_OF_TENANTS, help="The tenant whose it will be.")],
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Give an inbox to another tenant, with its rows: at no moment do both see them."""
    from consumers.mapping_moves import move

    with faults():
        _report(move(load(), inbox, to, apply=apply), apply=apply, as_json=as_json)


@mapping.command("deactivate", epilog="Example: consumers map deactivate --inbox 61 --purge --apply")
def map_deactivate(
    inbox: Inbox,
    purge: Annotated[bool, typer.Option("--purge", help="Delete its rows for good; else they stay.")] = False,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Apply nothing more of an inbox. `consumers map add` takes it back."""
    from consumers.mapping_moves import deactivate

    with faults():
        _report(deactivate(load(), inbox, purge=purge, apply=apply), apply=apply, as_json=as_json)


def _report(handover: Handover, *, apply: bool, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(handover), "applied": apply})
        return
    for does in handover.does:
        print(f"{'done: ' if apply else ''}{does}")
    if not handover.does:
        print("it is so already: nothing to do")
        return
    for holding in handover.holdings:
        print(f"tenant {holding.tenant} {'had' if apply else 'has'} of inbox {handover.inbox}:")
        for tally in holding.rows:
            shared = f", {tally.shared:,} of them shared with its other inboxes" if tally.shared else ""
            print(f"  {tally.table:26} {tally.rows:>12,} rows{shared}")
        if not holding.rows:
            print("  no rows")
    for note in handover.notes:
        print(f"note: {note}")
    if not apply:
        print(AGAIN)


def _show_suggestion(suggestion: Suggestion) -> None:
    seen = f", {suggestion.events:,} events since {suggestion.first_seen:%Y-%m-%d}" if suggestion.first_seen else ""
    print(f"inbox {suggestion.inbox_id} {suggestion.inbox_name or ''}".rstrip() + f"{seen}: {suggestion.reason}")
    if suggestion.command:
        print(f"  {suggestion.command}")


def _show_listing(listing: Listing) -> None:
    table = Table("inbox", "name", "tenant", "active", "backfill")
    for mapped in listing.mapped:
        table.add_row(
            str(mapped.inbox_id),
            Text(mapped.inbox_name or ""),
            Text(f"{mapped.tenant_id} {mapped.tenant_name or ''}"),
            "yes" if mapped.is_active else "no",
            mapped.progress,
        )
    for unmapped in listing.unmapped:
        seen = (
            f"{unmapped.events} events, {unmapped.first_seen:%m-%d %H:%M:%SZ} to {unmapped.last_seen:%m-%d %H:%M:%SZ}"
        )
        table.add_row(str(unmapped.inbox_id), "", "nobody's", "", seen)
    for kept in listing.kept:
        table.add_row(
            str(kept.inbox_id), "", f"kept by {kept.tenant_id}", "", f"removed {kept.since:%Y-%m-%d %H:%M:%SZ}"
        )
    Console().print(table)
