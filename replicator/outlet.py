"""Events of one run to their partitions: the last step before Kafka.

Gives each event its run and position, finds its inbox's partition, sends broadcasts to every partition, and replaces a
row that the topic cannot take by an event without a body, so that it holds up nothing.
"""

from __future__ import annotations

from replicator import changes
from replicator.changes import RenderedRow, Table
from replicator.envelope import Envelope
from replicator.event import Cause, Head, Marker, Op, Position, Run, TableSchema, Topics, encode_marker
from replicator.partitioner import partition_of
from replicator.progress import Batch
from replicator.publisher import Publisher
from replicator.routing import NULL, Routed, ordinal

TOO_LARGE = "too-large"
READ_ORDINAL = 1
"""Of every backfilled row: its point alone tells it from others of its key."""
MOST_ENVELOPES = 1_000
"""Kept: a few for each version of a table's columns."""


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
        self._envelopes: dict[tuple[str, Op, str, bool], Envelope] = {}

    def change(self, table: Table, routed: Routed, commit_lsn: int, index: int, cause: Cause, batch: Batch) -> None:
        """One half of a streamed row change."""
        self._send(table, routed, commit_lsn, ordinal(index, routed.leaving), cause, batch)

    def truncate(self, table: Table, commit_lsn: int, index: int, cause: Cause, batch: Batch) -> None:
        """The table was emptied: a broadcast."""
        emptied = Routed(None, "t", False, b"", NULL, NULL, b"", None, False)
        self._send(table, emptied, commit_lsn, ordinal(index, leaving=False), cause, batch)

    def row(self, table: Table, row: RenderedRow, high_lsn: int, cause: Cause, batch: Batch) -> None:
        """A row of a backfill's chunk. One without an inbox concerns no tenant."""
        if row.inbox is not None:
            self._send(table, _read(row), high_lsn - 1, READ_ORDINAL, cause, batch, is_read=True)

    def absence(self, table: Table, key: bytes, inbox: int, high_lsn: int, cause: Cause, batch: Batch) -> None:
        """A key that was asked for and does not exist."""
        self._send(table, _absent(key, inbox), high_lsn - 1, READ_ORDINAL, cause, batch, is_read=True)

    def derived_row(self, table: Table, row: RenderedRow, read: int, cause: Cause, batch: Batch) -> None:
        """A row of a derived relation, from the read that has this number in its run."""
        self._send(table, _read(row), self.run.generation, 2 * read + 1, cause, batch, is_read=True)

    def derived_absence(
        self, table: Table, key: bytes, inbox: int | None, read: int, cause: Cause, batch: Batch
    ) -> None:
        """A key that gave no row, at an inbox where it was expected, or (None) at any."""
        self._send(table, _absent(key, inbox), self.run.generation, 2 * read, cause, batch, is_read=True)

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
        routed: Routed,
        point: int,
        ordinal: int,
        cause: Cause,
        batch: Batch,
        *,
        is_read: bool = False,
    ) -> None:
        inbox, op, _, key, before, after, absent, moved_to, _ = routed
        version = table.version if after is not NULL else ""
        of = (table.relation.name, op, version, is_read)
        envelope = self._envelopes.get(of) or self._envelope(table, of)
        is_unread = after == changes.TOO_LARGE
        body = b"" if is_unread else envelope.body(cause, before, after, point, ordinal, absent, moved_to)
        headers = envelope.headers(key, point, ordinal, absent)
        if inbox is None:
            for partition in range(self.partitions):
                self._publisher.send(self._changes, partition, None, body, headers, batch)
        else:
            partition, name = self._places.get(inbox) or self._place(inbox)
            if is_unread or not self._publisher.fits(name, body, headers):
                error = ""
                if version:  # a delete says all it has to say without its old row
                    self.oversized += 1
                    error = TOO_LARGE
                body = envelope.body(cause, NULL, NULL, point, ordinal, absent, moved_to, error)
                headers = envelope.headers(key, point, ordinal, absent, error)
            self._publisher.send(self._changes, partition, name, body, headers, batch)
        self.published += 1

    def _envelope(self, table: Table, of: tuple[str, Op, str, bool]) -> Envelope:
        name, op, version, is_read = of
        if len(self._envelopes) >= MOST_ENVELOPES:
            self._envelopes.clear()
        head = Head(op, name, b"", Position(self.run.epoch, 0, 0), self.run.generation, version, b"", is_read, "")
        envelope = self._envelopes[of] = Envelope(head, table.origin)
        return envelope

    def _place(self, inbox: int) -> tuple[int, bytes]:
        place = partition_of(inbox, self.partitions), b"%d" % inbox
        self._places[inbox] = place
        return place


def _read(row: RenderedRow) -> Routed:
    return Routed(row.inbox, "r", False, row.key, NULL, row.json, row.absent, None, False)


def _absent(key: bytes, inbox: int | None) -> Routed:
    return Routed(inbox, "d", False, key, NULL, NULL, b"", None, False)
