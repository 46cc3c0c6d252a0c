"""Row changes in bulk, as live traffic mixes them: nine messages to a conversation, a thousand rows a transaction.

Written by the server itself, so that the writer costs next to nothing while others read.
"""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

MESSAGES: Final = 9
"""Of each conversation."""
_CONVERSATIONS_A_COMMIT: Final = 100

_INSERT: Final = """
DO $$
DECLARE
    first integer;
    begins CONSTANT integer := (SELECT COALESCE(max(id), 0) FROM conversations);
BEGIN
    FOR first IN SELECT generate_series(1, {conversations}, {step}) LOOP
        INSERT INTO conversations
            (id, account_id, inbox_id, status, created_at, updated_at, contact_id, display_id, last_activity_at)
        SELECT begins + n, 1 + n % {tenants}, 1 + n % {inboxes}, 0, now(), now(), NULL, 0, now()
        FROM generate_series(first, least(first + {step} - 1, {conversations})) AS n;
        INSERT INTO messages (
            account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at, sender_type, sender_id
        )
        SELECT 1 + n % {tenants}, 1 + n % {inboxes}, begins + n, i % 2, repeat(md5((n * 16 + i)::text) || ' ', 4),
            now(), now(), CASE i % 2 WHEN 0 THEN 'Contact' ELSE 'User' END, 1
        FROM generate_series(first, least(first + {step} - 1, {conversations})) AS n,
            generate_series(1, {messages}) AS i
        ORDER BY n, i;
        COMMIT;
    END LOOP;
END
$$
"""

_UPDATE: Final = """
DO $$
DECLARE
    first integer;
BEGIN
    FOR first IN SELECT generate_series(1, (SELECT max(id) FROM conversations), {step}) LOOP
        UPDATE conversations SET status = 1, updated_at = now() WHERE id BETWEEN first AND first + {step} - 1;
        UPDATE messages SET status = 1, updated_at = now() WHERE conversation_id BETWEEN first AND first + {step} - 1;
        COMMIT;
    END LOOP;
END
$$
"""


def insert(dsn: str, rows: int, *, tenants: int, inboxes: int) -> int:
    """Conversations and their messages over all inboxes (1 and following); says how many rows there are in the end."""
    conversations = max(1, rows // (1 + MESSAGES))
    _run(dsn, _INSERT, conversations=conversations, tenants=tenants, inboxes=inboxes)
    return conversations * (1 + MESSAGES)


def update(dsn: str) -> None:
    """Every conversation and message once."""
    _run(dsn, _UPDATE)


def _run(dsn: str, block: str, **numbers: int) -> None:
    given = {"step": _CONVERSATIONS_A_COMMIT, "messages": MESSAGES, **numbers}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(sql.SQL(block).format(**{name: sql.Literal(value) for name, value in given.items()}))
