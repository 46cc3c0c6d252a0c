"""A backfill walks its whole scope once, and goes on from its record after a crash."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from replicator.backfill_job import BackfillJob, in_capture_order
from replicator.event import Position

JOB = BackfillJob(id="x", tables=("conversations", "messages"), inboxes=(7, 8), requested_ms=1)


def walk(job: BackfillJob) -> list[tuple[str, int | None, object]]:
    """Two chunks in every table and inbox; the job is stored and loaded between any two."""
    steps: list[tuple[str, int | None, object]] = []
    while (chunk := job.chunk()) is not None:
        steps.append((chunk.relation.name, chunk.inbox, chunk.after))
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
    job = replace(JOB, tables=("messages",))
    one, all_of_it = job.chunk(), replace(job, inboxes=None).chunk()
    assert one is not None
    assert all_of_it is not None
    assert one.order == ("conversation_id", "id")
    assert all_of_it.order == ("id",)


def test_one_inbox_that_began_by_its_key_goes_on_by_it() -> None:
    begun = replace(JOB, tables=("messages",)).chunk()
    assert begun is not None
    assert replace(begun, by_key=True).order == ("id",)
    for after, order in (((5,), ("id",)), ((3, 5), ("conversation_id", "id"))):
        chunk = replace(JOB, tables=("messages",), after=after).chunk()
        assert chunk is not None
        assert chunk.order == order


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        replace(JOB, inboxes=None),
        replace(JOB, start=Position(1, 2, 3), at_table=1, at_inbox=1, after=(1, "x", None)),
    ],
)
def test_a_record_comes_back_through_json(job: BackfillJob) -> None:
    assert BackfillJob.from_record(orjson.loads(orjson.dumps(job.to_record()))) == job


def test_a_record_of_another_version_is_refused() -> None:
    for field in JOB.to_record():
        with pytest.raises(KeyError):
            BackfillJob.from_record({key: value for key, value in JOB.to_record().items() if key != field})


def test_parents_come_before_children_and_unknown_tables_nowhere() -> None:
    assert in_capture_order(["messages", "nonsense", "conversations", "inboxes"]) == (
        *("inboxes", "conversations", "messages"),
    )
    assert in_capture_order(None) == ("inboxes", "conversations", "contact_inboxes", "messages")
    assert in_capture_order(["nonsense"]) == ()
