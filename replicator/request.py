"""What is asked of the replicator over the control topic, and its bytes.

A request that can't be understood is refused as a whole: nothing is converted, nothing is guessed. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from replicator.values import JsonValue

T = TypeVar("T")


ASKED = "asked-"
"""How the ids of backfills begin that a person asked for: those may be cancelled."""
MOST_INBOXES = 10_000
"""In one request for a backfill: its progress is one record of the state topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillRequest:
    """Asks the replicator to read a scope again. The same id is the same request, however often it is sent."""

    id: str
    tables: tuple[str, ...] | None
    """None: every captured relation."""
    inboxes: tuple[int, ...] | None
    """None: every inbox. At most `MOST_INBOXES`."""
    keys: tuple[int, int] | None = None
    """Only rows whose key lies between these, both included; None: all."""
    known: str = ""
    """The backfill that the asker already waits for, if any: while it is under way nothing new is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRequest:
    """Asks the replicator to read single rows again: some of which a worker knows but a part."""

    table: str
    inbox: int
    keys: tuple[tuple[JsonValue, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    """Asks the replicator to give a backfill up that a person asked for."""

    id: str


Request = BackfillRequest | KeysRequest | CancelRequest


def encode_request(request: Request) -> bytes:
    """The record of the control topic."""
    match request:
        case BackfillRequest():
            return orjson.dumps(
                {
                    "kind": "backfill",
                    "id": request.id,
                    "tables": request.tables,
                    "inboxes": request.inboxes,
                    "keys": request.keys,
                    "known": request.known,
                }
            )
        case CancelRequest():
            return orjson.dumps({"kind": "cancel", "id": request.id})
        case KeysRequest():
            return orjson.dumps({"kind": "keys", "table": request.table, "inbox": request.inbox, "keys": request.keys})


def decode_request(record: bytes) -> Request:
    """The inverse of `encode_request`. Raises ValueError, KeyError or TypeError for anything else."""
    content = orjson.loads(record)
    match content["kind"]:
        case "backfill":
            return BackfillRequest(
                id=_only(str, content["id"]),
                tables=_some_or_all(str, content["tables"]),
                inboxes=_some_or_all(int, content["inboxes"]),
                keys=_range(content["keys"]),
                known=_only(str, content["known"]),
            )
        case "cancel":
            return CancelRequest(id=_only(str, content["id"]))
        case "keys":
            return KeysRequest(
                table=_only(str, content["table"]),
                inbox=_only(int, content["inbox"]),
                keys=tuple(tuple(_scalar(value) for value in _list(key)) for key in _list(content["keys"])),
            )
    raise ValueError("unknown kind of request")


def _only(kind: type[T], value: Any) -> T:
    """Nothing is converted: `"12"` is neither the number 12 nor the list of its digits."""
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {type(value).__name__}")
    return value


def _some_or_all(kind: type[T], values: Any) -> tuple[T, ...] | None:
    """None stands for everything."""
    return None if values is None else tuple(_only(kind, value) for value in _list(values))


def _range(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    first, last = (_only(int, each) for each in _list(value))
    return first, last


def _list(value: Any) -> list[Any]:
    return _only(list, value)


def _scalar(value: Any) -> JsonValue:
    if value is not None and type(value) not in (str, int, bool):
        raise TypeError(f"expected a value of a key, not {type(value).__name__}")
    scalar: JsonValue = value
    return scalar
