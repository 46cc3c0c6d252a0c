"""Events of one run to their partitions: the last step before Kafka.

Gives each event its run and position, finds its inbox's partition, sends broadcasts to every partition, and replaces a
row that the topic cannot take by an event without a body, so that it holds up nothing.
"""

from __future__ import annotations

from replicator.changes import RenderedRow, Table
from replicator.event import Cause, Head, Marker, Position, Run, TableSchema, Topics, encode, encode_marker, pack_head
from replicator.partitioner import partition_of
from replicator.progress import Batch
from replicator.publisher import Publisher
from replicator.routing import NULL, Routed, ordinal

TOO_LARGE = "too-large"
READ_ORDINAL = 1
"""Of every backfilled row: its point alone tells it from others of its key."""


class Outlet:
    """Where the events of one run go."""

    def __init__(self, publisher: Publisher, topics: Topics, run: Run, partitions: int) -> None:
        self.run = run
        self.partitions = partitions
        self.published = 0
        self.oversized = 0
        self._publisher = publisher
        self._changes, self._schemas = topics.changes, topics.schemas
        self._places: dict[int, tuple[int, bytes]] = {}

    def change(self, table: Table, routed: Routed, commit_lsn: int, index: int, cause: Cause, batch: Batch) -> None:
        """One half of a streamed row change."""
        position = Position(self.run.epoch, commit_lsn, ordinal(index, routed.leaving))
        head = Head(
            routed.op,
            table.relation.name,
            routed.key,
            position,
            self.run.generation,
            table.version if routed.after is not NULL else "",
            routed.absent,
            False,
            "",
        )
        self._send(table, head, cause, routed.before, routed.after, routed.moved_to, routed.inbox, batch)

    def truncate(self, table: Table, commit_lsn: int, index: int, cause: Cause, batch: Batch) -> None:
        """The table was emptied: a broadcast."""
        position = Position(self.run.epoch, commit_lsn, ordinal(index, leaving=False))
        head = Head("t", table.relation.name, b"", position, self.run.generation, "", b"", False, "")
        self._send(table, head, cause, NULL, NULL, None, None, batch)

    def row(self, table: Table, row: RenderedRow, high_lsn: int, cause: Cause, batch: Batch) -> None:
        """A row of a backfill's chunk. One without an inbox concerns no tenant."""
        if row.inbox is None:
            return
        position = Position(self.run.epoch, high_lsn - 1, READ_ORDINAL)
        head = Head(
            "r", table.relation.name, row.key, position, self.run.generation, table.version, row.absent, True, ""
        )
        self._send(table, head, cause, NULL, row.json, None, row.inbox, batch)

    def absence(self, table: Table, key: bytes, inbox: int, high_lsn: int, cause: Cause, batch: Batch) -> None:
        """A key that was asked for and does not exist."""
        position = Position(self.run.epoch, high_lsn - 1, READ_ORDINAL)
        head = Head("d", table.relation.name, key, position, self.run.generation, "", b"", True, "")
        self._send(table, head, cause, NULL, NULL, None, inbox, batch)

    def derived_row(self, table: Table, row: RenderedRow, read: int, cause: Cause, batch: Batch) -> None:
        """A row of a derived relation, from this run's so manieth read."""
        position = Position(self.run.epoch, self.run.generation, 2 * read + 1)
        head = Head(
            "r", table.relation.name, row.key, position, self.run.generation, table.version, row.absent, True, ""
        )
        self._send(table, head, cause, NULL, row.json, None, row.inbox, batch)

    def derived_absence(
        self, table: Table, key: bytes, inbox: int | None, read: int, cause: Cause, batch: Batch
    ) -> None:
        """A key that gave no row, at an inbox where it was expected, or (None) at any."""
        position = Position(self.run.epoch, self.run.generation, 2 * read)
        head = Head("d", table.relation.name, key, position, self.run.generation, "", b"", True, "")
        self._send(table, head, cause, NULL, NULL, None, inbox, batch)

    def marker(self, marker: Marker, point: int, batch: Batch) -> None:
        """A marker goes to every partition."""
        headers, body = encode_marker(marker, self.run, point)
        for partition in range(self.partitions):
            self._publisher.send(self._changes, partition, None, body, headers, batch)

    def schema(self, schema: TableSchema, batch: Batch) -> None:
        """A version of a table's columns. Wait for the batch before sending rows of it."""
        key = f"{schema.table}:{schema.version}".encode()
        self._publisher.send(self._schemas, 0, key, schema.encode(), [], batch)

    def _send(
        self,
        table: Table,
        head: Head,
        cause: Cause,
        before: bytes,
        after: bytes,
        moved_to: int | None,
        inbox: int | None,
        batch: Batch,
    ) -> None:
        body = encode(head, table.origin, cause, before, after, moved_to)
        headers = pack_head(head)
        if inbox is None:
            for partition in range(self.partitions):
                self._publisher.send(self._changes, partition, None, body, headers, batch)
        else:
            partition, key = self._places.get(inbox) or self._place(inbox)
            if not self._publisher.fits(key, body, headers):
                if after is not NULL:  # a delete says all it has to say without its old row
                    self.oversized += 1
                    head = head._replace(error=TOO_LARGE)
                body, headers = encode(head, table.origin, cause, NULL, NULL, moved_to), pack_head(head)
            self._publisher.send(self._changes, partition, key, body, headers, batch)
        self.published += 1

    def _place(self, inbox: int) -> tuple[int, bytes]:
        place = partition_of(inbox, self.partitions), b"%d" % inbox
        self._places[inbox] = place
        return place
