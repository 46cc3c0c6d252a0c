"""Tables whose replica identity somebody has altered, so that the stream no longer names a row's old inbox or key.

While that is so, a row that moves stays where it was. Such a table is remembered in the state topic until the catalogue
has its identity right again. It is read as a whole, with sweep and with all that is made of it: once in every run until
then, for the moves so far, and once more then, for the others.

Lives in the stream's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from replicator.facts import TableFacts
from replicator.memory import Memory
from replicator.pgoutput import Relation
from replicator.preparation import is_sufficient
from replicator.progress import Batch
from replicator.relations import STREAMED_BY_NAME, BaseTable, names_every_row

log = structlog.get_logger(__name__)

SENTENCE = (
    "the replica identity does not name the old inbox of a row: one that moves stays at the old one."
    " `replicator setup` prints the SQL that mends it"
)


class Lapses:
    """Of one run, and those that earlier ones left."""

    def __init__(
        self,
        tables: Mapping[int, BaseTable],
        memory: Memory,
        read_whole: Callable[[str, str, Batch], None],
        made_of: Callable[[str], Iterable[str]],
    ) -> None:
        """`tables`: by OID. `made_of`: the derived relations that a table leads to."""
        self._by_oid = tables
        self._by_name = {table.name: table for table in tables.values()}
        self._memory, self._read_whole, self._made_of = memory, read_whole, made_of
        self._standing = {record["table"] for record in memory.under("identity/").values()}
        self._read: set[str] = set()
        self._mended_at: dict[str, int] = {}
        """By table: what was committed up to here was read again."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Those that are not mended. From any thread."""
        return tuple(sorted(self._standing))

    def hear(self, relation: Relation, commit_lsn: int, batch: Batch) -> None:
        """What the stream says of a table, of the time when rows were changed. Durable with the batch.

        Long past words come again at every start: those of a time that was read again since are passed over.
        """
        table = self._by_oid.get(relation.oid)
        if table is None or table.name in self._standing:
            return
        held = {column.name for column in relation.columns if column.is_identity}
        if names_every_row(table, relation.identity, held) or commit_lsn <= self._mended_at.get(table.name, 0):
            return
        log.error("identity.lapsed", table=table.name, reason=SENTENCE)
        self._standing.add(table.name)
        self._memory.write(_record(table.name), {"table": table.name}, batch)

    def look(self, facts: Mapping[str, TableFacts], flushed_lsn: int, batch: Batch) -> None:
        """`facts`: of the tables as they are now, read after the source's WAL was flushed up to that LSN."""
        for name in self.tables:
            table = self._by_name.get(name)
            mended = table is None or (name in facts and is_sufficient(table, facts[name]))
            if mended or name not in self._read:
                self._read.add(name)
                for relation in (*([name] if name in STREAMED_BY_NAME else []), *self._made_of(name)):
                    self._read_whole(relation, f"the replica identity of {name} had lapsed", batch)
            if mended:
                log.info("identity.mended", table=name)
                self._standing.discard(name)
                self._read.discard(name)
                self._mended_at[name] = flushed_lsn
                self._memory.forget(_record(name), batch)  # after the backfill is remembered


def _record(table: str) -> str:
    return f"identity/{table}"
