"""The whole path under measurement: what it plays on, its programs, and waiting for what they bring about."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import psycopg

from bench.journal import Journal
from demo.manner import Mode, Scenario
from demo.options import Options
from demo.programs import Program, command
from demo.servers import Servers
from demo.servers.guardian import GuardedFolder
from demo.stage import Stage, prepare

LOAD_SECONDS: Final = 1200.0
LOOK_SECONDS: Final = 0.1
ANALYTICS: Final = "conversations_analytics"
Say = Callable[[str], None]


class NotMeasured(Exception):
    """Something did not come about."""


class Service(Protocol):
    """One of our programs, or a peer: what measuring has to know of it."""

    @property
    def name(self) -> str: ...

    def start(self) -> None: ...

    def ask_to_stop(self) -> None: ...

    def stopped(self) -> str | None: ...

    def tail(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def fell(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a part is measured on: fresh servers, sizes, and what was measured before an interruption."""

    servers: Servers
    folder: GuardedFolder
    options: argparse.Namespace
    say: Say
    journal: Journal

    @property
    def rounds(self) -> list[str]:
        """The names of their steps."""
        return [f"round {number}" for number in range(1, self.options.rounds + 1)]

    @property
    def long_rounds(self) -> list[str]:
        """A third of them, for a part that takes minutes for each."""
        return self.rounds[: max(1, self.options.rounds // 3)]


def stage(ground: Ground, conversations: int, messages: int, *, tenants: int = 3) -> Stage:
    """A source with a history, and a target that knows its tenants."""
    size = Options(
        mode=Mode.STREAM,
        scenario=Scenario.WORKER_KILLED,
        tenants=tenants,
        inboxes=4,
        conversations=conversations,
        messages=messages,
        rate=1,
        seconds=1,
        keep=False,
        plain=True,
        logs=None,
    )
    return prepare(ground.servers, ground.folder, size, ground.say)


@contextmanager
def running(ground: Ground, stage: Stage) -> Iterator[Program]:
    """The replicator, beside two workers, once the initial load is in the target. Raises NotMeasured."""
    replicator = Program(ground.folder, "replicator", ["replicator", "run"], stage.replicator)
    programs = [replicator]
    programs += [Program(ground.folder, f"worker {n}", ["consumers", "run"], stage.consumers) for n in (1, 2)]
    for program in programs:
        program.start()
    try:
        with psycopg.connect(stage.target_dsn, autocommit=True) as target:
            wait(replicator, lambda: is_loaded(target), "the initial load")
        ground.say("the initial load is complete")
        yield replicator
    finally:
        stop(*programs)


@contextmanager
def backfills(stage: Stage, folder: GuardedFolder, replicator: Program) -> Iterator[Callable[[], float]]:
    """What backfills the analytics view alone, everything else being there, and says its speed in rows/s.

    Until the rows that it brings last to each partition are written: to look for all would cost what is measured.
    """
    with psycopg.connect(stage.target_dsn, autocommit=True) as target:
        rows, last = _written_since(target, "-infinity"), target.execute(_LAST).fetchall()

        def backfill() -> float:
            began, since = time.monotonic(), one(target, "SELECT clock_timestamp() AT TIME ZONE 'UTC'")
            command(folder, ["replicator", "backfill", "--all", "--table", ANALYTICS], stage.replicator)
            wait(replicator, lambda: _all_since(target, last, since), "the end of a backfill")
            took = time.monotonic() - began
            wait(replicator, lambda: _written_since(target, since) >= rows, "all rows of a backfill")
            return rows / took

        yield backfill


def wait(service: Service | None, condition: Callable[[], bool], what: str, *, share: float = 1.0) -> None:
    """Raises NotMeasured if it does not come about, or if the service ends.

    `share` of the time goes into looks at the most: who is waited for shares the machine with a look that counts rows.
    """
    end = time.monotonic() + LOAD_SECONDS
    while True:
        began = time.monotonic()
        if condition():
            return
        took = time.monotonic() - began
        if service is not None and (fell := service.fell):
            raise NotMeasured(f"{fell}; the end of its log:\n{service.tail()}")
        if time.monotonic() > end:
            raise NotMeasured(f"gave up after {LOAD_SECONDS:g} s: {what}")
        time.sleep(max(LOOK_SECONDS, took * (1 / share - 1)))


def stop(*services: Service) -> None:
    """All at once. Raises NotMeasured if one does not end in order."""
    if faults := ended(*services):
        tails = [f"the end of the log of {service.name}:\n{service.tail()}" for service in services]
        raise NotMeasured("\n".join((*faults, *tails)))


def ended(*services: Service) -> list[str]:
    """Stops all at once; what is to be said of those that did not end in order."""
    for service in services:
        service.ask_to_stop()
    return [said for service in services if (said := service.stopped())]


def one(connection: psycopg.Connection[Any], query: str, *given: object) -> Any:
    """The only value of the only row."""
    ((value,),) = connection.execute(query.encode(), list(given)).fetchall()
    return value


def is_loaded(target: psycopg.Connection[Any]) -> bool:
    """Whether every inbox that belongs to somebody is complete."""
    return bool(one(target, "SELECT NOT EXISTS (SELECT FROM inbox_tenant_mapping WHERE backfilled_at IS NULL)"))


_LAST: Final = "SELECT tenant_id, max(conversation_id) FROM conversations_analytics GROUP BY tenant_id, inbox_id"
"""A backfill goes by key."""


def _all_since(target: psycopg.Connection[Any], rows: list[tuple[int, int]], since: object) -> bool:
    written = (
        "SELECT count(*) FROM unnest(%s::bigint[], %s::bigint[]) AS k (tenant, id) JOIN conversations_analytics AS c"
        " ON c.tenant_id = k.tenant AND c.conversation_id = k.id WHERE c.etl_updated_at > %s"
    )
    tenants, ids = zip(*rows, strict=True)
    return bool(one(target, written, list(tenants), list(ids), since) == len(rows))


def _written_since(target: psycopg.Connection[Any], since: object) -> int:
    return int(one(target, "SELECT count(*) FROM conversations_analytics WHERE etl_updated_at > %s", since))
