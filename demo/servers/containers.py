"""PostgreSQL and Kafka as containers, through testcontainers, whose own reaper removes them if we cannot.

The host's ports are fixed when a container is made, so that a server keeps its address over stop and start.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import docker
import psycopg
import requests
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from demo.servers.kafka import KafkaServer, has_broker
from demo.servers.postgres import SETTINGS, PostgresServer
from demo.servers.starting import ServersUnavailable, free_port, wait_until

POSTGRES_IMAGE = "postgres:18"
KAFKA_IMAGE = "apache/kafka:4.1.0"
PING_SECONDS = 1.5
START_SECONDS = 90.0
STOP_SECONDS = 20
Server = TypeVar("Server", bound="_Stoppable")
# Settings of local processes that make no sense inside a container.
OUTSIDE_ONLY = {"listen_addresses", "unix_socket_directories"}


def daemon_answers() -> bool:
    """Whether a Docker daemon answers, in well under two seconds."""
    try:
        return bool(docker.from_env(timeout=PING_SECONDS).ping())
    except (docker.errors.DockerException, requests.RequestException):
        return False


class _Stoppable:
    """Starting and stopping a container; `_answers` says when the server in it is there."""

    log: Path | None = None
    _container: DockerContainer

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        wait_until(self._answers, f"{type(self).__name__} answers", START_SECONDS)

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=STOP_SECONDS)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def freeze(self) -> None:
        self._container.get_wrapped_container().pause()

    def thaw(self) -> None:
        self._container.get_wrapped_container().unpause()

    def log_text(self) -> str:
        return self._container.get_wrapped_container().logs().decode(errors="replace")

    def _answers(self) -> bool:
        raise NotImplementedError


class ContainerPostgres(_Stoppable, PostgresServer):
    """PostgreSQL in a container."""

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        port, password = free_port(), secrets.token_hex(16)
        chosen = {key: value for key, value in SETTINGS.items() if key not in OUTSIDE_ONLY}
        chosen |= {"cluster_name": name, **settings}
        self._container = (
            DockerContainer(POSTGRES_IMAGE)
            .with_env("POSTGRES_PASSWORD", password)
            .with_command(["postgres", *(word for key, value in chosen.items() for word in ("-c", f"{key}={value}"))])
        )
        host = _publish(self._container, 5432, port)
        self._container.start()
        self.dsn = f"postgresql://postgres:{password}@{host}:{port}/postgres"
        wait_until(self._answers, f"PostgreSQL in a container answers on port {port}", START_SECONDS)
        super().__init__(self.dsn)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True


class ContainerKafka(_Stoppable, KafkaServer):
    """Kafka in a container: one KRaft node."""

    def __init__(self) -> None:
        port = free_port()
        container = DockerContainer(KAFKA_IMAGE)
        host = _publish(container, port, port)
        for key, value in _kafka_settings(host, port).items():
            container = container.with_env(key, value)
        self._container = container.start()
        super().__init__(f"{host}:{port}")
        wait_until(self._answers, f"Kafka in a container answers on port {port}", START_SECONDS)

    def _answers(self) -> bool:
        return has_broker(self.bootstrap)


def _publish(container: DockerContainer, inside: int, outside: int) -> str:
    """Bind a port of the container to the host's loopback, if the daemon runs on this host; the host to connect to."""
    host = DockerClient().host()
    if host != "localhost":
        container.ports[str(inside)] = outside
        return host
    container.ports[str(inside)] = ("127.0.0.1", outside)  # type: ignore[assignment]  # as docker.py takes it
    return "127.0.0.1"


def _kafka_settings(host: str, port: int) -> dict[str, str]:
    one_copy = ("OFFSETS_TOPIC_REPLICATION_FACTOR", "TRANSACTION_STATE_LOG_REPLICATION_FACTOR")
    return {
        "KAFKA_HEAP_OPTS": "-Xmx512m",
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:19093",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:19093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{host}:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "8",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        **{f"KAFKA_{name}": "1" for name in one_copy},
    }


@contextmanager
def containers(
    kafka: bool, postgres: Sequence[str], settings: Mapping[str, str]
) -> Iterator[tuple[dict[str, PostgresServer], KafkaServer | None]]:
    """The servers, started at the same time, removed at the end."""
    with ExitStack() as started:
        with ThreadPoolExecutor() as pool:
            wanted = {
                name: pool.submit(_begin, started, partial(ContainerPostgres, name, settings)) for name in postgres
            }
            broker = pool.submit(_begin, started, ContainerKafka) if kafka else None
        yield {name: future.result() for name, future in wanted.items()}, broker.result() if broker else None


def _begin(started: ExitStack, make: Callable[[], Server]) -> Server:
    try:
        server = make()
    except (docker.errors.DockerException, requests.RequestException) as error:
        reason = str(error).splitlines()[0]
        raise ServersUnavailable(f"Docker cannot start servers ({reason}); try INBOX_TEST_SERVERS=local") from error
    started.callback(server._container.stop)
    return server
