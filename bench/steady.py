"""Messages at a steady rate, written by the server itself: a few rows a transaction, each flushed when committed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import sql

from bench import path
from bench.arrived import SHARE
from bench.changes import Written
from bench.path import Service

MOST_A_COMMIT: Final = 10
TICK_S: Final = 0.005
PIECE_SECONDS: Final = 1.0

_WRITE: Final = """
DO $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    written bigint := 0;
    due bigint;
BEGIN
    WHILE written < {total} LOOP
        due := least({total}, ceil(extract(epoch FROM clock_timestamp() - began) * {rate})::bigint);
        WHILE written < due LOOP
            INSERT INTO messages (account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at)
            SELECT 1 + c % {tenants}, 1 + c % {inboxes}, c, 1, repeat(md5(n::text) || ' ', 4), now(), now()
            FROM generate_series(written + 1, least(written + {most}, due)) AS n,
                LATERAL (SELECT ({first} + n % {conversations})::integer AS c) AS of;
            written := least(written + {most}, due);
            COMMIT;
        END LOOP;
        PERFORM pg_sleep({tick});
    END LOOP;
END
$$
"""


class Span(NamedTuple):
    """Messages by their ids."""

    first: int
    last: int


def write(dsn: str, conversations: Written, *, rate: int, seconds: float, tenants: int, inboxes: int) -> Span:
    """Messages of these conversations, so many a second. Returns at the end."""
    given = {
        "first": conversations.first,
        "conversations": conversations.last - conversations.first + 1,
        "total": max(1, round(rate * seconds)),
        "rate": rate,
        "most": MOST_A_COMMIT,
        "tick": TICK_S,
        "tenants": tenants,
        "inboxes": inboxes,
    }
    with psycopg.connect(dsn, autocommit=True) as source:
        before = _last(source)
        source.execute(sql.SQL(_WRITE).format(**{name: sql.Literal(value) for name, value in given.items()}))
        return Span(before + 1, _last(source))


class Writer:
    """Writes at a steady rate beside what its context does."""

    def __init__(self, dsn: str, conversations: Written, *, rate: int, tenants: int, inboxes: int) -> None:
        self._write = partial(
            write, dsn, conversations, rate=rate, seconds=PIECE_SECONDS, tenants=tenants, inboxes=inboxes
        )
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(1, "steady")

    def __enter__(self) -> Self:
        self._written = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._pool.shutdown()
        self._written.result()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._write()


def wait(service: Service, dsn: str, span: Span) -> None:
    """Until all of them are in a target. Raises NotMeasured if they do not come, or the service ends."""
    count, rows = "SELECT count(*) FROM messages WHERE id BETWEEN %s AND %s", span.last - span.first + 1
    with psycopg.connect(dsn, autocommit=True) as target:
        path.wait(service, lambda: path.one(target, count, *span) >= rows, "all messages", share=SHARE)


def _last(source: psycopg.Connection[Any]) -> int:
    ((last,),) = source.execute("SELECT COALESCE(max(id), 0) FROM messages").fetchall()
    return int(last)
