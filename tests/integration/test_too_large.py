"""A row that the topic cannot take holds up nobody: it is a stub in the target until it has become small again."""

from __future__ import annotations

import pytest

from demo.servers import wait_until
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.whole import Whole

LIMIT = 1 << 20
ENLARGE = "UPDATE messages SET content = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 70000) g)"


@pytest.fixture
def path(path: Whole, source: Source) -> Whole:
    """A tenant with all inboxes."""
    fill(source, conversations=6, messages=1)
    path.map({1: range(1, 7)})
    return path


def content(path: Whole, message: int) -> str | None:
    return dict(path.target.rows("SELECT id, content FROM messages")).get(message)  # type: ignore[arg-type]


def test_a_row_too_large_for_the_topic_is_a_stub_until_it_is_small_again(path: Whole, source: Source) -> None:
    source.execute(ENLARGE.encode() + b" WHERE id = 1")
    replicator = path.replicator(REPLICATOR_MAX_MESSAGE_BYTES=str(LIMIT))
    worker = path.worker()
    path.wait_backfilled()
    wait_until(lambda: (1, 1) in path.stubs("messages"), "a row too large for a backfill is a stub", 20)
    wait_until(lambda: content(path, 2) == "text 1", "the others are whole", 20)
    source.execute(ENLARGE.encode() + b" WHERE id = 2")
    after = add_message(source, 6, "goes on")
    wait_until(lambda: content(path, after) == "goes on", "the tenant goes on", 20)
    assert (1, 2) in path.stubs("messages"), "a row that is stale is not passed off as whole"
    # The analytics view compiles a conversation's messages into its row.
    assert {line["table"] for line in worker.logged("rows.without_body")} == {"messages", "conversations_analytics"}
    source.execute("UPDATE messages SET status = 2 WHERE id = 2")
    wait_until(lambda: path.target.rows("SELECT 1 FROM messages WHERE id = 2 AND status = 2"), "a part of it", 20)
    assert (1, 2) in path.stubs("messages"), "an update without the text does not make it whole"
    assert path.target.rows("SELECT * FROM replication_parked") == []
    source.execute("UPDATE messages SET content = 'small again' WHERE id <= 2")
    wait_until(lambda: content(path, 1) == content(path, 2) == "small again", "both are whole", 20)
    path.wait_equal()
    assert path.stubs("messages") == []
    source.execute(ENLARGE.encode() + b" WHERE id = 1")
    source.execute("DELETE FROM messages WHERE id = 1")
    path.wait_equal()
    assert path.target.rows("SELECT 1 FROM messages WHERE id = 1") == []
    assert replicator.running
    assert worker.running
