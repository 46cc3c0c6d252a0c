"""What a comparison has found, for people and for machines. Keys and counts, never a row's value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers import repair
from consumers.compare import Comparison
from consumers.repair import Asked
from consumers.row_comparison import Compared
from consumers.terminal import AGAIN


def to_json(found: Comparison, asked: Sequence[Asked], *, applied: bool) -> dict[str, Any]:
    return {
        "tenant": found.tenant,
        "inboxes": list(found.inboxes),
        "awaited": list(found.awaited),
        "skipped": list(found.skipped),
        "is_equal": found.is_equal,
        "seconds": found.seconds,
        "tables": [
            {
                "table": each.table,
                "equal": each.equal,
                "missing": each.missing,
                "extra": each.extra,
                "different": each.different,
                "changing": each.changing,
                "columns": dict(each.columns),
                "left_out": list(each.left_out),
                "examples": dict(each.examples),
            }
            for each in found.tables
        ],
        "repairs": [repair.says(request) for request in asked],
        "applied": applied,
    }


def render(found: Comparison, asked: Sequence[Asked], *, repairs: bool, applied: bool) -> RenderableType:
    table = Table("table", title=f"tenant {found.tenant}: source and target")
    for heading in ("equal", "missing", "extra", "different", "changing"):
        table.add_column(heading, justify="right")
    for each in found.tables:
        numbers = (each.equal, each.missing, each.extra, each.different, each.changing)
        table.add_row(each.table, *(f"{number:,}" for number in numbers), style="red" if each.unlike else "")
    lines = [line for each in found.tables for line in _of_table(each)]
    if found.awaited:
        lines.append(f"not compared, being backfilled: inbox {', '.join(map(str, found.awaited))}")
    if found.skipped:
        lines.append(f"not compared, for the schemas topic or the target lacks them: {', '.join(found.skipped)}")
    if any(each.changing for each in found.tables):
        lines.append("changing: rows that the source changed at every look; compare again")
    if found.is_equal:
        lines.append("nothing differs")
    elif repairs:
        lines += [f"{'asked' if applied else 'would ask'}: {repair.says(request)}" for request in asked]
        lines += [] if applied else [AGAIN]
    else:
        lines.append("--repair shows what can be asked of the replicator")
    return Group(table, *map(Text, lines))


def _of_table(each: Compared) -> list[str]:
    lines = []
    for kind, some in each.examples.items():
        more = getattr(each, kind) - len(some)
        lines.append(f"{each.table}: {kind} {', '.join(map(str, some))}{f' and {more:,} more' if more else ''}")
    if each.columns:
        counts = ", ".join(f"{name} ({number:,})" for name, number in sorted(each.columns.items()))
        lines.append(f"{each.table}: differs in {counts}")
    if each.left_out:
        lines.append(f"{each.table}: not compared: {', '.join(each.left_out)}")
    return lines
