"""Somebody locks what is one tenant's: the others of its partitions go on at once, and it is there soon afterwards.

The lock time-out is long: whoever waited for the lock together with the tenant would wait for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import psycopg
import pytest
from psycopg import Connection

from consumers.tenants import TENANT_LOCK
from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from replicator import partition_of
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.programs import Program
from tests.integration.whole import Whole
from tests.integration.written import Written

LOCKED, OTHER = 7, 8
PARTITIONS = 2
INBOXES = {LOCKED: (1, 2), OTHER: (3, 5)}
"""One of each tenant's in each partition."""
LOCK_TIMEOUT_S = 20
RATE = 200.0
"""Rows of traffic a second."""
ROW = 1
"""A message of the tenant's."""
WAYS = {
    "all its rows": f"SELECT FROM messages WHERE tenant_id = {LOCKED} FOR UPDATE",
    "one row": f"SELECT FROM messages WHERE id = {ROW} FOR UPDATE",
    "its advisory lock": f"SELECT pg_advisory_xact_lock({TENANT_LOCK}, {LOCKED})",
}
PARKED = f"SELECT partition FROM replication_parked WHERE tenant_id = {LOCKED} ORDER BY partition"


class Place:
    """Both tenants, their changes, and what is seen of them."""

    def __init__(self, path: Whole, source: Source) -> None:
        assert all({partition_of(inbox, PARTITIONS) for inbox in own} == {0, 1} for own in INBOXES.values())
        self.path, self._source = path, source
        fill(source, conversations=6, messages=1)
        in_inbox = dict(source.execute("SELECT inbox_id, id FROM conversations").fetchall())
        ((locked,),) = source.execute("SELECT inbox_id FROM messages WHERE id = %s", (ROW,)).fetchall()
        self._locked = partition_of(locked, PARTITIONS)
        self._conversations = {tenant: [in_inbox[inbox] for inbox in own] for tenant, own in INBOXES.items()}
        path.map(INBOXES)
        path.replicator(REPLICATOR_PARTITIONS=str(PARTITIONS))
        self.worker = self.start()
        path.wait_equal()
        self.written = Written(path.target)

    def start(self) -> Program:
        return self.path.worker(CONSUMERS_LOCK_TIMEOUT_S=str(LOCK_TIMEOUT_S))

    @contextmanager
    def locked(self, statement: str) -> Iterator[None]:
        with self.path.target.connected() as person, person.transaction():
            person.execute(statement.encode())
            yield

    def change(self, tenant: int = LOCKED) -> list[int]:
        """In each partition; the new messages. Of the locked one a row that is locked changes too."""
        if tenant == LOCKED:
            self._source.execute("UPDATE messages SET status = 1 - status WHERE id = %s", (ROW,))
        return [add_message(self._source, conversation, "new") for conversation in self._conversations[tenant]]

    def seconds_until_seen(self, reading: Connection[object], tenant: int = OTHER) -> float:
        """From before the commit of a change in each partition until all of them stand in the target."""
        began = time.monotonic()
        wanted = self.change(tenant)
        wait_until(lambda: self._are_there(reading, wanted), f"tenant {tenant}'s change", 60)
        return time.monotonic() - began

    def _are_there(self, reading: Connection[object], wanted: list[int]) -> bool:
        found = reading.execute("SELECT FROM messages WHERE id = ANY (%s)", [wanted])
        return len(found.fetchall()) == len(wanted)

    def wait_parked(self) -> None:
        wait_until(lambda: self.is_parked, "the tenant is parked", 40)

    @property
    def is_parked(self) -> bool:
        """In the other partition it need not be: what came with no locked row may have gone ahead."""
        return (self._locked,) in self.path.target.rows(PARKED)

    def wait_joined(self) -> float:
        began = time.monotonic()
        wait_until(lambda: not self.path.target.rows(PARKED), "the tenant has caught up", 40)
        return time.monotonic() - began


def test_whatever_of_a_tenants_is_locked_the_others_go_on_and_it_comes_back(path: Whole, source: Source) -> None:
    place = Place(path, source)
    with path.target.connected() as reading:
        for way, statement in WAYS.items():
            with place.locked(statement):
                news = place.change()
                took = [place.seconds_until_seen(reading) for _ in range(2)]  # the second one comes behind a batch
                place.wait_parked()
                for _ in range(5):
                    news += place.change()
                    took.append(place.seconds_until_seen(reading))
                assert place.is_parked, "it was locked all the time"
            back = place.wait_joined()
            print(
                f"{way}: others at most {max(took):.2f} s, {max(took[2:]):.2f} s once it was parked, back {back:.2f} s"
            )
            assert max(took) < LOCK_TIMEOUT_S / 2
            path.wait_equal()
            assert [place.written.ops(message) for message in news] == ["i"] * len(news)
    assert place.worker.logged("tenant.parked") == [], "nobody is called for a lock that is soon gone"
    assert place.worker.stop() == 0


def test_a_worker_that_is_killed_while_a_tenant_catches_up_loses_and_doubles_nothing(
    path: Whole, source: Source
) -> None:
    place = Place(path, source)
    with path.target.connected() as reading:
        with place.locked(WAYS["one row"]):
            news = place.change()
            place.wait_parked()
            place.worker.kill()
            news += place.change()
            place.worker = place.start()
            place.seconds_until_seen(reading)
            news += place.change()
            assert place.is_parked
        wait_until(lambda: place.written.ops(news[0]), "the tenant catches up", 40)
        place.worker.kill()
        place.worker = place.start()
        news += place.change()
        place.wait_joined()
    path.wait_equal()
    assert [place.written.ops(message) for message in news] == ["i"] * len(news)
    assert place.worker.stop() == 0


def test_another_worker_that_is_at_work_for_the_tenant_is_waited_for(path: Whole, source: Source) -> None:
    place = Place(path, source)
    waits: set[object] = set()

    def is_tried_again() -> bool:
        waiting = "SELECT waitstart FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
        waits.update(began for (began,) in path.target.rows(waiting, LOCKED) if began is not None)
        return len(waits) > 2  # the first time-out may have told of the trigger that notes writes

    with path.target.connected("applier") as peer, ThreadPoolExecutor(1) as threads:
        peer.execute("SET application_name = 'inbox-replicator worker'")
        batch = threads.submit(
            peer.execute,
            "SELECT pg_sleep(15) FROM (SELECT pg_advisory_xact_lock(%s, %s) OFFSET 0)",
            [TENANT_LOCK, LOCKED],
        )
        wait_until(lambda: path.target.rows("SELECT FROM pg_locks WHERE objid = %s", LOCKED), "the peer is at work", 10)
        news = place.change()
        wait_until(is_tried_again, "the worker waits for it once more", 10)
        peer.cancel_safe(timeout=5)
        assert isinstance(batch.exception(10), psycopg.errors.QueryCanceled)
    path.wait_equal()
    assert [place.written.ops(message) for message in news] == ["i"] * len(news)
    assert place.worker.logged("tenant.stands_aside") == []
    assert place.worker.stop() == 0


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_locked_for_half_a_minute_under_traffic_the_others_see_each_change_within_a_second(
    path: Whole, source: Source
) -> None:
    seeded = seed(path.source_dsn, tenants=4, conversations=400, messages_per_conversation=3)
    path.map(seeded.inboxes)
    locked, *others = seeded.inboxes
    watched = [
        conversation
        for (conversation,) in source.execute(
            "SELECT min(id) FROM conversations WHERE inbox_id = ANY (%s) GROUP BY inbox_id",
            ([inbox for tenant in others for inbox in seeded.inboxes[tenant]],),
        ).fetchall()
    ]
    path.replicator(REPLICATOR_PARTITIONS=str(PARTITIONS))
    worker = path.worker()
    path.wait_equal()
    parked = f"SELECT FROM replication_parked WHERE tenant_id = {locked}"
    took: dict[str, list[float]] = {"before": [], "locked": [], "after": []}
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    with path.target.connected() as reading, Traffic(path.source_dsn, inboxes=inboxes, rate=RATE) as traffic:

        def watch(when: str, seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                message = add_message(source, watched[len(took[when]) % len(watched)], "watched")
                began = time.monotonic()
                while not reading.execute("SELECT FROM messages WHERE id = %s", [message]).rowcount:
                    time.sleep(0.002)
                took[when].append(time.monotonic() - began)

        watch("before", 10)
        with path.target.connected() as person, person.transaction():
            person.execute(f"SELECT FROM messages WHERE tenant_id = {locked} FOR UPDATE".encode())
            person.execute(f"SELECT FROM conversations WHERE tenant_id = {locked} FOR UPDATE".encode())
            watch("locked", 30)
            assert path.target.rows(parked)
        began = time.monotonic()
        while path.target.rows(parked) and time.monotonic() < began + 30:
            watch("after", 0.1)
        back = time.monotonic() - began
        watch("after", 10)
        traffic.pause()
        path.wait_equal()
    for when, seconds in took.items():
        seconds.sort()
        middle, late = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
        print(f"{when}: {len(seconds)} changes, p50 {middle:.3f} s, p99 {late:.3f} s, max {seconds[-1]:.3f} s")
    print(f"the locked tenant had caught up {back:.2f} s after the lock was gone")
    assert max(map(max, took.values())) < 1.0
    assert worker.stop() == 0


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_locks_come_and_go_under_traffic_and_kills_and_nothing_is_lost(path: Whole) -> None:
    """Each tenant joins again and again, while batches that were sorted out without it are under way."""
    random = Random(7)
    seeded = seed(path.source_dsn, tenants=4, conversations=400, messages_per_conversation=3)
    path.map(seeded.inboxes)
    path.replicator(REPLICATOR_PARTITIONS=str(PARTITIONS))
    lives = workers = [path.worker() for _ in range(PARTITIONS)]
    path.wait_equal()
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    with Traffic(path.source_dsn, inboxes=inboxes, rate=RATE, writers=2) as traffic:
        for number in range(40):
            tenant = random.choice([*seeded.inboxes])
            some = random.choice([True, False])
            with path.target.connected() as person, person.transaction():
                if some:
                    person.execute("SELECT FROM messages WHERE tenant_id = %s AND id %% 3 = 0 FOR UPDATE", [tenant])
                else:
                    person.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TENANT_LOCK, tenant])
                time.sleep(random.uniform(0.1, 2.0))
            time.sleep(random.uniform(0.0, 0.5))
            if number % 10 == 9:
                workers[0].kill()
                workers = [*workers[1:], path.worker()]
                lives = [*lives, workers[-1]]
        traffic.pause()
        path.wait_equal(120)
    wait_until(lambda: not path.target.rows("SELECT FROM replication_parked"), "all have joined", 60)
    asides = sum(len(life.logged("tenant.stands_aside")) for life in lives)
    print(f"{traffic.counts.rows} rows of traffic, a tenant stood aside in a partition {asides} times")
    assert asides > 10
    assert [worker.stop() for worker in workers] == [0] * PARTITIONS
