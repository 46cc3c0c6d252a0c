"""As many tenants as a large installation has, on fewer partitions, served by several workers."""

from __future__ import annotations

import pytest

from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.watched import Watch
from tests.integration.whole import Whole

TENANTS, PARTITIONS, WORKERS = 300, 12, 4
SECONDS = 180


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_three_hundred_tenants_on_twelve_partitions_and_a_worker_dies(path: Whole) -> None:
    seeded = seed(
        path.source_dsn, tenants=TENANTS, inboxes_per_tenant=1, conversations=5 * TENANTS, messages_per_conversation=3
    )
    path.map(seeded.inboxes)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    path.replicator(REPLICATOR_PARTITIONS=str(PARTITIONS))
    workers = [path.worker() for _ in range(WORKERS)]
    with Watch(path.target) as watch, Traffic(path.source_dsn, inboxes=inboxes, rate=200.0, writers=2) as traffic:

        def pass_by(rows: int = 400) -> None:
            until = traffic.counts.rows + rows
            wait_until(lambda: traffic.counts.rows >= until, "traffic", SECONDS)

        def served() -> list[int]:
            return sorted(part for worker in workers for part in worker.status().get("partitions", ()))

        path.wait_backfilled(SECONDS)
        pass_by()
        workers.pop(0).kill()
        pass_by()
        wait_until(lambda: served() == list(range(PARTITIONS)), "the others serve all", SECONDS)
        workers.append(path.worker())
        pass_by()
        wait_until(lambda: all(worker.status().get("partitions") for worker in workers), "each has some", SECONDS)
        traffic.pause()
        path.wait_equal(SECONDS)
    assert watch.fault is None, watch.fault
    assert (watch.wrong[:3], watch.looks > 3) == ([], True)
    assert path.target.rows("SELECT count(DISTINCT tenant_id) FROM replication_watermarks") == [(TENANTS,)]
    for worker in workers:
        assert worker.stop() == 0
