"""The `consumers dead-letters` commands: arguments in, a table, a plan or JSON out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.config import load
from consumers.terminal import AGAIN, MOST, MOST_OF_TENANTS, Apply, AsJson, faults, print_json

if TYPE_CHECKING:
    from consumers.dead_letters_admin import Listing, Shown

letters = typer.Typer(
    no_args_is_help=True,
    help="Events that could not be applied: their tenants go on without them until they are healed.",
)
Tenant = Annotated[int | None, typer.Option(max=MOST_OF_TENANTS, help="Of this tenant.")]
OfTable = Annotated[str | None, typer.Option("--table", help="Of this table.")]
_ASKED = "the worker that reads their partition tries them within seconds; `consumers dead-letters list` shows the rest"


@letters.command("list", epilog="Example: consumers dead-letters list --tenant 7 --table messages")
def letters_list(
    tenant: Tenant = None,
    table: OfTable = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows to show; the counts are of all.")] = 100,
    as_json: AsJson = False,
) -> None:
    """How many there are of each kind, and the oldest of them; never a row's values."""
    from consumers.dead_letters_admin import Which, listing

    with faults():
        found = listing(load(), Which(tenant=tenant, table=table), limit)
        if as_json:
            print_json(asdict(found))
        else:
            _show_listing(found)


@letters.command("show", epilog="Example: consumers dead-letters show 41")
def letters_show(
    number: Annotated[int, typer.Argument(metavar="ID", max=MOST, help="As `list` names it.")], as_json: AsJson = False
) -> None:
    """One event as it came, with its row's values: mind who looks over your shoulder."""
    from consumers.dead_letters_admin import show

    with faults():
        found = show(load(), number)
        if as_json:
            print_json(asdict(found))
        else:
            _show_one(found)


@letters.command("retry", epilog="Example: consumers dead-letters retry --tenant 7")
def letters_retry(
    number: Annotated[
        list[int] | None, typer.Option("--id", max=MOST, help="This one, with all of its row; repeat it.")
    ] = None,
    tenant: Tenant = None,
    table: OfTable = None,
    everything: Annotated[bool, typer.Option("--all", help="Of every tenant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a worker to try them again, in order. What is older than its row in the target changes nothing."""
    from consumers.dead_letters_admin import Which, retry

    chosen = bool(number or tenant is not None or table)
    if chosen == everything:
        raise typer.BadParameter("either --all, or which: --id, --tenant, --table")
    with faults():
        asked = retry(load(), Which(ids=tuple(number or ()), tenant=tenant, table=table))
        if as_json:
            print_json({"asked": asked})
        else:
            print(f"{asked} dead letters are asked for: {_ASKED}" if asked else "there are none: nothing to do")


@letters.command("discard", epilog="Example: consumers dead-letters discard --id 41 --apply")
def letters_discard(
    number: Annotated[list[int], typer.Option("--id", max=MOST, help="As `list` names it; repeat it.")],
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Give events up for good. The plan says what stays stale in the target."""
    from consumers.dead_letters_admin import discard

    with faults():
        plan = discard(load(), number, apply=apply)
        if as_json:
            print_json({"changes": plan, "applied": apply})
            return
        for sentence in plan:
            print(f"{'done: ' if apply else ''}{sentence}")
        if not apply:
            print(AGAIN)


def _show_listing(listing: Listing) -> None:
    console = Console()
    if not listing.kinds:
        console.print("no dead letters")
        return
    kinds = Table("tenant", "table", "class", "concerns", "count", box=None, pad_edge=False)
    for kind in listing.kinds:
        kinds.add_row(
            str(kind.tenant_id), _text(kind.relation), kind.error_class, _text(kind.concerns), str(kind.letters)
        )
    rows = Table("id", "tenant", "table", "key", "class", "since", "tries", "advice", box=None, pad_edge=False)
    for each in listing.letters:
        rows.add_row(
            str(each.id),
            str(each.tenant_id),
            _text(each.relation),
            _text(each.key),
            each.error_class,
            f"{each.since:%m-%d %H:%M:%SZ}",
            f"{each.tries}{', due' if each.is_due else ''}",
            _text(each.advice if each.waits else f"{each.error}. {each.advice}"),
        )
    console.print(kinds, "", rows)
    more = sum(kind.letters for kind in listing.kinds) - len(listing.letters)
    if more:
        console.print(f"and {more} more: --limit, --tenant, --table")


def _show_one(shown: Shown) -> None:
    console, letter = Console(), shown.letter
    console.print(
        Text(
            f"dead letter {letter.id}: tenant {letter.tenant_id}, {letter.relation or 'no table'} {letter.key},"
            f" inbox {shown.inbox_id or '-'}, partition {shown.partition}, offset {shown.log_offset}\n"
            f"{letter.error_class}: {letter.error}. {letter.advice}\n"
            f"since {letter.since:%Y-%m-%d %H:%M:%SZ}, {letter.tries} tries"
        )
    )
    for name, value in shown.headers:
        console.print(Text(f"{name}: {value}"))
    if isinstance(shown.body, str):
        console.print(Text(shown.body))
    else:
        console.print_json(data=shown.body)


def _text(words: str) -> Text:
    """What others have named is no markup."""
    return Text(words or "-")
