"""The schemas topic, to which anybody may have written: what is not ours is said once, and stops nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from consumers import schemas
from consumers.config import load
from consumers.errors import VersionUnknown
from consumers.schemas import Schemas, latest
from replicator import TableSchema

TABLE = TableSchema(table="messages", columns=(("id", "bigint"),), key=("id",), inbox="inbox_id")
SETTINGS = load(
    _env_file=None,
    target_dsn="postgresql://applier@127.0.0.1:1/nowhere",
    kafka_bootstrap_servers="127.0.0.1:1",
    topic_prefix="acme",
)
FOREIGN = {
    "no value": None,
    "an empty value": b"",
    "no JSON": b"secret",
    "no UTF-8": b"\xff\xfe",
    "a number": b"5",
    "an array": b'["secret"]',
    "an object of another shape": b'{"secret":1}',
    "fields of other types": orjson.dumps({**orjson.loads(TABLE.encode()), "columns": {"secret": 1}}),
    "a column without a type": orjson.dumps({**orjson.loads(TABLE.encode()), "columns": [["secret"]]}),
}


class Kafka:
    """A topic with these values, once; then its end."""

    def __init__(self, *values: bytes | None) -> None:
        self._records = [self._record(offset, value) for offset, value in enumerate(values)]

    def consume(self, most: int, timeout: float) -> list[Any]:
        taken, self._records = self._records, [self._record(99, None, KafkaError(KafkaError._PARTITION_EOF))]
        return taken

    def assign(self, places: Any) -> None:
        pass

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics={"acme.schemas": None})

    def close(self) -> None:
        pass

    @staticmethod
    def _record(offset: int, value: bytes | None, error: KafkaError | None = None) -> Any:
        return SimpleNamespace(
            error=lambda: error,
            topic=lambda: "acme.schemas",
            partition=lambda: 0,
            offset=lambda: offset,
            key=lambda: b"\xff",
            headers=lambda: [("x", None)],
            value=lambda: value,
        )


def kafka(monkeypatch: pytest.MonkeyPatch, *values: bytes | None) -> None:
    monkeypatch.setattr(schemas.clients, "consumer", lambda *_: Kafka(*values))


def is_said(logs: Any) -> bool:
    """Where it stands, and none of it."""
    (said,) = logs
    place = said["log_level"], said["topic"], said["partition"], said["offset"]
    return place == ("warning", "acme.schemas", 0, 1) and "Error" in said["error"] and "secret" not in str(said)


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
def test_a_worker_passes_over_a_record_that_is_not_ours(monkeypatch: pytest.MonkeyPatch, value: bytes | None) -> None:
    other = TableSchema(table="notes", columns=(("id", "bigint"),), key=("id",), inbox="")
    kafka(monkeypatch, TABLE.encode(), value, other.encode())
    with capture_logs() as logs:
        ask = Schemas(SETTINGS)
        assert (ask("messages", TABLE.version), ask("notes", other.version)) == (TABLE, other)
    assert is_said(logs)


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
def test_setup_passes_over_a_record_that_is_not_ours(monkeypatch: pytest.MonkeyPatch, value: bytes | None) -> None:
    newer = TableSchema(table="messages", columns=(("id", "bigint"), ("n", "text")), key=("id",), inbox="inbox_id")
    kafka(monkeypatch, TABLE.encode(), value, newer.encode())
    with capture_logs() as logs:
        assert latest(SETTINGS) == {"messages": newer}
    assert is_said(logs)


def test_a_version_that_is_not_there_is_still_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka(monkeypatch, b"xx", TABLE.encode())
    monkeypatch.setattr(schemas, "_SECONDS", 0.1)
    with pytest.raises(VersionUnknown):
        Schemas(SETTINGS)("messages", "none")
