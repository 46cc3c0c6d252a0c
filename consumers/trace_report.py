"""A row's biography, for people and for machines. No value of a row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers.biography import StoredRow, Told
from consumers.trace import Biography, Watermark, op_name
from replicator import Position


def to_json(found: Biography) -> dict[str, Any]:
    return {
        "conversation": found.conversation,
        "messages": found.messages,
        "rows": [
            {
                "tenant": row.tenant,
                "table": row.table,
                "position": _position(row.position),
                "inbox": row.inbox,
                "synced_at": row.synced_at,
            }
            for row in found.rows
        ],
        "watermarks": [
            {
                "tenant": mark.tenant,
                "partition": mark.partition,
                "next_offset": mark.standing.next_offset,
                "is_parked": mark.standing.is_parked,
            }
            for mark in found.watermarks
        ],
        "events": [
            {
                "table": told.event.head.table,
                "tenant": told.tenant,
                "inbox": told.event.inbox,
                "partition": told.event.partition,
                "offset": told.event.offset,
                "position": _position(told.event.head.position),
                "op": told.event.head.op,
                "is_read": told.event.head.is_read,
                "in_part": bool(told.event.head.absent),
                "committed_at": _moment(told.event.committed_ms),
                "outcome": told.outcome,
            }
            for told in found.events
        ],
    }


def render(found: Biography) -> RenderableType:
    names = dict.fromkeys(told.event.head.table for told in found.events)
    shown = [_events(name, [told for told in found.events if told.event.head.table == name]) for name in names]
    lines = [*map(_row, found.rows), *map(_mark, found.watermarks)]
    if not found.events:
        lines.append(f"none of {found.messages:,} messages is of conversation {found.conversation}")
    return Group(*shown, *map(Text, lines))


def _events(name: str, events: list[Told]) -> Table:
    table = Table("committed", "inbox", "tenant", "at", "position", "op", "outcome", title=name)
    for told in events:
        event = told.event
        committed = _moment(event.committed_ms)
        table.add_row(
            f"{committed:%Y-%m-%d %H:%M:%SZ}" if committed else "?",
            "all" if event.inbox is None else str(event.inbox),
            "-" if told.tenant is None else str(told.tenant),
            f"{event.partition}:{event.offset}",
            _position(event.head.position),
            op_name(event.head),
            told.outcome,
        )
    return table


def _row(row: StoredRow) -> str:
    synced = f"written {row.synced_at:%Y-%m-%d %H:%M:%SZ}" if row.synced_at else "a stub"
    return f"tenant {row.tenant}, {row.table}: at inbox {row.inbox}, position {_position(row.position)}, {synced}"


def _mark(mark: Watermark) -> str:
    parked = ", where it is parked: see `consumers status`" if mark.standing.is_parked else ""
    return f"tenant {mark.tenant}, partition {mark.partition}: applied before {mark.standing.next_offset}{parked}"


def _position(position: Position) -> str:
    return position.pack().decode()


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
