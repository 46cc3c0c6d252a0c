"""The log as `consumers trace` looks through it, where others have written to it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from consumers.batch import Message
from consumers.biography import Found, StoredRow, Told
from consumers.trace import Biography, Wish, _Searching
from consumers.trace_report import render, to_json
from replicator import Head, Position
from replicator.event import pack_head

INBOX = 3


class Log:
    """One partition."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def put(self, op: Any, point: int, body: bytes, *, generation: int = 1, key: bytes | None = b"%d" % INBOX) -> Log:
        row = b"" if op == "m" else b"[5]"
        head = Head(op, "conversations", row, Position(1, point, 1), generation, "v", b"", False, "")
        self.messages.append(Message(0, len(self.messages), key, pack_head(head), body))
        return self

    def bounds(self, partition: int) -> tuple[int, int]:
        return 0, len(self.messages)

    def read(self, partition: int, start: int, end: int, most: int) -> list[Sequence[Message]]:
        return [self.messages]

    def found(self) -> list[Found]:
        reader: Any = self
        searching = _Searching(reader, Wish(conversation=5), {INBOX: 1}, lambda _: None)
        searching.look_through(0)
        return searching.found


@pytest.mark.parametrize("time", [b"253402300800000", b"1e300", b"9223372036854775807", b"-1", b'"x"', b"[]", b"true"])
def test_a_body_that_says_no_time_is_told_without_one(time: bytes) -> None:
    body = b'{"source":{"ts_ms":%s}}'
    events = Log().put("u", 1, body % b"1700000000000").put("u", 2, body % time).found()
    assert [event.committed_ms for event in events] == [1_700_000_000_000, None]
    stored: tuple[StoredRow, ...] = ()
    told = tuple(Told(tenant=1, event=event, outcome="") for event in events)
    biography = Biography(conversation=5, rows=stored, watermarks=(), events=told, messages=2)
    assert render(biography)
    assert [event["committed_at"] is None for event in to_json(biography)["events"]] == [False, True]


@pytest.mark.parametrize(
    ("op", "key", "body"),
    [("zzz", b"%d" % INBOX, b""), ("zzz", None, b""), ("u", b" 3", b""), ("u", b"abc", b""), ("m", None, b"xx")],
)
def test_the_run_of_a_message_that_is_not_ours_makes_no_event_a_zombies(
    op: str, key: bytes | None, body: bytes
) -> None:
    log = Log().put("u", 1, b"{}").put(op, 2, body, generation=9, key=key).put("u", 3, b"{}")
    assert [(event.offset, event.is_zombie) for event in log.found()] == [(0, False), (2, False)]


@pytest.mark.parametrize("kind", [b"generation", b"of a newer replicator"])
def test_a_marker_of_a_later_run_tells_a_zombie(kind: bytes) -> None:
    marker = b'{"message":{"kind":"%s"}}' % kind
    events = Log().put("u", 1, b"{}").put("m", 2, marker, generation=9, key=None).put("u", 3, b"{}").found()
    assert [event.is_zombie for event in events] == [False, True]
