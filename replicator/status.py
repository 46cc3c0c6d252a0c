"""What `replicator status` shows: the running replicator's own word from the state topic, beside the source's.

Works from any machine that reaches Kafka and the source; each of the two may be away, and then says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from replicator.backfill_job import BackfillJob
from replicator.config import Settings
from replicator.derivation import UNPUBLISHED
from replicator.digest_memory import CROWDED
from replicator.errors import ReplicatorError
from replicator.event import Topics
from replicator.lapses import SENTENCE
from replicator.lsn import format_lsn
from replicator.memory import read_memory
from replicator.modes import LEFT_OUT, Mode
from replicator.source import Source

MOST_HELD = 10
"""Inboxes that are named of those that are held back."""
SILENT_AFTER_MS = 10_000
"""A replicator writes its status every 2 s; one whose last is further from our clock than this is not running."""


def gather(settings: Settings, kafka: Mapping[str, Any]) -> dict[str, Any]:
    """Everything known, as JSON-ready values. `faults` names what could not be asked."""
    found: dict[str, Any] = {"running": False, "faults": []}
    try:
        records = read_memory(kafka, Topics(settings.topic_prefix), 10.0).records
        found |= records.get("status", {})
        found["running"] = not found.get("stopped") and _is_recent(found.get("at_ms", 0))
        # The job's own record is written at every chunk: fresher than the status.
        found["backfills"] = [record for key, record in records.items() if key.startswith("backfill/")]
        lapsed = sorted(record["table"] for key, record in records.items() if key.startswith("identity/"))
        found["faults"] += [f"{table}: {SENTENCE}" for table in lapsed]
    except ReplicatorError as error:
        found["faults"].append(str(error))
    try:
        with Source(settings) as source:
            found["slot"] = _slot(source)
    except ReplicatorError as error:
        found["faults"].append(str(error))
    return found


def _is_recent(at_ms: int) -> bool:
    """A clock that is ahead must not make it recent for ever."""
    return abs(time.time() * 1000 - at_ms) < SILENT_AFTER_MS


def _slot(source: Source) -> dict[str, Any] | None:
    slot, sample = source.slot(), source.sample()
    if slot is None:
        return None
    if slot.confirmed_lsn is None:
        return {"confirmed_lsn": None, "active_pid": slot.active_pid, "held_bytes": slot.held_bytes}
    return {
        "confirmed_lsn": format_lsn(slot.confirmed_lsn),
        "active_pid": slot.active_pid,
        "wal_status": slot.wal_status,
        "held_bytes": slot.held_bytes,
        "unconfirmed_bytes": max(0, sample.flushed_lsn - slot.confirmed_lsn),
    }


def render(found: Mapping[str, Any]) -> RenderableType:
    """For a person, readable at 80 columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    state = "[green]running[/]" if found["running"] else "[red]not running[/]"
    if not found["running"] and "at_ms" in found:
        state += f" (last heard of {(time.time() * 1000 - found['at_ms']) / 1000:.0f} s ago)"
    table.add_row("replicator", f"{state} {found.get('mode', '')}{_mode_because(found)}")
    if "epoch" in found:
        table.add_row("epoch", f"{found['epoch']}, generation {format_lsn(found['generation'])}")
    if found.get("mode") == Mode.POLL:
        _polling(table, found)
    elif "epoch" in found:
        table.add_row("behind", f"{found['behind_bytes']:,} bytes of WAL{_behind_seconds(found)}")
        table.add_row("this run", f"{found['row_changes']:,} row changes, {found['transactions']:,} transactions")
        table.add_row("open", _open_ends(found))
    if (slot := found.get("slot")) is not None and slot["confirmed_lsn"] is None:
        table.add_row("slot", f"[yellow]being made[/] by PID {slot['active_pid']}")
    elif slot is not None:
        held = f"{slot['held_bytes']:,} bytes held" if slot["held_bytes"] is not None else "holds nothing yet"
        table.add_row("slot", f"confirmed {slot['confirmed_lsn']}, {held}, WAL {slot['wal_status'] or 'unknown'}")
    elif not found["faults"] and found.get("mode") != Mode.POLL:
        table.add_row("slot", "[yellow]none[/]")
    for fault in found["faults"]:
        table.add_row("fault", f"[red]{fault}[/]")
    parts: list[RenderableType] = [table]
    if found.get("derived"):
        parts.append(_derived(found))
    if found.get("verified"):
        parts.append(_verified(found))
    if found.get("backfills"):
        parts.append(_backfills(found))
    return Group(*parts)


def _mode_because(found: Mapping[str, Any]) -> str:
    """Why it is not the stream, since when, and what brings the stream back."""
    if not found.get("mode_because"):
        return ""
    now_ms = time.time() * 1000
    minutes = (now_ms - found["mode_since_ms"]) / 60_000
    left_s = (found["mode_not_before_ms"] - now_ms) / 1000
    pause = f", in {left_s:.0f} s at the earliest" if left_s > 0 else ""
    return f" for {minutes:.0f} min: {found['mode_because']} (back by {found['mode_back']}{pause})"


def _polling(table: Table, found: Mapping[str, Any]) -> None:
    """What a poller says in place of how far behind the stream is."""
    held = f"{found['held_back_s']:.1f} s held back" if found["held_back_s"] else "not begun"
    table.add_row("polls", f"{found['polls']:,}, the last {1000 * found['poll_s']:.0f} ms, {held}")
    table.add_row("found", f"{found['candidates']:,} candidates, {found['events']:,} events published")
    table.add_row("verified through", found["verified_through"] or "[yellow]nothing yet[/]")
    if found["left_out"]:
        table.add_row("not polled", f"[yellow]{', '.join(found['left_out'])}: {LEFT_OUT}[/]")
    if crowded := [f"{name} ({each['entries']:,})" for name, each in found["digests"].items() if each["crowded"]]:
        table.add_row("remembered", f"[yellow]{', '.join(crowded)}: {CROWDED}[/]")
    for relation, inboxes in found["held_inboxes"].items():
        named = ", ".join(f"{inbox} ({through or 'never'})" for inbox, through in list(inboxes.items())[:MOST_HELD])
        table.add_row("held back", f"[yellow]{relation} at inboxes {named}[/]")
    if found["poll_waits_for"]:
        table.add_row("waits", f"[yellow]{found['poll_waits_for']}[/]")


def _verified(found: Mapping[str, Any]) -> RenderableType:
    """The rolling pass."""
    table = Table("compared", "passes", "keys in this", "repaired", "verified through", box=None, pad_edge=False)
    for name, each in found["verified"].items():
        through = each["verified_through"] or "nothing yet"
        table.add_row(name, f"{each['passes']:,}", f"{each['keys']:,}", f"{each['repaired']:,}", through)
    return table


def _derived(found: Mapping[str, Any]) -> RenderableType:
    """What is read again when its base rows change."""
    table = Table("derived", "waiting", "oldest", "keys read", "rows", "failed", box=None, pad_edge=False)
    said = []
    for name, each in found["derived"].items():
        figures = (f"{each[field]:,}" for field in ("keys_read", "rows", "failed"))
        table.add_row(name, f"{each['waiting']:,}", f"{each['oldest_s']:.1f} s", *figures)
        if not each["available"]:
            said.append(f"[red]{name} can't be read: {each['problem']}[/]")
        if each["not_followed_from"]:
            said.append(f"[yellow]{name} is not followed from {', '.join(each['not_followed_from'])}: {UNPUBLISHED}[/]")
        if each["failed"]:
            keys = ", ".join(str(key[0]) for key in each["failed_keys"])
            said.append(f"[yellow]{name}: {each['failed']} can't be read ({keys}…): {each['failed_because']}[/]")
    if found.get("derived_waits_for"):
        said.append(f"[yellow]waits: {found['derived_waits_for']}[/]")
    return Group(table, *said)


def _behind_seconds(found: Mapping[str, Any]) -> str:
    if not found["behind_bytes"] or not found["last_commit_ms"]:
        return ""
    return f", {(found['at_ms'] - found['last_commit_ms']) / 1000:.1f} s"


def _open_ends(found: Mapping[str, Any]) -> str:
    kafka = "" if found["kafka_reachable"] else ", [red]Kafka does not answer[/]"
    return (
        f"{found['unacknowledged']:,} unacknowledged, {found['unsettled']:,} unsettled, "
        f"{found['owed_keys']:,} keys owed{kafka}"
    )


def bars(jobs: Sequence[BackfillJob]) -> RenderableType:
    """Backfills with their progress."""
    shown = Progress(
        TextColumn("[bold]backfill[/] {task.description}"), BarColumn(30), MofNCompleteColumn(), TextColumn("rows")
    )
    for job in jobs:
        chunk = job.chunk()
        doing = "waits" if job.start is None else chunk.table if chunk is not None else "ends"
        shown.add_task(f"{job.id}: {doing}", completed=job.rows, total=max(job.expected or 0, job.rows) or None)
    return shown


def _backfills(found: Mapping[str, Any]) -> RenderableType:
    shown = bars([BackfillJob.from_record(record) for record in found["backfills"]])
    waits = found.get("backfill_waits_for")
    return Group(shown, f"[yellow]waits: {waits}[/]") if waits else shown
