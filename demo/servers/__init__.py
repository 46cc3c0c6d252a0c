"""The one place where the demo and the tests get their PostgreSQL servers and their Kafka.

In this order: addresses given in the environment (`INBOX_TEST_<NAME>_DSN` for each PostgreSQL, `INBOX_TEST_KAFKA`);
containers, if a Docker daemon answers; local processes. `INBOX_TEST_SERVERS` = `docker` or `local` forces one of the
last two, `INBOX_TEST_POSTGRES_BIN` names the programs of another PostgreSQL for local processes. Everything that is
started here is gone when the context ends, and also when this process is interrupted, crashes or is killed
(`demo.servers.guardian`; for containers testcontainers' own reaper). Servers that cannot be had raise
`ServersUnavailable` with one line for the user.

`python -m demo.servers` starts them and prints the environment variables that hand them to other programs.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.servers.guardian import GuardedFolder
from demo.servers.kafka import KafkaServer, LocalKafka, kafka_jars
from demo.servers.postgres import LocalPostgres, PostgresServer, postgres_binaries, unprivileged_user
from demo.servers.starting import ServersUnavailable, wait_until

__all__ = [
    "KafkaServer",
    "PostgresServer",
    "Servers",
    "ServersUnavailable",
    "server_folder",
    "servers",
    "wait_until",
]

KAFKA_VARIABLE = "INBOX_TEST_KAFKA"
NO_SETTINGS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What was asked for, running."""

    postgres: Mapping[str, PostgresServer]
    broker: KafkaServer | None

    @property
    def source(self) -> PostgresServer:
        """The PostgreSQL that plays Chatwoot's."""
        return self.postgres["source"]

    @property
    def target(self) -> PostgresServer:
        """The PostgreSQL that plays the analytics database."""
        return self.postgres["target"]

    @property
    def kafka(self) -> KafkaServer:
        """The broker; KeyError if none was asked for."""
        if self.broker is None:
            raise KeyError("these servers were asked for without Kafka")
        return self.broker

    def environment(self) -> dict[str, str]:
        """The variables by which `servers()` in another process finds these very servers."""
        addresses = {dsn_variable(name): server.dsn for name, server in self.postgres.items()}
        return addresses if self.broker is None else {**addresses, KAFKA_VARIABLE: self.broker.bootstrap}


@contextmanager
def servers(
    *,
    kafka: bool = True,
    postgres: Sequence[str] = ("source", "target"),
    postgres_bin: Path | None = None,
    settings: Mapping[str, str] = NO_SETTINGS,
    own: bool = False,
    brief: bool = False,
    folder: GuardedFolder | None = None,
) -> Iterator[Servers]:
    """The servers, all started at the same time.

    `postgres_bin` and `settings` (PostgreSQL parameters over ours) hold for servers that are started here, and so does
    `brief`: what runs for some minutes under little load is to cost little, not to be fast; its files lie in memory if
    there is plenty. `own` passes over given addresses: for whoever wants to stop, freeze or kill them. Local processes
    live and end with `folder` if one is given (`server_folder()`), else with this context.
    """
    given = None if own else _given(kafka, postgres)
    if given is not None:
        yield given
    elif _use_docker():
        from demo.servers.containers import containers

        with containers(kafka, postgres, settings) as (databases, broker):
            yield Servers(postgres=databases, broker=broker)
    elif folder is not None:
        yield _processes(folder, kafka, postgres, postgres_bin, settings, brief)
    else:
        folder = server_folder(in_memory=brief)
        try:
            yield _processes(folder, kafka, postgres, postgres_bin, settings, brief)
        finally:
            folder.close()


def server_folder(*, in_memory: bool = False) -> GuardedFolder:
    """A folder that local servers can live in."""
    return GuardedFolder(open_to_others=unprivileged_user() is not None, in_memory=in_memory)


def dsn_variable(name: str) -> str:
    """The environment variable that gives the address of the PostgreSQL of this name."""
    return f"INBOX_TEST_{name.upper()}_DSN"


def _given(kafka: bool, postgres: Sequence[str]) -> Servers | None:
    """Servers given by their addresses; None if none is given, an error if only some are."""
    wanted = [*map(dsn_variable, postgres), *([KAFKA_VARIABLE] if kafka else [])]
    missing = [variable for variable in wanted if not os.environ.get(variable)]
    if missing == wanted:
        return None
    if missing:
        raise ServersUnavailable(f"some servers are given in the environment, but not {', '.join(missing)}")
    databases = {name: PostgresServer(os.environ[dsn_variable(name)]) for name in postgres}
    return Servers(postgres=databases, broker=KafkaServer(os.environ[KAFKA_VARIABLE]) if kafka else None)


def _use_docker() -> bool:
    forced = os.environ.get("INBOX_TEST_SERVERS")
    if forced not in (None, "", "docker", "local"):
        raise ServersUnavailable(f"INBOX_TEST_SERVERS is {forced!r}; it may be docker or local")
    if forced == "local":
        return False
    from demo.servers.containers import daemon_answers

    return forced == "docker" or daemon_answers()


def _processes(
    folder: GuardedFolder,
    kafka: bool,
    postgres: Sequence[str],
    postgres_bin: Path | None,
    settings: Mapping[str, str],
    brief: bool,
) -> Servers:
    named = os.environ.get("INBOX_TEST_POSTGRES_BIN")
    jars = kafka_jars(folder) if kafka else None
    programs = postgres_binaries(folder, postgres_bin or (Path(named) if named else None))
    with ThreadPoolExecutor() as pool:
        databases = {n: pool.submit(LocalPostgres, folder, n, programs, settings) for n in postgres}
        broker = None if jars is None else pool.submit(LocalKafka, folder, jars, brief=brief)
    return Servers(
        postgres={name: started.result() for name, started in databases.items()},
        broker=None if broker is None else broker.result(),
    )
