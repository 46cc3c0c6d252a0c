"""What the log says: the changes topic read from its start, and the state that a perfect consumer would have.

Independent of the consumers: a plain fold of the events by the rules of the contract (a row wins by its position, a
delete at an inbox touches only a row stored there, a run older than the partition has seen is dropped, the end of a
backfill sweeps what is older than its start). Inboxes are taken for tenants of their own: what an event leaves out is
never filled with what another inbox knew of the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, TopicPartition

from demo.servers import wait_until
from replicator import Head, Position, Run, Topics, partition_of, unpack_head


class Logged(NamedTuple):
    partition: int
    offset: int
    inbox: int | None
    head: Head
    body: dict[str, Any]


class Stored(NamedTuple):
    position: Position
    inbox: int
    row: dict[str, Any] | None
    """None: deleted."""


class Replayed:
    """Reads on whenever it is asked."""

    def __init__(self, kafka: str, prefix: str, partitions: int = 6, since: str = "") -> None:
        """`since`: a backfill; what stands before its begin marker is passed over, as by a tenant that is new."""
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": "replayed", "enable.auto.commit": False})
        topic = Topics(prefix).changes
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
        self._partitions = partitions
        self.events: list[Logged] = []
        self.zombies: list[Logged] = []
        self._since = since
        self._begun: set[int] = set()
        self._marked: set[tuple[int, str]] = set()
        self._newest: dict[int, Run] = {}
        self._rows: dict[tuple[str, bytes], Stored] = {}

    def close(self) -> None:
        self._consumer.close()

    def read(self) -> None:
        """Takes in what has arrived."""
        while messages := self._consumer.consume(5000, timeout=0.1):
            for message in messages:
                assert message.error() is None, message.error()
                key = message.key()
                headers: Any = message.headers()
                event = Logged(
                    message.partition() or 0,
                    message.offset() or 0,
                    int(key) if key else None,
                    unpack_head(headers),
                    orjson.loads(message.value() or b""),
                )
                self._take(event)

    def _take(self, event: Logged) -> None:
        head = event.head
        if head.run < self._newest.get(event.partition, Run(0, 0)):
            self.zombies.append(event)
            return
        self._newest[event.partition] = head.run
        if not self._has_begun(event):
            return
        self.events.append(event)
        if head.op == "t":
            for name, stored in self._rows.items():
                if name[0] == head.table and stored.position < head.position:
                    self._rows[name] = stored._replace(position=head.position, row=None)
        elif head.op == "d":
            self._delete(event)
        elif head.op == "m":
            self._sweep(event.partition, event.body["message"])
        else:
            self._upsert(event)

    def _sweep(self, partition: int, marker: dict[str, Any]) -> None:
        """The end of a backfill, the beginning of which was here too: what it did not find is gone."""
        if marker.get("boundary") == "begin":
            self._marked.add((partition, marker["id"]))
        if marker.get("boundary") != "end" or (partition, marker["id"]) not in self._marked:
            return
        for name, stored in self._rows.items():
            start = Position(*marker["start_read" if name[0] in marker["derived"] else "start"])
            within = marker["inboxes"] is None or stored.inbox in marker["inboxes"]
            here = partition_of(stored.inbox, self._partitions) == partition
            if name[0] in marker["tables"] and within and here and stored.position < start:
                self._rows[name] = stored._replace(row=None)

    def _has_begun(self, event: Logged) -> bool:
        if self._since and event.head.op == "m" and event.body["message"].get("id") == self._since:
            self._begun.add(event.partition)
        return not self._since or event.partition in self._begun

    def _upsert(self, event: Logged) -> None:
        name = event.head.table, event.head.key
        stored = self._rows.get(name)
        if stored is not None and event.head.position <= stored.position:
            return
        row = event.body["after"]
        if event.head.absent and stored is not None and stored.row is not None and stored.inbox == event.inbox:
            row = {**stored.row, **row}
        assert event.inbox is not None
        self._rows[name] = Stored(event.head.position, event.inbox, row)

    def _delete(self, event: Logged) -> None:
        name = event.head.table, event.head.key
        stored = self._rows.get(name)
        if stored is None:
            self._rows[name] = Stored(event.head.position, event.inbox or 0, None)
        elif stored.position <= event.head.position and (event.inbox is None or event.inbox == stored.inbox):
            self._rows[name] = stored._replace(position=event.head.position, row=None)

    def rows(self, table: str) -> dict[Any, dict[str, Any]]:
        """Key → row, for what exists."""
        return {
            orjson.loads(key)[0]: stored.row
            for (name, key), stored in self._rows.items()
            if name == table and stored.row is not None
        }

    def events_of(self, table: str, key: int, op: str) -> list[Logged]:
        """What was said of one row."""
        packed = b"[%d]" % key
        return [each for each in self.events if each.head[:3] == (op, table, packed)]

    def wait_for(self, what: str, condition: Any, seconds: float = 60.0) -> None:
        """Reads until the condition holds."""

        def holds() -> bool:
            self.read()
            return bool(condition())

        wait_until(holds, what, seconds)

    def wait_for_end(self, backfill: str | None = None) -> None:
        """Until the end marker of a backfill (None: of any) stands in every partition."""

        def ended() -> bool:
            ends = {
                event.partition
                for event in self.markers("backfill", "end")
                if backfill in (None, event.body["message"]["id"])
            }
            return len(ends) == self._partitions

        self.wait_for("the end of the backfill", ended)

    def markers(self, kind: str, boundary: str | None = None) -> list[Logged]:
        """Markers of a kind, those of a backfill by their boundary."""
        return [
            event
            for event in self.events
            if event.head.op == "m"
            and event.body["message"]["kind"] == kind
            and (boundary is None or event.body["message"]["boundary"] == boundary)
        ]
