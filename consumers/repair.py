"""What a comparison found, as requests to the replicator: rows by their keys, or a table of some inboxes as a whole.

A row that is read again is written with a later position than it has; one that is not there any more is deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from confluent_kafka import KafkaException

from consumers import clients
from consumers.config import Settings
from consumers.errors import LogUnavailable
from consumers.row_comparison import Compared
from replicator import BackfillRequest, KeysRequest, Topics, encode_request

FEW: Final = 500
"""Rows of a table that are asked for by their keys."""
_SECONDS: Final = 10.0


Asked = KeysRequest | BackfillRequest


def requests(tables: Iterable[Compared], inboxes: Collection[int]) -> list[Asked]:
    asked: list[Asked] = []
    for table in tables:
        if 0 < table.unlike <= FEW:
            asked += [
                KeysRequest(table=table.table, inbox=inbox, keys=tuple((key,) for key in keys))
                for inbox, keys in sorted(table.keys.items())
            ]
        elif table.unlike:
            scope = tuple(sorted(inboxes))
            asked.append(BackfillRequest(id=f"compare-{uuid.uuid4()}", tables=(table.table,), inboxes=scope))
    return asked


def says(request: Asked) -> str:
    match request:
        case KeysRequest():
            return f"read {len(request.keys)} rows of {request.table} at inbox {request.inbox} again"
        case BackfillRequest():
            tables, inboxes = ", ".join(request.tables or ()), ", ".join(map(str, request.inboxes or ()))
            return f"backfill {tables} of inbox {inboxes}"


def send(settings: Settings, asked: Sequence[Asked]) -> None:
    """Waits until Kafka has them. Raises LogUnavailable."""
    producer = clients.producer(settings, {"acks": "all", "message.timeout.ms": int(_SECONDS * 1000)})
    failed: list[str] = []
    try:
        for request in asked:
            producer.produce(
                Topics(settings.topic_prefix).control,
                encode_request(request),
                on_delivery=lambda error, _: failed.append(error.str()) if error is not None else None,
            )
        left = producer.flush(_SECONDS)
    except (BufferError, KafkaException) as error:
        raise LogUnavailable(f"the requests were not sent: {type(error).__name__}") from None
    if left or failed:
        raise LogUnavailable(f"Kafka has not taken the requests: {failed[0] if failed else 'it does not answer'}")
