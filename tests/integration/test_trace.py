"""`consumers trace`: what became of each event of a conversation that was updated, moved and deleted."""

from __future__ import annotations

from typing import Any

from consumers import biography
from demo.servers import wait_until
from tests.integration.chatwoot import connect, fill
from tests.integration.commands import answer, consumers
from tests.integration.whole import Whole

HERE, THERE = 1, 2


def told(found: dict[str, Any], table: str = "conversations") -> list[tuple[int | None, int | None, str, str]]:
    """(inbox, tenant, op, outcome) of each event."""
    return [
        (event["inbox"], event["tenant"], event["op"], event["outcome"])
        for event in found["events"]
        if event["table"] == table
    ]


def test_a_conversation_that_was_updated_moved_and_deleted(path: Whole) -> None:
    with connect(path.source_dsn) as source:
        fill(source, conversations=12, messages=1)
    path.map({1: [HERE], 2: [THERE]})
    path.replicator()
    worker = path.worker()
    path.wait_equal()
    ((row, other),) = path.source(f"SELECT min(id), max(id) FROM conversations WHERE inbox_id = {HERE}")
    path.source(f"UPDATE conversations SET status = 1 WHERE id = {row}")
    path.wait_equal()
    found = answer(path, "trace", "--conversation", row)
    *before, last = told(found)
    assert last == (HERE, 1, "u", biography.APPLIED)
    assert set(before) == {(HERE, 1, "r", biography.SUPERSEDED)}
    assert told(found, "conversations_analytics")[-1] == (HERE, 1, "r", biography.APPLIED)
    stored = {each["table"]: each for each in found["rows"]}
    event = [each for each in found["events"] if each["table"] == "conversations"][-1]
    assert stored["conversations"]["position"] == event["position"]
    assert stored["conversations"]["synced_at"]
    assert event["committed_at"]
    assert {mark["tenant"] for mark in found["watermarks"]} == {1}

    path.source(f"UPDATE conversations SET inbox_id = {THERE} WHERE id = {row}")
    path.wait_equal()
    moved = told(answer(path, "trace", "--conversation", row))
    assert (moved[-1][1], moved[-1][3]) == (2, biography.APPLIED)
    assert (HERE, 1, "d", biography.DELETED) in moved

    path.source(f"DELETE FROM messages WHERE conversation_id = {row}")
    path.source(f"DELETE FROM conversations WHERE id = {row}")
    path.wait_equal()
    gone = told(answer(path, "trace", "--conversation", row, "--tenant", 2))
    assert gone[-1] == (THERE, 2, "d", biography.DELETED)
    assert {outcome for _, tenant, _, outcome in gone[:-1] if tenant == 2} == {biography.SUPERSEDED}

    assert worker.stop() == 0
    path.source(f"UPDATE conversations SET status = 2 WHERE id = {other}")

    def shown() -> str:
        return consumers(path, "trace", "--conversation", other, "--hours", 1).stdout

    wait_until(lambda: "waiting" in shown(), "the event is in the log", 30)
    assert "tenant 1, partition" in shown()
    assert "there is no tenant 9" in consumers(path, "trace", "--conversation", 1, "--tenant", 9, expect=1).stderr
    assert "none of" in consumers(path, "trace", "--conversation", 999_999, expect=1).stdout
