"""What is remembered of what was published outlives a crash at any moment, and never claims too much."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from replicator import digest_memory
from replicator.digest_memory import DigestMemory
from replicator.digests import Seen
from replicator.progress import Batch

FAR = 5_000
"""A key of another page."""


class Topic:
    """The state topic: what is written, and who waits for it."""

    def __init__(self, records: dict[str, Any] | None = None) -> None:
        self.records = records or {}
        self.waited = 0

    def write(self, key: str, content: Any, batch: Batch) -> None:
        batch.sent += 1
        self.records[key] = orjson.loads(orjson.dumps(content))

    def forget(self, key: str, batch: Batch) -> None:
        batch.sent += 1
        self.records.pop(key, None)

    def under(self, prefix: str) -> dict[str, Any]:
        return {key: record for key, record in self.records.items() if key.startswith(prefix)}

    def wait_for(self, batch: Batch) -> None:
        assert batch.sent, "nobody waits for nothing"
        self.waited += 1


def memory(topic: Topic, limit: int = 1000) -> DigestMemory:
    return DigestMemory(limit, topic, topic.wait_for)  # type: ignore[arg-type]


def after_a_crash(topic: Topic) -> DigestMemory:
    return memory(Topic(dict(topic.records)))


def acknowledged() -> Batch:
    return Batch()


def publish(digests: DigestMemory, *rows: Seen, gone: tuple[int, ...] = (), batch: Batch | None = None) -> None:
    """As `Derivation` does."""
    keys = sorted({*(row.key for row in rows), *gone})
    digests.doubt("view", keys, rows)
    digests.published("view", keys, rows, batch if batch is not None else acknowledged())


def named(digests: DigestMemory, key: int, *seen: Seen) -> dict[int, set[int]]:
    found = digests.compare(digests.look("view", key), seen)
    return {key: set(inboxes) for key, inboxes in found.items()}


@pytest.fixture
def topic() -> Topic:
    return Topic()


def visited(topic: Topic, *rows: Seen) -> DigestMemory:
    """A page that was published and written down."""
    digests = memory(topic)
    look = digests.look("view", 1)
    digests.compare(look, rows)
    publish(digests, *rows)
    digests.settle(look)
    digests.write_down(at_once=True)
    return digests


def test_a_page_that_is_too_large_to_be_written_stays_as_it_was_and_in_doubt(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state topic would refuse it, and the run would end by that again and again."""
    digests = visited(topic, Seen(1, 1, 10), Seen(2, 1, 20))
    monkeypatch.setattr(digest_memory, "MOST_RECORDED", 10)
    publish(digests, Seen(1, 1, 11))
    digests.write_down(at_once=True)
    assert [*topic.under("doubt/")]
    assert named(after_a_crash(topic), 1, Seen(1, 1, 10), Seen(2, 1, 20)) == {1: {1}}, "what was published is not known"


def test_what_was_written_down_is_known_after_a_crash(topic: Topic) -> None:
    visited(topic, Seen(1, 1, 10), Seen(2, 1, 20))
    assert [*topic.under("doubt/")] == []
    again = after_a_crash(topic)
    assert again.look("view", 1).is_known
    assert named(again, 1, Seen(1, 1, 10), Seen(2, 1, 21)) == {2: {1}}


def test_before_anything_is_published_it_is_durable_where_it_will_have_been(topic: Topic) -> None:
    digests = visited(topic, Seen(1, 1, 10), Seen(2, 1, 20))
    digests.doubt("view", [1, FAR], [Seen(1, 2, 11), Seen(FAR, 3, 30)])
    again = after_a_crash(topic)
    assert named(again, 1, Seen(1, 2, 11), Seen(2, 1, 20)) == {1: {1, 2}}, "it may be as it was, or as it is"
    assert named(again, 1, Seen(1, 1, 10), Seen(2, 1, 20)) == {1: {1, 2}}
    assert named(again, FAR) == {FAR: {3}}, "of a page that was never visited too"


def test_nothing_is_written_down_that_is_not_acknowledged(topic: Topic) -> None:
    digests = visited(topic, Seen(1, 1, 10))
    flying = Batch()
    flying.sent = 1
    publish(digests, Seen(1, 1, 11), batch=flying)
    digests.write_down(at_once=True)
    assert named(after_a_crash(topic), 1, Seen(1, 1, 11)) == {1: {1}}
    flying.acknowledged = 1
    digests.write_down(at_once=True)
    assert named(after_a_crash(topic), 1, Seen(1, 1, 11)) == {}


def test_a_page_that_does_not_rest_is_not_written_but_is_not_forgotten_either(topic: Topic) -> None:
    digests = visited(topic, Seen(1, 1, 10))
    publish(digests, gone=(1,))
    digests.write_down()
    assert named(after_a_crash(topic), 1) == {1: {1}}
    digests.write_down(at_once=True)
    assert named(after_a_crash(topic), 1) == {}


def test_who_is_in_doubt_already_is_not_waited_for_again(topic: Topic) -> None:
    digests = visited(topic, Seen(1, 1, 10))
    waited = topic.waited
    for hashed in (11, 12, 13):
        publish(digests, Seen(1, 1, hashed))
    publish(digests, gone=(2,))
    assert topic.waited == waited + 1
    publish(digests, Seen(1, 2, 13))
    assert topic.waited == waited + 2, "at another inbox"


def test_what_is_forgotten_leaves_no_record(topic: Topic) -> None:
    digests = visited(topic, Seen(1, 1, 10))
    publish(digests, Seen(FAR, 1, 1))
    digests.forget("view", Batch())
    assert topic.records == {}
    assert digests.inboxes("view", 1) == frozenset()


def test_doubts_survive_that_the_width_doubles(topic: Topic) -> None:
    digests = visited(topic, Seen(1, 1, 10), Seen(2, 1, 20))
    publish(digests, Seen(3, 1, 30))
    digests.of("view")._double()
    again = after_a_crash(topic)
    assert again.inboxes("view", 3) == {1}
    digests.settle(_looked(digests, Seen(1, 1, 10), Seen(2, 1, 20), Seen(3, 1, 30)))
    digests.write_down(at_once=True)
    assert [*topic.records] == ["digest/view/0"]
    assert named(after_a_crash(topic), 1, Seen(1, 1, 10), Seen(2, 1, 20)) == {2: {1}, 3: {1}}


def test_that_inboxes_do_not_fit_is_told_once_and_stands_in_the_status(topic: Topic) -> None:
    digests = memory(topic, limit=2)
    with capture_logs() as told:
        for _ in range(2):
            digests.settle(_looked(digests, Seen(1, 1, 10), Seen(2, 2, 20)))
    assert [each["event"] for each in told] == ["digests.crowded"]
    assert digests.describe() == {"view": {"entries": 2, "width": 256, "crowded": True}}


def _looked(digests: DigestMemory, *seen: Seen) -> Any:
    look = digests.look("view", 1)
    digests.compare(look, seen)
    publish(digests, *seen)
    return look


def test_without_a_state_topic_it_lasts_as_long_as_the_run() -> None:
    digests = DigestMemory.unrecorded(100)
    publish(digests, Seen(1, 1, 10))
    digests.write_down(at_once=True)
    assert named(digests, 1) == {1: {1}}
