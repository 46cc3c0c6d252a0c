"""Messages of the stream to events: one transaction after another, row by row, in constant memory.

Rows are published as they arrive; BEGIN already carries the commit LSN and the xid. Relation messages may come again
at any time with other columns: each compiles its table anew. While a chunk of a backfill is between its watermarks,
every changed key of its table is marked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from replicator.causes import Causes
from replicator.changes import RenderedRow, Table, fill_from_old, type_keys
from replicator.course import Course
from replicator.derivation import Derivation
from replicator.errors import ProtocolError
from replicator.event import Cause, Origin
from replicator.lapses import Lapses
from replicator.lsn import format_lsn
from replicator.outlet import Outlet
from replicator.pgoutput import (
    Begin,
    Commit,
    Delete,
    Ignored,
    Insert,
    LogicalMessage,
    Message,
    Relation,
    Truncate,
    Update,
)
from replicator.progress import Batch, Progress
from replicator.relations import STREAMED_BY_NAME
from replicator.routing import Routed, route_delete, route_insert, route_update
from replicator.source import MESSAGE_PREFIX
from replicator.window import HIGH, LOW, Window

log = structlog.get_logger(__name__)


class Catalog(Protocol):
    """What a Relation message leaves out."""

    def type_names(self, types: set[tuple[int, int]]) -> dict[tuple[int, int], str]: ...


class Capture:
    """The state of the stream between two messages."""

    def __init__(
        self,
        names: Mapping[int, str],
        catalog: Catalog,
        outlet: Outlet,
        progress: Progress,
        origin: Callable[[str], Origin],
        announce: Callable[[Table], None],
        owe: Callable[[str, bytes, int, Batch], None],
        derivation: Derivation,
        lapses: Lapses,
        course: Course,
    ) -> None:
        """`names`: OID → captured table. A table is known by its OID: at the slot's place it may have another name.

        `announce` makes a table's columns durable before rows of them are sent; `owe` asks for a key to be read.
        """
        self._names = names
        self._catalog = catalog
        self._outlet = outlet
        self._progress = progress
        self._origin = origin
        self._announce = announce
        self._owe = owe
        self._derivation = derivation
        self._lapses = lapses
        self._course = course
        self._relations: dict[int, Relation] = {}
        self._causes: dict[int, Causes] = {}
        self._tables: dict[int, Table | None] = {}
        self._transaction: Begin | None = None
        self._cause = Cause(0, 0, 0, 0)
        self._index = 0
        self.window: Window | None = None
        self.row_changes = 0
        self.transactions = 0
        self.last_commit_ms = 0
        self._handlers: dict[type, Callable[..., None]] = {
            Begin: self._begin,
            Commit: self._commit,
            Insert: self._insert,
            Update: self._update,
            Delete: self._delete,
            Truncate: self._truncate,
            Relation: self._relation,
            LogicalMessage: self._message,
            Ignored: lambda _: None,
        }

    @property
    def between_transactions(self) -> bool:
        return self._transaction is None

    def handle(self, message: Message) -> None:
        """Raises ProtocolError, SourceRefused, SourceWentBack, DeliveryFailed."""
        self._handlers[type(message)](message)

    def _begin(self, begin: Begin) -> None:
        self._course.follow(begin)
        self._transaction = begin
        self._index = 0
        self._progress.begun(begin.xid)
        self._derivation.begin_transaction()
        self._cause = Cause(begin.xid, begin.commit_lsn, begin.committed_us // 1000, time.time_ns() // 1_000_000)

    def _commit(self, commit: Commit) -> None:
        begin = self._begun()
        self._transaction = None
        self._derivation.end_transaction(begin.commit_lsn)
        self.transactions += 1
        self.last_commit_ms = begin.committed_us // 1000
        self._progress.committed(begin.xid, commit.commit_lsn, commit.end_lsn)

    def trace_again(self) -> None:
        """What leads from base tables to derived relations is another now."""
        for relation in self._relations.values():
            self._trace(relation)

    def _trace(self, relation: Relation) -> None:
        self._causes.pop(relation.oid, None)
        reach = self._derivation.reaches.get((relation.schema, relation.name))
        if reach is None:
            return
        causes = self._causes[relation.oid] = Causes(relation, reach, self._derivation.fingerprints)
        for name, columns in causes.lacking.items():
            log.warning("stream.lacks_columns", relation=name, table=relation.name, columns=sorted(columns))

    def _relation(self, relation: Relation) -> None:
        self._relations[relation.oid] = relation
        self._trace(relation)
        self._lapses.hear(relation, self._cause.lsn, self._progress.batch)
        name = self._names.get(relation.oid)
        if name is None:
            self._tables[relation.oid] = None
            return
        types = self._catalog.type_names(type_keys(relation))
        table = Table(STREAMED_BY_NAME[name], relation.columns, types, self._origin(name))
        self._announce(table)
        self._tables[relation.oid] = table

    def _insert(self, change: Insert) -> None:
        if (table := self._table(change.relation)) is not None:
            self._publish(table, route_insert(table, change))
        if (causes := self._causes.get(change.relation)) is not None:
            self._derivation.touch(causes.of_insert(change.new), self._begun().commit_lsn)
        self._index += 1

    def _update(self, change: Update) -> None:
        if (table := self._table(change.relation)) is not None:
            self._publish(table, route_update(table, change))
        if (causes := self._causes.get(change.relation)) is not None:
            new = fill_from_old(change.new, change.old) if change.old_kind == "O" else change.new
            self._derivation.touch(causes.of_update(change.old, new), self._begun().commit_lsn)
        self._index += 1

    def _delete(self, change: Delete) -> None:
        if (table := self._table(change.relation)) is not None:
            self._publish(table, route_delete(table, change))
        if (causes := self._causes.get(change.relation)) is not None:
            self._derivation.touch(causes.of_delete(change.old), self._begun().commit_lsn)
        self._index += 1

    def _truncate(self, change: Truncate) -> None:
        begin = self._begun()
        for oid in change.relations:
            if (emptied := self._relations.get(oid)) is not None:
                self._derivation.truncated((emptied.schema, emptied.name))
            if (table := self._table(oid)) is not None:
                self._outlet.truncate(table, begin.commit_lsn, self._index, self._cause, self._progress.batch)
                if (window := self._open_window(table.relation.name)) is not None:
                    window.mark_truncated()
            self._index += 1

    def _publish(self, table: Table, events: list[Routed]) -> None:
        self.row_changes += 1
        name = table.relation.name
        commit_lsn = self._begun().commit_lsn
        batch = self._progress.batch
        window = self._open_window(name) if self.window is not None else None
        for routed in events:
            if window is not None:
                window.mark(routed.key, bool(routed.absent))
            self._outlet.change(table, routed, commit_lsn, self._index, self._cause, batch)
            if routed.reread and routed.inbox is not None:
                self._owe(name, routed.key, routed.inbox, batch)

    def _open_window(self, table: str) -> Window | None:
        """The chunk of this table that is between its watermarks."""
        window = self.window
        return window if window is not None and window.table_name == table and window.is_open() else None

    def _message(self, message: LogicalMessage) -> None:
        if message.prefix != MESSAGE_PREFIX or self.window is None:
            return
        if message.content == self.window.message(LOW).encode():
            self.window.unsettled = self._progress.unsettled
            self.window.opened.set()
        elif message.content == self.window.message(HIGH).encode():
            self._publish_chunk(self.window, message.lsn)

    def _publish_chunk(self, window: Window, high_lsn: int) -> None:
        batch = Batch()
        table = window.table
        if table is None:
            raise ProtocolError(f"the high watermark of a chunk that was never read, at {format_lsn(high_lsn)}")
        now_ms = time.time_ns() // 1_000_000
        cause = Cause(0, high_lsn, now_ms, now_ms)
        for row in window.survivors():
            self._outlet.row(table, row, high_lsn, cause, batch)
        for key, inbox in window.survivors_missing():
            self._outlet.absence(table, key, inbox, high_lsn, cause, batch)
        for row in window.to_read_again():
            self._owe_row(window.table_name, row, batch)
        window.batch = batch
        window.published.set()

    def _owe_row(self, table: str, row: RenderedRow, batch: Batch) -> None:
        if row.inbox is not None:
            self._owe(table, row.key, row.inbox, batch)

    def _table(self, oid: int) -> Table | None:
        try:
            return self._tables[oid]
        except KeyError:
            raise ProtocolError(f"a row of relation {oid} came before its Relation message") from None

    def _begun(self) -> Begin:
        if self._transaction is None:
            raise ProtocolError("a row or COMMIT came outside a transaction")
        return self._transaction
