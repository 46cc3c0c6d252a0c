"""Rows and watermark of a tenant commit together: who expects an older watermark was overtaken and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from consumers import target_session
from consumers.errors import Overtaken
from consumers.layout import read_relations
from consumers.ordering import Delete, Rows, Step, Upsert
from consumers.target import Session, Work
from consumers.watermark import Mark
from replicator import Position, TableSchema
from tests.integration.targets import Target

TENANT, INBOX, MESSAGE, PARTITION = 3, 1, 77, 0
COLUMNS = (("id", "integer"), ("inbox_id", "integer"), ("content", "text"))
SCHEMA = TableSchema(table="messages", columns=COLUMNS, key=("id",), inbox="inbox_id")


@pytest.fixture
def target(ready_target: Target) -> Target:
    """Set up, with one tenant and its inbox."""
    ready_target.execute("INSERT INTO tenants (id, name, slug) VALUES (%s, 'Three', 'three')", TENANT)
    ready_target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", INBOX, TENANT)
    return ready_target


@pytest.fixture
def sessions(target: Target) -> Iterator[tuple[Session, Session]]:
    """Of the worker that sleeps, and of its successor."""
    settings = target.settings()
    with ExitStack() as stack:
        control = stack.enter_context(closing(target_session.open_session(settings, "test")))
        relations = read_relations(control)
        sleeper, successor = (stack.enter_context(closing(Session(settings, relations))) for _ in range(2))
        yield sleeper, successor


def mark(number: int) -> Mark:
    return Mark(number, Position(1, number, 1))


def work(step: Step, expected: Mark | None, new: Mark) -> Work:
    marks = {(TENANT, PARTITION): (expected, new, None)}
    return Work(tenant=TENANT, topic_id="t", steps=[step], inboxes=frozenset({INBOX}), marks=marks)


def insertion(at: int) -> Rows:
    body = b'{"after":{"id":%d,"inbox_id":%d,"content":"stale"}}' % (MESSAGE, INBOX)
    return Rows(upserts={"messages": [Upsert(MESSAGE, INBOX, mark(at).position, SCHEMA.version, b"", body)]})


def deletion(at: int) -> Rows:
    return Rows(deletes={"messages": [Delete(MESSAGE, INBOX, mark(at).position)]})


@pytest.mark.parametrize("known", [None, 5], ids=["no watermark yet", "a watermark"])
def test_a_sleeper_cannot_bring_back_what_its_successor_has_deleted(
    target: Target, sessions: tuple[Session, Session], known: int | None
) -> None:
    sleeper, successor = sessions
    expected = None
    if known is not None:
        expected = mark(known)
        successor.apply(work(Rows(), None, expected), lambda *_: SCHEMA)
    stale = work(insertion(6), expected, mark(6))
    successor.apply(work(insertion(6), expected, mark(6)), lambda *_: SCHEMA)
    successor.apply(work(deletion(7), mark(6), mark(7)), lambda *_: SCHEMA)
    with pytest.raises(Overtaken):
        sleeper.apply(stale, lambda *_: SCHEMA)
    assert not target.rows("SELECT 1 FROM messages")
    assert target.rows("SELECT next_offset FROM replication_watermarks") == [(7,)]


def test_a_mapping_that_has_changed_since_the_events_were_sorted_is_noticed(
    target: Target, sessions: tuple[Session, Session]
) -> None:
    sleeper, _ = sessions
    target.execute("UPDATE inbox_tenant_mapping SET is_active = false")
    with pytest.raises(Overtaken):
        sleeper.apply(work(insertion(6), None, mark(6)), lambda *_: SCHEMA)
    assert not target.rows("SELECT 1 FROM messages")
    assert not target.rows("SELECT 1 FROM replication_watermarks")
