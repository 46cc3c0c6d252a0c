"""One tenant in two partitions, a worker on each: they share parents without a deadlock, and rows that move between the
partitions end where the source has them, whichever is read first.
"""

from __future__ import annotations

import signal
from contextlib import closing

import pytest

from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from replicator import partition_of
from tests.integration.chatwoot import Source, add_message, connect, fill
from tests.integration.programs import Program
from tests.integration.whole import PARTITIONS, Whole
from tests.integration.written import Written

ROWS = 6_000
WITHIN, OTHER = 10, 20
"""Tenants."""
PATIENT = '{"session.timeout.ms": 45000}'
"""A worker that is frozen for a moment stays a member."""


def partitions(program: Program) -> set[int]:
    return set(program.status().get("partitions", ()))


def wait_until_shared(*workers: Program) -> None:
    def shared() -> bool:
        parts = [partitions(worker) for worker in workers]
        return all(parts) and sum(map(len, parts)) == len(set().union(*parts)) == PARTITIONS

    wait_until(shared, "every worker has partitions of its own", 40)


def deadlocks(path: Whole) -> int:
    """Sessions report them when they end at the latest."""
    ((found,),) = path.target.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(found)


def test_transactions_that_would_wait_for_each_others_stubs_take_turns(path: Whole) -> None:
    """Each makes the parent of its first row, is held up there, and then needs the parent that the other has made."""
    with closing(connect(path.source_dsn)) as source:
        fill(source, conversations=12, messages=1)
        path.map({WITHIN: range(1, 7)})
        path.replicator()
        workers = [path.worker(CONSUMERS_BATCH_WAIT_MS="300", CONSUMERS_LOCK_TIMEOUT_S="30") for _ in range(2)]
        wait_until_shared(*workers)
        path.wait_equal()
        one, other = (
            next(inbox for inbox in range(1, 7) if partition_of(inbox, PARTITIONS) in partitions(worker))
            for worker in workers
        )

        def waiting() -> int:
            return len(
                path.target.rows(
                    "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'",
                    path.target.role("applier"),
                )
            )

        with path.target.connected() as session, session.transaction():
            session.execute("SELECT FROM conversations FOR UPDATE")
            session.execute("SELECT FROM contact_inboxes FOR UPDATE")
            with source.transaction():
                for inbox, mine, theirs in ((one, 1001, 1002), (other, 1002, 1001)):
                    for table, contact in (("contact_inboxes", mine), ("conversations", theirs)):
                        source.execute(
                            f"UPDATE {table} SET contact_id = %s"
                            f" WHERE id = (SELECT min(id) FROM {table} WHERE inbox_id = %s)".encode(),
                            (contact, inbox),
                        )
            wait_until(lambda: waiting() == 2, "both wait, for the rows or for the tenant's lock", 20)
        path.wait_equal()
        assert [worker.stop() for worker in workers] == [0, 0]
    assert deadlocks(path) == 0


@pytest.mark.timeout(240)
def test_two_workers_make_the_stubs_of_one_tenant_without_a_deadlock(path: Whole) -> None:
    seeded = seed(path.source_dsn, tenants=1, inboxes_per_tenant=8, conversations=40, messages_per_conversation=1)
    ((tenant, inboxes),) = seeded.inboxes.items()
    assert len({partition_of(inbox, PARTITIONS) for inbox in inboxes}) == PARTITIONS
    path.map(seeded.inboxes)
    replicator = path.replicator()
    workers = [path.worker(CONSUMERS_BATCH_WAIT_MS="200") for _ in range(2)]
    path.wait_backfilled()
    wait_until_shared(*workers)
    applied = [worker.status()["applied_rows"] for worker in workers]
    # Few conversations: so both are always busy with the contacts, conversations and messages of the same.
    with Traffic(path.source_dsn, inboxes=inboxes, rate=600, writers=3) as traffic:
        wait_until(lambda: traffic.counts.rows >= ROWS, f"{ROWS} rows of traffic", 120)
    path.wait_equal()
    wait_until_shared(*workers)
    assert all(worker.status()["applied_rows"] > before for worker, before in zip(workers, applied, strict=True))
    assert [worker.stop() for worker in workers] == [0, 0]
    assert replicator.stop() == 0
    assert deadlocks(path) == 0
    assert not [line for worker in workers for line in worker.lines() if "40P01" in str(line)]
    assert path.target.rows("SELECT DISTINCT tenant_id FROM contacts") == [(tenant,)]


class Moves:
    """Two workers, and inboxes of two tenants on both; the first worker reads where rows come from."""

    def __init__(self, path: Whole, source: Source) -> None:
        self._source = source
        fill(source, conversations=12, messages=1)
        path.replicator(REPLICATOR_HEARTBEAT_S="60")
        # One reads a message at a time: coalescing would hide what the rows' own positions have to do.
        self.workers = [path.worker(CONSUMERS_KAFKA_OPTIONS=PATIENT, CONSUMERS_BATCH_MESSAGES=n) for n in ("1", "5000")]
        wait_until_shared(*self.workers)
        self.first, second = self.workers
        old = [inbox for inbox in range(1, 7) if partition_of(inbox, PARTITIONS) in partitions(self.first)]
        new = [inbox for inbox in range(1, 7) if partition_of(inbox, PARTITIONS) in partitions(second)]
        path.map({WITHIN: (*old[:2], new[0]), OTHER: (*old[2:], *new[1:])})
        self.pairs = [(old[0], new[0]), (old[1], new[1])]
        """Old and new inbox: of one tenant, of two."""
        self.places = [(WITHIN, new[0]), (OTHER, new[1])]
        """Where the rows belong afterwards."""
        path.wait_equal()

    def message_in(self, inbox: int) -> int:
        ((conversation,),) = self._source.execute(
            "SELECT id FROM conversations WHERE inbox_id = %s ORDER BY id LIMIT 1", (inbox,)
        ).fetchall()
        return add_message(self._source, conversation, "moves")

    def new_messages(self) -> list[int]:
        """One in each old inbox."""
        return [self.message_in(old) for old, _ in self.pairs]

    def move(self, messages: list[int], *, back: bool = False) -> None:
        for message, (old, new) in zip(messages, self.pairs, strict=True):
            self._source.execute(
                "UPDATE messages SET inbox_id = %s, status = status + 1 WHERE id = %s", (old if back else new, message)
            )


def test_a_row_that_moved_is_right_though_its_new_partition_is_applied_first(path: Whole) -> None:
    with closing(connect(path.source_dsn)) as source:
        moves = Moves(path, source)
        written = Written(path.target)

        def held(messages: list[int]) -> list[tuple[int, int]]:
            """(tenant, inbox) of each row that there is of them."""
            return path.target.rows(
                "SELECT tenant_id, inbox_id FROM messages WHERE id = ANY (%s) ORDER BY id, tenant_id", messages
            )

        known = moves.new_messages()
        path.wait_equal()
        moves.first.send(signal.SIGSTOP)
        fresh, there_and_back, gone = (moves.new_messages() for _ in range(3))
        for messages in (known, fresh, there_and_back, gone):
            moves.move(messages)
        moves.move(there_and_back, back=True)
        source.execute("DELETE FROM messages WHERE id = ANY (%s)", (gone,))
        last = [moves.message_in(new) for _, new in moves.pairs]
        wait_until(lambda: held(last) == moves.places, "the new inboxes' partitions are applied", 30)
        assert held(fresh) == moves.places
        assert held(known) == [moves.places[0], (WITHIN, moves.pairs[1][0]), moves.places[1]]
        assert held(gone) == []
        before = written.of(known[0])

        moves.first.send(signal.SIGCONT)
        path.wait_equal()
        assert held(known) == held(fresh) == moves.places
        assert written.of(known[0]) == before, "what comes late of the old inbox does not touch the row"
        assert [write.op for write in written.of(fresh[0])] == ["i"]
        assert [worker.stop() for worker in moves.workers] == [0, 0]
