"""The wire contract between replicator and consumers: names, positions, headers, bytes.

A change event is Debezium's JSON envelope (https://debezium.io/documentation/reference/stable/connectors/postgresql.html,
"Data change events"), so that whatever reads Debezium reads this, plus one block of our own, `replication`. The Kafka
key is the inbox id as text; a broadcast (a delete whose inbox is unknown, a truncate, a marker) has no key and stands
in every partition. Headers repeat what a reader needs to skip, group and compare without parsing a body.

Pure: values in, bytes out. Never knows where the bytes come from or go to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeVar

import orjson

from replicator.values import JsonValue

T = TypeVar("T")

CONNECTOR: Final = "inbox-replicator"
VERSION: Final = "0.1.0"

Op = Literal["c", "u", "d", "r", "t", "m"]
"""Create, update, delete, read (backfill), truncate, message (marker): Debezium's letters."""

Headers = list[tuple[str, bytes]]


class Topics(NamedTuple):
    """The topics of one installation."""

    prefix: str

    @property
    def changes(self) -> str:
        """Every event of every table, keyed by inbox."""
        return f"{self.prefix}.changes"

    @property
    def schemas(self) -> str:
        """Compacted: a relation's columns, types and key, by version."""
        return f"{self.prefix}.schemas"

    @property
    def state(self) -> str:
        """Compacted: the replicator's own memory."""
        return f"{self.prefix}.state"

    @property
    def control(self) -> str:
        """Requests to the replicator: backfill this inbox, read these keys again."""
        return f"{self.prefix}.control"


class Position(NamedTuple):
    """Where a row stands in the source's history; compared only among events of one table.

    Streamed change: `point` is the commit LSN, `ordinal` 2i for the leaving half and 2i + 1 for the row of the i-th
    row change of its transaction. Backfilled row of a streamed table: the high watermark's LSN - 1. Row of a derived
    relation: `point` is the generation, `ordinal` 2n (absence) or 2n + 1 (a row) of this run's n-th read.
    """

    epoch: int
    point: int
    ordinal: int

    def pack(self) -> bytes:
        return b"%d:%d:%d" % self

    @classmethod
    def unpack(cls, packed: bytes) -> Position:
        """Raises ValueError if `packed` is not three integers joined by colons, each from 0 to that of a bigint."""
        epoch, point, ordinal = map(int, packed.split(b":"))
        if (epoch | point | ordinal) >> 63:
            raise ValueError("a position that no column holds")
        return cls(epoch, point, ordinal)


NOWHERE: Final = Position(0, 0, 0)
"""Before every position: what a stub that was never filled carries."""


class Run(NamedTuple):
    """One run of a replicator within one epoch. Later runs compare greater: an older one is a zombie."""

    epoch: int
    generation: int


class Head(NamedTuple):
    """What the headers of one message say.

    A plain tuple: it is built once for every message on both sides (0.25 us; a frozen dataclass takes 1.3).
    """

    op: Op
    table: str
    key: bytes
    """The row's key as a canonical JSON array, `b""` where the event concerns no single row."""
    position: Position
    generation: int
    schema: str
    """Version of the table's columns in the schemas topic, `""` where the event carries no row."""
    absent: bytes
    """JSON array of the columns left out (unchanged TOAST values), `b""` for a whole row."""
    is_read: bool
    """Read from the source's tables, not from its stream: not measured against the watermark."""
    error: str
    """Why the event has no body although it should (`too-large`), else `""`."""

    @property
    def run(self) -> Run:
        return Run(self.position.epoch, self.generation)


_LONGEST_NAME: Final = 255
"""Bytes; PostgreSQL has 63 for a table's."""
_BEFORE_ROW: Final = b',"after":{'
_AFTER_ROW: Final = b'},"op":"'


def pack_head(head: Head) -> Headers:
    """The Kafka headers of a message; empty fields are left out."""
    headers: Headers = [
        ("op", head.op.encode()),
        ("position", head.position.pack()),
        ("generation", b"%d" % head.generation),
    ]
    if head.table:
        headers.append(("table", head.table.encode()))
    if head.key:
        headers.append(("key", head.key))
    if head.schema:
        headers.append(("schema", head.schema.encode()))
    if head.absent:
        headers.append(("absent", head.absent))
    if head.is_read:
        headers.append(("snapshot", b"incremental"))
    if head.error:
        headers.append(("error", head.error.encode()))
    return headers


def unpack_head(headers: Sequence[tuple[str, bytes]]) -> Head:
    """The inverse of `pack_head`. Raises KeyError or ValueError for a message that is not ours; AttributeError or
    TypeError where a header has no value."""
    field: dict[str, Any] = dict(headers)
    generation, key, absent = int(field["generation"]), field.get("key", b""), field.get("absent", b"")
    if generation >> 63:
        raise ValueError("a generation that no column holds")
    if key is None or absent is None:
        raise ValueError("a header without a value")
    return Head(
        field["op"].decode(),  # one of the letters; the consumer refuses others
        _name(field.get("table", b"")),
        key,
        Position.unpack(field["position"]),
        generation,
        _name(field.get("schema", b"")),
        absent,
        "snapshot" in field,
        _name(field.get("error", b"")),
    )


@lru_cache(256)
def _name(packed: bytes) -> str:
    """One of a few: a table's, a version's, a reason's. Raises ValueError for what no column, or no index, takes."""
    if len(packed) > _LONGEST_NAME or b"\0" in packed:
        raise ValueError("a name that is too long, or has a NUL")
    return packed.decode()


def pack_key(values: list[JsonValue]) -> bytes:
    """A row's key as a canonical JSON array: equal keys are equal bytes."""
    return orjson.dumps(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What every event of one table has in common, rendered once."""

    topic_prefix: str
    database: str
    schema: str
    table: str

    def render(self) -> bytes:
        """The constant beginning of the `source` block, open for the fields that differ by event."""
        fields = {
            "version": VERSION,
            "connector": CONNECTOR,
            "name": self.topic_prefix,
            "db": self.database,
            "schema": self.schema,
            "table": self.table,
        }
        return orjson.dumps(fields)[:-1]


class Cause(NamedTuple):
    """The transaction, or the read, that an event comes from. Times in milliseconds since 1970 (UTC)."""

    xid: int
    lsn: int
    committed_ms: int
    seen_ms: int


def row_of(body: bytes) -> bytes:
    """The JSON object that is a change event's `after`. Raises ValueError if it has none.

    Cut out, not parsed, where the body is as `envelope` assembles it: `before` and `after` hold no objects, and a quote
    inside a string is escaped, so that both marks stand nowhere else.
    """
    begin, end = body.find(_BEFORE_ROW), body.rfind(_AFTER_ROW)
    if 0 < begin < end:
        return body[begin + len(_BEFORE_ROW) - 1 : end + 1]
    match orjson.loads(body):
        case {"after": dict(after)}:
            return orjson.dumps(after)
    raise ValueError("an event without a row")


def decode(body: bytes) -> dict[str, Any]:
    """The envelope as a dict. Raises orjson.JSONDecodeError (a ValueError)."""
    envelope: dict[str, Any] = orjson.loads(body)
    return envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMarker:
    """First message of a run in every partition: whatever is older and comes later is a zombie's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillMarker:
    """Begin or end of a backfill in one partition.

    At the end every row of the scope whose position is before `start` (streamed tables) or `start_read` (derived
    relations) no longer exists in the source.
    """

    id: str
    boundary: Literal["begin", "end"]
    tables: tuple[str, ...]
    derived: tuple[str, ...] = ()
    """Those of the tables that are derived relations."""
    is_complete: bool = False
    """It reads every captured relation: at its end an inbox lacks nothing."""
    inboxes: tuple[int, ...] | None
    """None: every inbox."""
    start: Position
    start_read: Position
    keys: tuple[int, int] | None = None
    """Only rows whose key lies between these, both included; None: all."""
    spared: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By derived relation: keys that exist and could not be read. What the target has of them is not swept."""

    def start_of(self, table: str) -> Position:
        """Where rows of this table must stand at least to outlive the sweep."""
        return self.start_read if table in self.derived else self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatMarker:
    """Everything that the source committed before this time stands before this message in its partition."""

    source_ms: int


Marker = GenerationMarker | BackfillMarker | HeartbeatMarker


def encode_marker(marker: Marker, run: Run, point: int) -> tuple[Headers, bytes]:
    """Headers and body of a marker, to be sent to each partition of its scope."""
    head = Head("m", "", b"", Position(run.epoch, point, 0), run.generation, "", b"", True, "")
    match marker:
        case GenerationMarker():
            content: dict[str, Any] = {"kind": "generation"}
        case HeartbeatMarker():
            content = {"kind": "heartbeat", "source_ms": marker.source_ms}
        case BackfillMarker():
            content = {
                "kind": "backfill",
                "id": marker.id,
                "boundary": marker.boundary,
                "tables": marker.tables,
                "derived": marker.derived,
                "complete": marker.is_complete,
                "inboxes": marker.inboxes,
                "keys": marker.keys,
                "start": list(marker.start),
                "start_read": list(marker.start_read),
                "spared": marker.spared,
            }
    replication = {"epoch": run.epoch, "generation": run.generation, "point": point, "ordinal": 0}
    return pack_head(head), orjson.dumps({"op": "m", "message": content, "replication": replication})


class UnknownMarker(ValueError):
    """Of a kind that this version does not know. Whatever changes the fields of a kind gives it another name."""


def decode_marker(body: bytes) -> Marker:
    """The inverse of `encode_marker`. Raises UnknownMarker; another ValueError for what is no marker of ours."""
    try:
        content = orjson.loads(body)["message"]
        kind = _text(content["kind"])
        match kind:
            case "generation":
                return GenerationMarker()
            case "heartbeat":
                return HeartbeatMarker(source_ms=_bigint(content["source_ms"]))
            case "backfill":
                return _backfill_marker(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no marker: {type(error).__name__}") from None
    raise UnknownMarker(f"unknown marker {kind!r}: this worker is older than the replicator")


def _backfill_marker(content: Mapping[str, Any]) -> BackfillMarker:
    inboxes, keys, spared = content["inboxes"], content["keys"], _only(dict, content["spared"])
    if (boundary := content["boundary"]) not in ("begin", "end"):
        raise ValueError("a marker is the begin or the end of a backfill")
    return BackfillMarker(
        id=_text(content["id"]),
        boundary=boundary,
        tables=_texts(content["tables"]),
        derived=_texts(content["derived"]),
        is_complete=_only(bool, content["complete"]),
        inboxes=None if inboxes is None else _bigints(inboxes),
        keys=None if keys is None else _range(keys),
        start=_position(content["start"]),
        start_read=_position(content["start_read"]),
        spared={_text(table): _bigints(some) for table, some in spared.items()},
    )


def _only(kind: type[T], given: object) -> T:
    """Nothing is converted: `true` is no number, and a text no list of its letters. Raises TypeError."""
    if type(given) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {type(given).__name__}")
    return given


def _text(given: object) -> str:
    text = _only(str, given)
    if "\0" in text:
        raise ValueError("a text that no column holds")
    return text


def _texts(given: object) -> tuple[str, ...]:
    return tuple(map(_text, _only(list, given)))


def _bigint(given: object) -> int:
    number = _only(int, given)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a number that no column holds")
    return number


def _bigints(given: object) -> tuple[int, ...]:
    return tuple(map(_bigint, _only(list, given)))


def _range(given: object) -> tuple[int, int]:
    first, last = _bigints(given)
    return first, last


def _position(given: object) -> Position:
    position = Position(*_bigints(given))
    if min(position) < 0:
        raise ValueError("a position that no column holds")
    return position


class ClockColumn(NamedTuple):
    """A column that changes without any write (`now()`): never in an event, computed at reading."""

    name: str
    type_name: str
    expression: str
    """SQL over the relation's other columns that means the same under every session's TimeZone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSchema:
    """A relation's columns as (name, PostgreSQL's type name), its key and its inbox column, at one time."""

    table: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    inbox: str
    """Empty: rows do not say their inbox (a contact may be at several)."""
    is_derived: bool = False
    clock: tuple[ClockColumn, ...] = ()
    order: tuple[str, ...] = ()
    """All columns in the relation's own order, those of the clock included; empty: as in `columns`."""
    unstable: tuple[str, ...] = ()
    """Columns whose order leaves ties: another plan may give another value, in arrays another order."""

    @property
    def version(self) -> str:
        """Derived from the content, so that the same columns have the same version in every run."""
        return hashlib.sha256(self.encode()).hexdigest()[:12]

    def encode(self) -> bytes:
        """The record of the schemas topic, under the Kafka key `<table>:<version>`."""
        content: dict[str, Any] = {
            "table": self.table,
            "columns": self.columns,
            "key": self.key,
            "inbox": self.inbox,
            "derived": self.is_derived,
            "clock": [list(each) for each in self.clock],
            "order": self.order,
        }
        if self.unstable:  # left out otherwise: versions stay what they were before it was said
            content["unstable"] = self.unstable
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def decode(cls, record: bytes) -> TableSchema:
        """The inverse of `encode`. Raises ValueError for what is no schema of ours."""
        content = orjson.loads(record)
        try:
            return cls(
                table=_text(content["table"]),
                columns=tuple((name, type_name) for name, type_name in map(_texts, _only(list, content["columns"]))),
                key=_texts(content["key"]),
                inbox=_text(content["inbox"]),
                is_derived=_only(bool, content["derived"]),
                clock=tuple(ClockColumn(*_texts(each)) for each in _only(list, content["clock"])),
                order=_texts(content["order"]),
                unstable=_texts(content.get("unstable", [])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no schema: {type(error).__name__}") from None
