"""The analytics view: what one read of changed rows costs the source, each way, and how fast its rows reach the target.

Three ways to the rows of n changed conversations: a list of keys as any poller would give it, the view's own change
time, and the replicator's read (its very code). They take turns, each round with other conversations, in sessions whose
values are fetched as text and thrown away. Then the whole path: a backfill of the view alone through Kafka into the
target, after everything else is there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from bench import path
from bench.batch_query import BatchQuery, timed
from bench.measured import Measured, Part, Ratio
from bench.path import Ground, NotMeasured, Say
from demo.stage import PREFIX, Stage
from replicator.config import load
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived, Read, read_rows
from replicator.event import Origin
from replicator.reader import KEYS_AT_ONCE
from replicator.source import Source

CONVERSATIONS: Final = 100_000
SIZES: Final = (1, 100, 1000)
POLLED: Final = 100
"""Rows that the poll by time is to find; what it costs does not depend on that."""


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    conversations = ground.options.conversations or CONVERSATIONS
    stage = path.stage(ground, conversations, ground.options.messages)
    ways = Ways(stage)
    try:
        took = ways.take_turns(ground.options.rounds, ground.say)
    finally:
        ways.close()
    speeds = tuple(_through(ground, stage))
    measured = [Measured(what=what, unit="ms", values=tuple(values)) for what, values in took.items()]
    median = {each.what: each.median for each in measured}
    whole = Measured(what="a backfill of the view, source to target", unit="rows/s", values=speeds)
    poll = median[_poll()]
    return Part(
        name="view",
        on=f"{conversations:,} conversations of {ground.options.messages} messages on average",
        measured=[*measured, whole],
        ratios=[
            *(
                Ratio(what=f"{by_keys_of(n)} / {ours_of(n)}", value=median[by_keys_of(n)] / median[ours_of(n)])
                for n in SIZES
            ),
            *(
                Ratio(
                    what=f"{_poll()} / {ours_of(n)}", value=poll / median[ours_of(n)], aim=300 if n <= POLLED else None
                )
                for n in SIZES
            ),
            Ratio(what=f"{whole.what}, {whole.unit}", value=whole.median, aim=2000),
        ],
    )


def by_keys_of(keys: int) -> str:
    return f"= ANY ({keys:,} keys)"


def _poll() -> str:
    return f"updated_at > … ({POLLED} rows)"


def ours_of(keys: int) -> str:
    return f"our read of {keys:,} keys"


class Ways:
    """Two sessions on the source: the replicator's own, and one as a poller has it."""

    def __init__(self, stage: Stage) -> None:
        settings = load(
            source_dsn=stage.replicator["REPLICATOR_SOURCE_DSN"],
            kafka_bootstrap_servers=stage.replicator["REPLICATOR_KAFKA_BOOTSTRAP_SERVERS"],
        )
        self._ours = Source(settings)
        self._ours.plan_once()
        self._derived, self._largest = self._definition(settings), settings.max_message_bytes
        origin = Origin(topic_prefix=PREFIX, database="chatwoot", schema="public", table=path.ANALYTICS)
        self._table = self._derived.table(origin)
        self._theirs = BatchQuery(stage.source_dsn)
        self._ids, self._random = self._theirs.conversations(), random.Random(1)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def take_turns(self, rounds: int, say: Say) -> dict[str, list[float]]:
        """Milliseconds, by way."""
        took: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for what, milliseconds in self._round():
                if number:  # the first one fills caches and plans
                    took.setdefault(what, []).append(milliseconds)
            say(f"reads of the view, round {number} of {rounds}")
        return took

    def _round(self) -> Iterator[tuple[str, float]]:
        for n in SIZES:
            yield ours_of(n), self._read(self._keys(n))
            yield by_keys_of(n), self._theirs.by_keys(self._keys(n))
        yield _poll(), self._theirs.by_time(POLLED)

    def _definition(self, settings: Any) -> Derived:
        found = read_definitions(self._ours, captured_by(settings)).relations[path.ANALYTICS]
        if isinstance(found, str):
            raise NotMeasured(f"{path.ANALYTICS} can't be read: {found}")
        return found

    def _keys(self, n: int) -> list[int]:
        return self._random.sample(self._ids, n)

    def _read(self, keys: list[int]) -> float:
        began = time.perf_counter()
        return timed(began, read_all(keys, self._read_some), len(keys))

    def _read_some(self, keys: Sequence[int]) -> Read:
        with self._ours.reading():
            return read_rows(self._ours.connection, self._derived, self._table, keys, self._largest)


def read_all(keys: Sequence[int], read: Callable[[Sequence[int]], Read]) -> int:
    """How many rows they have. As `reader` reads: so many at once, and those again that are too large beside others."""
    rows, waiting = 0, [keys[first : first + KEYS_AT_ONCE] for first in range(0, len(keys), KEYS_AT_ONCE)]
    while waiting:
        some = waiting.pop()
        found = read(some)
        rows += len(found.rows)
        if found.crowded.issuperset(some):
            half = len(some) // 2
            waiting += [some[:half], some[half:]]
        elif found.crowded:
            waiting.append(list(found.crowded))
    return rows


def _through(ground: Ground, stage: Stage) -> Iterator[float]:
    """View rows per second through Kafka into the target, one backfill of it after another."""
    with path.running(ground, stage) as replicator, path.backfills(stage, ground.folder, replicator) as backfill:
        for number in range(1, ground.options.rounds + 1):
            speed = backfill()
            ground.say(f"a backfill of the view, {number} of {ground.options.rounds}: {speed:,.0f} rows/s")
            yield speed
