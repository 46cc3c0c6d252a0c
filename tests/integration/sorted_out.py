"""Hand-made events applied by a worker's own parts, without Kafka: sorted out, and written tenant by tenant.

What is read stands in the partition of its inbox at once; a test decides which partition a tenant reads first by the
order in which it applies messages.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Mapping as TableMapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from consumers import target as applying
from consumers import target_session
from consumers.apply import Applier
from consumers.batch import Message, View, sort_out
from consumers.differing import Differing
from consumers.layout import Layout
from consumers.leads import Leads
from consumers.relation import Relation, without_inbox
from consumers.tenants import Mapping
from consumers.watermark import Generations, Mark, Place
from demo.servers import Servers
from replicator import BackfillMarker, Head, Position, Run, TableSchema, partition_of
from replicator.envelope import encode
from replicator.event import Cause, Origin, encode_marker, pack_head, pack_key
from replicator.outlet import TOO_LARGE
from tests.integration.targets import Target, target_of

PARTITIONS = 6
EPOCH = 1
GENERATION = 1000
ORIGIN = Origin(topic_prefix="t", database="d", schema="public", table="t").render()
CAUSE = Cause(1, 1, 1_700_000_000_000, 1_700_000_000_000)
DERIVED = ("contacts", "csat_survey_responses", "conversations_analytics", "conversation_labels")


class Applied:
    """One topic's messages on their way to a target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.control = target_session.open_session(target.settings(), "test")
        self._layout = Layout()
        self._layout.read(self.control)
        self._schemas: dict[tuple[str, str], TableSchema] = {}
        self.applier = Applier(target.settings(), self._layout, lambda *named: self._schemas[named])
        self.leads = Leads(60)
        self._offsets: dict[int, int] = defaultdict(int)
        self._marks: dict[Place, Mark] = {}
        self._generations: dict[int, Generations] = defaultdict(Generations)
        self._lsn = self._start = 10_000
        self.asked: list[Any] = []
        """What the worker would ask of the replicator."""

    @property
    def relations(self) -> TableMapping[str, Relation]:
        return self._layout.relations

    def look_again(self) -> None:
        """The tables have been altered."""
        self._layout.read(self.control)

    def close(self) -> None:
        self.applier.close()
        self.control.close()

    # --- messages

    def streamed(self, op: str, table: str, row: int, inbox: int, **columns: Any) -> Message:
        """A row change, later than every one before."""
        self._lsn += 10
        return self._change(op, table, row, inbox, Position(EPOCH, self._lsn, 1), is_read=False, columns=columns)

    def read(self, table: str, row: int, inbox: int, n: int, key: str = "id", **columns: Any) -> Message:
        """A row of a derived relation, of this run's n-th read."""
        return self._change(
            "r", table, row, inbox, Position(EPOCH, GENERATION, 2 * n + 1), is_read=True, columns=columns, key=key
        )

    def too_large(self, table: str, row: int, inbox: int, n: int, key: str = "id") -> Message:
        """A row of a derived relation, of this run's n-th read, that the topic could not take."""
        return self._change(
            "r",
            table,
            row,
            inbox,
            Position(EPOCH, GENERATION, 2 * n + 1),
            is_read=True,
            columns={"inbox_id": inbox},
            key=key,
            error=TOO_LARGE,
        )

    def absent(self, table: str, row: int, inbox: int, n: int) -> Message:
        """The n-th read found no row of this key at this inbox."""
        return self._change("d", table, row, inbox, Position(EPOCH, GENERATION, 2 * n), is_read=True)

    def nowhere(self, table: str, row: int, n: int) -> list[Message]:
        """The n-th read found no row of this key at all: said in every partition."""
        position = Position(EPOCH, GENERATION, 2 * n)
        return [
            self._change("d", table, row, None, position, is_read=True, partition=partition)
            for partition in range(PARTITIONS)
        ]

    def marker(
        self,
        boundary: Any,
        inbox: int,
        n: int,
        tables: tuple[str, ...],
        inboxes: tuple[int, ...] | None = None,
        spared: dict[str, tuple[int, ...]] | None = None,
    ) -> Message:
        """Of a backfill that starts with the n-th read, in the partition of an inbox."""
        if boundary == "begin":
            self._start = self._lsn + 1
        marker = BackfillMarker(
            id="again",
            boundary=boundary,
            tables=tables,
            derived=tuple(table for table in tables if table in DERIVED),
            is_complete=False,
            inboxes=inboxes,
            start=Position(EPOCH, self._start, 0),
            start_read=Position(EPOCH, GENERATION, 2 * n),
            spared=spared or {},
        )
        headers, body = encode_marker(marker, Run(EPOCH, GENERATION), self._lsn)
        partition = partition_of(inbox, PARTITIONS)
        return Message(partition, self._next(partition), None, headers, body)

    def _change(
        self,
        op: Any,
        table: str,
        row: int,
        inbox: int | None,
        position: Position,
        *,
        is_read: bool,
        columns: dict[str, Any] | None = None,
        key: str = "id",
        partition: int = 0,
        error: str = "",
    ) -> Message:
        after, version = b"null", ""
        if columns is not None and op != "d":
            after = json.dumps({key: row, **columns}).encode()
            listed = tuple((name, "text") for name in (key, *columns))
            schema = TableSchema(table=table, columns=listed, key=(key,), inbox="")
            version = schema.version
            self._schemas[table, version] = schema
        if error:
            after = b"null"
        head = Head(op, table, pack_key([row]), position, GENERATION, version, b"", is_read, error)
        if inbox is not None:
            partition = partition_of(inbox, PARTITIONS)
        packed = None if inbox is None else str(inbox).encode()
        body = encode(head, ORIGIN, CAUSE, b"null", after)
        return Message(partition, self._next(partition), packed, pack_head(head), body)

    def _next(self, partition: int) -> int:
        self._offsets[partition] += 1
        return self._offsets[partition]

    # --- applying

    def apply(self, *messages: Message) -> None:
        """One batch."""
        mapping = Mapping(60)
        mapping.read(self.control)
        view = View(
            owners=mapping.owners,
            marks=self._marks,
            generations=self._generations,
            partitions=PARTITIONS,
            parked=(),
            holders=lambda table, ids: applying.holders(self.control, table, ids),
        )
        batch = sort_out(messages, view)
        assert not batch.counts.unmapped
        for tenant, events in batch.events.items():
            leads = self.leads.of(self.control, tenant)
            result = self.applier.run(tenant, "topic", events, self._marks, threading.Event(), leads=leads)
            assert result.reason is None, result.reason
            assert not result.overtaken
            self._marks.update(result.marks)
            self.asked += result.outcome.incomplete

    def each(self, *messages: Message) -> None:
        """Each in a batch of its own."""
        for message in messages:
            self.apply(message)

    def replayed(self, tenant: int, *messages: Message) -> dict[str, TableMapping[str, tuple[int, ...]]]:
        """By table the keys of each kind that a replay of these messages, in this order, finds unlike."""
        mapping = Mapping(60)
        mapping.read(self.control)
        owners = {inbox: owner for inbox, owner in mapping.owners.items() if owner.tenant == tenant}
        view = View(
            owners=owners,
            marks={},
            generations=defaultdict(Generations),
            partitions=PARTITIONS,
            parked=(),
            only=tenant,
            holders=lambda _, ids: dict.fromkeys(ids or (None,), (tenant,)),
        )
        with closing(Differing(self.target.settings(), tenant, owners)) as shadow:
            shadow.look_at_shadow()
            for event in sort_out(messages, view).events[tenant]:
                shadow.write([event], lambda *named: self._schemas[named], None, without_inbox(self.relations))
            with shadow.connection.transaction():
                shadow.connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
                shadow.find()
            return {each.table: each.examples for each in shadow.found(frozenset(owners)) if not each.is_equal}

    # --- what came of it

    def rows(self, table: str, columns: str, key: str = "id") -> list[tuple[Any, ...]]:
        """(tenant, key, those columns) of what is filled."""
        return self.target.rows(
            f"SELECT tenant_id, {key}, {columns} FROM {table} WHERE synced_at IS NOT NULL ORDER BY 1, 2"
        )

    def stubs(self, table: str) -> list[tuple[int, int]]:
        return [
            (tenant, row)
            for tenant, row in self.target.rows(
                f"SELECT tenant_id, id FROM {table} WHERE synced_at IS NULL ORDER BY 1, 2"
            )
        ]


@contextmanager
def prepared_target(servers: Servers) -> Iterator[Target]:
    """A target that is set up, to be copied."""
    name = f"prepared_{uuid.uuid4().hex[:12]}"
    dsn = servers.target.create_database(name)
    try:
        with target_of(dsn) as target:
            target.apply()
            target.make_reader()
            yield target
    finally:
        servers.target.drop_database(name)


@contextmanager
def applied(servers: Servers, prepared: Target, owned: dict[int, tuple[int, ...]]) -> Iterator[Applied]:
    """Over a copy of it; tenants with their inboxes."""
    name = f"copy_{uuid.uuid4().hex[:12]}"
    template = str(conninfo_to_dict(prepared.superuser_dsn)["dbname"])
    target = replace(prepared, superuser_dsn=servers.target.create_database(name, template=template))
    try:
        for tenant, inboxes in owned.items():
            target.execute("INSERT INTO tenants (id, slug) VALUES (%s, %s)", tenant, f"t{tenant}")
            for inbox in inboxes:
                target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", inbox, tenant)
        with closing(Applied(target)) as made:
            yield made
    finally:
        servers.target.drop_database(name)
