"""The whole path on real servers: what the source commits is in its tenant's tables, and stays right."""

from __future__ import annotations

from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.whole import Whole


def test_initial_load_and_live_traffic_arrive(path: Whole) -> None:
    seeded = seed(path.source_dsn, conversations=300, messages_per_conversation=4)
    path.map(seeded.inboxes)
    replicator, worker = path.replicator(), path.worker()
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    with Traffic(path.source_dsn, inboxes=inboxes, seed=3, rate=300):
        path.wait_backfilled()
    path.wait_equal()
    assert worker.stop() == 0
    assert replicator.stop() == 0
