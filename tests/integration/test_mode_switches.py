"""From the stream into polling and back, by whatever makes the one give way: source and target are equal after each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from demo.servers import Servers, wait_until
from demo.servers.postgres import LocalPostgres
from demo.source.installation import install
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.chatwoot import Source, add_message, connect, fill, role, wait_until_alike
from tests.integration.polled import FAST, SEES_ALL, TABLES, wait_all
from tests.integration.programs import (
    RUN,
    Program,
    make_topics,
    prepare_source,
    replicator_environment,
    settings_of,
    started,
)
from tests.integration.replayed import Replayed
from tests.integration.whole import Whole

AUTO = FAST | TABLES | {"REPLICATOR_MODE": "auto", "REPLICATOR_STREAM_RETRY_S": "0.2"}
MEGABYTE = 1 << 20
SWITCH_S = 60.0


def wait_mode(program: Program, mode: str, switches: int, because: str = "") -> None:
    """Polling may be over by the time of a look: that it was chosen is enough."""

    def is_reached() -> bool:
        assert program.running, program.tail()
        chosen = [line for line in program.logged("mode.chosen") if line["switches"] == switches]
        if not chosen or chosen[-1]["mode"] != mode or because not in chosen[-1].get("why", ""):
            return False
        status = program.status()
        return mode == "polling" or bool(status.get("mode_switches") == switches and status["healthy"])

    try:
        wait_until(is_reached, f"{mode}, after {switches} switches", SWITCH_S)
    except TimeoutError:
        status = program.status()
        said = {name: status.get(name) for name in ("mode", "mode_switches", "mode_because", "healthy", "waits_for")}
        raise AssertionError(f"not {mode} after {switches} switches, but {said}") from None


def fill_wal(source: Source, segments: int) -> None:
    """Of nothing that would be sent to anybody, 16 MB each."""
    for _ in range(segments):
        source.execute("SELECT pg_logical_emit_message(false, 'filler', 'x')")
        source.execute("SELECT pg_switch_wal()")


def end_walsender(source: Source, slot: str) -> None:
    source.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", (slot,))


def drop_slot(source: Source, slot: str) -> None:
    """Under a replicator that reads it."""

    def is_gone() -> bool:
        end_walsender(source, slot)
        source.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
            (slot,),
        )
        return not source.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s", (slot,)).fetchall()

    wait_until(is_gone, "the slot dropped", SWITCH_S)


def test_five_switches_in_a_row_under_traffic(path: Whole) -> None:
    """The slot is dropped, comes back, the right is taken, given, and the slot is dropped once more."""
    seeded = seed(path.source_dsn, conversations=200, messages_per_conversation=3)
    path.map(seeded.inboxes)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    slot = path.replicator_environment["REPLICATOR_SLOT"]
    with (
        closing(connect(path.source_dsn)) as source,
        role(source, path.source_dsn, "ALTER ROLE {role} REPLICATION", *SEES_ALL) as dsn,
    ):
        name = dsn.partition("user=")[2].partition(" ")[0]
        replicator = path.replicator(**AUTO, REPLICATOR_SOURCE_DSN=dsn)
        path.worker()
        replicator.wait_healthy()
        with Traffic(path.source_dsn, inboxes=inboxes, rate=100, writers=2) as traffic:

            def pass_by(rows: int) -> None:
                until = traffic.counts.rows + rows
                wait_until(lambda: traffic.counts.rows >= until, "some traffic", SWITCH_S)

            def settle() -> None:
                traffic.pause()
                path.wait_equal(90)
                traffic.resume()

            pass_by(50)
            drop_slot(source, slot)
            wait_mode(replicator, "polling", 1, "slot was lost")
            wait_mode(replicator, "streaming", 2)
            pass_by(50)
            source.execute(f"ALTER ROLE {name} NOREPLICATION".encode())
            end_walsender(source, slot)
            wait_mode(replicator, "polling", 3, "may not replicate")
            settle()
            source.execute(f"ALTER ROLE {name} REPLICATION".encode())
            wait_mode(replicator, "streaming", 4)
            settle()
            drop_slot(source, slot)
            wait_mode(replicator, "polling", 5, "slot was lost")
            pass_by(50)
        path.wait_equal(90)
        assert replicator.stop() == 0


def test_a_slot_that_somebody_drops_again_and_again_is_made_after_a_pause(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """Where nothing may be polled: else all would be read as a whole, again and again. Also over a start."""
    slot = environment["REPLICATOR_SLOT"]
    settings = environment | {"REPLICATOR_MODE": "stream", "REPLICATOR_STREAM_RETRY_S": "4"}
    fill(source, conversations=6, messages=1)
    with started(RUN, settings, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        for epochs in (2, 3):
            drop_slot(source, slot)
            wait_until(lambda: len(replicator.logged("epoch.begins")) == epochs, "streamed again", SWITCH_S)  # noqa: B023
        rested = [each for each in replicator.logged("run.ended") if "was lost; a new one is made in" in each["reason"]]
        assert rested, "the second time not at once"
        drop_slot(source, slot)
        assert replicator.stop() == 0
    with started(RUN, settings, tmp_path / "again") as replicator:
        wait_until(lambda: replicator.logged("run.ended"), "it rests", SWITCH_S)
        assert "was lost; a new one is made in" in replicator.logged("run.ended")[0]["reason"]
        wait_until(lambda: replicator.logged("epoch.begins"), "streamed again", SWITCH_S)
        replicator.wait_healthy()
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0


class Own(NamedTuple):
    """A server that a test may do as it likes with."""

    server: LocalPostgres
    source: Source
    replayed: Replayed
    environment: dict[str, str]


MakeOwn = Callable[..., AbstractContextManager[Own]]


@pytest.fixture
def own(own_servers: Callable[..., Servers], kafka_bootstrap: str, topic_prefix: str) -> MakeOwn:
    """`own(wal_level=…)` has these settings."""

    @contextmanager
    def made(**settings: str) -> Iterator[Own]:
        server = own_servers(kafka=False, postgres=("source",), settings=settings).source
        assert isinstance(server, LocalPostgres)
        install(server.dsn)
        environment = replicator_environment(server.dsn, kafka_bootstrap, topic_prefix) | AUTO
        prepare_source(environment)
        make_topics(environment)
        seed(server.dsn, conversations=60, messages_per_conversation=2)
        with closing(connect(server.dsn)) as source, closing(Replayed(kafka_bootstrap, topic_prefix)) as replayed:
            yield Own(server, source, replayed, environment)

    return made


def change(source: Source) -> None:
    """Something of each kind."""
    add_message(source, 3, "live")
    source.execute("UPDATE conversations SET status = 1, updated_at = now() AT TIME ZONE 'UTC' WHERE id = 5")
    source.execute("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages WHERE conversation_id = 7)")
    source.execute("UPDATE contacts SET name = name || '!' WHERE id = 2")
    source.execute("UPDATE conversations SET inbox_id = 1 + inbox_id % 6 WHERE id = 11")


@contextmanager
def frozen(program: Program) -> Iterator[None]:
    program.send(signal.SIGSTOP)
    try:
        yield
    finally:
        program.send(signal.SIGCONT)


def test_what_the_source_may_not_keep_is_given_up_and_all_is_read_again(own: MakeOwn, tmp_path: Path) -> None:
    """The server invalidates the slot; then our own budget is spent; then a run without any fault stays where it is."""
    limits = {"max_slot_wal_keep_size": "24MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}
    with own(**limits) as (server, source, replayed, settings):
        slot = settings["REPLICATOR_SLOT"]
        with started(RUN, settings, tmp_path / "log") as replicator:
            replicator.wait_healthy()
            wait_all(replayed, source)
            with frozen(replicator):
                change(source)

                def is_lost() -> bool:
                    fill_wal(source, 1)
                    source.execute("CHECKPOINT")
                    return source.execute(
                        "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (slot,)
                    ).fetchall() == [("lost",)]

                wait_until(is_lost, "the slot lost", SWITCH_S)
            wait_mode(replicator, "polling", 1, "slot was lost")
            change(source)
            wait_all(replayed, source)
            wait_mode(replicator, "streaming", 2)
            change(source)
            wait_all(replayed, source)
            assert replicator.stop() == 0
        budget = {"REPLICATOR_WAL_BUDGET_BYTES": str(2 * MEGABYTE)}
        with started(RUN, settings | budget, tmp_path / "log") as replicator:
            replicator.wait_healthy()
            with closing(connect(server.dsn)) as hanging:  # while it is open the slot can't move on
                hanging.autocommit = False
                hanging.execute("SELECT pg_logical_emit_message(true, 'hanging', 'x')")
                change(source)
                source.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 3 * 1024 * 1024))")
                wait_mode(replicator, "polling", 3, "REPLICATOR_WAL_BUDGET_BYTES")
            assert source.execute("SELECT FROM pg_replication_slots").fetchall() == []
            change(source)
            wait_all(replayed, source)
            wait_mode(replicator, "streaming", 4)
            change(source)
            wait_all(replayed, source)
            end_walsender(source, slot)
            wait_until(lambda: len(replicator.logged("run.begins")) >= 5, "one more run", SWITCH_S)
            wait_mode(replicator, "streaming", 4)
            assert replicator.stop() == 0


def test_a_source_whose_wal_level_is_raised_is_streamed_then(own: MakeOwn, tmp_path: Path) -> None:
    with (
        own(wal_level="replica") as (server, source, replayed, settings),
        started(RUN, settings, tmp_path / "log") as replicator,
    ):
        wait_mode(replicator, "polling", 0, "wal_level is not logical")
        change(source)
        wait_all(replayed, source)
        server._settings["wal_level"] = "logical"
        server.restart()
        wait_mode(replicator, "streaming", 1)
        with closing(connect(server.dsn)) as again:
            change(again)
            wait_all(replayed, again)
        assert replicator.stop() == 0


def test_a_source_that_lacks_what_streaming_needs_is_polled_on_where_it_was_polled(
    own: MakeOwn, tmp_path: Path
) -> None:
    """The right is given before anybody has run `setup`: what worked goes on."""
    with own() as (_, source, replayed, settings):
        source.execute(f"DROP PUBLICATION {settings_of(settings).publication}".encode())
        with role(source, settings["REPLICATOR_SOURCE_DSN"], *SEES_ALL) as dsn:
            name = dsn.partition("user=")[2].partition(" ")[0]
            with started(RUN, settings | {"REPLICATOR_SOURCE_DSN": dsn}, tmp_path / "log") as replicator:
                wait_mode(replicator, "polling", 0, "may not replicate")
                wait_all(replayed, source)
                source.execute(f"ALTER ROLE {name} REPLICATION".encode())
                wait_until(lambda: replicator.logged("run.ended"), "the stream is tried", SWITCH_S)
                wait_mode(replicator, "polling", 0)
                change(source)
                wait_all(replayed, source)
                prepare_source(settings)
                wait_mode(replicator, "streaming", 1)
                change(source)
                wait_all(replayed, source)
                assert replicator.stop() == 0
