"""What polling costs the source: one poll, and one whole rolling pass, beside the batch query on the same data.

`replicator run` itself polls, by a role that may read the view and nothing else, and its status says what each poll and
each pass took in queries on the source: from BEGIN until the rows are there. First it reads everything and passes over
it; then, with passes at rest, conversations are written and the polls that find them are looked for. The batch query
takes turns with them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg
from psycopg import conninfo, sql

from bench import path
from bench.batch_query import BatchQuery
from bench.measured import Measured, Part, Ratio
from bench.path import Ground, NotMeasured, Say
from demo.compare import VIEW
from demo.programs import Program
from demo.servers.guardian import GuardedFolder
from demo.stage import Stage
from replicator import topics
from replicator.config import load

CONVERSATIONS: Final = 100_000
CHANGES: Final = (0, 100, 1000)
AIMED: Final = 100
"""Changes of the poll that is to cost little."""
AIM: Final = 100
PASSES: Final = 2
MOST_SECONDS: Final = 900.0
LOOK_SECONDS: Final = 0.1
ROLE: Final = "bench_poller"
POLLING: Final = {
    "REPLICATOR_MODE": "poll",
    "REPLICATOR_POLL_INTERVAL_S": "3",  # the status is renewed every 2 s: none is missed
    "REPLICATOR_POLL_SHARE": "1",
    "REPLICATOR_POLL_CLOCK_MARGIN_S": "0",
}
UNPACED: Final = {"REPLICATOR_DIGEST_KEYS_PER_SECOND": "1000000000"}
AT_REST: Final = {"REPLICATOR_DIGEST_KEYS_PER_SECOND": "1"}
BY_TIME: Final = f"batch query: updated_at > … ({AIMED} rows)"
BY_KEYS: Final = f"batch query: = ANY ({AIMED} keys)"
PASS: Final = "a rolling pass that repairs nothing"
Status = dict[str, Any]


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    conversations, messages = ground.options.conversations or CONVERSATIONS, ground.options.messages
    stage = path.stage(ground, conversations, messages)
    settings = stage.replicator | {"REPLICATOR_SOURCE_DSN": _poller(stage)} | POLLING
    _make_topics(settings)
    with _polling(ground.folder, settings | UNPACED) as replicator:
        passes = tuple(1000 * seconds for seconds in _passes(replicator, ground.say))
    with _polling(ground.folder, settings | AT_REST) as replicator, closing(BatchQuery(stage.source_dsn)) as batch:
        _wait(replicator, lambda status: bool(status["polls"]), "the first poll")
        took = _take_turns(stage, replicator, batch, ground.options.rounds, ground.say)
    measured = [
        *(Measured(what=what, unit="ms", values=tuple(values)) for what, values in took.items()),
        Measured(what=PASS, unit="ms", values=passes),
    ]
    median = {each.what: each.median for each in measured}
    return Part(
        name="polling",
        on=f"{conversations:,} conversations of {messages} messages on average; time in queries on the source",
        measured=measured,
        ratios=[
            *(
                Ratio(what=f"{batch} / {_poll(n)}", value=median[batch] / median[_poll(n)], aim=_aim(batch, n))
                for batch in (BY_TIME, BY_KEYS)
                for n in CHANGES
            ),
            Ratio(what=f"{PASS} / {BY_TIME}", value=median[PASS] / median[BY_TIME]),
        ],
    )


def _poll(changes: int) -> str:
    return f"a poll with {changes:,} changes"


def _aim(batch: str, changes: int) -> float | None:
    return AIM if batch == BY_TIME and changes <= AIMED else None


def _poller(stage: Stage) -> str:
    """The address of a role that may read the view."""
    with psycopg.connect(stage.source_dsn, autocommit=True) as source:
        source.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(ROLE)))
        source.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(VIEW), sql.Identifier(ROLE)))
    return conninfo.make_conninfo(stage.source_dsn, user=ROLE, password=ROLE)


def _make_topics(settings: Mapping[str, str]) -> None:
    known = load(
        source_dsn=settings["REPLICATOR_SOURCE_DSN"],
        kafka_bootstrap_servers=settings["REPLICATOR_KAFKA_BOOTSTRAP_SERVERS"],
        topic_prefix=settings["REPLICATOR_TOPIC_PREFIX"],
    )
    topics.ensure(topics.kafka_base(known), known)


@contextmanager
def _polling(folder: GuardedFolder, settings: dict[str, str]) -> Iterator[Program]:
    replicator = Program(folder, "poller", ["replicator", "run"], settings)
    replicator.start()
    try:
        yield replicator
    finally:
        replicator.ask_to_stop()
        fault = replicator.stopped()
    if fault:
        raise NotMeasured(fault)


def _passes(replicator: Program, say: Say) -> Iterator[float]:
    """Seconds in queries, pass by pass, once everything is published."""
    seen = 0
    for number in range(PASSES + 1):
        status = _wait(replicator, lambda status, n=seen: _pass(status)["passes"] > n, "the end of a rolling pass")  # type: ignore[misc]  # mypy can't see the default
        found = _pass(status)
        seen = found["passes"]
        say(f"rolling pass {seen}: {found['took_s']:.1f} s, {found['source_s']:.1f} s of it in queries")
        if found["repaired"]:
            raise NotMeasured(f"{found['repaired']} rows were repaired, though nobody wrote")
        if number:  # the first one fills caches
            yield found["source_s"]


def _pass(status: Status) -> Status:
    return status.get("verified", {}).get(path.ANALYTICS) or {"passes": 0}


def _take_turns(stage: Stage, replicator: Program, batch: BatchQuery, rounds: int, say: Say) -> dict[str, list[float]]:
    """Milliseconds, by what."""
    ids, chance = batch.conversations(), random.Random(1)
    took: dict[str, list[float]] = {}
    with psycopg.connect(stage.source_dsn, autocommit=True) as source:
        for number in range(rounds + 1):
            # The most come first: the batch query is to find those of the aim, written last.
            found = {_poll(n): _timed_poll(source, replicator, chance.sample(ids, n)) for n in reversed(CHANGES)}
            found |= {BY_TIME: batch.by_time(AIMED), BY_KEYS: batch.by_keys(chance.sample(ids, AIMED))}
            for what, milliseconds in found.items():
                if number:  # the first round fills caches and plans
                    took.setdefault(what, []).append(milliseconds)
            say(f"polls beside the batch query, round {number} of {rounds}")
    return took


def _timed_poll(source: psycopg.Connection[Any], replicator: Program, keys: list[int]) -> float:
    """Of the one poll that finds these written: stamped alike, they are found at once."""
    before = _wait(replicator, bool, "its status")
    written = source.execute(
        "UPDATE conversations SET updated_at = now() AT TIME ZONE 'UTC' WHERE id = ANY (%s)", [keys]
    )
    if written.rowcount != len(keys):
        raise NotMeasured("a conversation that was to be written is gone")

    def has_found(status: Status) -> bool:
        """A conversation that was surveyed twice is two candidates."""
        found = status["poll_candidates"]
        return bool(status["polls"] > before["polls"] and (found >= len(keys) if keys else not found))

    status = _wait(replicator, has_found, f"the poll that finds {len(keys)} changes")
    return 1000 * float(status["poll_s"])


def _wait(replicator: Program, condition: Callable[[Status], bool], what: str) -> Status:
    """The first status of which the condition holds."""
    end = time.monotonic() + MOST_SECONDS
    while True:
        replicator.news()
        status = replicator.status()
        if "polls" in status and condition(status):
            return status
        if fell := replicator.fell:
            raise NotMeasured(f"{fell}; the end of its log:\n{replicator.tail()}")
        if time.monotonic() > end:
            raise NotMeasured(f"gave up after {MOST_SECONDS:g} s: {what}")
        time.sleep(LOOK_SECONDS)
