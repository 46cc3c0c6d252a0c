"""Tenants come, their inboxes move, leave and return while everything runs and dies; nobody ever sees another's rows.

Every choice (what happens, to which inbox, after how many rows of traffic, who is killed then) comes from one seed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import psycopg
import pytest
from typer.testing import CliRunner

from consumers.__main__ import app
from demo.servers import wait_until
from demo.source.seed import seed as fill
from demo.source.traffic import Traffic
from tests.integration.test_kills import Cast
from tests.integration.watched import Watch
from tests.integration.whole import Whole

RATE = 150.0
TENANTS = 3
BETWEEN = 60
"""Rows of traffic from one event to the next: the mean, at most three times it."""
EVENTS = 6
SECONDS = 120
SOAK = range(100, 120)


def command(path: Whole, *arguments: object) -> None:
    """`consumers map … --apply`"""
    done = CliRunner().invoke(app, ["map", *map(str, arguments), "--apply"], env=path.worker_environment)
    assert done.exit_code == 0, done.output + done.stderr


def by_hand(path: Whole, statement: str, *parameters: object) -> None:
    """As a person would, who runs it again when a worker has just written the same inbox's backfill."""
    while True:
        try:
            path.target.execute(statement, *parameters, what="owner")
        except psycopg.errors.DeadlockDetected:
            continue
        return


class Lives:
    """The inboxes and what becomes of them. Each method is one event."""

    def __init__(self, path: Whole, random: Random, owned: dict[int, tuple[int, ...]]) -> None:
        self._path, self._random = path, random
        self._owner = {inbox: tenant for tenant, own in owned.items() for inbox in own}
        self._inactive: set[int] = set()
        self._removed: set[int] = set()
        self.tenants = sorted(owned)

    def move(self) -> str:
        inbox = self._random.choice(sorted(self._owner.keys() - self._removed))
        to = self._random.choice([tenant for tenant in self.tenants if tenant != self._owner[inbox]])
        if is_command := self._random.random() < 0.5:
            command(self._path, "move", "--inbox", inbox, "--to", to)
        else:
            by_hand(self._path, "UPDATE inbox_tenant_mapping SET tenant_id = %s WHERE inbox_id = %s", to, inbox)
        self._owner[inbox] = to
        return f"inbox {inbox} moves to tenant {to} {'by command' if is_command else 'by hand'}"

    def leave(self) -> str:
        inbox = self._random.choice(sorted(self._owner.keys() - self._removed - self._inactive) or [0])
        if not inbox:
            return self.come_back()
        how = self._random.choice(["deactivated", "purged", "removed"])
        if how == "removed":
            by_hand(self._path, "DELETE FROM inbox_tenant_mapping WHERE inbox_id = %s", inbox)
            self._removed.add(inbox)
        else:
            command(self._path, "deactivate", "--inbox", inbox, *(["--purge"] if how == "purged" else []))
            self._inactive.add(inbox)
        return f"inbox {inbox} is {how}"

    def come_back(self) -> str:
        away = sorted(self._removed | self._inactive)
        if not away:
            return self.leave()
        inbox = self._random.choice(away)
        if inbox in self._removed and self._random.random() < 0.5:  # to somebody else, perhaps
            self._owner[inbox] = self._random.choice(self.tenants)
            by_hand(
                self._path,
                "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)",
                inbox,
                self._owner[inbox],
            )
        else:
            command(self._path, "add", "--inbox", inbox, "--tenant", self._owner[inbox])
        self._removed.discard(inbox)
        self._inactive.discard(inbox)
        return f"inbox {inbox} is tenant {self._owner[inbox]}'s again"

    def found(self) -> str:
        """A new tenant, who gets an inbox of another's."""
        new = max(self.tenants) + 1
        self._path.map({new: ()})
        self.tenants.append(new)
        return f"tenant {new} is there, and {self.move()}"

    def settle(self) -> None:
        """Nothing stays that the mapping does not explain."""
        for inbox in sorted(self._removed):
            command(self._path, "add", "--inbox", inbox, "--tenant", self._owner[inbox])
        self._removed.clear()


def live(path: Whole, seed: int, events: int) -> None:
    random = Random(seed)
    seeded = fill(path.source_dsn, tenants=TENANTS, conversations=120, messages_per_conversation=3, seed=seed)
    path.map(dict.fromkeys(seeded.inboxes, ()))
    path.map(dict(list(seeded.inboxes.items())[:-1]))  # the last tenant's are given to it by and by
    lives = Lives(path, random, dict(list(seeded.inboxes.items())[:-1]))
    lives.tenants = sorted(seeded.inboxes)
    late = list(seeded.inboxes[TENANTS])
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    cast = Cast(path)
    kinds: list[Callable[[], str]] = [lives.move, lives.leave, lives.come_back, lives.found]
    with Watch(path.target) as watch, Traffic(path.source_dsn, inboxes=inboxes, seed=seed, rate=RATE) as traffic:

        def pass_by(mean: float) -> None:
            until = traffic.counts.rows + int(min(random.expovariate(1 / mean), 3 * mean))
            wait_until(lambda: traffic.counts.rows >= until, "traffic", SECONDS)

        if random.random() < 0.7:  # else all of it happens while the first rows are read
            path.wait_backfilled(SECONDS)
        for number in range(events):
            pass_by(BETWEEN)
            victim = random.choice([None, None, "replicator", "worker 0", "worker 1"])
            if victim is not None:
                cast.kill(victim)
            if late and number % 3 == 1:
                path.map({TENANTS: [late.pop()]})
                print(f"seed {seed}: an inbox is added to tenant {TENANTS}")
            else:
                print(f"seed {seed}: {random.choices(kinds, [4, 2, 2, 1])[0]()}, {victim or 'nobody'} killed")
            if victim is not None:
                pass_by(BETWEEN / 2)
                cast.start(victim)
        lives.settle()
        pass_by(BETWEEN)
        traffic.pause()
        path.wait_equal(SECONDS)
    assert watch.fault is None, watch.fault
    assert (watch.wrong[:3], watch.looks > 20) == ([], True)
    assert cast.complaints() == []
    for name, program in cast.running.items():
        assert program.stop() == 0, name


@pytest.mark.timeout(400)
def test_an_inbox_moves_there_and_back_under_traffic_and_a_worker_dies(path: Whole) -> None:
    seeded = fill(path.source_dsn, tenants=2, conversations=120, messages_per_conversation=3)
    path.map(seeded.inboxes)
    moving = seeded.inboxes[1][0]
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    cast = Cast(path)

    def held(tenant: int) -> int:
        return len(path.target.rows("SELECT 1 FROM messages WHERE tenant_id = %s AND inbox_id = %s", tenant, moving))

    with Watch(path.target) as watch, Traffic(path.source_dsn, inboxes=inboxes, rate=RATE) as traffic:
        path.wait_backfilled(SECONDS)
        rows = held(1)
        command(path, "move", "--inbox", moving, "--to", 2)
        cast.kill("worker 0")
        assert (held(1), held(2) >= rows > 0) == (0, True), "at once, and all of them"
        cast.start("worker 0")
        path.wait_backfilled(SECONDS)
        at = traffic.counts.rows
        wait_until(lambda: traffic.counts.rows > at + 50, "traffic goes on", SECONDS)
        by_hand(path, "UPDATE inbox_tenant_mapping SET tenant_id = 1 WHERE inbox_id = %s", moving)
        assert (held(2), held(1) >= rows) == (0, True)
        traffic.pause()
        path.wait_equal(SECONDS)
    assert watch.fault is None, watch.fault
    assert (watch.wrong[:3], watch.looks > 20) == ([], True)
    assert cast.complaints() == []


@pytest.mark.timeout(400)
def test_tenants_live_side_by_side(path: Whole) -> None:
    live(path, seed=1, events=EVENTS)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SOAK)
def test_many_lives(path: Whole, seed: int) -> None:
    live(path, seed, events=3 * EVENTS)
