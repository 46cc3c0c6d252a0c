"""A worker's loop against a Kafka and a target that are not there."""

from __future__ import annotations

import threading
import time

import pytest

from consumers import schemas, worker
from consumers.config import Settings, load
from consumers.errors import LogUnavailable
from consumers.schemas import Schemas
from consumers.worker import Worker
from replicator.runtime import Stop


@pytest.fixture
def settings() -> Settings:
    return load(target_dsn="postgresql://applier@127.0.0.1:1/nowhere", kafka_bootstrap_servers="127.0.0.1:1")


def test_whoever_waits_for_a_version_of_a_table_does_not_hold_up_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "_SECONDS", 3600)
    versions, asks = Schemas(settings), threading.Event()
    raised: list[LogUnavailable] = []

    def ask() -> None:
        asks.set()
        try:
            versions("messages", "never")
        except LogUnavailable as error:
            raised.append(error)

    asking, closing = (threading.Thread(target=work, daemon=True) for work in (ask, versions.close))
    asking.start()
    assert asks.wait(10)
    closing.start()
    for thread in (closing, asking):
        thread.join(10)
        assert not thread.is_alive()
    assert len(raised) == 1


def test_a_loop_that_completes_no_turn_is_not_healthy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Worker(settings, Stop())
    monkeypatch.setattr(loop, "_inbound", object())
    assert loop._status()["healthy"]
    monkeypatch.setattr(loop, "_turned_at", time.monotonic() - worker.UNHEALTHY_S - 1)
    assert not loop._status()["healthy"]
