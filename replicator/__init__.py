"""inbox-replicator's reading half. What is re-exported here is the wire contract, all that consumers may rely on."""

from replicator.event import (
    MOST_INBOXES,
    NOWHERE,
    VERSION,
    BackfillMarker,
    BackfillRequest,
    GenerationMarker,
    Head,
    HeartbeatMarker,
    KeysRequest,
    Marker,
    Position,
    Request,
    Run,
    TableSchema,
    Topics,
    decode,
    decode_marker,
    encode_request,
    unpack_head,
)
from replicator.partitioner import partition_of
from replicator.relations import CAPTURED
from replicator.values import PINNED_SETTINGS, JsonValue

__all__ = [
    "CAPTURED",
    "MOST_INBOXES",
    "NOWHERE",
    "PINNED_SETTINGS",
    "VERSION",
    "BackfillMarker",
    "BackfillRequest",
    "GenerationMarker",
    "Head",
    "HeartbeatMarker",
    "JsonValue",
    "KeysRequest",
    "Marker",
    "Position",
    "Request",
    "Run",
    "TableSchema",
    "Topics",
    "decode",
    "decode_marker",
    "encode_request",
    "partition_of",
    "unpack_head",
]
