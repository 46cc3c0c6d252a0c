"""Rows for a Chatwoot source, and what the source holds in the words of an event."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from replicator import PINNED_SETTINGS
from replicator.lsn import parse_lsn
from replicator.values import JsonValue
from tests.integration.replayed import Replayed

TABLES = ("inboxes", "conversations", "contact_inboxes", "messages")
INTEGERS = (20, 21, 23)
BOOLEAN = 16

Source = psycopg.Connection[Any]


def connect(dsn: str) -> Source:
    """An autocommit session that prints values as an event has them."""
    connection = psycopg.connect(dsn, autocommit=True)
    for name, value in PINNED_SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    return connection


@contextmanager
def role(source: Source, dsn: str, *rights: str) -> Iterator[str]:
    """The address of a new role with these rights, {role} in them."""
    name = f"role_{uuid.uuid4().hex[:8]}"
    source.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'".encode())
    try:
        for right in rights:
            source.execute(right.format(role=name).encode())
        yield psycopg.conninfo.make_conninfo(dsn, user=name, password="x")
    finally:
        source.execute(f"DROP OWNED BY {name} CASCADE".encode())
        source.execute(f"DROP ROLE {name}".encode())


def fill(source: Source, *, conversations: int = 60, messages: int = 2) -> None:
    """Two accounts with three inboxes each; contacts, conversations and their messages round robin."""
    source.execute("INSERT INTO accounts (id, name, created_at, updated_at) VALUES (1, 'a', now(), now())")
    source.execute("INSERT INTO accounts (id, name, created_at, updated_at) VALUES (2, 'b', now(), now())")
    source.execute(
        "INSERT INTO inboxes (id, channel_id, account_id, name, created_at, updated_at)"
        " SELECT g, g, 1 + g % 2, 'inbox ' || g, now(), now() FROM generate_series(1, 6) g"
    )
    source.execute(
        "INSERT INTO contact_inboxes (contact_id, inbox_id, source_id, created_at, updated_at)"
        " SELECT g, nullif(g %% 7, 0), 's' || g, now(), now() FROM generate_series(1, %s) g",
        (conversations,),
    )
    source.execute(
        "INSERT INTO conversations (account_id, inbox_id, contact_id, created_at, updated_at)"
        " SELECT 1 + (1 + g %% 6) %% 2, 1 + g %% 6, g, now(), now() FROM generate_series(1, %s) g",
        (conversations,),
    )
    source.execute(
        "INSERT INTO messages (account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at)"
        " SELECT c.account_id, c.inbox_id, c.id, 0, 'text ' || m, now(), now()"
        " FROM conversations c, generate_series(1, %s) m",
        (messages,),
    )


def add_message(source: Source, conversation: int, content: str) -> int:
    """The id of a new message."""
    row = source.execute(
        "INSERT INTO messages (account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at)"
        " SELECT account_id, inbox_id, id, 0, %s, now(), now() FROM conversations WHERE id = %s RETURNING id",
        (content, conversation),
    ).fetchone()
    assert row is not None
    return int(row[0])


def make_large(source: Source, message: int) -> None:
    """Gives a message a text that does not compress, so that it is stored out of line."""
    source.execute(
        "UPDATE messages SET content = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 400) g)"
        " WHERE id = %s",
        (message,),
    )


def confirmed(source: Source, slot: str) -> int:
    """What the slot may forget."""
    ((lsn,),) = source.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", (slot,)
    ).fetchall()
    return parse_lsn(lsn)


def rows(source: Source, table: str) -> dict[int, dict[str, JsonValue]]:
    """Id → row, read without the replicator's help. Rows without an inbox are nobody's."""
    inbox = "id" if table == "inboxes" else "inbox_id"
    return rows_of(source, f"SELECT * FROM {table} WHERE {inbox} IS NOT NULL", "id")


def rows_of(source: Source, query: str, key: str) -> dict[int, dict[str, JsonValue]]:
    """Key → row of a query, in the words of an event."""
    cursor = source.execute(query.encode())
    result = cursor.pgresult
    assert result is not None
    assert cursor.description is not None
    columns = [(column.name, column.type_code) for column in cursor.description]
    found: dict[int, dict[str, JsonValue]] = {}
    for i in range(result.ntuples):
        row = {name: _value(result.get_value(i, j), oid) for j, (name, oid) in enumerate(columns)}
        found[int(row[key] or 0)] = row
    return found


def _value(text: bytes | None, oid: int) -> JsonValue:
    if text is None:
        return None
    if oid in INTEGERS:
        return int(text)
    return text == b"t" if oid == BOOLEAN else text.decode()


def differences(replayed: Replayed, source: Source) -> list[tuple[str, int, Any, Any]]:
    """Where the log and the source are not alike: table, id, the log's row and the source's."""
    found = []
    for table in TABLES:
        logged, held = replayed.rows(table), rows(source, table)
        found += [
            (table, key, logged.get(key), held.get(key))
            for key in sorted({*logged, *held})
            if logged.get(key) != held.get(key)
        ]
    return found


def wait_until_alike(replayed: Replayed, source: Source, seconds: float = 60.0) -> None:
    """Until the log, folded, is the source. Nobody else may write to the source meanwhile."""
    try:
        replayed.wait_for("the log says what the source holds", lambda: not differences(replayed, source), seconds)
    except TimeoutError:
        assert differences(replayed, source)[:3] == []
        raise
