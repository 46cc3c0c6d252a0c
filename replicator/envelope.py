"""The bytes of change events: an envelope for all events of one table, op and run, filled in row by row.

What such events have in common is rendered once: each row's way to Kafka is shorter by it. The bytes are assembled,
not serialised: a backfill renders its rows before it knows their position.

Pure. What the bytes mean is `event`'s.
"""

from __future__ import annotations

import orjson

from replicator.event import Cause, Head, Headers, pack_head


class Envelope:
    """Of events that differ in their row, its position, and what they lack."""

    __slots__ = ("_epoch", "_op", "_run", "_schema", "_snapshot", "_template")

    def __init__(self, head: Head, origin: bytes) -> None:
        """`head`: of any of the events; `origin`: `Origin.render()` of their table."""
        self._epoch = head.position.epoch
        common = pack_head(head)
        self._op, self._run, self._schema, self._snapshot = (
            [(name, content) for name, content in common if name in names]
            for names in (("op",), ("generation", "table"), ("schema",), ("snapshot",))
        )
        constant = {
            b"op": head.op.encode(),
            b"origin": origin,
            b"snapshot": b"incremental" if head.is_read else b"false",
            b"epoch": b"%d" % head.position.epoch,
            b"generation": b"%d" % head.generation,
            b"schema": head.schema.encode(),
        }
        # What is constant may hold a percent sign: a database may have any name.
        self._template = (
            b'{"before":%%b,"after":%%b,"op":"%(op)b","ts_ms":%%d,'
            b'"source":%(origin)b,"txId":%%d,"lsn":%%d,"ts_ms":%%d,"snapshot":"%(snapshot)b"},'
            b'"replication":{"epoch":%(epoch)b,"generation":%(generation)b,"point":%%d,"ordinal":%%d,'
            b'"schema":"%(schema)b"%%b}}'
        ) % {name: content.replace(b"%", b"%%") for name, content in constant.items()}

    def headers(self, key: bytes, point: int, ordinal: int, absent: bytes = b"", error: str = "") -> Headers:
        """What `pack_head` gives for each of them."""
        headers = [*self._op, ("position", b"%d:%d:%d" % (self._epoch, point, ordinal)), *self._run]
        if key:
            headers.append(("key", key))
        headers += self._schema
        if absent:
            headers.append(("absent", absent))
        headers += self._snapshot
        if error:
            headers.append(("error", error.encode()))
        return headers

    def body(
        self,
        cause: Cause,
        before: bytes,
        after: bytes,
        point: int,
        ordinal: int,
        absent: bytes = b"",
        moved_to: int | None = None,
        error: str = "",
    ) -> bytes:
        """`before` and `after` are JSON objects, or `b"null"`."""
        extra = b""
        if absent:
            extra += b',"absent":' + absent
        if moved_to is not None:
            extra += b',"moved_to":%d' % moved_to
        if error:
            extra += b',"error":' + orjson.dumps(error)
        xid, lsn, committed_ms, seen_ms = cause
        return self._template % (before, after, seen_ms, xid, lsn, committed_ms, point, ordinal, extra)


def encode(head: Head, origin: bytes, cause: Cause, before: bytes, after: bytes, moved_to: int | None = None) -> bytes:
    """The body of a single event, as its headers say it."""
    _, point, ordinal = head.position
    return Envelope(head, origin).body(cause, before, after, point, ordinal, head.absent, moved_to, head.error)
