"""From one row change of a transaction to the events that it becomes, each with its inbox.

The i-th row change of a transaction has two ordinals: 2i for the half that leaves (a delete where the row was), 2i + 1
for the row itself. A change of the inbox, or of the key, has both halves. What has no inbox at all (a NULL inbox
column) concerns no tenant; a delete whose inbox the replica identity does not carry is broadcast.

Pure.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from replicator.changes import Table, fill_from_old
from replicator.errors import SourceRefused
from replicator.event import Op
from replicator.pgoutput import Delete, Insert, Update


class Routed(NamedTuple):
    """One event before it gets its run: a plain tuple, made once or twice for every change."""

    inbox: int | None
    """None: to every partition."""
    op: Op
    leaving: bool
    """The leaving half: the even ordinal."""
    key: bytes
    before: bytes
    after: bytes
    absent: bytes
    moved_to: int | None
    reread: bool
    """The row is new where it goes and lacks columns: its key must be read from the source."""


NULL = b"null"
_ROW: Literal[False] = False


def route_insert(table: Table, change: Insert) -> list[Routed]:
    row = table.render(change.new)
    if row.inbox is None:
        return []
    return [Routed(row.inbox, "c", _ROW, row.key, NULL, row.json, row.absent, None, bool(row.absent))]


def route_update(table: Table, change: Update) -> list[Routed]:
    new = change.new
    if change.old_kind == "O":
        new = fill_from_old(new, change.old)
    row = table.render(new)
    if not change.old_kind:  # neither key nor inbox changed, as far as the identity can tell
        if row.inbox is None:
            return []
        return [Routed(row.inbox, "u", _ROW, row.key, NULL, row.json, row.absent, None, False)]
    _require_key(table, "an UPDATE")
    before = table.render_old(change.old)
    old_key = table.key_of(change.old)
    old_inbox = table.inbox_of(change.old) if table.identity_has_inbox else row.inbox
    moved = old_key != row.key or old_inbox != row.inbox
    routed: list[Routed] = []
    if moved and not table.identity_has_inbox:
        routed.append(Routed(None, "d", True, old_key, before, NULL, b"", row.inbox, False))
    elif moved and old_inbox is not None:
        routed.append(Routed(old_inbox, "d", True, old_key, before, NULL, b"", row.inbox, False))
    if row.inbox is not None:
        reread = moved and bool(row.absent)
        routed.append(Routed(row.inbox, "u", _ROW, row.key, before, row.json, row.absent, None, reread))
    return routed


def route_delete(table: Table, change: Delete) -> list[Routed]:
    _require_key(table, "a DELETE")
    before = table.render_old(change.old)
    key = table.key_of(change.old)
    if not table.identity_has_inbox:
        return [Routed(None, "d", _ROW, key, before, NULL, b"", None, False)]
    inbox = table.inbox_of(change.old)
    if inbox is None:
        return []
    return [Routed(inbox, "d", _ROW, key, before, NULL, b"", None, False)]


def _require_key(table: Table, what: str) -> None:
    if not table.identity_has_key:
        raise SourceRefused(
            f"{what} of {table.relation.name} names no row: the replica identity lacked {', '.join(table.relation.key)}"
            " when it was written. Mend the identity, then drop the replication slot: the next run makes it anew and"
            " reads everything again."
        )


def ordinal(index: int, leaving: bool) -> int:
    """The ordinal of a half of the index-th row change (0-based) of a transaction."""
    return 2 * index + (0 if leaving else 1)
