"""How a run begins: whatever cuts it short or comes between, the next one's events count."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from demo.servers import wait_until
from replicator import BackfillRequest, takeover, topics
from replicator.control import send
from replicator.errors import LogUnavailable, SourceBusy, SourceUnavailable
from replicator.event import BackfillMarker, Marker, Topics
from replicator.event import Run as EventRun
from replicator.memory import Content, Memory, Records, Remembered, read_memory
from replicator.modes import Mode, Standing
from replicator.outlet import Outlet
from replicator.progress import Batch
from replicator.publisher import Publisher
from replicator.runtime import Stop
from replicator.streaming import Streaming
from tests.integration.chatwoot import Source, add_message, differences, fill, wait_until_alike
from tests.integration.programs import RUN, settings_of, started
from tests.integration.replayed import Logged, Replayed

STREAMED = Standing(mode=Mode.STREAM, since_ms=0)


def run_here(environment: dict[str, str]) -> None:
    """One run in this process, until it fails."""
    settings = settings_of(environment)
    Streaming(settings, topics.kafka_base(settings), Stop(), STREAMED).serve()


def test_an_epoch_that_was_cut_short_makes_nobody_after_it_a_zombie(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "first") as first:
        wait_until_alike(replayed, source)
        assert first.stop() == 0
    source.execute("SELECT pg_drop_replication_slot(%s)", (environment["REPLICATOR_SLOT"],))

    def cut(memory: Memory, key: str, content: Content, batch: Batch) -> None:
        if key == "epoch":
            raise SourceUnavailable("cut short")
        write(memory, key, content, batch)

    with monkeypatch.context() as patched:
        write = Memory.write
        patched.setattr(Memory, "write", cut)
        with pytest.raises(SourceUnavailable, match="cut short"):
            run_here(environment)
    with started(RUN, environment, tmp_path / "second") as second:
        second.wait_healthy()
        (begun,) = second.logged("epoch.begins")
        assert "begun and not finished" in begun["reason"]
        add_message(source, 1, "after")
        wait_until_alike(replayed, source)
        assert replayed.zombies == []
        assert second.stop() == 0


def test_a_heartbeat_of_a_new_epoch_waits_for_its_backfill(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """What was deleted while nobody streamed is still there for everybody until it is swept."""
    fill(source, conversations=60, messages=2)
    with started(RUN, environment, tmp_path / "first") as first:
        wait_until_alike(replayed, source)
        assert first.stop() == 0
    source.execute("SELECT pg_drop_replication_slot(%s)", (environment["REPLICATOR_SLOT"],))
    source.execute("DELETE FROM messages WHERE conversation_id = 59")
    source.execute("UPDATE messages SET content = 'edited' WHERE conversation_id = 60")
    ((changed_ms,),) = source.execute("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000").fetchall()
    slowly = {"REPLICATOR_BACKFILL_ROWS_PER_SECOND": "60", "REPLICATOR_BACKFILL_CHUNK_ROWS": "20"}

    def told() -> set[int]:
        replayed.read()
        beats = replayed.markers("heartbeat")
        return {each.partition for each in beats if each.body["message"]["source_ms"] > changed_ms}

    with started(RUN, environment | slowly | {"REPLICATOR_HEARTBEAT_S": "0.2"}, tmp_path / "second") as second:
        wait_until(lambda: len(told()) == 6, "every partition was told that all is there", 60)
        assert differences(replayed, source) == []
        assert second.stop() == 0


def test_a_backfill_whose_begin_did_not_reach_the_log_begins_again(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state topic's broker may answer while that of a partition is away."""
    fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "first") as first:
        wait_until_alike(replayed, source)
        assert first.stop() == 0
    send(
        {"bootstrap.servers": kafka_bootstrap},
        Topics(topic_prefix),
        BackfillRequest(id="mine", tables=None, inboxes=None),
    )

    def cut(outlet: Outlet, marker: Marker, point: int, batch: Batch) -> None:
        if isinstance(marker, BackfillMarker):
            raise LogUnavailable("cut short")
        publish(outlet, marker, point, batch)

    with monkeypatch.context() as patched:
        publish = Outlet.marker
        patched.setattr(Outlet, "marker", cut)
        with pytest.raises(LogUnavailable, match="cut short"):
            run_here(environment)
    with started(RUN, environment, tmp_path / "second") as second:
        replayed.wait_for_end("mine")
        begun = [event.partition for event in replayed.markers("backfill", "begin") if id_of(event) == "mine"]
        assert sorted(begun) == list(range(6))
        assert second.stop() == 0


def id_of(marker: Logged) -> str:
    return str(marker.body["message"]["id"])


def test_what_an_earlier_run_writes_late_does_not_take_the_place_of_a_later_ones(
    environment: dict[str, str], source: Source, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Compaction keeps the last record of a key, whoever wrote it."""
    fill(source, conversations=6, messages=1)
    kafka, names = {"bootstrap.servers": kafka_bootstrap}, Topics(environment["REPLICATOR_TOPIC_PREFIX"])

    def zombie_writes(key: str) -> None:
        producer = Producer(kafka)
        newest = read_memory(kafka, names, 10).newest
        run = b"%d:%d" % (newest.epoch, newest.generation - 1)
        producer.produce(names.state, b"{}", key.encode(), partition=0, headers=[("run", run)])
        assert producer.flush(10) == 0

    def overruled() -> frozenset[str]:
        return read_memory(kafka, names, 10).overruled

    with started(RUN, environment, tmp_path / "first") as first:
        first.wait_healthy()
        for key in ("epoch", "owed/messages/[1]"):
            zombie_writes(key)
        wait_until(lambda: first.logged("state.written_again"), "the run has seen it", 30)
        wait_until(lambda: not overruled(), "it has the last word", 30)
        remembered = read_memory(kafka, names, 10).records
        assert remembered["epoch"]["slot"] == environment["REPLICATOR_SLOT"]
        assert "owed/messages/[1]" not in remembered
        assert first.stop() == 0
    zombie_writes("confirmed")
    assert overruled() == {"confirmed"}
    with started(RUN, environment, tmp_path / "second") as second:
        second.wait_healthy()
        assert not overruled()
        assert second.logged("epoch.begins") == [], "what it hid was still there to be read"
        assert second.stop() == 0
    zombie_writes("owed/messages/[2]")
    with started(RUN, environment, tmp_path / "third") as third:
        third.wait_healthy()
        assert "were overwritten by an earlier run" in third.logged("epoch.begins")[0]["reason"]
        assert third.stop() == 0


def test_a_run_that_lost_the_slot_while_it_began_writes_nothing(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It slept for longer than the source waits for an answer, and would begin a later epoch than its successor."""
    fill(source, conversations=6, messages=1)
    slot = environment["REPLICATOR_SLOT"]
    with ExitStack() as stack:

        def read_and_lose_the_slot(*arguments: Any) -> Remembered:
            found = read_memory(*arguments)
            source.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", (slot,)
            )
            stack.enter_context(started(RUN, environment, tmp_path / "successor")).wait_healthy()
            return found

        monkeypatch.setattr(takeover, "read_memory", read_and_lose_the_slot)
        with pytest.raises(SourceBusy, match="lost while the run began"):
            run_here(environment)
        add_message(source, 1, "after")
        wait_until_alike(replayed, source)
        assert replayed.zombies == []


def test_a_slot_that_was_read_under_another_setting_is_named_until_it_is_gone(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """Nobody reads it any more, and it keeps WAL for ever."""
    old = environment["REPLICATOR_SLOT"]
    renamed = {**environment, "REPLICATOR_SLOT": f"{old[-40:]}_renamed"}
    with started(RUN, environment, tmp_path / "first") as first:
        first.wait_healthy()
        assert first.stop() == 0
    for n in (1, 2):
        with started(RUN, renamed, tmp_path / f"renamed {n}") as second:
            second.wait_healthy()
            (warned,) = second.logged("slot.left_behind")
            assert warned["slot"] == old
            assert second.stop() == 0
    source.execute(warned["remedy"].encode())
    with started(RUN, renamed, tmp_path / "renamed 3") as second:
        second.wait_healthy()
        assert not second.logged("slot.left_behind")
        assert second.stop() == 0


def test_a_run_leaves_a_walsender_that_does_not_answer(
    environment: dict[str, str], source: Source, replayed: Replayed
) -> None:
    settings, stop = settings_of(environment), Stop()
    run = Streaming(settings, topics.kafka_base(settings), stop, STREAMED, patience_s=1.0)
    held = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active"
    with ThreadPoolExecutor(1) as pool, ExitStack() as frozen:
        frozen.callback(stop.ask)
        ended = pool.submit(run.serve)
        wait_until(lambda: run.status, "it streams", 30)
        ((pid,),) = source.execute(held, (settings.slot,)).fetchall()
        os.kill(pid, signal.SIGSTOP)
        frozen.callback(os.kill, pid, signal.SIGCONT)
        with pytest.raises(SourceUnavailable, match="has not answered for"):
            ended.result(30)


def test_a_run_gives_way_to_a_later_one_that_it_hears_of(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=6, messages=1)
    settings = settings_of(environment)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        replayed.wait_for_end()
        publisher = Publisher(topics.kafka_base(settings), settings.max_message_bytes, lambda: None)
        later = EventRun(replicator.status()["epoch"] + 1, 1)
        batch = Batch()
        memory = Memory(publisher, Topics(settings.topic_prefix), later, Records())
        memory.write("generation", {"generation": 1}, batch)
        publisher.wait_for(batch, 10)
        publisher.close(1)
        wait_until(lambda: replicator.logged("run.ended"), "it gives way", 30)
        assert "a later run" in replicator.logged("run.ended")[0]["reason"]
        replicator.wait_healthy()
        assert replicator.status()["epoch"] > later.epoch
        add_message(source, 1, "after")
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0
