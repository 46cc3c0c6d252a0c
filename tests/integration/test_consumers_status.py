"""`consumers status` against a real target and a real Kafka, and without Kafka."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported silently
from rich.console import Console

from consumers import lag
from consumers.config import Settings
from consumers.status import Status, gather, render
from demo.servers import wait_until
from replicator import Topics, partition_of
from tests.integration.targets import Target

PARTITIONS = 4
INBOX = 61


@pytest.fixture
def target(ready_target: Target) -> Target:
    """Tenant 1 with inbox 61, not backfilled yet, one stub, and the pool's progress in every partition."""
    ready_target.execute(
        "INSERT INTO tenants (id, name, slug) VALUES (1, 'One', 'one'), (2, 'No inbox', 'two');"
        f"INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES ({INBOX}, 1);"
        "INSERT INTO unmapped_inboxes (inbox_id, events) VALUES (62, 7);"
        "INSERT INTO contacts (tenant_id, id) VALUES (1, 5);"
        "INSERT INTO replication_progress (pool, topic_id, partition, next_offset, source_at, read_at)"
        f" SELECT 'default', 't', n, 0, now(), now() FROM generate_series(0, {PARTITIONS - 1}) n"
    )
    return ready_target


@pytest.fixture
def changes(kafka_bootstrap: str, topic_prefix: str) -> str:
    """The changes topic with ten messages in the inbox's partition; its prefix."""
    topic = Topics(topic_prefix).changes
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS)])[topic].result(30)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for _ in range(10):
        producer.produce(topic, b"x", partition=partition_of(INBOX, PARTITIONS))
    assert producer.flush(30) == 0
    return topic_prefix


def answered(settings: Settings) -> Status:
    """What is shown once Kafka answers: a loaded one may take longer than somebody at a screen waits."""
    found: list[Status] = []

    def is_answered() -> bool:
        found.append(gather(settings))
        return not any("does not answer" in fault for fault in found[-1].faults)

    wait_until(is_answered, "Kafka answers", 60)
    return found[-1]


def test_a_tenants_lag_is_what_its_partitions_still_hold(target: Target, kafka_bootstrap: str, changes: str) -> None:
    settings = target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=changes)
    (tenant,) = answered(settings).tenants
    partition = partition_of(INBOX, PARTITIONS)
    assert (tenant.tenant_id, tenant.partitions, tenant.lag) == (1, (partition,), 10)
    assert (tenant.stubs, tenant.backfilling) == (1, (INBOX,))
    assert tenant.freshness.fresh_at is not None
    target.execute("UPDATE replication_progress SET next_offset = 8 WHERE partition = %s", partition)
    assert answered(settings).tenants[0].lag == 2
    assert answered(settings).is_well


@pytest.mark.parametrize("read_at", ["now() - interval '40 s'", "NULL"])
def test_events_that_nobody_reads_are_a_fault(target: Target, kafka_bootstrap: str, changes: str, read_at: str) -> None:
    """Where nothing is to be read, nobody has to."""
    settings = target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=changes)
    target.execute(f"UPDATE replication_progress SET read_at = {read_at}")
    partition = partition_of(INBOX, PARTITIONS)
    found = answered(settings)
    (fault,) = found.faults
    assert fault.startswith(f"no reader for 30 s, though events wait, in partition {partition}:")
    assert not found.is_well
    target.execute("UPDATE replication_progress SET next_offset = 10 WHERE partition = %s", partition)
    assert answered(settings).is_well


def test_a_parked_tenant_is_shown_with_its_own_lag_and_advice(
    target: Target, kafka_bootstrap: str, changes: str
) -> None:
    partition = partition_of(INBOX, PARTITIONS)
    target.execute(f"UPDATE replication_progress SET next_offset = 10 WHERE partition = {partition}")
    target.execute(
        "INSERT INTO replication_parked (tenant_id, pool, topic_id, partition, from_offset, error, advice)"
        f" VALUES (1, 'default', 't', {partition}, 3, 'column too narrow', 'Widen it.')"
    )
    found = answered(target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=changes))
    assert found.tenants[0].lag == 7
    assert [stuck.advice for stuck in found.tenants[0].parked] == ["Widen it."]
    assert not found.is_well


@pytest.mark.parametrize(("tries", "is_well"), [(1, True), (2, False)])
def test_who_has_just_stood_aside_for_a_lock_needs_nobody(
    target: Target, kafka_bootstrap: str, changes: str, tries: int, is_well: bool
) -> None:
    partition = partition_of(INBOX, PARTITIONS)
    target.execute(f"UPDATE replication_progress SET next_offset = 10 WHERE partition = {partition}")
    target.execute(
        "INSERT INTO replication_parked (tenant_id, pool, topic_id, partition, from_offset, error_class, tries)"
        f" VALUES (1, 'default', 't', {partition}, 3, '55P03', {tries})"
    )
    found = answered(target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=changes))
    assert found.is_well is is_well


def test_a_worker_that_goes_on_meanwhile_is_not_beyond_the_log(
    target: Target, kafka_bootstrap: str, changes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=changes)
    answered(settings)

    ends = lag.ends

    def ends_of_a_log_that_grows(settings: Settings) -> dict[int, int]:
        found = ends(settings)
        target.execute("UPDATE replication_progress SET next_offset = 12")
        return found

    monkeypatch.setattr(lag, "ends", ends_of_a_log_that_grows)
    assert gather(settings).tenants[0].lag == 10


def test_an_offset_beyond_the_log_is_no_negative_lag(target: Target, kafka_bootstrap: str, changes: str) -> None:
    target.execute("UPDATE replication_progress SET next_offset = 99")
    found = answered(target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=changes))
    assert found.tenants[0].lag is None
    assert "made anew" in found.faults[0]


def test_a_missing_topic_is_said(target: Target, kafka_bootstrap: str, topic_prefix: str) -> None:
    found = answered(target.settings(kafka_bootstrap_servers=kafka_bootstrap, topic_prefix=topic_prefix))
    assert "has no topic" in found.faults[0]


def test_without_kafka_the_rest_is_shown_soon(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "status", "--json"],
        env={**os.environ, **target.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert time.monotonic() - begin < 20
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert "Kafka does not answer" in found["faults"][0]
    assert found["tenants"][0]["lag"] is None
    assert found["tenants"][0]["stubs"] == 1
    assert [inbox["inbox_id"] for inbox in found["unmapped"]] == [62]
    monkeypatch.setattr("consumers.lag._SECONDS", 0.1)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(render(gather(target.settings())))
    assert "Kafka does not answer" in shown.get()
