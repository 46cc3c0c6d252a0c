"""The commands by which a tenant's rows are looked at and put right: arguments in, tables and exit codes out."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from consumers.config import load
from consumers.errors import SettingsError
from consumers.terminal import MOST, MOST_OF_TENANTS, Apply, AsJson, faults, print_json
from replicator.runtime import configure_logging

_BY_SIGINT = 130
_MOST_HOURS = 24 * 365 * 100
"""A century: what is beyond is no time."""

Tenant = Annotated[int, typer.Option(max=MOST_OF_TENANTS, help="Its id in the target.")]
Inboxes = Annotated[
    list[int] | None, typer.Option("--inbox", max=MOST_OF_TENANTS, help="Only these inboxes of the tenant; repeat it.")
]


def add_to(app: typer.Typer) -> None:
    """Makes the commands part of the program."""
    app.command("replay")(replay)
    app.command("compare")(compare)
    app.command("trace")(trace)


def replay(
    tenant: Tenant,
    inbox: Inboxes = None,
    start: Annotated[
        list[str] | None,
        typer.Option("--from", help="start, a time (2026-03-01T12:00:00Z), or offset:PARTITION:OFFSET; repeat that."),
    ] = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Write a tenant's stretch of the log into a shadow, show what the live rows have otherwise, merge with --apply.

    The workers go on. Columns of the target's own are not compared, and kept.

    Example: consumers replay --tenant 7 --from 2026-03-01T12:00:00Z
    """
    from consumers import replay_report, starts
    from consumers.replay import Wish
    from consumers.replay import replay as carry_out

    with faults(), interruptible("nothing more is changed, and the shadow is gone"):
        settings = load()
        configure_logging(settings.log_level)  # of rules that are left out, not among what is printed
        wish = Wish(tenant=tenant, inboxes=frozenset(inbox or ()), start=starts.parse(start or ()), apply=apply)
        found = carry_out(settings, wish, say)
        if as_json:
            print_json(replay_report.to_json(found))
        else:
            Console().print(replay_report.render(found))
        raise typer.Exit(0 if (found.is_equal or apply) and not found.unapplied_count else 1)


def compare(
    tenant: Tenant,
    inbox: Inboxes = None,
    table: Annotated[list[str] | None, typer.Option(help="Only this table; repeat it.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds for the tenant to have what the source has.")] = 60.0,
    repair: Annotated[bool, typer.Option("--repair", help="Plan what to ask the replicator; --apply asks.")] = False,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """A tenant's rows in the source (CONSUMERS_SOURCE_DSN, read only) and here, row by row; exit code 1: they differ.

    Lag is no difference: what the source changes meanwhile is looked at again once it must be here.

    Example: consumers compare --tenant 7 --repair
    """
    from consumers import compare_report
    from consumers import repair as repairing
    from consumers.compare import Wish
    from consumers.compare import compare as look

    with faults(), interruptible("nothing was changed"):
        if apply and not repair:
            raise SettingsError("--apply goes with --repair")
        settings = load()
        wish = Wish(tenant=tenant, inboxes=frozenset(inbox or ()), tables=tuple(table or ()), wait_s=wait)
        found = look(settings, wish, say)
        asked = repairing.requests(found.tables, found.inboxes) if repair else []
        if apply and asked:
            repairing.send(settings, asked)
        if as_json:
            print_json(compare_report.to_json(found, asked, applied=apply))
        else:
            Console().print(compare_report.render(found, asked, repairs=repair, applied=apply))
        raise typer.Exit(0 if found.is_equal else 1)


def _number(hours: float | None) -> float | None:
    """No range keeps out what is none."""
    if hours is not None and math.isnan(hours):
        raise typer.BadParameter("nan is not a number of hours")
    return hours


def trace(
    conversation: Annotated[int, typer.Option(max=MOST, help="Its id in the source.")],
    tenant: Annotated[
        int | None, typer.Option(max=MOST_OF_TENANTS, help="Look at this tenant only; else at whoever holds it.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0, max=_MOST_HOURS, callback=_number, help="How far back the log is read; else all of it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A conversation's biography: its events in the log, what became of each, and the row as it is stored.

    Example: consumers trace --conversation 4711 --hours 48
    """
    from consumers import trace_report
    from consumers.trace import Wish
    from consumers.trace import trace as look

    with faults(), interruptible("nothing was changed"):
        found = look(load(), Wish(conversation=conversation, tenant=tenant, hours=hours), say)
        if as_json:
            print_json(trace_report.to_json(found))
        else:
            Console().print(trace_report.render(found))
        raise typer.Exit(0 if found.events or found.rows else 1)


def say(line: str) -> None:
    """Progress, beside the result."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def interruptible(outcome: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the command at its next breath: a running statement is cancelled, sessions are closed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped: {outcome}", file=sys.stderr)
        raise typer.Exit(_BY_SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)
