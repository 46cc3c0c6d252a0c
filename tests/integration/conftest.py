"""Prepared sources, topics and targets, and the whole path, for tests that do not prepare their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from demo.servers import Servers
from tests.integration.applied import Applied, applied_to
from tests.integration.chatwoot import Source, connect
from tests.integration.programs import be_prepared, make_topics, prepare_source, replicator_environment
from tests.integration.replayed import Replayed
from tests.integration.sorted_out import prepared_target
from tests.integration.targets import Target, copy_of, target_of
from tests.integration.whole import Whole, whole


@pytest.fixture(scope="session")
def prepared_template(servers: Servers, chatwoot_template: str) -> Iterator[str]:
    """The name of a source that has all that streaming needs, to be copied."""
    name = f"prepared_{uuid.uuid4().hex[:12]}"
    dsn = servers.source.create_database(name, template=chatwoot_template)
    prepare_source(replicator_environment(dsn, "127.0.0.1:1", name))
    yield name
    servers.source.drop_database(name)


@pytest.fixture(scope="session")
def prepared(servers: Servers) -> Iterator[Target]:
    """A target that is set up, to be copied by `applied`."""
    with prepared_target(servers) as target:
        yield target


@pytest.fixture
def source_template(request: pytest.FixtureRequest, chatwoot_template: str) -> str:
    """Prepared once for all tests whose source these fixtures would prepare."""
    if {"environment", "path"}.isdisjoint(request.fixturenames):
        return chatwoot_template
    template: str = request.getfixturevalue("prepared_template")
    return template


@pytest.fixture
def environment(source_dsn: str, kafka_bootstrap: str, topic_prefix: str) -> dict[str, str]:
    """The settings of a replicator whose source has all that streaming needs."""
    environment = replicator_environment(source_dsn, kafka_bootstrap, topic_prefix)
    be_prepared(environment)
    return environment


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    """A session on the source."""
    with closing(connect(source_dsn)) as connection:
        yield connection


@pytest.fixture
def replayed(kafka_bootstrap: str, topic_prefix: str, environment: dict[str, str]) -> Iterator[Replayed]:
    """The changes topic, which is there before the first replicator."""
    make_topics(environment)
    with closing(Replayed(kafka_bootstrap, topic_prefix)) as log:
        yield log


@pytest.fixture(scope="session")
def target_template(servers: Servers) -> Iterator[Target]:
    """A target after setup, to be copied; it knows nothing of Kafka."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    with target_of(servers.target.create_database(name)) as made:
        made.apply()
        yield made
    servers.target.drop_database(name)


@pytest.fixture
def ready_target(servers: Servers, target_template: Target) -> Iterator[Target]:
    """A target after setup that is this test's own."""
    with copy_of(target_template, servers.target) as target:
        yield target


@pytest.fixture
def two_tenants(ready_target: Target) -> Target:
    """Tenants 1 and 2, whose inboxes 11 and 22 are backfilled."""
    for tenant in (1, 2):
        ready_target.execute("INSERT INTO tenants (id, name, slug) VALUES (%s, 'T', %s)", tenant, f"t{tenant}")
        ready_target.execute(
            "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", tenant * 11, tenant
        )
    ready_target.execute("UPDATE inbox_tenant_mapping SET backfill_id = 'b', backfilled_at = now()")
    return ready_target


@pytest.fixture
def path(
    source_dsn: str,
    ready_target: Target,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Whole]:
    """Source, topics and target; no program runs yet. What the programs logged is shown when the test fails."""
    failed_before = request.session.testsfailed
    with whole(source_dsn, ready_target, kafka_bootstrap, topic_prefix, tmp_path) as made:
        yield made
        if request.session.testsfailed > failed_before:
            made.show_logs()


@pytest.fixture(scope="module")
def applied_target(servers: Servers) -> Iterator[Applied]:
    """A target of a module's own, to which events are applied directly."""
    name = f"target_{uuid.uuid4().hex[:12]}"
    with applied_to(servers.target.create_database(name)) as applied:
        yield applied
    servers.target.drop_database(name)


@pytest.fixture
def applied(applied_target: Applied) -> Iterator[Applied]:
    """The same, without tenants at first."""
    yield applied_target
    applied_target.forget_tenants()
