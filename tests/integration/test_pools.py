"""A tenant changes pools: nothing of its is lost or passed over, whoever knows of it late, and nobody else stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from typer.testing import CliRunner

from consumers import parking
from consumers.__main__ import app
from consumers.apply import Result
from consumers.batch import Batch
from consumers.errors import Overtaken
from consumers.ledger import Ledger
from consumers.parking import Parked, park
from consumers.reasons import Reason
from consumers.script import Script
from consumers.target_session import open_session
from consumers.tenants import Mapping, look_again
from consumers.watermark import Mark, Place, Progress, read_progress, start_progress
from consumers.worker import Worker
from demo.servers import wait_until
from demo.source.seed import seed as fill
from demo.source.traffic import Traffic
from replicator import NOWHERE
from replicator.runtime import Stop
from tests.integration.targets import Target
from tests.integration.whole import Whole

TOPIC, POOL, HEAVY = "topic", "default", "heavy"
STUCK = Reason(kind="55P03", says="its table is locked", advice="Wait.")
ONE, TWO = 1, 2
STANDS = (
    "SELECT partition, pool, topic_id, from_offset, error_class FROM replication_parked WHERE tenant_id = %s ORDER BY 1"
)
AWAITED = "SELECT inbox_id FROM inbox_tenant_mapping WHERE backfilled_at IS NULL"
TURNS = "SELECT partition, turn FROM replication_progress ORDER BY 1"
READINGS = "SELECT pool, partition, topic_id, next_offset FROM replication_progress ORDER BY 1, 2"


class Shape:
    """Of the topic as it is now."""

    topic_id = TOPIC
    partitions = 2


@pytest.fixture
def target(two_tenants: Target) -> Target:
    return two_tenants


@pytest.fixture
def session(target: Target) -> Iterator[Connection[Any]]:
    """Of a worker that has read up to offset 40 in both partitions."""
    with closing(open_session(target.settings(), "worker control")) as session:
        for partition in range(Shape.partitions):
            start_progress(session, POOL, partition, Progress(TOPIC, 40))
        yield session


def opened(session: Connection[Any], pool: str = POOL) -> Ledger:
    """What a worker knows that reads both partitions."""
    ledger = Ledger(pool)
    ledger.open(session, Shape(), list(range(Shape.partitions)), lambda _: (0, 100))  # type: ignore[arg-type]
    return ledger


def read_on(session: Connection[Any], ledger: Ledger, end: int, *results: Result) -> None:
    """A batch of partition 0 that ends there."""
    ledger.settle(session, Batch(ends={0: end}), results)


def assign(target: Target, tenant: int, pool: str) -> None:
    """By hand, as the command does it."""
    target.execute(
        "INSERT INTO replication_tenant_pools (tenant_id, pool) VALUES (%s, %s)"
        " ON CONFLICT (tenant_id) DO UPDATE SET pool = EXCLUDED.pool",
        tenant,
        pool,
        what="owner",
    )


def run(target: Target, *arguments: str, exits: int = 0) -> str:
    done = CliRunner().invoke(app, ["pool", *arguments], env=target.environment())
    assert done.exit_code == exits, done.output + done.stderr
    return done.output + done.stderr


# --- a worker that was frozen


def test_who_slept_while_a_tenant_joined_does_not_unpark_it_at_an_older_place(
    target: Target, session: Connection[Any]
) -> None:
    park(session, POOL, TOPIC, (ONE, 0), 30, STUCK)
    frozen, awake = opened(session), opened(session)
    read_on(session, awake, 50)
    with pytest.raises(Overtaken):
        frozen.caught_up(session, (ONE, 0), Result(ONE), 30, 40)
    assert target.rows(STANDS, ONE) == [(0, POOL, TOPIC, 30, "55P03")], (
        "what lies between 40 and 50 is still to be read"
    )


def test_who_slept_while_a_tenant_joined_reads_nothing_on_without_it(target: Target, session: Connection[Any]) -> None:
    park(session, POOL, TOPIC, (ONE, 0), 30, STUCK)
    frozen, awake = opened(session), opened(session)
    awake.caught_up(session, (ONE, 0), Result(ONE), 30, 40)
    assert target.rows(STANDS, ONE) == []
    with pytest.raises(Overtaken):
        read_on(session, frozen, 50)  # sorted out while the tenant was parked: its events are not in it
    read_on(session, awake, 50)
    read_on(session, awake, 60)


@pytest.mark.parametrize(
    ("result", "end"),
    [(Result(ONE, stuck={0: 35}, reason=STUCK), 40), (Result(ONE), 35), (Result(ONE), 40)],
    ids=["stuck again", "not through yet", "through"],
)
def test_who_slept_while_others_looked_after_a_parked_tenant_leaves_what_they_made_of_it(
    target: Target, session: Connection[Any], result: Result, end: int
) -> None:
    for meanwhile in ("SET topic_id = 'another'", "SET from_offset = 32", None):
        park(session, POOL, TOPIC, (ONE, 0), 30, STUCK)
        frozen = opened(session)
        target.execute(f"UPDATE replication_parked {meanwhile}" if meanwhile else "DELETE FROM replication_parked")
        stands, turns = target.rows(STANDS, ONE), target.rows(TURNS)
        with pytest.raises(Overtaken):
            frozen.caught_up(session, (ONE, 0), result, 30, end)
        assert (target.rows(STANDS, ONE), target.rows(TURNS)) == (stands, turns)


def test_who_slept_while_a_log_was_cut_off_asks_for_no_backfill_of_who_has_joined(
    target: Target, session: Connection[Any]
) -> None:
    park(session, POOL, TOPIC, (ONE, 0), 30, STUCK)
    frozen = opened(session)
    target.execute("DELETE FROM replication_parked")
    with pytest.raises(Overtaken):
        frozen.missed(session, (ONE, 0), 30)
    assert not target.rows(AWAITED)


def test_who_slept_while_the_log_was_made_anew_finds_another_turn(target: Target, session: Connection[Any]) -> None:
    frozen = opened(session)
    start_progress(session, POOL, 0, Progress(TOPIC, 40))
    with pytest.raises(Overtaken):
        read_on(session, frozen, 50)


# --- a worker that hears of a change late


@pytest.fixture
def worker(target: Target, session: Connection[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """Of the default pool, which tenant 1 has left for a pool without workers; it reads partition 0."""
    monkeypatch.setattr("consumers.worker.TopicShape", lambda _: Shape())
    assign(target, ONE, HEAVY)
    loop = Worker(target.settings(), Stop())
    monkeypatch.setattr(loop, "_inbound", SimpleNamespace(bounds=lambda _: (0, 100)))
    loop._on_assign([0])
    assert not loop._mapping.serves(ONE)
    yield loop
    monkeypatch.setattr(loop, "_inbound", None)
    loop.close()


def test_who_comes_back_while_partitions_are_assigned_is_parked_in_the_others_too(
    target: Target, worker: Worker
) -> None:
    assign(target, ONE, POOL)
    worker._on_assign([1])
    assert (worker._mapping.serves(ONE), worker._ledger.parked.keys()) == (True, {(ONE, 0), (ONE, 1)})


@pytest.mark.parametrize("when", ["the mapping is old", "somebody was faster"])
def test_who_comes_back_while_the_mapping_is_read_is_known_as_parked_or_not_at_all(
    target: Target, session: Connection[Any], worker: Worker, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    read_parked = parking.read_parked

    def read_and_assign(*given: Any) -> dict[Place, Parked]:
        found = read_parked(*given)
        assign(target, ONE, POOL)
        return found

    monkeypatch.setattr(parking, "read_parked", read_and_assign)
    if when == "the mapping is old":
        worker._mapping.expire()
        worker._departures.prepare(session, [])
    else:
        worker._departures.read_again(session)
    assert not worker._mapping.serves(ONE) or (ONE, 0) in worker._ledger.parked


# --- changing pools


def test_a_new_pool_begins_where_the_tenant_comes_from(target: Target, session: Connection[Any]) -> None:
    target.execute(
        "INSERT INTO replication_watermarks (tenant_id, partition, topic_id, next_offset, source_epoch, source_point)"
        " VALUES (%s, 0, %s, 47, 3, 900), (%s, 1, %s, 12, 3, 800)",
        ONE, TOPIC, ONE, TOPIC,
    )  # fmt: skip
    assign(target, ONE, HEAVY)
    assert target.rows(READINGS) == [(pool, part, TOPIC, 40) for pool in (POOL, HEAVY) for part in (0, 1)]
    assert target.rows(STANDS, ONE) == [(0, HEAVY, TOPIC, 47, "pool"), (1, HEAVY, TOPIC, 40, "pool")]
    ledger = opened(session, HEAVY)
    assert {place: mark.next_offset for place, mark in ledger.marks.items()} == {(ONE, 0): 47, (ONE, 1): 40}
    assert ledger.marks[ONE, 0].position[:2] == (3, 900), "streamed changes that come twice are still known"
    assert not target.rows(AWAITED), "it is no gap"
    for place, parked in list(ledger.parked.items()):
        ledger.caught_up(session, place, Result(ONE), parked.from_offset, 40)
    assert target.rows(STANDS, ONE) == []


@pytest.mark.parametrize("low", [0, 10])
def test_a_pool_that_nobody_was_assigned_to_begins_at_the_end_of_the_log(
    target: Target, session: Connection[Any], low: int
) -> None:
    """Else a tenant that comes would wait until all of it is passed over."""
    ledger = Ledger(HEAVY)
    assert ledger.open(session, Shape(), [0], lambda _: (low, 100)) == {0: 100}  # type: ignore[arg-type]
    assign(target, ONE, HEAVY)
    assert target.rows(STANDS, ONE)[0] == (0, HEAVY, TOPIC, 40, "pool")
    assert not target.rows(AWAITED)


def test_where_the_new_pool_is_ahead_or_behind_the_tenant_is_read_from_its_own_place(
    target: Target, session: Connection[Any]
) -> None:
    for partition, offset in enumerate((90, 10)):
        start_progress(session, HEAVY, partition, Progress(TOPIC, offset))
    assign(target, ONE, HEAVY)
    assert target.rows(STANDS, ONE) == [(0, HEAVY, TOPIC, 40, "pool"), (1, HEAVY, TOPIC, 40, "pool")]
    ledger = opened(session, HEAVY)
    assert ledger.marks[ONE, 1] == Mark(40, NOWHERE), "what the pool is yet to read up to there is applied"
    assign(target, ONE, POOL)
    assert target.rows(STANDS, ONE) == [(0, POOL, TOPIC, 40, "pool"), (1, POOL, TOPIC, 40, "pool")]


def test_a_tenant_that_is_stuck_takes_its_place_and_its_reason_along(target: Target, session: Connection[Any]) -> None:
    park(session, POOL, TOPIC, (ONE, 0), 30, STUCK)
    frozen = opened(session)
    assign(target, ONE, HEAVY)
    assert target.rows(STANDS, ONE) == [(0, HEAVY, TOPIC, 30, "55P03"), (1, HEAVY, TOPIC, 40, "pool")]
    with pytest.raises(Overtaken):
        frozen.caught_up(session, (ONE, 0), Result(ONE), 30, 40)
    frozen.read_again(session, [0])
    assert (target.rows(STANDS, ONE)[0], frozen.parked) == ((0, HEAVY, TOPIC, 30, "55P03"), {}), "it is not theirs"


def test_a_topic_that_one_of_the_pools_has_not_seen_yet_is_read_from_its_start(
    target: Target, session: Connection[Any]
) -> None:
    start_progress(session, HEAVY, 0, Progress("another", 70))
    assign(target, ONE, HEAVY)
    assert target.rows(STANDS, ONE) == [(0, HEAVY, "another", 0, "pool"), (1, HEAVY, TOPIC, 40, "pool")]
    assert target.rows(AWAITED) == [(11,)], "what it had not read of the one that is gone comes from the source"


def test_who_parks_a_tenant_waits_for_its_change_of_pools_and_leaves_it_alone(
    target: Target, session: Connection[Any]
) -> None:
    ledger = opened(session)
    stuck = Result(ONE, stuck={0: 45}, reason=STUCK)
    with ThreadPoolExecutor(1) as pool, target.connected("owner") as person:
        with person.transaction():
            person.execute("INSERT INTO replication_tenant_pools (tenant_id, pool) VALUES (%s, %s)", [ONE, HEAVY])
            settled = pool.submit(read_on, session, ledger, 50, stuck)
            waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE '%control%'"
            wait_until(lambda: target.rows(waits), "the pool waits for the change", 10)
        settled.result(10)
    assert target.rows(STANDS, ONE) == [(0, HEAVY, TOPIC, 40, "pool"), (1, HEAVY, TOPIC, 40, "pool")]
    assert ledger.parked == {}
    assert target.rows("SELECT next_offset FROM replication_progress WHERE pool = %s ORDER BY partition", POOL) == [
        (50,),
        (40,),
    ], "the others go on"


def test_a_transaction_of_the_pool_it_left_does_not_write_any_more(target: Target, session: Connection[Any]) -> None:
    mapping = Mapping(60, HEAVY)
    mapping.read(session)
    assert (mapping.owners, mapping.serves(ONE), mapping.is_elsewhere(99)) == ({}, False, True)
    assign(target, ONE, HEAVY)
    mapping.read(session)
    assert ([*mapping.owners], mapping.serves(ONE), mapping.serves(TWO)) == ([11], True, False)
    default = Mapping(60)
    default.read(session)
    assert ([*default.owners], default.is_elsewhere(11), default.is_elsewhere(99)) == ([22], True, False)
    script = Script(session)
    look_again(script, ONE, [11], HEAVY)
    script.send()
    look_again(script, ONE, [11], POOL)
    with pytest.raises(Overtaken, match="served by the pool heavy"):
        script.send()


def test_a_pool_that_begins_anew_leaves_others_watermarks_where_they_are(
    target: Target, session: Connection[Any]
) -> None:
    assign(target, ONE, HEAVY)
    for partition in (0, 1):
        start_progress(session, POOL, partition, Progress(TOPIC, 5000))
    Ledger(POOL).open(session, Shape(), [0, 1], lambda _: (10, 30))  # type: ignore[arg-type]
    assert target.rows(
        "SELECT next_offset FROM replication_watermarks WHERE tenant_id = %s AND partition = 0", ONE
    ) == [(40,)]
    assert target.rows(AWAITED) == [(22,)]


def test_a_tenant_that_goes_takes_its_pool_along(target: Target) -> None:
    assign(target, ONE, HEAVY)
    target.execute("DELETE FROM tenants WHERE id = %s", ONE)
    assert target.rows("SELECT FROM replication_tenant_pools") == []
    assert target.rows(STANDS, ONE) == []
    with pytest.raises(psycopg.errors.CheckViolation):
        assign(target, TWO, "no pool")


def test_a_transaction_with_an_older_snapshot_is_refused(target: Target) -> None:
    with target.connected("owner") as person:
        person.execute("SET default_transaction_isolation = 'repeatable read'")
        with pytest.raises(psycopg.errors.InvalidTransactionState):
            person.execute("INSERT INTO replication_tenant_pools (tenant_id, pool) VALUES (1, 'heavy')")


def test_a_target_of_before_pools_is_brought_up_to_them(target: Target, session: Connection[Any]) -> None:
    target.execute("DROP TABLE replication_tenant_pools CASCADE")
    target.execute("ALTER TABLE replication_progress DROP COLUMN turn")
    target.apply()
    assert {known.turn for known in read_progress(session, POOL).values()} == {0}
    assign(target, ONE, HEAVY)
    assert [place[1] for place in target.rows(STANDS, ONE)] == [HEAVY, HEAVY]


def test_a_parked_tenant_keeps_its_pauses_when_another_comes(target: Target, session: Connection[Any]) -> None:
    park(session, POOL, TOPIC, (TWO, 0), 30, STUCK)
    assign(target, ONE, HEAVY)
    ledger = opened(session)
    ledger.parked[TWO, 0].failed(30)
    due = ledger.parked[TWO, 0].due
    assign(target, ONE, POOL)
    ledger.read_parked_again(session)
    assert ledger.parked.keys() == {(TWO, 0), (ONE, 0), (ONE, 1)}
    assert (ledger.parked[TWO, 0].due, ledger.parked[ONE, 0]) == (due, Parked(40))


def test_a_parked_tenant_keeps_its_pauses_when_the_truth_is_read_again_unless_it_was_read_on(
    target: Target, session: Connection[Any]
) -> None:
    for tenant in (ONE, TWO):
        park(session, POOL, TOPIC, (tenant, 0), 30, STUCK)
    ledger = opened(session)
    for tenant in (ONE, TWO):
        ledger.parked[tenant, 0].failed(30)
    known = dict(ledger.parked)
    target.execute("UPDATE replication_parked SET from_offset = 35 WHERE tenant_id = %s", TWO)
    ledger.read_again(session, [0, 1])
    assert ledger.parked == {(ONE, 0): known[ONE, 0], (TWO, 0): Parked(35)}


# --- the commands


def test_the_plan_says_what_there_is_to_read_and_who_reads(target: Target, session: Connection[Any]) -> None:
    start_progress(session, HEAVY, 0, Progress(TOPIC, 90))
    planned = run(target, "assign", "--tenant", "1", "--pool", HEAVY)
    assert "from the pool default to the pool heavy" in planned
    assert "50 offsets in partition 0" in planned
    assert "no worker of the pool heavy reads" in planned
    assert "--apply" in planned
    assert target.rows(STANDS, ONE) == []
    told = json.loads(run(target, "assign", "--tenant", "1", "--pool", HEAVY, "--apply", "--json"))
    assert (told["applied"], told["change"]["behind"]) == (True, {"0": 50})
    assert [each[3] for each in target.rows(STANDS, ONE)] == [40, 40]
    assert "nothing to do" in run(target, "assign", "--tenant", "1", "--pool", HEAVY, "--apply")
    default, heavy = json.loads(run(target, "list", "--json"))
    assert (default["tenants"], heavy["tenants"], heavy["joining"], heavy["is_served"]) == ([TWO], [ONE], [ONE], False)
    assert "no worker" in run(target, "list")


@pytest.mark.parametrize(
    ("arguments", "says", "exits"),
    [
        (["--tenant", "9", "--pool", HEAVY], "tenant 9 does not exist", 1),
        (["--tenant", "1", "--pool", "no pool"], "letters, digits, dots", 2),
    ],
)
def test_what_makes_no_sense_is_refused(target: Target, arguments: list[str], says: str, exits: int) -> None:
    assert says in run(target, "assign", *arguments, "--apply", exits=exits)


# --- the whole path


@pytest.mark.timeout(300)
def test_a_heavy_tenant_gets_its_own_workers_and_comes_back_under_traffic_and_kills(path: Whole) -> None:
    seeded = fill(path.source_dsn, tenants=2, conversations=60, messages_per_conversation=3)
    path.map(seeded.inboxes)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    path.replicator()
    worker = path.worker()
    path.wait_backfilled()
    gaps = "SELECT count(*) FROM replication_progress WHERE pool = 'heavy'"
    with Traffic(path.source_dsn, inboxes=inboxes, rate=150.0) as traffic:

        def pass_by(rows: int = 60) -> None:
            until = traffic.counts.rows + rows
            wait_until(lambda: traffic.counts.rows >= until, "traffic", 60)

        def joined(tenant: int) -> bool:
            return not path.target.rows(STANDS, tenant)

        pass_by()
        assign(path.target, ONE, HEAVY)  # nobody reads for it yet
        pass_by()
        assert path.target.rows(STANDS, ONE)
        heavy = path.worker(CONSUMERS_POOL=HEAVY)
        pass_by(20)
        heavy.kill()
        pass_by()
        heavy = path.worker(CONSUMERS_POOL=HEAVY)
        wait_until(lambda: joined(ONE), "the tenant has joined its pool", 60)
        assign(path.target, TWO, HEAVY)
        pass_by(20)
        worker.kill()
        assign(path.target, ONE, POOL)
        worker = path.worker()
        pass_by()
        wait_until(lambda: joined(ONE) and joined(TWO), "both have joined", 60)
        assert path.target.rows("SELECT tenant_id, pool FROM replication_tenant_pools ORDER BY 1") == [
            (ONE, POOL),
            (TWO, HEAVY),
        ]
        pass_by()
        traffic.pause()
        path.wait_equal()
    assert path.target.rows(gaps) != [(0,)]
    for program in path.programs:
        assert program.logged("log.gap") == [], "the tenant was followed, not read anew"
    assert path.target.rows("SELECT FROM unmapped_inboxes") == []
    for program in (worker, heavy):
        assert program.stop() == 0
