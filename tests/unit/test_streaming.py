"""What the loop does by the clock, without a clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from replicator import metrics
from replicator.config import load
from replicator.errors import SourceSilent, SourceUnavailable
from replicator.modes import Mode, Standing
from replicator.pgoutput import Keepalive
from replicator.progress import Batch, Progress, Snapshot
from replicator.run import Stopped
from replicator.runtime import Stop
from replicator.streaming import MOST_SILENT_S, SILENT_S, Streaming, next_patience

STANDING = Standing(mode=Mode.STREAM, since_ms=0)
SETTINGS = load(_env_file=None, source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")


class Memory:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.said: list[tuple[str, dict[str, Any], Batch]] = []

    def write(self, key: str, content: dict[str, Any], batch: Batch) -> None:
        self.said.append((key, content, batch))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def run(memory: Memory) -> Streaming:
    """It has delivered one transaction, which every snapshot sees."""
    run: Any = Streaming(SETTINGS, {}, Stop(), STANDING)
    run._progress = Progress(100)
    run._progress.committed(7, 110, 120)
    run._progress.seal()
    run._source = SimpleNamespace(sample=lambda: SimpleNamespace(snapshot=Snapshot(50, 50, frozenset())))
    run._tenure = SimpleNamespace(memory=memory)
    run._control = SimpleNamespace(next_offset=42)
    run._derivation = SimpleNamespace(hold=lambda: None)
    return run  # type: ignore[no-any-return]


def test_transactions_are_settled_also_while_kafka_keeps_a_confirmation_waiting(run: Streaming, memory: Memory) -> None:
    """They would be kept without end."""
    unanswered = Batch()
    unanswered.sent = 1
    run._confirming = (105, unanswered)
    run._confirm()
    assert run._progress.unsettled == ()
    assert memory.said == []


@pytest.mark.parametrize(("held", "expected"), [(None, 500), (110, 110)])
def test_an_idle_source_is_confirmed_also_while_a_key_is_owed(
    run: Any, memory: Memory, held: int | None, expected: int
) -> None:
    """One that can't be read may be owed for ever, and other databases go on writing WAL."""
    run._derivation = SimpleNamespace(hold=lambda: held, is_clean=False)
    run._capture = SimpleNamespace(between_transactions=True)
    run._course = SimpleNamespace(reach=lambda wal_end: None)
    run._confirm()
    run._confirming = None
    run._keepalive(None, Keepalive(wal_end=500, sent_us=0, reply_requested=False))
    run._confirm()
    assert memory.said[-1][1]["lsn"] == expected


def test_a_walsender_that_does_not_answer_is_left(run: Any) -> None:
    run._capture = SimpleNamespace(handle=None)
    replication = SimpleNamespace(silent_s=SILENT_S + 1, read=lambda: None)
    with pytest.raises(SourceSilent, match="has not answered for 61 s"):
        run._turn(replication)


def test_what_is_queued_leaves_once_nothing_more_has_arrived(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    run._publisher = SimpleNamespace(poll=lambda: None, hasten=lambda until: done.append(until()))
    run._calls = SimpleNamespace(serve=lambda: None, wake=None, is_waiting=lambda: "called")
    run._readers = ()
    replication = SimpleNamespace(silent_s=0.0, wait=lambda *_: done.append("wait"))
    monkeypatch.setattr(run, "_on_the_clock", lambda _: None)
    for arrived, expected in ((1, []), (0, ["called", "wait"])):
        monkeypatch.setattr(run, "_take_frames", lambda _, arrived=arrived: arrived)
        run._turn(replication)
        assert done == expected


def test_one_that_is_silent_again_and_again_is_waited_for_longer() -> None:
    """It may be busy with a transaction that every new one begins anew."""
    silent, away = SourceSilent(""), SourceUnavailable("")
    patience = next_patience(SILENT_S, silent, advanced=False)
    assert patience == 2 * SILENT_S
    assert next_patience(patience, away, advanced=False) == patience, "meanwhile the old one holds the slot"
    assert next_patience(MOST_SILENT_S, silent, advanced=False) == MOST_SILENT_S
    assert next_patience(patience, silent, advanced=True) == SILENT_S


def test_a_stop_while_kafka_is_waited_for_is_said_and_confirms_nothing(
    run: Streaming, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(metrics, "observe", lambda *_: None)
    run._publisher = SimpleNamespace(waiting=0, unreachable=False)  # type: ignore[assignment]
    run._capture = run._tenure.outlet = None  # type: ignore[assignment, misc]
    monkeypatch.setattr(run, "_describe", lambda: {"mode": "streaming"})
    monkeypatch.setattr(run, "_turn", turn)
    with pytest.raises(Stopped):
        run._take_turns(None)  # type: ignore[arg-type]
    assert [(key, content["stopped"]) for key, content, _ in memory.said] == [("status", True)]
