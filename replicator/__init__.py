"""inbox-replicator's reading half. What is re-exported here is the wire contract.

Beside it consumers may rely on `replicator.runtime` and `replicator.process_memory`, the plumbing of both programs.
"""

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
    UnknownMarker,
    decode,
    decode_marker,
    row_of,
    unpack_head,
)
from replicator.partitioner import partition_of
from replicator.relations import CONTACTS, REPLICATED, STREAMED_BY_NAME, SURVEY_ANSWERS, analytics
from replicator.request import MOST_INBOXES, BackfillRequest, KeysRequest, Request, encode_request
from replicator.values import PINNED_SETTINGS

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
    "KeysRequest",
    "Marker",
    "Position",
    "Request",
    "Run",
    "TableSchema",
    "Topics",
    "UnknownMarker",
    "analytics",
    "decode",
    "decode_marker",
    "encode_request",
    "partition_of",
    "row_of",
    "unpack_head",
]
