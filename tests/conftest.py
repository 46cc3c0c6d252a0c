"""The servers of the tests, started once for the whole run, and fresh databases and topics for each test.

The session that collects (under xdist: the controller, before it starts its workers) starts the servers and puts
their addresses into the environment, where `demo.servers` finds them again in every worker. A run of unit tests alone
starts nothing. Servers that a test stops, freezes or kills must be its own: `own_servers`.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from demo.servers import PostgresServer, Servers, ServersUnavailable, wait_until
from demo.servers import servers as start_servers
from demo.source.installation import SCHEMA, install
from tests.server_settings import QUICK

UNIT = Path(__file__).parent / "unit"
TOPIC_SECONDS = 30.0
TEMPLATE_LOCK = 7_413_905  # an arbitrary number: workers make the template database one after another
_started = ExitStack()


@pytest.hookimpl(tryfirst=True)  # before xdist starts its workers, which inherit the environment
def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly or _only_unit_tests(config):
        return
    try:
        running = _started.enter_context(start_servers(settings=QUICK, brief=True))
    except ServersUnavailable as error:
        pytest.exit(str(error), returncode=1)
    os.environ.update(running.environment())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    _started.close()


def _only_unit_tests(config: pytest.Config) -> bool:
    paths = [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in config.args]
    return all(path == UNIT or UNIT in path.parents for path in paths)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The shared servers. Nobody may stop them."""
    with start_servers(settings=QUICK) as running:
        yield running


@pytest.fixture
def own_servers() -> Iterator[Callable[..., Servers]]:
    """`own_servers(kafka=…, postgres=(…), settings=…)` starts servers that this test may stop, freeze and kill."""
    with ExitStack() as stack:
        yield lambda **wanted: stack.enter_context(
            start_servers(own=True, brief=True, **{**wanted, "settings": {**QUICK, **wanted.get("settings", {})}})
        )


@pytest.fixture
def source_template(chatwoot_template: str) -> str:
    """What `source_dsn` is a copy of."""
    return chatwoot_template


@pytest.fixture
def source_dsn(servers: Servers, source_template: str) -> Iterator[str]:
    """A fresh database with Chatwoot's schema; dropped afterwards with its replication slots."""
    name = f"source_{uuid.uuid4().hex[:12]}"
    yield servers.source.create_database(name, template=source_template)
    servers.source.drop_database(name)


@pytest.fixture
def target_dsn(servers: Servers) -> Iterator[str]:
    """A fresh empty database on the target's server."""
    name = f"target_{uuid.uuid4().hex[:12]}"
    yield servers.target.create_database(name)
    servers.target.drop_database(name)


@pytest.fixture(scope="session")
def chatwoot_template(servers: Servers) -> str:
    """The name of a database with Chatwoot's schema, to be copied."""
    name = f"chatwoot_{hashlib.sha256(SCHEMA.read_bytes()).hexdigest()[:12]}"
    with psycopg.connect(servers.source.dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [TEMPLATE_LOCK])
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            _make_template(servers.source, name)
    return name


def _make_template(server: PostgresServer, name: str) -> None:
    draft = f"{name}_draft"  # renamed when complete, so that a crash leaves no half-made template
    server.drop_database(draft)
    install(server.create_database(draft))
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {draft} RENAME TO {name}")


@pytest.fixture
def kafka_bootstrap(servers: Servers) -> str:
    """The broker's address."""
    return servers.kafka.bootstrap


@pytest.fixture
def topic_prefix(kafka_bootstrap: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix that no other test uses; topics whose names begin with it are deleted afterwards."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40]
    prefix = f"{readable}-{uuid.uuid4().hex[:8]}"
    yield prefix
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    ours = [name for name in admin.list_topics(timeout=TOPIC_SECONDS).topics if name.startswith(prefix)]
    if ours:
        for deleted in admin.delete_topics(ours, operation_timeout=TOPIC_SECONDS).values():
            wait_until(deleted.done, "topics deleted", TOPIC_SECONDS)
            deleted.result()
