"""The `consumers` program: commands, their output, their exit codes.

0: done, or a plan shown. 1: a finding or a refusal, said in one sentence. 2: wrong use (a setting, an argument).
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from consumers.adopt_commands import adopting
from consumers.config import Settings, load
from consumers.recovery_commands import add_to
from consumers.rules_commands import rules
from consumers.terminal import AGAIN, Apply, AsJson, carry_out, faults, print_json, say_done

if TYPE_CHECKING:
    from consumers.mapping_admin import Listing

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reads change events from Kafka and applies them to one PostgreSQL, each tenant's rows under its own id.",
)
mapping = typer.Typer(no_args_is_help=True, help="Which inbox belongs to which tenant.")
app.add_typer(mapping, name="map")
app.add_typer(rules, name="rules")
app.add_typer(adopting, name="adopt")
add_to(app)


@app.command()
def setup(apply: Apply = False, as_json: AsJson = False) -> None:
    """Tables, policies, roles and functions in the target: what is missing, as a plan, or done with --apply."""
    from consumers import setup as preparing

    with faults():
        settings = load()
        plan = preparing.plan(settings)
        carry_out(plan, lambda: preparing.apply(settings, on_step=say_done), apply=apply, as_json=as_json)


@app.command()
def run(
    pool: Annotated[str | None, typer.Option(help="The tenants to serve; else CONSUMERS_POOL.")] = None,
) -> None:
    """A worker: apply events until SIGTERM."""
    with faults():
        settings = load() if pool is None else load(pool=pool)
        from consumers.worker import run as work
        from replicator.runtime import configure_logging

        configure_logging(settings.log_level)
        raise typer.Exit(work(settings))


@app.command()
def status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Per tenant: lag, freshness, what is parked or awaited; and the inboxes that belong to nobody."""
    from consumers.status import gather, render, to_json

    with faults():
        settings = load()
        if watch and not as_json:
            _watch(settings)
        found = gather(settings)
        if as_json:
            print_json(to_json(found))
        else:
            Console().print(render(found))
        raise typer.Exit(0 if found.is_well else 1)


@mapping.command("list")
def map_list(as_json: AsJson = False) -> None:
    """Every inbox with its tenant, and the inboxes with events that belong to nobody."""
    from consumers.mapping_admin import listing

    with faults():
        found = listing(load())
        if as_json:
            print_json(asdict(found))
        else:
            _show_listing(found)


@mapping.command("add")
def map_add(
    inbox: Annotated[int, typer.Option(help="Its id in the source.")],
    tenant: Annotated[int, typer.Option(help="Whose it is.")],
    tenant_name: Annotated[str | None, typer.Option(help="Make the tenant with this name if it is missing.")] = None,
    tenant_slug: Annotated[str | None, typer.Option(help="Its slug; else made from the name.")] = None,
    inbox_name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Give an inbox to a tenant; its rows are then backfilled."""
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


def _show_listing(listing: Listing) -> None:
    table = Table("inbox", "name", "tenant", "active", "backfilled")
    for mapped in listing.mapped:
        table.add_row(
            str(mapped.inbox_id),
            mapped.inbox_name or "",
            f"{mapped.tenant_id} {mapped.tenant_name or ''}",
            "yes" if mapped.is_active else "no",
            f"{mapped.backfilled_at:%Y-%m-%d %H:%M:%SZ}" if mapped.backfilled_at else "not yet",
        )
    for unmapped in listing.unmapped:
        table.add_row(str(unmapped.inbox_id), "", "nobody's", "", f"{unmapped.events} events seen")
    Console().print(table)


def _watch(settings: Settings) -> None:
    """Until Ctrl-C; a target that goes away ends it with one sentence."""
    from consumers.status import gather, render

    try:
        with Live(render(gather(settings)), refresh_per_second=4) as live:
            while True:
                time.sleep(1)
                live.update(render(gather(settings)))
    except KeyboardInterrupt:
        return


def main() -> None:
    """The entry point of the installed program."""
    app()


if __name__ == "__main__":
    main()
