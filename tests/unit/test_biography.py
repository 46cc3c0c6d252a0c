"""What is said of an event follows from where the tenant, the row and the log stand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from consumers import biography
from consumers.biography import Found, Standing, StoredRow, Streamed, outcome
from replicator import Head, Position

WHOLE = datetime(2026, 3, 1, tzinfo=UTC)


def head(op: Any = "u", point: int = 10, *, error: str = "", is_read: bool = False, generation: int = 1) -> Head:
    return Head(op, "conversations", b"[5]", Position(1, point, 1), generation, "v", b"", is_read, error)


def event(of: Head, *, offset: int = 7, is_zombie: bool = False, is_repeated: bool = False) -> Found:
    return Found(
        partition=0,
        offset=offset,
        inbox=1,
        head=of,
        committed_ms=0,
        is_zombie=is_zombie,
        is_repeated=is_repeated,
    )


def stored(point: int, synced_at: datetime | None = WHOLE) -> StoredRow:
    position = Position(1, point, 1)
    return StoredRow(tenant=1, table="conversations", position=position, inbox=1, synced_at=synced_at)


@pytest.mark.parametrize(
    ("found", "row", "last_delete", "says"),
    [
        (event(head(), is_zombie=True), stored(10), None, biography.ZOMBIE),
        (event(head(), is_repeated=True), stored(10), None, biography.REPEATED),
        (event(head(), offset=100), stored(5), None, biography.WAITING),
        (event(head()), stored(10), None, biography.APPLIED),
        (event(head()), stored(11), None, biography.SUPERSEDED),
        (event(head()), stored(9), None, biography.OLDER),
        (event(head()), None, Position(1, 11, 0), biography.SUPERSEDED),
        (event(head()), None, None, biography.UNKNOWN),
        (event(head("d")), None, Position(1, 10, 1), biography.DELETED),
        (event(head("d")), stored(10, None), None, biography.DELETED),
        (event(head("d")), stored(9), None, biography.ELSEWHERE),
        (event(head(error="too-large")), stored(10, None), None, biography.TOO_LARGE),
    ],
)
def test_each_event_has_one_outcome(
    found: Found, row: StoredRow | None, last_delete: Position | None, says: str
) -> None:
    standing = Standing(next_offset=100, is_parked=False)
    assert outcome(found, row, standing, last_delete, is_owned=True) == says
    assert outcome(found, row, standing, last_delete, is_owned=False) in (biography.UNMAPPED, biography.ZOMBIE)


def test_a_parked_tenant_waits_and_is_said_to_be_parked() -> None:
    parked = Standing(next_offset=7, is_parked=True)
    assert outcome(event(head()), stored(9), parked, None, is_owned=True) == biography.PARKED


def test_a_partition_tells_repeats_and_zombies() -> None:
    said = Streamed()
    owners = {1: 10, 2: 20}
    assert said.take(head(point=10), 1, owners) == (False, False)
    assert said.take(head(point=10), 1, owners) == (False, True)
    assert said.take(head(point=10), 2, owners) == (False, False), "another tenant's"
    assert said.take(head(point=9, is_read=True), 1, owners) == (False, False), "what is read is not measured"
    assert said.take(head(point=11, generation=2), 1, owners) == (False, False)
    assert said.take(head(point=12, generation=1), 1, owners) == (True, False)
