"""inbox-replicator's reading half. What is re-exported here is the wire contract, all that consumers may rely on."""

from replicator.event import (
    NOWHERE,
    VERSION,
    BackfillMarker,
    ClockColumn,
    GenerationMarker,
    Head,
    HeartbeatMarker,
    Marker,
    Position,
    Run,
    TableSchema,
    Topics,
    decode,
    decode_marker,
    row_of,
    unpack_head,
)
from replicator.partitioner import partition_of
from replicator.relations import CONTACTS, REPLICATED, STREAMED_BY_NAME, SURVEY_ANSWERS, analytics
from replicator.request import MOST_INBOXES, BackfillRequest, KeysRequest, Request, encode_request
from replicator.values import PINNED_SETTINGS, JsonValue

__all__ = [
    "CONTACTS",
    "MOST_INBOXES",
    "NOWHERE",
    "PINNED_SETTINGS",
    "REPLICATED",
    "STREAMED_BY_NAME",
    "SURVEY_ANSWERS",
    "VERSION",
    "BackfillMarker",
    "BackfillRequest",
    "ClockColumn",
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
    "analytics",
    "decode",
    "decode_marker",
    "encode_request",
    "partition_of",
    "row_of",
    "unpack_head",
]
