"""A stretch of the log that can't be read: said within seconds, whatever the broker answers meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from consumers import stretch
from consumers.config import load
from consumers.errors import LogUnavailable
from consumers.stretch import LogReader


class Broken:
    """As librdkafka reports a partition without a leader: again and again."""

    def __init__(self) -> None:
        self.answers = 0

    def assign(self, _: Any) -> None:
        pass

    def consume(self, most: int, timeout: float) -> list[Any]:
        self.answers += 1
        assert self.answers < 1000, "it would be waited for without end"
        return [SimpleNamespace(error=lambda: KafkaError(KafkaError.LEADER_NOT_AVAILABLE))] * min(most, 2)


def test_trouble_that_is_told_again_and_again_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.1
        return now

    settings = load(
        _env_file=None,
        target_dsn="postgresql://applier@127.0.0.1:1/nowhere",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_options={"log_level": 0},
    )
    monkeypatch.setattr(stretch.clients, "consumer", lambda *_: Broken())
    monkeypatch.setattr(stretch, "time", SimpleNamespace(monotonic=clock))
    with pytest.raises(LogUnavailable, match="partition 3 can't be read from offset 5"):
        next(LogReader(settings).read(3, 5, 9, 100))
