"""What the loop does by the clock, without a clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from replicator import metrics
from replicator.config import load
from replicator.pipeline import Run, Stopped
from replicator.progress import Batch, Progress, Snapshot
from replicator.runtime import Stop

SETTINGS = load(_env_file=None, source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")


class Memory:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any], Batch]] = []

    def write(self, key: str, content: dict[str, Any], batch: Batch) -> None:
        self.said.append((key, content, batch))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def run(memory: Memory) -> Run:
    """It has delivered one transaction, which every snapshot sees."""
    run: Any = Run(SETTINGS, {}, Stop())
    run._progress = Progress(100)
    run._progress.committed(7, 110, 120)
    run._progress.seal()
    run._source = SimpleNamespace(sample=lambda: SimpleNamespace(snapshot=Snapshot(50, 50, frozenset())))
    run._tenure = SimpleNamespace(memory=memory)
    run._control = SimpleNamespace(next_offset=42)
    run._derivation = SimpleNamespace(hold=lambda: None)
    return run  # type: ignore[no-any-return]


def test_transactions_are_settled_also_while_kafka_keeps_a_confirmation_waiting(run: Run, memory: Memory) -> None:
    """They would be kept without end."""
    unanswered = Batch()
    unanswered.sent = 1
    run._confirming = (105, unanswered)
    run._confirm()
    assert run._progress.unsettled == ()
    assert memory.said == []


def test_where_requests_are_read_on_is_said_again_with_each_confirmation(run: Run, memory: Memory) -> None:
    """A zombie may have said it too, later in the log, and the last of a key is what compaction keeps."""
    run._confirm()
    assert run._confirming is not None
    lsn, batch = run._confirming
    assert memory.said == [("confirmed", {"lsn": lsn}, batch), ("control", {"next_offset": 42}, batch)]


def test_a_stop_while_kafka_is_waited_for_is_said_and_confirms_nothing(
    run: Run, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(metrics, "observe", lambda *_: None)
    run._publisher = SimpleNamespace(waiting=0, unreachable=False)  # type: ignore[assignment]
    run._capture = run._tenure.outlet = None  # type: ignore[assignment, misc]
    monkeypatch.setattr(run, "_describe", lambda _: {"mode": "streaming"})
    monkeypatch.setattr(run, "_turn", turn)
    with pytest.raises(Stopped):
        run._take_turns(None, None)  # type: ignore[arg-type]
    assert [(key, content["stopped"]) for key, content, _ in memory.said] == [("status", True)]
