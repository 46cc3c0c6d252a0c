"""`consumers trace`: what the log says of one conversation, and what became of each event in the target.

Looks for the conversation's own row and for its row of the analytics view, by the headers of messages: bodies are read
for the time of commit alone, and no value leaves them. Reads the partitions of the tenants that hold the row, beside
the workers; those of every inbox if nobody holds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from consumers import layout, target
from consumers.batch import Message, committed_ms, head_of, inbox_of, marker_of
from consumers.biography import Found, Standing, StoredRow, Streamed, Told, outcome
from consumers.config import Settings
from consumers.errors import LogTooNew, Refused
from consumers.identifiers import quoted
from consumers.ownership import owned
from consumers.relation import Relation
from consumers.session import connect
from consumers.stretch import LogReader
from consumers.topic import TopicShape
from replicator import Head, Position, partition_of

TABLES: Final = ("conversations", "conversations_analytics")
_TELL_S: Final = 2.0
_AT_ONCE: Final = 5_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    conversation: int
    tenant: int | None = None
    hours: float | None = None
    """How far back the log is read; None: all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    tenant: int
    partition: int
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Biography:
    conversation: int
    rows: tuple[StoredRow, ...]
    watermarks: tuple[Watermark, ...]
    events: tuple[Told, ...]
    messages: int
    """That were looked through."""


def trace(settings: Settings, wish: Wish, say: Say) -> Biography:
    """Raises Refused, LogUnavailable, LogGap, TargetUnavailable, TargetRefused."""
    shape = TopicShape(settings)
    with connect(settings, settings.target_dsn, "trace") as connection, closing(LogReader(settings)) as reader:
        connection.autocommit = True
        owners = _owners(connection)
        if wish.tenant is not None:
            owned(connection, wish.tenant)
        tenants = _tenants(connection, wish)
        inboxes = [inbox for inbox, tenant in owners.items() if not tenants or tenant in tenants]
        if not inboxes:
            raise Refused("no inbox of the tenant is mapped, so there is no partition to look in: `consumers map list`")
        partitions = sorted({partition_of(inbox, shape.partitions) for inbox in inboxes})
        searching = _Searching(reader, wish, owners, say)
        for partition in partitions:
            searching.look_through(partition)
        # After the log: what it holds by now was perhaps applied meanwhile, and is not called waiting.
        rows = [row for tenant in tenants for row in _stored(connection, tenant, wish.conversation)]
        standings = _standings(connection, shape.topic_id, partitions, tenants or set(owners.values()))
    return Biography(
        conversation=wish.conversation,
        rows=tuple(rows),
        watermarks=tuple(
            Watermark(tenant=tenant, partition=partition, standing=standing)
            for (tenant, partition), standing in sorted(standings.items())
            if tenant in tenants
        ),
        events=tuple(_told(searching.found, rows, standings, owners, tenants)),
        messages=searching.messages,
    )


class _Searching:
    """Partition by partition, from old to new."""

    def __init__(self, reader: LogReader, wish: Wish, owners: Mapping[int, int], say: Say) -> None:
        self._reader, self._wish, self._owners, self._say = reader, wish, owners, say
        self._key = b"[%d]" % wish.conversation
        self._told_at = time.monotonic()
        self.found: list[Found] = []
        self.messages = 0

    def look_through(self, partition: int) -> None:
        start, end = self._reader.bounds(partition)
        if self._wish.hours is not None:
            since = int((time.time() - self._wish.hours * 3600) * 1000)
            at = self._reader.offset_at(partition, since)
            start = end if at is None else at
        said = Streamed()
        for messages in self._reader.read(partition, start, end, _AT_ONCE):
            for message in messages:
                self._take(message, said)
            self.messages += len(messages)
            if time.monotonic() - self._told_at >= _TELL_S:
                self._told_at = time.monotonic()
                self._say(f"partition {partition}: offset {messages[-1].offset:,} of {end:,}")

    def _take(self, message: Message, said: Streamed) -> None:
        head, inbox = head_of(message.headers), inbox_of(message.key)
        if head is None or (inbox is None and message.key is not None) or (head.op == "m" and not _is_marker(message)):
            return
        is_zombie, is_repeated = said.take(head, inbox, self._owners)
        if head.key != self._key or head.table not in TABLES:
            return
        self.found.append(
            Found(
                partition=message.partition,
                offset=message.offset,
                inbox=inbox,
                head=head,
                committed_ms=committed_ms(message.body),
                is_zombie=is_zombie,
                is_repeated=is_repeated,
            )
        )


def _told(
    found: Iterable[Found],
    rows: Iterable[StoredRow],
    standings: Mapping[tuple[int, int], Standing],
    owners: Mapping[int, int],
    tenants: set[int],
) -> Iterable[Told]:
    """Each event for the tenant of its inbox; a broadcast for each that holds, or held, the row."""
    found = sorted(found, key=lambda event: (event.head.table, event.head.position, event.partition, event.offset))
    stored = {(row.tenant, row.table): row for row in rows}
    concerned = tenants or {owners[e.inbox] for e in found if e.inbox is not None and e.inbox in owners}
    last = _last_deletes(found, owners)
    for event in found:
        owner = owners.get(event.inbox) if event.inbox is not None else None
        for tenant in sorted(concerned) if event.inbox is None else [owner]:
            place = (tenant or 0, event.head.table)
            standing = standings.get((tenant or 0, event.partition))
            says = outcome(event, stored.get(place), standing, last.get(place), is_owned=tenant is not None)
            yield Told(tenant=tenant, event=event, outcome=says)


def _last_deletes(found: Iterable[Found], owners: Mapping[int, int]) -> dict[tuple[int, str], Position]:
    last: dict[tuple[int, str], Position] = {}
    everybody = set(owners.values())
    for event in found:
        if event.head.op != "d" or event.is_zombie:
            continue
        for tenant in everybody if event.inbox is None else {owners.get(event.inbox, 0)}:
            place = (tenant, event.head.table)
            last[place] = max(event.head.position, last.get(place, event.head.position))
    return last


def _owners(connection: Connection[Any]) -> dict[int, int]:
    return dict(
        connection.execute(
            "SELECT m.inbox_id, m.tenant_id FROM inbox_tenant_mapping AS m JOIN tenants AS t ON t.id = m.tenant_id"
            " WHERE m.is_active AND t.deleted_at IS NULL"
        ).fetchall()
    )


def _tenants(connection: Connection[Any], wish: Wish) -> set[int]:
    """Who is asked for, else who holds a row; none: nobody does."""
    if wish.tenant is not None:
        return {wish.tenant}
    held = [target.holders(connection, table, [wish.conversation]) for table in TABLES]
    return {tenant for found in held for tenants in found.values() for tenant in tenants}


def _stored(connection: Connection[Any], tenant: int, conversation: int) -> list[StoredRow]:
    relations = layout.read_relations(connection)
    with connection.transaction():
        connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
        return [row for table in TABLES for row in _stored_in(connection, relations[table], tenant, conversation)]


def _stored_in(connection: Connection[Any], relation: Relation, tenant: int, key: int) -> list[StoredRow]:
    found = connection.execute(
        f"SELECT source_epoch, source_point, source_ordinal, {quoted(relation.inbox or '')}, synced_at"
        f" FROM {quoted(relation.name)} WHERE tenant_id = %s AND {quoted(relation.key)} = %s".encode(),
        [tenant, key],
    ).fetchall()
    return [
        StoredRow(tenant=tenant, table=relation.name, position=Position(*position), inbox=inbox, synced_at=synced_at)
        for *position, inbox, synced_at in found
    ]


def _standings(
    connection: Connection[Any], topic_id: str, partitions: list[int], tenants: set[int]
) -> dict[tuple[int, int], Standing]:
    found = connection.execute(
        "SELECT t.id, p.partition, GREATEST(w.next_offset, COALESCE(k.from_offset, p.next_offset)), k.tenant_id"
        " FROM replication_progress AS p CROSS JOIN unnest(%(tenants)s::integer[]) AS t (id)"
        " LEFT JOIN replication_watermarks AS w"
        " ON w.tenant_id = t.id AND w.partition = p.partition AND w.topic_id = p.topic_id"
        " LEFT JOIN replication_parked AS k"
        " ON k.tenant_id = t.id AND k.partition = p.partition AND k.topic_id = p.topic_id"
        " WHERE p.pool = replication_pool_of(t.id) AND p.topic_id = %(topic)s AND p.partition = ANY (%(partitions)s)",
        {"tenants": sorted(tenants), "topic": topic_id, "partitions": partitions},
    ).fetchall()
    return {
        (tenant, partition): Standing(next_offset=offset, is_parked=parked is not None)
        for tenant, partition, offset, parked in found
    }


def _is_marker(message: Message) -> bool:
    with suppress(LogTooNew):  # a newer replicator's is ours all the same
        return marker_of(message) is not None
    return True


def op_name(head: Head) -> str:
    """In words."""
    names = {"c": "insert", "u": "update", "r": "read", "d": "delete"}
    return f"{names.get(head.op, head.op)}{' in part' if head.absent else ''}"
