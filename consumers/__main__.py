"""The `consumers` program: commands, their output, their exit codes.

0: done, or a plan shown. 1: a finding or a refusal, said in one sentence. 2: wrong use (a setting, an argument).
"""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from consumers.adopt_commands import adopting
from consumers.config import Settings, load
from consumers.dead_letters_commands import letters
from consumers.mapping_commands import mapping
from consumers.pool_commands import pools
from consumers.recovery_commands import add_to
from consumers.rules_commands import rules
from consumers.terminal import Apply, AsJson, carry_out, faults, print_json, say_done

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reads change events from Kafka and applies them to one PostgreSQL, each tenant's rows under its own id.",
)
app.add_typer(mapping, name="map")
app.add_typer(pools, name="pool")
app.add_typer(rules, name="rules")
app.add_typer(adopting, name="adopt")
app.add_typer(letters, name="dead-letters")
add_to(app)


@app.command(epilog="Example: consumers setup --apply")
def setup(apply: Apply = False, as_json: AsJson = False) -> None:
    """Tables, policies, roles and functions in the target: what is missing, as a plan, or done with --apply."""
    from consumers import setup as preparing

    with faults():
        settings = load()
        plan = preparing.plan(settings)
        carry_out(plan, lambda: preparing.apply(settings, on_step=say_done), apply=apply, as_json=as_json)


@app.command(epilog="Example: consumers run --pool heavy")
def run(
    pool: Annotated[str | None, typer.Option(help="The tenants to serve; else CONSUMERS_POOL.")] = None,
) -> None:
    """A worker: apply events until SIGTERM."""
    with faults():
        settings = load() if pool is None else load(pool=pool)
        from consumers.worker import run as work
        from replicator import process_memory
        from replicator.runtime import configure_logging

        process_memory.settle()
        configure_logging(settings.log_level)
        raise typer.Exit(work(settings))


@app.command(epilog="Example: consumers status --watch")
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
