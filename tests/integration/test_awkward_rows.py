"""A source without foreign keys, through the whole path: whatever is missing, moved or gone there, both sides agree."""

from __future__ import annotations

import pytest

from demo.servers import wait_until
from tests.integration.chatwoot import Source, add_message, fill, make_large
from tests.integration.programs import Program
from tests.integration.whole import Whole

NOWHERE = 99
"""An inbox that has a tenant and events, but no row."""
MINE, OTHERS = (1, 2, 3, NOWHERE), (4, 5, 6)
MESSAGE = (
    "INSERT INTO messages (account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at)"
    " VALUES (1, %s, %s, 0, 'text', now(), now())"
)
CONVERSATION = (
    "INSERT INTO conversations (id, account_id, inbox_id, contact_id, created_at, updated_at)"
    " VALUES (%s, 1, %s, %s, now(), now())"
)


@pytest.fixture
def path(path: Whole, source: Source) -> Whole:
    """Two tenants with three inboxes each: 24 conversations of two messages."""
    fill(source, conversations=24, messages=2)
    path.map({1: MINE, 2: OTHERS})
    path.replicator()
    return path


@pytest.fixture
def worker(path: Whole) -> Program:
    """One that has done the initial load."""
    program = path.worker()
    path.wait_backfilled()
    return program


def wait_settled(path: Whole, source: Source) -> None:
    """Both sides are equal, and the only stubs of conversations are parents that some message of the tenant names."""
    path.wait_equal()
    tenant_of = {inbox: tenant for tenant, inboxes in ((1, MINE), (2, OTHERS)) for inbox in inboxes}
    named = {
        (tenant_of[inbox], conversation)
        for inbox, conversation in source.execute("SELECT DISTINCT inbox_id, conversation_id FROM messages")
    }
    whole_ones = {
        (tenant_of[inbox], conversation)
        for inbox, conversation in source.execute("SELECT inbox_id, id FROM conversations")
    }
    wait_until(lambda: set(path.stubs("conversations")) == named - whole_ones, "no stub but for a child", 20)
    assert path.target.rows("SELECT * FROM replication_parked") == []


def test_orphans_of_every_kind_arrive_and_a_late_child_brings_no_parent_back(
    path: Whole, source: Source, worker: Program
) -> None:
    source.execute(MESSAGE, (1, 500))
    source.execute(MESSAGE, (NOWHERE, 501))
    source.execute(CONVERSATION, (502, NOWHERE, 4711))
    source.execute(CONVERSATION, (503, 1, None))
    source.execute(MESSAGE, (1, 503))
    wait_settled(path, source)
    assert (1, 500) in path.stubs("conversations")
    assert (1, NOWHERE) in path.stubs("inboxes")

    source.execute("DELETE FROM conversations WHERE id IN (1, 2, 503)")  # their children follow later, or never
    wait_settled(path, source)
    source.execute("UPDATE messages SET content = 'late' WHERE conversation_id = 1")
    source.execute("DELETE FROM messages WHERE conversation_id = 503")
    late = add_message(source, 3, "to be late")
    source.execute("UPDATE messages SET conversation_id = 2 WHERE id = %s", (late,))
    wait_settled(path, source)
    assert path.target.rows("SELECT 1 FROM conversations WHERE id IN (1, 2) AND synced_at IS NOT NULL") == []

    source.execute(CONVERSATION, (500, 1, 7))  # the parent comes after all
    source.execute("DELETE FROM messages WHERE conversation_id IN (1, 2, 501)")
    wait_settled(path, source)
    assert path.stubs("conversations") == []
    source.execute("DELETE FROM inboxes WHERE id = 2")
    wait_settled(path, source)
    source.execute("DELETE FROM conversations WHERE inbox_id = 2")
    source.execute("DELETE FROM messages WHERE inbox_id = 2")
    source.execute("DELETE FROM contact_inboxes WHERE inbox_id = 2")
    wait_settled(path, source)
    assert path.target.rows("SELECT 1 FROM inboxes WHERE id = 2") == []
    assert worker.running


def test_tables_truncated_keys_changed_contacts_merged_and_rows_moved(
    path: Whole, source: Source, worker: Program
) -> None:
    source.execute("UPDATE conversations SET id = id + 1000 WHERE id % 5 = 0")
    source.execute("UPDATE messages SET conversation_id = conversation_id + 1000 WHERE conversation_id % 10 = 0")
    with source.transaction():  # two keys changed for one another
        source.execute("UPDATE messages SET id = -1 WHERE id = 1")
        source.execute("UPDATE messages SET id = 1 WHERE id = 2")
        source.execute("UPDATE messages SET id = 2 WHERE id = -1")
    wait_settled(path, source)
    with source.transaction():  # a merge: what was the mergee's is the base contact's
        for table in ("conversations", "contact_inboxes"):
            source.execute(f"UPDATE {table} SET contact_id = 1 WHERE contact_id IN (2, 3)".encode())
        source.execute("DELETE FROM contacts WHERE id IN (2, 3)")
    wait_settled(path, source)

    make_large(source, 3)
    make_large(source, 4)
    wait_settled(path, source)
    here, there = 1, 4
    source.execute("UPDATE messages SET inbox_id = %s WHERE id = 3", (there,))
    source.execute("UPDATE messages SET inbox_id = %s WHERE id = 3", (here,))
    source.execute("UPDATE messages SET inbox_id = %s WHERE id = 3", (there,))
    with source.transaction():  # a conversation with its messages, one of which has a text of its own storage
        source.execute("UPDATE messages SET inbox_id = 7 - inbox_id WHERE conversation_id IN (4, 7)")
        source.execute("UPDATE conversations SET inbox_id = 7 - inbox_id WHERE id IN (4, 7)")
    source.execute("UPDATE conversations SET inbox_id = 7 - inbox_id WHERE id = 8")  # its messages stay behind
    source.execute("UPDATE contact_inboxes SET inbox_id = NULL WHERE id % 3 = 0")
    source.execute("UPDATE contact_inboxes SET inbox_id = 7 - inbox_id WHERE id % 3 = 1")
    wait_settled(path, source)
    for message in (3, 4):
        ((inbox, text),) = source.execute("SELECT inbox_id, content FROM messages WHERE id = %s", (message,))
        assert path.target.rows("SELECT inbox_id, content FROM messages WHERE id = %s", message) == [(inbox, text)]

    source.execute("TRUNCATE messages, contact_inboxes")
    last = add_message(source, 6, "after everything")
    wait_settled(path, source)
    assert path.target.rows("SELECT id FROM messages") == [(last,)]
    assert path.target.rows("SELECT id FROM contact_inboxes") == []
    source.execute("TRUNCATE messages, conversations, contact_inboxes, inboxes")
    wait_settled(path, source)
    for table in ("messages", "conversations", "contact_inboxes", "inboxes"):
        assert path.target.rows(f"SELECT id FROM {table}") == []
    assert worker.running
