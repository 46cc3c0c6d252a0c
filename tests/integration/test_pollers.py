"""Pollers that die, and pollers that wait for one another: whatever was published is taken back when it is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.chatwoot import Source, connect, role
from tests.integration.polled import (
    ANALYTICS,
    BY_CANDIDATES,
    FAST,
    SEES_ALL,
    SEES_VIEW,
    TABLES,
    polling,
    reader,
    wait_view,
)
from tests.integration.programs import RUN, Program, started
from tests.integration.replayed import Replayed
from tests.integration.whole import Whole

RATE = 150.0
AFTER, AWAY = 300, 100
"""Rows of traffic until the next kill, and until the poller comes back: the mean of each, at most three times it."""
SECONDS_A_KILL = 30
SOAK_KILLS = int(os.environ.get("SOAK_KILLS") or 20)


@pytest.fixture
def by_view(environment: dict[str, str], source: Source, source_dsn: str) -> Iterator[dict[str, str]]:
    """The settings of a poller that may read the view, and nothing else."""
    seed(source_dsn, conversations=80, messages_per_conversation=2)
    with reader(source, source_dsn, environment, *SEES_VIEW) as settings:
        yield settings


def touch(source: Source, key: int) -> None:
    source.execute(
        "UPDATE conversations SET status = (status + 1) %% 4, updated_at = clock_timestamp() AT TIME ZONE 'UTC'"
        " WHERE id = %s",
        (key,),
    )


def test_a_second_poller_waits_names_the_first_and_takes_over(
    by_view: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    with polling(by_view, tmp_path / "first") as first:
        wait_view(replayed, source)
        with started(RUN, by_view, tmp_path / "second") as second:
            wait_until(lambda: second.logged("run.ended"), "the second waits", 60)
            assert "the source is polled by PID" in second.logged("run.ended")[-1]["reason"]
            assert not second.logged("run.begins")
            touch(source, 3)
            wait_view(replayed, source)
            first.kill()
            second.wait_healthy()
            touch(source, 4)
            wait_view(replayed, source)
            assert second.logged("run.begins")[-1]["generation"] > first.logged("run.begins")[-1]["generation"]
            assert not second.logged("epoch.begins"), "the history goes on"
            assert replayed.zombies == []
            assert second.stop() == 0


def test_what_goes_while_the_poller_is_dead_is_taken_back_though_it_had_just_been_published(
    by_view: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """Killed before it could write down what it had published, beside other rows of the same page."""
    with polling(by_view | BY_CANDIDATES, tmp_path / "log") as first:
        wait_view(replayed, source)
        touch(source, 5)
        wait_view(replayed, source)
        first.kill()
    ((left,),) = source.execute("SELECT inbox_id FROM conversations WHERE id = 10").fetchall()
    source.execute("DELETE FROM conversations WHERE id IN (5, 9)")
    source.execute("UPDATE conversations SET inbox_id = 1 + inbox_id % 6 WHERE id = 10")
    with polling(by_view, tmp_path / "log") as second:
        wait_view(replayed, source)
        assert {event.inbox for event in replayed.events_of(ANALYTICS, 10, "d")} & {left, None}
        assert second.stop() == 0


@contextmanager
def reading(path: Whole) -> Iterator[dict[str, str]]:
    """The settings of a poller that may read all of the source."""
    with closing(connect(path.source_dsn)) as source, role(source, path.source_dsn, *SEES_ALL) as dsn:
        yield FAST | TABLES | {"REPLICATOR_SOURCE_DSN": dsn}


def run(path: Whole, number: int, count: int) -> None:
    """Kills under traffic: at the end both sides are the same, and no tenant keeps what is another's."""
    print(f"seed {number}, {count} kills")
    random = Random(number)
    seeded = seed(path.source_dsn, conversations=300, messages_per_conversation=3, seed=number)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    path.map({1 + inbox: [inbox] for inbox in inboxes})
    path.worker()

    def start() -> Program:
        # Small pages of a backfill: so the initial load is still under way when the first one dies.
        return path.replicator(**settings, REPLICATOR_BACKFILL_CHUNK_ROWS="100")

    with reading(path) as settings:
        poller = start()
        with Traffic(path.source_dsn, inboxes=inboxes, seed=number, rate=RATE, writers=2) as traffic:

            def pass_by(mean: int, what: str) -> None:
                until = traffic.counts.rows + int(min(random.expovariate(1 / mean), 3 * mean))
                wait_until(lambda: traffic.counts.rows >= until, what, SECONDS_A_KILL)

            for _ in range(count):
                pass_by(AFTER, "the next kill")
                assert poller.running, poller.tail()
                poller.kill()
                pass_by(AWAY, "the restart")
                poller = start()
        path.wait_equal(120)
        assert poller.status()["mode"] == "polling"
        assert poller.stop() == 0


def test_killed_at_random_moments_source_and_target_end_equal(path: Whole) -> None:
    run(path, number=1, count=3)


@pytest.mark.soak
@pytest.mark.timeout(180 + SECONDS_A_KILL * SOAK_KILLS)
def test_many_kills(path: Whole) -> None:
    given = os.environ.get("SOAK_SEED")
    run(path, number=int(given) if given else Random().randrange(1 << 31), count=SOAK_KILLS)
