"""The whole path under kill -9: replicator and workers die at random moments of live traffic, and no row is wrong.

Every choice (who dies, after how many rows of traffic, for how many more it stays away) comes from one seed; the
moment itself is the machine's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import pytest

from demo.servers import wait_until
from demo.source.seed import seed as fill
from demo.source.traffic import Traffic
from tests.integration.programs import Program
from tests.integration.whole import Whole

RATE = 200.0
WORKERS = 2
AFTER, AWAY = 400, 150
"""Rows of traffic until the next kill, and until who was killed comes back: the mean of each, at most five times it."""
SECONDS_A_KILL = 30
SOAK_KILLS = int(os.environ.get("SOAK_KILLS") or 20)


class Kill(NamedTuple):
    """Who dies, and when, in rows of traffic."""

    victims: tuple[str, ...]
    after: int
    away: int


def kills(seed: int, count: int) -> Iterator[Kill]:
    """In every three of them the replicator, a worker, and both at once."""
    random = Random(seed)
    for number in range(count):
        if number % 3 == 0:
            turns = random.sample(["replicator", "worker", "both"], 3)
        worker = f"worker {random.randrange(WORKERS)}"
        victims = {"replicator": ("replicator",), "worker": (worker,), "both": ("replicator", worker)}
        after, away = (int(min(random.expovariate(1 / mean), 5 * mean)) for mean in (AFTER, AWAY))
        yield Kill(victims[turns[number % 3]], after=after, away=away)


class Cast:
    """The running programs by name."""

    def __init__(self, path: Whole) -> None:
        self._path = path
        self.running: dict[str, Program] = {}
        self.lives: list[Program] = []
        for name in ("replicator", *(f"worker {number}" for number in range(WORKERS))):
            self.start(name)

    def start(self, name: str) -> None:
        if name == "replicator":
            # Small chunks: so the initial load is still under way when the first ones die.
            self.running[name] = self._path.replicator(REPLICATOR_BACKFILL_CHUNK_ROWS="100")
        else:
            self.running[name] = self._path.worker()
        self.lives.append(self.running[name])

    def kill(self, name: str) -> None:
        program = self.running.pop(name)
        assert program.running, f"{name} had ended by itself: {program.tail()}"
        program.kill()

    def complaints(self) -> list[str]:
        """What no kill explains: errors, tracebacks, a gap in the log, an epoch after a run has begun."""
        lines = [line for life in self.lives for line in life.lines()]
        events = [line.get("event") for line in lines]
        later = lines[events.index("run.begins") :]
        loud = [line for line in lines if line.get("level") in (None, "error", "critical")]
        return [str(line) for line in [*loud, *(line for line in later if line.get("event") == "epoch.begins")]]


def run(path: Whole, seed: int, count: int) -> None:
    """Kills under traffic; at the end both sides are the same, and whoever is left stops in good order."""
    print(f"seed {seed}, {count} kills")
    seeded = fill(path.source_dsn, conversations=600, messages_per_conversation=4, seed=seed)
    path.map(seeded.inboxes)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    cast = Cast(path)
    with Traffic(path.source_dsn, inboxes=inboxes, seed=seed, rate=RATE, writers=2) as traffic:

        def pass_by(rows: int, what: str) -> None:
            until = traffic.counts.rows + rows
            wait_until(lambda: traffic.counts.rows >= until, what, SECONDS_A_KILL)

        pass_by(50, "the traffic begins")
        for number, kill in enumerate(kills(seed, count), start=1):
            pass_by(kill.after, "the next kill")
            at = traffic.counts.rows
            for name in kill.victims:
                cast.kill(name)
            pass_by(kill.away, "the restart")
            for name in kill.victims:
                cast.start(name)
            print(f"kill {number}/{count}: {' and '.join(kill.victims)} at row {at}, back {kill.away} rows later")
    path.wait_equal(120)
    print(f"equal after {traffic.counts.rows} rows of traffic in {traffic.counts.transactions} transactions")
    assert cast.complaints() == []
    for name, program in cast.running.items():
        assert program.stop() == 0, name


def test_killed_at_random_moments_source_and_target_end_equal(path: Whole) -> None:
    run(path, seed=1, count=3)


@pytest.mark.soak
@pytest.mark.timeout(180 + SECONDS_A_KILL * SOAK_KILLS)
def test_many_kills(path: Whole) -> None:
    given = os.environ.get("SOAK_SEED")
    run(path, seed=int(given) if given else Random().randrange(1 << 31), count=SOAK_KILLS)
