"""A log that lacks what comes next: reading starts at what there is, and nothing that was known drops what comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg import Connection

from consumers.ledger import Ledger
from consumers.parking import park
from consumers.reasons import Reason
from consumers.target_session import open_session
from consumers.watermark import Mark, Progress, start_progress
from replicator import Position, Run
from tests.integration.targets import Target

POOL = "default"
TOPIC = "topic"
STUCK = Reason(kind="22003", says="a row of messages: it does not fit", advice="Widen it.")
APPLIED = Position(3, 900, 1)


class Shape:
    """Of the topic as it is now."""

    topic_id = TOPIC
    partitions = 1


@pytest.fixture
def target(two_tenants: Target) -> Target:
    return two_tenants


@pytest.fixture
def session(target: Target) -> Iterator[Connection[Any]]:
    """Of a worker that has read up to offset 5000."""
    with closing(open_session(target.settings(), "worker control")) as session:
        start_progress(session, POOL, 0, Progress(TOPIC, 5000))
        yield session


def opened(session: Connection[Any], low: int, high: int) -> Ledger:
    ledger = Ledger(POOL)
    assert ledger.open(session, Shape(), [0], lambda _: (low, high)) == {0: low}
    return ledger


def incomplete(target: Target) -> list[int]:
    """Inboxes that are to be backfilled."""
    return [inbox for (inbox,) in target.rows("SELECT inbox_id FROM inbox_tenant_mapping WHERE backfilled_at IS NULL")]


def test_a_log_that_lost_its_end_is_read_again_from_its_start(target: Target, session: Connection[Any]) -> None:
    target.execute(
        "INSERT INTO replication_watermarks (tenant_id, partition, topic_id, next_offset, source_epoch, source_point,"
        " source_ordinal) VALUES (1, 0, %s, 5000, 3, 900, 1), (2, 0, %s, 7, 3, 900, 1)",
        TOPIC,
        TOPIC,
    )
    for offset, generation in ((0, 100), (40, 200), (4000, 300)):
        target.execute("INSERT INTO replication_generations VALUES (%s, 0, %s, 3, %s)", TOPIC, offset, generation)
    ledger = opened(session, 10, 40)
    assert ledger.marks == {(1, 0): Mark(10, APPLIED), (2, 0): Mark(7, APPLIED)}
    assert ledger.generations[0].at(4000) == Run(3, 100)
    assert sorted(incomplete(target)) == [11, 22]


@pytest.mark.parametrize("topic", [TOPIC, "the topic before"])
def test_a_tenant_that_was_parked_is_backfilled_with_the_others(
    target: Target, session: Connection[Any], topic: str
) -> None:
    start_progress(session, POOL, 0, Progress(topic, 5000))
    for partition in (0, 1):
        park(session, POOL, topic, (2, partition), 30, STUCK)
    assert opened(session, 10, 40).parked == {}
    assert target.rows("SELECT partition FROM replication_parked") == [(1,)]
    assert sorted(incomplete(target)) == [11, 22]
