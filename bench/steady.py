"""Messages at a steady rate, written by the server itself: a few rows a transaction, each flushed when committed."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from bench.changes import Written

MOST_A_COMMIT: Final = 10
TICK_S: Final = 0.005

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


def _last(source: psycopg.Connection[Any]) -> int:
    ((last,),) = source.execute("SELECT COALESCE(max(id), 0) FROM messages").fetchall()
    return int(last)
