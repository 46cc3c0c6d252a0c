"""`replicator backfill`: asks the running replicator to read the source again; what is asked for, and how far it is.

Requests go over the control topic, so that a command works from wherever Kafka is reached. A request names scopes,
never SQL.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from replicator.terminal import MOST, AsJson, faults

if TYPE_CHECKING:
    from replicator.config import Settings
    from replicator.request import Request

app = typer.Typer(invoke_without_command=True)

WATCH_S = 1.0
HEARD_S = 30.0
"""How long the replicator may take to hear of a request before `--wait` says so."""


@app.callback(epilog="Example: replicator backfill --inbox 61 --table messages --key-range 1000..2000 --wait")
def ask(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Every inbox.")] = False,
    inbox: Annotated[list[int] | None, typer.Option(max=MOST, help="Only this inbox; may be given again.")] = None,
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be given again.")] = None,
    keys: Annotated[str, typer.Option(help="Only these rows of one table and inbox: 7,8,9.")] = "",
    key_range: Annotated[str, typer.Option(help="Only rows of one table with keys between these: 1000..2000.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done, with its progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read the source again, beside the stream; what no longer exists there is then swept from the target."""
    if context.invoked_subcommand is not None:
        return
    from replicator.config import load
    from replicator.definitions import captured_by

    if everything == bool(inbox):
        raise typer.BadParameter("give --all or --inbox, one of them")
    with faults():
        settings = load()
        known = captured_by(settings).names
        if unknown := [name for name in table or () if name not in known]:
            raise typer.BadParameter(f"unknown table {', '.join(unknown)}; known: {', '.join(known)}")
        if keys:
            _ask_for_keys(settings, keys, table or [], inbox or [], key_range, as_json)
            return
        _ask_for_scope(settings, table, inbox, _range(key_range, table or []), wait=wait, as_json=as_json)


@app.command("list", epilog="Example: replicator backfill list --json")
def listed(as_json: AsJson = False) -> None:
    """Backfills that wait or are under way, in the order in which they are done."""
    from replicator.backfill_job import BackfillJob
    from replicator.config import load
    from replicator.status import bars

    with faults():
        records = _records(load())
        if as_json:
            print(json.dumps(records, indent=2))
        elif records:
            Console().print(bars([BackfillJob.from_record(record) for record in records]))
        else:
            print("none waits, none is under way")


@app.command(epilog="Example: replicator backfill cancel asked-1764460800-a1b2c3")
def cancel(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `replicator backfill list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Give one up that was asked for by hand. What it has read stays; nothing is swept."""
    from replicator.config import load
    from replicator.request import ASKED, CancelRequest

    with faults():
        settings = load()
        if name not in [record["id"] for record in _records(settings)]:
            print(f"there is no backfill {name}: it is done, or was never asked for", file=sys.stderr)
            raise typer.Exit(1)
        if not name.startswith(ASKED):
            print(f"{name} was not asked for by hand: what it reads would be missing from the log", file=sys.stderr)
            raise typer.Exit(1)
        _send(settings, CancelRequest(id=name))
        print(json.dumps({"asked": "cancel", "id": name}) if as_json else f"asked to give {name} up")


def _ask_for_keys(
    settings: Settings, keys: str, table: Sequence[str], inbox: Sequence[int], key_range: str, as_json: bool
) -> None:
    from replicator.request import KeysRequest

    if len(table) != 1 or len(inbox) != 1 or key_range:
        raise typer.BadParameter("--keys needs one --table and one --inbox, and no --key-range")
    if not re.fullmatch(r"\d+(,\d+)*", keys):
        raise typer.BadParameter("--keys takes numbers: 7,8,9")
    numbers = tuple((_id(key),) for key in dict.fromkeys(keys.split(",")))
    _send(settings, KeysRequest(table=table[0], inbox=inbox[0], keys=numbers))
    if as_json:
        print(json.dumps({"asked": "keys", "table": table[0], "inbox": inbox[0], "keys": len(numbers)}))
    else:
        print(f"asked for {len(numbers)} rows of {table[0]}; a row that is gone is deleted at inbox {inbox[0]}")


def _ask_for_scope(
    settings: Settings,
    table: Sequence[str] | None,
    inbox: Sequence[int] | None,
    keys: tuple[int, int] | None,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    from replicator.request import ASKED, BackfillRequest

    request = BackfillRequest(
        id=f"{ASKED}{int(time.time())}-{secrets.token_hex(3)}",
        tables=tuple(table) if table else None,
        inboxes=tuple(inbox) if inbox else None,
        keys=keys,
    )
    _send(settings, request)
    if as_json:
        print(json.dumps({"asked": "backfill", "id": request.id}))
    else:
        print(f"asked for backfill {request.id}; `replicator backfill list` shows its progress")
    if wait:
        _wait_for(settings, request.id)


def _range(text: str, table: Sequence[str]) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if found is None or _id(found[1]) > _id(found[2]):
        raise typer.BadParameter("--key-range takes two numbers, the smaller first: 1000..2000")
    if len(table) != 1:
        raise typer.BadParameter("--key-range needs one --table: keys of another are other rows")
    return int(found[1]), int(found[2])


def _id(digits: str) -> int:
    if int(digits) > MOST:
        raise typer.BadParameter(f"{digits} is no id: the last is {MOST}")
    return int(digits)


def _wait_for(settings: Settings, name: str) -> None:
    """Until it is done. One that is neither listed nor done was given up, is covered by another, or nobody heard."""
    from replicator.backfill_job import BackfillJob
    from replicator.status import bars

    heard = time.monotonic()
    with Live(refresh_per_second=2) as live:
        while True:
            found = _remembered(settings)
            if name in found.get("finished", {}).get("ids", []):
                return
            if (record := found.get(f"backfill/{name}")) is not None:
                heard = time.monotonic()
                live.update(bars([BackfillJob.from_record(record)]))
            elif time.monotonic() - heard > HEARD_S:
                print("it is not taken up: the replicator does not run, another backfill covers it, or it was given up")
                raise typer.Exit(1)
            time.sleep(WATCH_S)


def _remembered(settings: Settings) -> Mapping[str, Any]:
    from replicator import topics
    from replicator.event import Topics
    from replicator.memory import read_memory

    return read_memory(topics.kafka_base(settings), Topics(settings.topic_prefix), 10.0).records


def _records(settings: Settings) -> list[dict[str, Any]]:
    found = _remembered(settings)
    jobs = [record for key, record in found.items() if key.startswith("backfill/")]
    return sorted(jobs, key=lambda record: record["requested_ms"])


def _send(settings: Settings, request: Request) -> None:
    from replicator import topics
    from replicator.control import send
    from replicator.event import Topics

    send(topics.kafka_base(settings), Topics(settings.topic_prefix), request)
