"""What a replay has found, for people and for machines. Keys and counts, never a row's value."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers.differing import TableDifference
from consumers.replay import Replayed
from consumers.terminal import AGAIN

_LOCAL_SHOWN: Final = 6


def to_json(found: Replayed) -> dict[str, Any]:
    return {**asdict(found), "is_equal": found.is_equal}


def render(found: Replayed) -> RenderableType:
    table = Table("table", title=f"tenant {found.tenant}: the log's rows and the live ones")
    for heading in ("rows", "missing", "extra", "different", "newer", "in part"):
        table.add_column(heading, justify="right")
    for each in found.tables:
        numbers = (each.rows, each.missing, each.extra, each.different, each.newer, each.partial)
        table.add_row(each.table, *(f"{number:,}" for number in numbers), style="" if each.is_equal else "red")
    return Group(table, *map(Text, _sentences(found)))


def _sentences(found: Replayed) -> list[str]:
    lines = [line for each in found.tables for line in _of_table(each)]
    lines += [
        f"partition {each.partition}, offset {each.offset} ({each.table}) can't be applied: {each.reason}"
        for each in found.unapplied
    ]
    if found.unapplied_count:
        lines.append(f"{found.unapplied_count} events can't be applied; their rows are not compared")
    partly = [each.table for each in found.tables if not each.is_whole and each.rows]
    if partly:
        lines.append(f"only rows that the stretch mentions are looked at: {', '.join(partly)}")
    if found.merged:
        lines.append(
            "merged: " + "; ".join(f"{m.table} {m.written:,} written, {m.deleted:,} deleted" for m in found.merged)
        )
    elif found.is_equal:
        lines.append("nothing differs")
    else:
        lines.append(AGAIN)
    return lines


def _of_table(each: TableDifference) -> list[str]:
    lines = []
    for kind in ("missing", "extra", "different"):
        if some := each.examples.get(kind):
            count = getattr(each, kind)
            more = f" and {count - len(some):,} more" if count > len(some) else ""
            lines.append(f"{each.table}: {kind} {', '.join(map(str, some))}{more}")
    if each.columns:
        lines.append(f"{each.table}: differs in {', '.join(f'{name} ({n:,})' for name, n in each.columns.items())}")
    if each.local and not each.is_equal:
        more = f" and {len(each.local) - _LOCAL_SHOWN} more" if len(each.local) > _LOCAL_SHOWN else ""
        lines.append(f"{each.table}: not compared, and kept: {', '.join(each.local[:_LOCAL_SHOWN])}{more}")
    return lines
