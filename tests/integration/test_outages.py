"""The replicator, its source or Kafka is killed, away or frozen: nothing is lost, nothing goes back, all is said."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

from demo.servers import Servers, wait_until
from demo.servers.starting import free_port
from demo.source.installation import install
from tests.integration.chatwoot import Source, add_message, confirmed, connect, fill, wait_until_alike
from tests.integration.programs import RUN, make_topics, prepare_source, replicator_environment, started
from tests.integration.replayed import Logged, Replayed


def assert_in_order(replayed: Replayed) -> None:
    """Within a run and a partition streamed changes stand in the source's order, each once."""
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    for event in replayed.events:
        if event.head.is_read or event.head.op == "m":
            continue
        within = event.partition, event.head.generation
        place = event.head.position.point, event.head.position.ordinal
        assert newest.get(within, (0, 0)) < place, "out of order within a generation"
        newest[within] = place


def place(event: Logged) -> tuple[object, ...]:
    """What a repeated event must have in common with the first."""
    return event.partition, event.head.op, event.head.key, event.head.position


def test_killed_at_any_moment_nothing_is_lost_and_nothing_goes_back(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source)
    for attempt in range(4):
        with started(RUN, environment, tmp_path / f"log{attempt}") as replicator:
            if attempt:
                replicator.wait_healthy()
            for number in range(50):
                message = add_message(source, 1 + number, f"{attempt}.{number}")
                source.execute("UPDATE messages SET content = content || '!' WHERE id = %s", (message,))
            replicator.kill()
    with started(RUN, environment, tmp_path / "last"):
        wait_until_alike(replayed, source)
        assert_in_order(replayed)


def test_what_was_not_confirmed_is_published_again_under_the_same_positions(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source)
    for attempt in range(10):  # what is confirmed once a second may just come between the log and the kill
        with started(RUN, environment, tmp_path / f"first{attempt}") as first:
            first.wait_healthy()
            other, message = add_message(source, 1, "other"), add_message(source, 1, "draft")
            source.execute("UPDATE messages SET content = 'sent' WHERE id = %s", (message,))
            source.execute("UPDATE messages SET inbox_id = 1 + inbox_id %% 6 WHERE id = %s", (message,))
            source.execute("DELETE FROM messages WHERE id = %s", (other,))
            gone = partial(replayed.events_of, "messages", other, "d")
            replayed.wait_for("the last change", gone)
            first.kill()
        stretch = [event for op in "cdu" for event in replayed.events_of("messages", message, op)] + gone()
        if confirmed(source, environment["REPLICATOR_SLOT"]) <= stretch[0].head.position.point:
            break
    else:
        pytest.fail("every run had confirmed before it was killed")
    assert len(stretch) == 5
    with started(RUN, environment, tmp_path / "second") as second:
        replayed.wait_for("the stretch, again", lambda: len(gone()) > 1)
        wait_until_alike(replayed, source)
        again = [event for op in "cdu" for event in replayed.events_of("messages", message, op)] + gone()
        assert sorted(place(event) for event in again) == sorted([place(event) for event in stretch] * 2)
        assert_in_order(replayed)
        assert second.stop() == 0


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "crashed"])
def test_a_source_that_comes_back_is_waited_for(
    own_servers: Callable[..., Servers], kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, crash: bool
) -> None:
    server = own_servers(kafka=False, postgres=("source",)).source
    install(server.dsn)
    environment = replicator_environment(server.dsn, kafka_bootstrap, topic_prefix)
    prepare_source(environment)
    make_topics(environment)
    with closing(connect(server.dsn)) as source:
        fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        if crash:
            server.kill()
            wait_until(lambda: replicator.logged("run.ended"), "the log says what is waited for", 30)
            server.start()
        else:
            server.restart()
        with closing(connect(server.dsn)) as source, closing(Replayed(kafka_bootstrap, topic_prefix)) as replayed:
            add_message(source, 1, "after the restart")
            wait_until_alike(replayed, source)
            assert_in_order(replayed)
        assert replicator.logged("run.ended")
        replicator.wait_healthy()
        assert replicator.stop() == 0


@pytest.mark.soak
def test_kafka_away_for_longer_than_the_source_waits_for_an_answer(
    own_servers: Callable[..., Servers], topic_prefix: str, tmp_path: Path
) -> None:
    """The queue to Kafka is full, so nothing is read from the source; it must hear from us all the same."""
    patience_s = 10
    servers = own_servers(postgres=("source",), settings={"wal_sender_timeout": f"{patience_s}s"})
    dsn, broker = servers.source.dsn, servers.kafka
    install(dsn)
    environment = replicator_environment(dsn, broker.bootstrap, topic_prefix)
    prepare_source(environment)
    make_topics(environment)
    with closing(connect(dsn)) as source, started(RUN, environment, tmp_path / "log") as replicator:
        fill(source)
        with closing(Replayed(broker.bootstrap, topic_prefix)) as replayed:
            replayed.wait_for_end()
        broker.stop()
        ((away_since,),) = source.execute("SELECT clock_timestamp()").fetchall()
        # 80 MB of events; the queue holds 24 MB.
        source.execute(
            "INSERT INTO messages"
            " (account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at)"
            " SELECT 1, 1 + g % 6, 1, 0, repeat('text ', 4000), now(), now() FROM generate_series(1, 4000) g"
        )
        wait_until(lambda: replicator.logged("kafka.unreachable"), "the log says what is waited for", 30)

        def heard_for_long() -> bool:
            assert not replicator.logged("run.ended"), replicator.tail()
            found = source.execute(
                "SELECT wait_event = 'WalSenderWriteData' AND reply_time > %s + make_interval(secs => %s)"
                " FROM pg_stat_replication JOIN pg_stat_activity USING (pid)",
                (away_since, 2 * patience_s),
            ).fetchone()
            return found == (True,)

        wait_until(heard_for_long, "the source can't send any more, and still hears from us", 60)
        broker.start()
        with closing(Replayed(broker.bootstrap, topic_prefix)) as replayed:
            replayed.wait_for("every message", lambda: len(replayed.rows("messages")) == 4_120)
            wait_until_alike(replayed, source)
            assert_in_order(replayed)
        assert not replicator.logged("run.ended")
        broker.stop()
        wait_until(lambda: "Kafka" in replicator.status()["waits_for"], "it is not called healthy", 60)
        add_message(source, 1, "nobody takes this")
        assert replicator.stop() == 0, "a stop does not wait for Kafka"


def test_a_source_that_hangs_is_not_called_healthy_and_holds_up_no_stop(
    own_servers: Callable[..., Servers], kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    server = own_servers(kafka=False, postgres=("source",)).source
    install(server.dsn)
    environment = replicator_environment(server.dsn, kafka_bootstrap, topic_prefix)
    prepare_source(environment)
    with (
        closing(connect(server.dsn)) as source,
        started(RUN, environment, tmp_path / "log") as replicator,
        ExitStack() as stack,
    ):
        replicator.wait_healthy()
        for (pid,) in source.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND backend_type = 'client backend'",
            (environment["REPLICATOR_SLOT"],),
        ).fetchall():
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        wait_until(lambda: "no turn" in replicator.status()["waits_for"], "the reason is said", 30)
        assert replicator.status()["healthy"] is False
        assert replicator.stop() == 1  # in time, though not in good order
        assert replicator.logged("stop.forced")


@pytest.mark.parametrize("wrong", ["password", "database"])
def test_a_login_that_can_never_succeed_stops_with_advice(
    environment: dict[str, str], source: Source, tmp_path: Path, wrong: str
) -> None:
    info = source.info
    dsn = info.dsn + f" password={info.password}"
    broken = {"password": {"password": "s3cr3t"}, "database": {"dbname": "no_such_database"}}[wrong]
    environment |= {"REPLICATOR_SOURCE_DSN": psycopg.conninfo.make_conninfo(dsn, **broken)}
    with started(RUN, environment, tmp_path / "log") as replicator:
        assert replicator.wait(30) == 1
    said = replicator.log.read_text()
    assert "failed" in said
    assert "replicator check" in said
    assert "Traceback" not in said
    assert "s3cr3t" not in said
    assert info.password not in said


def test_a_frozen_replicator_that_wakes_up_is_a_zombie_whose_events_are_told_apart(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "first") as first:
        first.wait_healthy()
        message = add_message(source, 1, "before")
        replayed.wait_for("the stream", lambda: message in replayed.rows("messages"))
        first.send(signal.SIGSTOP)
        add_message(source, 1, "while frozen")
        ((pid,),) = source.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (environment["REPLICATOR_SLOT"],)
        ).fetchall()
        source.execute("SELECT pg_terminate_backend(%s)", (pid,))  # what wal_sender_timeout does a minute later
        with started(RUN, environment, tmp_path / "second") as second:
            second.wait_healthy()
            first.send(signal.SIGCONT)
            wait_until(lambda: first.logged("run.ended"), "the zombie has lost its slot", 30)
            add_message(source, 1, "after")
            wait_until_alike(replayed, source)
            assert_in_order(replayed)
            assert second.running


def test_a_stop_does_not_wait_for_a_kafka_that_was_never_there(environment: dict[str, str], tmp_path: Path) -> None:
    environment |= {"REPLICATOR_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    with started(RUN, environment, tmp_path / "log") as replicator:
        wait_until(lambda: replicator.logged("replicator.starts"), "it starts", 30)
        code = replicator.stop()  # in time
        assert code == (1 if replicator.logged("stop.forced") else 0)
