"""A backfill walks its whole scope once, and goes on from its record after a crash."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from replicator.backfill_job import BackfillJob, FanOut
from replicator.event import Position
from replicator.relations import CONTACTS, STREAMED_BY_NAME, Captured

JOB = BackfillJob(id="x", tables=("conversations", "messages"), inboxes=(7, 8), requested_ms=1)


def walk(job: BackfillJob) -> list[tuple[str, int | None, object]]:
    """Two chunks in every table and inbox; the job is stored and loaded between any two."""
    steps: list[tuple[str, int | None, object]] = []
    while (chunk := job.chunk()) is not None:
        steps.append((chunk.table, chunk.inbox, chunk.after))
        job = job.advanced(10, (5,) if chunk.after is None else None)
        job = BackfillJob.from_record(orjson.loads(orjson.dumps(job.to_record())))
    assert job.rows == 10 * len(steps)
    return steps


def test_inboxes_in_order_within_tables_in_order_each_from_its_beginning() -> None:
    assert walk(JOB) == [
        (name, inbox, after) for name in ("conversations", "messages") for inbox in (7, 8) for after in (None, (5,))
    ]


def test_all_inboxes_are_read_at_once() -> None:
    assert walk(replace(JOB, inboxes=None)) == [
        (name, None, after) for name in ("conversations", "messages") for after in (None, (5,))
    ]


def test_a_backfill_of_no_inboxes_is_done() -> None:
    """None is begun, but one may stand in the state topic."""
    assert replace(JOB, inboxes=()).chunk() is None


def test_one_inbox_is_read_along_the_identitys_index_and_a_table_along_its_key() -> None:
    messages = STREAMED_BY_NAME["messages"]
    assert messages.order(7) == ("conversation_id", "id")
    assert messages.order(None) == ("id",)
    assert CONTACTS.order(7) == CONTACTS.order(None) == ("id",)


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        replace(JOB, inboxes=None),
        replace(JOB, keys=(3, 9)),
        replace(JOB, start=Position(1, 2, 3), at_table=1, at_inbox=1, after=(1, "x", None)),
        replace(JOB, start_read=Position(1, 2, 3), is_complete=True, catches_up=True),
        replace(JOB, fan_out=FanOut(path="users(id) 1f", start=(1, "x"), inboxes=(7,))),
    ],
)
def test_a_record_comes_back_through_json(job: BackfillJob) -> None:
    assert BackfillJob.from_record(orjson.loads(orjson.dumps(job.to_record()))) == job


def test_a_record_of_another_version_is_refused() -> None:
    for field in JOB.to_record():
        with pytest.raises(KeyError):
            BackfillJob.from_record({key: value for key, value in JOB.to_record().items() if key != field})


def test_parents_come_before_children_and_unknown_tables_nowhere() -> None:
    captured = Captured([CONTACTS])
    assert captured.in_order(["messages", "contacts", "nonsense", "conversations", "inboxes"]) == (
        *("inboxes", "conversations", "messages", "contacts"),
    )
    assert captured.in_order(None) == ("inboxes", "conversations", "contact_inboxes", "messages", "contacts")
    assert captured.in_order(["nonsense"]) == ()
    assert captured.derived_among(["messages", "contacts"]) == ("contacts",)
