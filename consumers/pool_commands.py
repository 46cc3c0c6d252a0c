"""The `consumers pool` commands: arguments in, a table, a plan or JSON out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from consumers.config import POOL_NAME, load
from consumers.errors import SettingsError
from consumers.terminal import AGAIN, MOST_OF_TENANTS, Apply, AsJson, faults, print_json

if TYPE_CHECKING:
    from consumers.pools import Pool

pools = typer.Typer(no_args_is_help=True, help="Which tenants have workers of their own.")


@pools.command("list", epilog="Example: consumers pool list --json")
def pool_list(as_json: AsJson = False) -> None:
    """Every pool with its tenants, who of them is still being read up to the others, and whether anybody reads."""
    from consumers.pools import listing

    with faults():
        found = listing(load())
        if as_json:
            print_json([asdict(each) for each in found])
        else:
            Console().print(_table(found))


@pools.command("assign", epilog="Example: consumers pool assign --tenant 7 --pool heavy --apply")
def pool_assign(
    tenant: Annotated[int, typer.Option(max=MOST_OF_TENANTS, help="Its id.")],
    pool: Annotated[str, typer.Option(help="The pool that will serve it; `default` gives it back.")],
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Let another pool serve a tenant: its workers read it up to the others, who do not stop meanwhile."""
    from consumers.pools import assign

    with faults():
        if not POOL_NAME.fullmatch(pool):
            raise SettingsError(f"--pool {pool}: letters, digits, dots, dashes and underscores, 100 at the most")
        planned = assign(load(), tenant, pool, apply=apply)
        if as_json:
            print_json({"change": None if planned is None else asdict(planned), "applied": apply})
            return
        if planned is None:
            print(f"tenant {tenant} is of the pool {pool} already: nothing to do")
            return
        for line in planned.says:
            print(f"{'done: ' if apply else ''}{line}")
        if planned.warning:
            print(planned.warning)
        if not apply:
            print(AGAIN)


def _table(found: tuple[Pool, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("pool", "tenants", "joining", "partitions", "last read"):
        table.add_column(heading, justify="right" if heading == "partitions" else "left")
    for pool in found:
        read_at = "never" if pool.read_at is None else pool.read_at.strftime("%m-%d %H:%M:%SZ")
        table.add_row(
            pool.name,
            ", ".join(map(str, pool.tenants)) or "-",
            ", ".join(map(str, pool.joining)) or "-",
            str(pool.partitions),
            read_at if pool.is_served else f"{read_at}: no worker",
        )
    return table
