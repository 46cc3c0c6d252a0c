"""Live traffic: threads that write into the stand-in source as Chatwoot would, at a bounded rate.

Each writer has a connection, a memory of conversations and random numbers of its own, keeps several actions going and
runs one transaction of one of them at a time; so actions interleave, and the children of a deleted conversation go some
time after it. One writer on a fresh seed always makes the same choices. When the source goes away a writer reconnects
with growing pauses; the transaction that failed is not repeated and not counted, as with a job that died.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Self

import psycopg

from demo.source.patterns import choose
from demo.source.world import Conversation, Transaction, World

KNOWN = 2_000  # conversations that a writer remembers from before it began
ACTIONS_AT_ONCE = 12
IDS_AT_ONCE = 50
PAUSES = (0.1, 2.0)  # seconds between attempts to connect: the first, the longest
BEHIND = 1.0  # seconds that a writer may make up for after it was held up
STOP_SECONDS = 60.0
# Chatwoot's own time-out for statements.
SESSION = "-c statement_timeout=14s -c application_name=chatwoot"


@dataclass(slots=True, kw_only=True)
class Counts:
    """What was written so far."""

    actions: Counter[str] = field(default_factory=Counter)
    """Actions begun, by the pattern's name."""
    transactions: int = 0
    """Transactions committed."""
    rows: int = 0
    """Row changes in them."""
    failed: int = 0
    """Transactions that the source refused or lost; one that was lost at its very end may have been committed."""


class Traffic:
    """Writers for the given inboxes; `rate` is in row changes per second, all writers together."""

    def __init__(
        self, dsn: str, *, inboxes: Sequence[int], seed: int = 1, rate: float = 200.0, writers: int = 1
    ) -> None:
        self._counts = Counts()
        self._lock = threading.Lock()
        self._writers = [_Writer(self, dsn, inboxes, seed, k, writers, rate / writers) for k in range(writers)]

    @property
    def counts(self) -> Counts:
        """A copy of the figures of now."""
        with self._lock:
            now = self._counts
            return Counts(actions=now.actions.copy(), transactions=now.transactions, rows=now.rows, failed=now.failed)

    def start(self) -> None:
        """Begin to write."""
        for writer in self._writers:
            writer.start()

    def pause(self) -> None:
        """Stop writing for now; returns when no transaction is under way."""
        for writer in self._writers:
            writer.may_write.clear()
        for writer in self._writers:
            if not writer.busy.acquire(timeout=STOP_SECONDS):
                raise TimeoutError("a writer of the traffic hangs in a transaction")
            writer.busy.release()

    def resume(self) -> None:
        """Go on after a pause."""
        for writer in self._writers:
            writer.may_write.set()

    def stop(self) -> None:
        """Stop for good, leaving unfinished actions as they are; raises what a writer died of."""
        for writer in self._writers:
            writer.ending.set()
            writer.may_write.set()
        for writer in self._writers:
            writer.join(STOP_SECONDS)
            if writer.is_alive():
                raise TimeoutError("a writer of the traffic does not end")
            if writer.died_of is not None:
                raise writer.died_of

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, rows: int | None, action: str | None = None) -> None:
        """Count an action begun, or a transaction with its row changes (None: it failed)."""
        with self._lock:
            if action is not None:
                self._counts.actions[action] += 1
            elif rows is None:
                self._counts.failed += 1
            else:
                self._counts.transactions += 1
                self._counts.rows += rows


class _Writer(threading.Thread):
    def __init__(
        self, traffic: Traffic, dsn: str, inboxes: Sequence[int], seed: int, number: int, of: int, rate: float
    ) -> None:
        super().__init__(name=f"traffic-{number}", daemon=True)
        self.ending = threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()
        self.busy = threading.Lock()
        self.died_of: Exception | None = None
        self._traffic = traffic
        self._dsn = dsn
        self._inboxes = list(inboxes)
        self._random = Random(f"{seed}/{number}")
        self._share = (number, of)
        self._seconds_per_row = 1 / rate
        self._due = 0.0
        self._ids: dict[str, deque[int]] = {}
        self._connection: psycopg.Connection | None = None
        self._actions: list[deque[Transaction]] = []

    def run(self) -> None:
        try:
            self._write()
        except Exception as error:  # handed to whoever calls stop()
            self.died_of = error
        finally:
            if self._connection is not None:
                self._connection.close()

    def _write(self) -> None:
        world = None
        while not self.ending.is_set():
            self.may_write.wait()
            connection = self._connected()
            if connection is None:
                continue
            try:
                world = world or self._remember(connection)
                rows = self._step(connection, world)
            except psycopg.OperationalError:  # the source went away, or chose us as a deadlock's victim
                self._traffic.add(None)
            else:
                self._keep_pace(rows)

    def _connected(self) -> psycopg.Connection | None:
        """A working connection, however long it takes; None if the traffic ends before."""
        pause, longest = PAUSES
        while self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=5, options=SESSION)
            except psycopg.OperationalError:
                if self.ending.wait(pause):
                    return None
                pause = min(2 * pause, longest)
        return self._connection

    def _remember(self, connection: psycopg.Connection) -> World:
        """The world as the database has it; each writer takes its own share of the conversations."""
        owners = connection.execute("SELECT id, account_id FROM inboxes WHERE id = ANY (%s)", [self._inboxes])
        accounts: dict[int, int] = dict(owners.fetchall())
        number, writers = self._share
        rows = connection.execute(
            "SELECT c.id, c.account_id, c.inbox_id, c.contact_id,"
            " ARRAY (SELECT m.id FROM messages m WHERE m.conversation_id = c.id ORDER BY m.id)"
            " FROM conversations c WHERE c.inbox_id = ANY (%s) AND c.id %% %s = %s ORDER BY c.id DESC LIMIT %s",
            [self._inboxes, writers, number, KNOWN],
        ).fetchall()
        known = [Conversation(id=n, account=a, inbox=i, contact=c, messages=m) for n, a, i, c, m in reversed(rows)]
        return World(self._random, accounts, known, self._next_id)

    def _next_id(self, table: str) -> int:
        """A primary key from the table's sequence, fetched in blocks: so numbers are not in the order of commits."""
        block = self._ids.setdefault(table, deque())
        if not block:
            assert self._connection is not None
            numbers = self._connection.execute(
                "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)", [table, IDS_AT_ONCE]
            )
            block.extend(number for (number,) in numbers)
        return block.popleft()

    def _step(self, connection: psycopg.Connection, world: World) -> int:
        """Run the next transaction of one of the actions under way; the number of rows that it changed."""
        with self.busy:
            if not self.may_write.is_set():
                return 0  # paused just now
            if len(self._actions) < ACTIONS_AT_ONCE:
                pattern = choose(world)
                self._actions.append(deque(pattern(world)))
                self._traffic.add(0, pattern.__name__)
            chosen = self._random.randrange(len(self._actions))
            transaction = self._actions[chosen].popleft()
            if not self._actions[chosen]:
                del self._actions[chosen]
            with connection.transaction():
                rows = sum(connection.execute(*statement).rowcount for statement in transaction)
        self._traffic.add(rows)
        return rows

    def _keep_pace(self, rows: int) -> None:
        now = time.monotonic()
        self._due = max(self._due, now - BEHIND) + rows * self._seconds_per_row
        self.ending.wait(max(0.0, self._due - now))
