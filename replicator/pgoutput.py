"""Bytes of the replication stream to messages.

The frames of the streaming replication protocol (https://www.postgresql.org/docs/current/protocol-replication.html)
and pgoutput's messages inside them, protocol version 1 in text mode
(https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html). A table of tiny readers, fields in
wire order; every byte that is not expected is an error with its position, because a reader that passes over an unknown
column kind shifts every later column in silence.

Pure: never waits, never logs, knows no table by name.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError  # noqa: N812  # it is an exception class
from typing import Final, NamedTuple

from replicator.errors import ProtocolError
from replicator.lsn import format_lsn

POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: the zero of the protocol's times."""


class Absent:
    """The value of a column that the stream left out: an unchanged TOAST value. Not NULL."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()

RawValue = bytes | None | Absent
RawRow = list[RawValue]

# The messages are plain tuples: at 100 000 rows/s a frozen dataclass (1.3 us) would cost more than reading the row.


class Begin(NamedTuple):
    commit_lsn: int
    committed_us: int
    """Microseconds since 1970."""
    xid: int
    """The top-level transaction's 32-bit id."""


class Commit(NamedTuple):
    commit_lsn: int
    end_lsn: int


class LogicalMessage(NamedTuple):
    """Written by pg_logical_emit_message."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class Column(NamedTuple):
    name: str
    type_oid: int
    type_modifier: int
    is_identity: bool
    """Part of the replica identity; under FULL every column is."""


class Relation(NamedTuple):
    oid: int
    schema: str
    name: str
    identity: str
    """pg_class.relreplident: `d`efault, `n`othing, `f`ull, `i`ndex."""
    columns: tuple[Column, ...]


class Insert(NamedTuple):
    relation: int
    new: RawRow


class Update(NamedTuple):
    relation: int
    old_kind: str
    """`K`: `old` holds the identity's columns alone; `O`: the whole old row; `""`: the identity did not change."""
    old: RawRow
    new: RawRow


class Delete(NamedTuple):
    relation: int
    old_kind: str
    old: RawRow


class Truncate(NamedTuple):
    relations: tuple[int, ...]


class Ignored(NamedTuple):
    """A message that carries nothing for us: the origin of a transaction, the name of a type."""

    kind: str


Message = Begin | Commit | LogicalMessage | Relation | Insert | Update | Delete | Truncate | Ignored


class Keepalive(NamedTuple):
    wal_end: int
    sent_us: int
    """The server's clock, microseconds since 1970."""
    reply_requested: bool


_U8 = Struct("!B").unpack_from
_U16 = Struct("!H").unpack_from
_U32 = Struct("!I").unpack_from
_XLOG_HEADER = Struct("!cQQq")
_KEEPALIVE = Struct("!cQqB")
_BEGIN = Struct("!QqI").unpack_from
_COMMIT = Struct("!BQQq").unpack_from
_MESSAGE = Struct("!BQ").unpack_from
_COLUMN = Struct("!Ii").unpack_from
_FEEDBACK = Struct("!cQQQqB")

_NULL, _UNCHANGED, _TEXT = b"nut"


def decode_frame(frame: bytes) -> Message | Keepalive:
    """One CopyData payload of a logical walsender. Raises ProtocolError."""
    kind = frame[:1]
    try:
        if kind == b"w":
            reader = _READERS.get(frame[_XLOG_HEADER.size])
            if reader is None:
                raise ProtocolError(f"unknown message {_where(frame)}")
            message, end = reader(frame, _XLOG_HEADER.size + 1)
            if end == len(frame):
                return message
            left = len(frame) - end
            raise ProtocolError(f"{left} bytes are left after (or missing from) the message {_where(frame)}")
        if kind == b"k":
            _, wal_end, sent, reply = _KEEPALIVE.unpack(frame)
            return Keepalive(wal_end, sent + POSTGRES_EPOCH_US, bool(reply))
    except (StructError, IndexError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a truncated or garbled message {_where(frame)}: {error}") from None
    raise ProtocolError(f"unknown frame type {kind!r}")


def encode_feedback(received: int, confirmed: int, now_us: int, *, ask_reply: bool) -> bytes:
    """A standby status update: written up to `received`, flushed and applied up to `confirmed`."""
    return _FEEDBACK.pack(b"r", received, confirmed, confirmed, now_us - POSTGRES_EPOCH_US, ask_reply)


def _where(frame: bytes) -> str:
    start = _XLOG_HEADER.unpack_from(frame)[1] if len(frame) >= _XLOG_HEADER.size else 0
    return f"of type {frame[_XLOG_HEADER.size : _XLOG_HEADER.size + 1]!r} at {format_lsn(start)}"


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(0, at)
    if end < 0:
        raise IndexError("a string has no end")
    return data[at:end].decode(), end + 1


def _read_row(data: bytes, at: int) -> tuple[RawRow, int]:
    (count,) = _U16(data, at)
    at += 2
    row: RawRow = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == _TEXT:
            (length,) = _U32(data, at)
            at += 4
            row.append(data[at : at + length])
            at += length
        elif kind == _NULL:
            row.append(None)
        elif kind == _UNCHANGED:
            row.append(ABSENT)
        else:
            raise ProtocolError(f"unknown column kind {chr(kind)!r} in the message {_where(data)}")
    return row, at


def _begin(data: bytes, at: int) -> tuple[Message, int]:
    commit_lsn, committed, xid = _BEGIN(data, at)
    return Begin(commit_lsn, committed + POSTGRES_EPOCH_US, xid), at + 20


def _commit(data: bytes, at: int) -> tuple[Message, int]:
    _, commit_lsn, end_lsn, _ = _COMMIT(data, at)
    return Commit(commit_lsn, end_lsn), at + 25


def _message(data: bytes, at: int) -> tuple[Message, int]:
    flags, lsn = _MESSAGE(data, at)
    prefix, at = _read_string(data, at + 9)
    (length,) = _U32(data, at)
    at += 4
    return LogicalMessage(bool(flags & 1), lsn, prefix, data[at : at + length]), at + length


def _relation(data: bytes, at: int) -> tuple[Message, int]:
    (oid,) = _U32(data, at)
    schema, at = _read_string(data, at + 4)
    name, at = _read_string(data, at)
    identity = chr(data[at])
    (count,) = _U16(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        flags = data[at]
        column, at = _read_string(data, at + 1)
        type_oid, modifier = _COLUMN(data, at)
        at += 8
        columns.append(Column(column, type_oid, modifier, bool(flags & 1)))
    # An empty schema name stands for pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns)), at


def _insert(data: bytes, at: int) -> tuple[Message, int]:
    (oid,) = _U32(data, at)
    _expect(data, at + 4, b"N")
    new, at = _read_row(data, at + 5)
    return Insert(oid, new), at


def _update(data: bytes, at: int) -> tuple[Message, int]:
    (oid,) = _U32(data, at)
    at += 4
    old_kind = ""
    old: RawRow = []
    if data[at] in b"KO":
        old_kind = chr(data[at])
        old, at = _read_row(data, at + 1)
    _expect(data, at, b"N")
    new, at = _read_row(data, at + 1)
    return Update(oid, old_kind, old, new), at


def _delete(data: bytes, at: int) -> tuple[Message, int]:
    (oid,) = _U32(data, at)
    _expect(data, at + 4, b"KO")
    old, end = _read_row(data, at + 5)
    return Delete(oid, chr(data[at + 4]), old), end


def _truncate(data: bytes, at: int) -> tuple[Message, int]:
    (count,) = _U32(data, at)
    _U8(data, at + 4)  # CASCADE and RESTART IDENTITY: every relation concerned is listed anyway
    at += 5
    oids = Struct(f"!{count}I").unpack_from(data, at)
    return Truncate(oids), at + 4 * count


def _origin(data: bytes, at: int) -> tuple[Message, int]:
    _, end = _read_string(data, at + 8)
    return Ignored("origin"), end


def _type(data: bytes, at: int) -> tuple[Message, int]:
    _, at = _read_string(data, at + 4)
    _, end = _read_string(data, at)
    return Ignored("type"), end


def _expect(data: bytes, at: int, kinds: bytes) -> None:
    if data[at] not in kinds:
        raise ProtocolError(f"unknown row kind {chr(data[at])!r} in the message {_where(data)}")


_READERS: Final[dict[int, Callable[[bytes, int], tuple[Message, int]]]] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("M"): _message,
    ord("R"): _relation,
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("T"): _truncate,
    ord("O"): _origin,
    ord("Y"): _type,
}
