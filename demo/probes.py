"""How long a commit in the source takes until a reader of the target sees it, measured from outside.

Several times a second each tenant's inboxes get a new number in a column that nothing else writes, in one transaction:
a column of their own, or, where the view is what is read, of a conversation that each has for this. A reader, bound by
row-level security, looks for the numbers in the target. Every inbox is probed, because each goes its own way (a
partition, a worker). In a stream a change that an inbox's number has overtaken is there too, for an inbox keeps the
source's order of commits; polling promises no such order. The clock starts before the COMMIT is sent and stops after
the answer has come, so a delay is rather too long than too short, by a twentieth at the most once it is long enough to
be read.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import psycopg

from demo.figures import Arrival

EVERY = 0.25  # seconds between two probes
PAUSES = (0.005, 0.1)  # seconds between two looks at the target: the shortest, the longest
PAUSE_SHARE = 0.03  # of the oldest probe's age
JOIN_SECONDS = 15.0
SESSION = "-c TimeZone=UTC -c statement_timeout=10s -c application_name=probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Where numbers go. Statements take `inboxes`, an array, and `number`."""

    prepare: str
    """Run once, in the source; empty: nothing is needed."""
    write: str
    read: str
    """Inboxes and their numbers, as the target has them."""


IN_INBOXES = Probed(
    prepare="",
    write="UPDATE inboxes SET business_name = 'probe ' || %(number)s WHERE id = ANY (%(inboxes)s)",
    read="SELECT id, substr(business_name, 7)::integer FROM inboxes WHERE business_name LIKE 'probe %%'",
)
IN_VIEW = Probed(
    prepare="INSERT INTO conversations (account_id, inbox_id, display_id, identifier, created_at, updated_at)"
    " SELECT account_id, id, 0, 'probe', now(), now() FROM inboxes WHERE id = ANY (%(inboxes)s)",
    write="UPDATE conversations SET campaign_id = %(number)s, updated_at = clock_timestamp()"
    " WHERE inbox_id = ANY (%(inboxes)s) AND identifier = 'probe'",
    read="SELECT inbox_id, campaign_id FROM conversations_analytics WHERE campaign_id IS NOT NULL",
)


class Probes:
    """Two threads: one writes into the source, one looks at the target as each tenant's reader."""

    def __init__(
        self, source_dsn: str, reader_dsn: str, inboxes: Mapping[int, Sequence[int]], probed: Probed = IN_INBOXES
    ) -> None:
        """`inboxes`: those of each tenant."""
        self._source_dsn, self._reader_dsn, self._probed = source_dsn, reader_dsn, probed
        self._inboxes = {tenant: list(owned) for tenant, owned in inboxes.items()}
        everything = [inbox for owned in self._inboxes.values() for inbox in owned]
        self._lock = threading.Lock()
        self._under_way: dict[int, deque[tuple[int, float]]] = {inbox: deque() for inbox in everything}
        self._newest: dict[int, Arrival] = {}
        self._arrivals: list[Arrival] = []
        self._sent_enough, self._seen_enough = threading.Event(), threading.Event()
        self._died_of: Exception | None = None
        self._sender = threading.Thread(target=self._guarded, args=(self._send,), name="probes-sender", daemon=True)
        self._looker = threading.Thread(target=self._guarded, args=(self._look,), name="probes-looker", daemon=True)

    def start(self) -> None:
        """Whoever writes conversations of its own must know its own already: those of probes are none of them."""
        self._sender.start()
        self._looker.start()

    def finish_sending(self) -> float:
        """Let one last probe follow everything that was committed until now; returns the moment before it."""
        moment = time.monotonic()
        self._sent_enough.set()
        self._join(self._sender)
        return moment

    def close(self) -> None:
        """End both threads, whatever is under way."""
        self._sent_enough.set()
        self._seen_enough.set()
        self._join(self._sender)
        self._join(self._looker)

    def check(self) -> None:
        """Raises what a thread died of."""
        if self._died_of is not None:
            raise self._died_of

    @property
    def arrivals(self) -> list[Arrival]:
        """A copy of all so far, in the order of their arrival."""
        with self._lock:
            return self._arrivals.copy()

    def lag(self, tenant: int) -> float | None:
        """The delay of the slowest of the tenant's inboxes: of its latest probe, or of one not there yet."""
        with self._lock:
            now = time.monotonic()
            delays = [self._newest[inbox].took for inbox in self._inboxes[tenant] if inbox in self._newest]
            delays += [now - way[0][1] for inbox in self._inboxes[tenant] if (way := self._under_way[inbox])]
        return max(delays, default=None)

    @property
    def oldest_under_way(self) -> float | None:
        """When the oldest probe that has not arrived was sent."""
        with self._lock:
            return min((way[0][1] for way in self._under_way.values() if way), default=None)

    def unreached_since(self, moment: float) -> list[int]:
        """The inboxes of which no probe sent after this moment has arrived."""
        with self._lock:
            arrived = {inbox for inbox, arrival in self._newest.items() if arrival.sent > moment}
        return [inbox for inbox in self._under_way if inbox not in arrived]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # handed to whoever calls check()
            self._died_of = error

    def _join(self, thread: threading.Thread) -> None:
        thread.join(JOIN_SECONDS)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} does not end")

    def _send(self) -> None:
        with psycopg.connect(self._source_dsn, options=SESSION, connect_timeout=5) as connection:
            if self._probed.prepare:
                connection.execute(self._probed.prepare, {"inboxes": list(self._under_way)})
            for number in count(1):
                last = self._sent_enough.is_set()
                for owned in self._inboxes.values():
                    self._send_one(connection, number, owned)
                if last:
                    return
                self._sent_enough.wait(EVERY)

    def _send_one(self, connection: psycopg.Connection, number: int, inboxes: list[int]) -> None:
        connection.execute(self._probed.write, {"number": number, "inboxes": inboxes})
        with self._lock:  # before the commit: the reader may be faster than its answer
            sent = time.monotonic()
            for inbox in inboxes:
                self._under_way[inbox].append((number, sent))
        connection.commit()

    def _look(self) -> None:
        with ExitStack() as stack:
            readers = {
                tenant: stack.enter_context(
                    psycopg.connect(
                        self._reader_dsn,
                        options=f"{SESSION} -c app.current_tenant_id={tenant}",
                        autocommit=True,
                        connect_timeout=5,
                    )
                )
                for tenant in self._inboxes
            }
            while not self._seen_enough.wait(self._pause()):
                for tenant, reader in readers.items():
                    if any(self._under_way[inbox] for inbox in self._inboxes[tenant]):
                        self._take(tenant, reader.execute(self._probed.read, {}).fetchall())

    def _pause(self) -> float:
        """Short beside the delay that is measured; else looking often is dearer than it is worth."""
        shortest, longest = PAUSES
        oldest = self.oldest_under_way
        return shortest if oldest is None else min(max(shortest, PAUSE_SHARE * (time.monotonic() - oldest)), longest)

    def _take(self, tenant: int, rows: Sequence[tuple[int, int]]) -> None:
        now = time.monotonic()
        with self._lock:
            for inbox, reached in rows:
                way = self._under_way.get(inbox, deque())
                while way and way[0][0] <= reached:
                    _, sent = way.popleft()
                    self._newest[inbox] = Arrival(sent, now - sent, tenant)
                    self._arrivals.append(self._newest[inbox])
