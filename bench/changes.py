"""Row changes in bulk, as live traffic mixes them: nine messages to a conversation, a thousand rows a transaction.

Written by the server itself, so that the writer costs next to nothing while others read.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import psycopg
from psycopg import sql

MESSAGES: Final = 9
"""Of each conversation."""
CONVERSATIONS_A_COMMIT: Final = 100
WRITTEN, CHANGED = 0, 1
"""The status of rows that were inserted, and then updated."""

_INSERT: Final = """
DO $$
DECLARE
    step integer;
BEGIN
    FOR step IN SELECT generate_series({first}, {last}, {step}) LOOP
        INSERT INTO conversations
            (id, account_id, inbox_id, status, created_at, updated_at, contact_id, display_id, last_activity_at)
        SELECT n, 1 + n % {tenants}, {first_inbox} + n % {inboxes}, {status}, now(), now(), NULL, 0, now()
        FROM generate_series(step, least(step + {step} - 1, {last})) AS n;
        INSERT INTO messages (
            account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at, status, sender_type,
            sender_id
        )
        SELECT 1 + n % {tenants}, {first_inbox} + n % {inboxes}, n, i % 2, repeat(md5((n * 16 + i)::text) || ' ', 4),
            now(), now(), {status}, CASE i % 2 WHEN 0 THEN 'Contact' ELSE 'User' END, 1
        FROM generate_series(step, least(step + {step} - 1, {last})) AS n, generate_series(1, {messages}) AS i
        ORDER BY n, i;
        COMMIT;
    END LOOP;
END
$$
"""

_UPDATE: Final = """
DO $$
DECLARE
    step integer;
BEGIN
    FOR step IN SELECT generate_series({first}, {last}, {step}) LOOP
        UPDATE conversations SET status = {status}, updated_at = now()
        WHERE id BETWEEN step AND least(step + {step} - 1, {last});
        UPDATE messages SET status = {status}, updated_at = now()
        WHERE conversation_id BETWEEN step AND least(step + {step} - 1, {last});
        COMMIT;
    END LOOP;
END
$$
"""


class Written(NamedTuple):
    """Conversations by their ids, with their messages."""

    first: int
    last: int

    @property
    def rows(self) -> int:
        return (self.last - self.first + 1) * (1 + MESSAGES)


def insert(
    dsn: str,
    rows: int,
    *,
    tenants: int,
    inboxes: int,
    first_inbox: int = 1,
    conversations_a_commit: int = CONVERSATIONS_A_COMMIT,
) -> Written:
    """Conversations and their messages over so many inboxes, as many rows as are asked for or a few less."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT COALESCE(max(id), 0) + 1 FROM conversations").fetchone()
        assert row is not None
    written = Written(row[0], row[0] + max(1, rows // (1 + MESSAGES)) - 1)
    of = {"tenants": tenants, "inboxes": inboxes, "first_inbox": first_inbox}
    _run(dsn, _INSERT, written, conversations_a_commit, **of, messages=MESSAGES, status=WRITTEN)
    return written


def update(dsn: str, written: Written) -> None:
    """Every conversation and message of these once."""
    _run(dsn, _UPDATE, written, CONVERSATIONS_A_COMMIT, status=CHANGED)


def _run(dsn: str, block: str, written: Written, step: int, **numbers: int) -> None:
    given = {"first": written.first, "last": written.last, "step": step, **numbers}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(sql.SQL(block).format(**{name: sql.Literal(value) for name, value in given.items()}))
