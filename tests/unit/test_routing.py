"""Which events one row change becomes, and where they go, under each replica identity."""

from __future__ import annotations

import orjson
import pytest

from replicator.changes import Table
from replicator.errors import SourceRefused
from replicator.pgoutput import ABSENT, Delete, Insert, RawRow, Update
from replicator.relations import STREAMED_BY_NAME
from replicator.routing import NULL, Routed, ordinal, route_delete, route_insert, route_update
from tests.unit.test_changes import ORIGIN, TYPE_NAMES, columns

NAMES = ("id", "inbox_id", "content")
DEFAULT, INDEX, FULL = ("id",), ("inbox_id", "id"), NAMES
WHOLE = b'{"id":1,"inbox_id":7,"content":"hi"}'


def table(identity: tuple[str, ...]) -> Table:
    return Table(STREAMED_BY_NAME["messages"], columns(*NAMES, identity=identity), TYPE_NAMES, ORIGIN)


def insert(row: RawRow) -> list[Routed]:
    return route_insert(table(INDEX), Insert(1, row))


def update(identity: tuple[str, ...], old: RawRow, new: RawRow) -> list[Routed]:
    kind = "" if not old else "O" if identity == FULL else "K"
    return route_update(table(identity), Update(1, kind, old, new))


def delete(identity: tuple[str, ...], old: RawRow) -> list[Routed]:
    return route_delete(table(identity), Delete(1, "O" if identity == FULL else "K", old))


def test_an_insert_goes_to_its_inbox() -> None:
    assert insert([b"1", b"7", b"hi"]) == [Routed(7, "c", False, b"[1]", NULL, WHOLE, b"", None, False)]


def test_an_insert_without_an_inbox_concerns_no_tenant() -> None:
    assert insert([b"1", None, b"hi"]) == []


@pytest.mark.parametrize("identity", [DEFAULT, INDEX])
def test_an_update_that_leaves_the_identity_alone_is_one_event(identity: tuple[str, ...]) -> None:
    assert update(identity, [], [b"1", b"7", b"hi"]) == [Routed(7, "u", False, b"[1]", NULL, WHOLE, b"", None, False)]
    assert update(identity, [], [b"1", None, b"hi"]) == []


def test_an_unchanged_toast_value_is_absent_and_needs_no_reading_where_the_row_is_known() -> None:
    partial = b'{"id":1,"inbox_id":7}'
    assert update(INDEX, [], [b"1", b"7", ABSENT]) == [
        Routed(7, "u", False, b"[1]", NULL, partial, b'["content"]', None, False)
    ]


def test_an_unchanged_toast_value_stands_in_the_old_row_under_full() -> None:
    old: RawRow = [b"1", b"7", b"hi"]
    assert update(FULL, old, [b"1", b"7", ABSENT]) == [Routed(7, "u", False, b"[1]", WHOLE, WHOLE, b"", None, False)]
    moved = update(FULL, old, [b"1", b"8", ABSENT])[-1]
    assert (orjson.loads(moved.after)["content"], moved.reread) == ("hi", False)


def test_a_move_leaves_one_inbox_before_it_arrives_at_the_other() -> None:
    before = b'{"id":1,"inbox_id":7}'
    assert update(INDEX, [b"1", b"7", None], [b"1", b"8", b"hi"]) == [
        Routed(7, "d", True, b"[1]", before, NULL, b"", 8, False),
        Routed(8, "u", False, b"[1]", before, b'{"id":1,"inbox_id":8,"content":"hi"}', b"", None, False),
    ]


def test_a_move_that_lacks_columns_asks_for_its_key_where_it_goes() -> None:
    leaving, arriving = update(INDEX, [b"1", b"7", None], [b"1", b"8", ABSENT])
    assert (leaving.inbox, leaving.reread) == (7, False)
    assert (arriving.inbox, arriving.reread, arriving.absent) == (8, True, b'["content"]')


@pytest.mark.parametrize("identity", [INDEX, FULL])
def test_a_key_change_leaves_the_old_key_behind_in_the_same_inbox(identity: tuple[str, ...]) -> None:
    old: RawRow = [b"1", b"7", b"hi" if identity == FULL else None]
    leaving, arriving = update(identity, old, [b"2", b"7", b"hi"])
    assert (leaving.inbox, leaving.op, leaving.key, leaving.leaving) == (7, "d", b"[1]", True)
    assert (arriving.inbox, arriving.op, arriving.key, arriving.leaving) == (7, "u", b"[2]", False)


def test_a_key_change_whose_old_inbox_is_unknown_leaves_everywhere() -> None:
    """Under the default identity the old row has no inbox; it may have moved in the same update."""
    assert update(DEFAULT, [b"1", None, None], [b"2", b"7", ABSENT]) == [
        Routed(None, "d", True, b"[1]", b'{"id":1}', NULL, b"", 7, False),
        Routed(7, "u", False, b"[2]", b'{"id":1}', b'{"id":2,"inbox_id":7}', b'["content"]', None, True),
    ]


def test_a_key_change_into_no_inbox_still_leaves_everywhere_under_the_default_identity() -> None:
    (leaving,) = update(DEFAULT, [b"1", None, None], [b"2", None, b"hi"])
    assert (leaving.inbox, leaving.op, leaving.key, leaving.moved_to) == (None, "d", b"[1]", None)


def test_an_old_key_that_did_not_change_is_no_move() -> None:
    """The server sends the old key also when it had to be fetched from TOAST."""
    (only,) = update(INDEX, [b"1", b"7", None], [b"1", b"7", ABSENT])
    assert (only.inbox, only.op, only.leaving, only.reread) == (7, "u", False, False)


def test_a_row_that_loses_its_inbox_leaves_and_arrives_nowhere() -> None:
    assert update(FULL, [b"1", b"7", b"hi"], [b"1", None, b"hi"]) == [
        Routed(7, "d", True, b"[1]", WHOLE, NULL, b"", None, False)
    ]


def test_a_row_that_gets_its_first_inbox_leaves_none() -> None:
    (arriving,) = update(FULL, [b"1", None, b"hi"], [b"1", b"7", ABSENT])
    assert (arriving.inbox, arriving.op, arriving.after, arriving.reread) == (7, "u", WHOLE, False)


def test_a_row_that_never_had_an_inbox_is_no_event() -> None:
    assert update(FULL, [b"1", None, b"hi"], [b"1", None, b"ho"]) == []


@pytest.mark.parametrize(("identity", "inbox"), [(INDEX, 7), (FULL, 7), (DEFAULT, None)])
def test_a_delete_goes_to_its_inbox_or_to_every_partition_if_it_names_none(
    identity: tuple[str, ...], inbox: int | None
) -> None:
    old: RawRow = [b"1", b"7" if "inbox_id" in identity else None, b"hi" if identity == FULL else None]
    (gone,) = delete(identity, old)
    assert (gone.inbox, gone.op, gone.leaving, gone.key, gone.after) == (inbox, "d", False, b"[1]", NULL)


def test_a_delete_of_a_row_that_had_no_inbox_is_no_event() -> None:
    """Known to be NULL, which is not the same as unknown: nothing is broadcast."""
    assert delete(FULL, [b"1", None, b"hi"]) == []


def test_an_old_row_without_its_key_is_refused_with_advice() -> None:
    """The server fills what the identity lacks with NULL, so a key read there would be `[null]`."""
    for change in (
        lambda: delete(("content",), [None, None, b"hi"]),
        lambda: update(("content",), [None, None, b"hi"], [b"1", b"7", b"ho"]),
    ):
        with pytest.raises(SourceRefused, match=r"of messages names no row: the replica identity lacked id .* drop"):
            change()


def test_an_update_that_leaves_such_an_identity_alone_is_one_event() -> None:
    (only,) = update(("content",), [], [b"1", b"7", b"hi"])
    assert (only.inbox, only.key) == (7, b"[1]")


def test_the_halves_of_a_change_stand_between_those_of_its_neighbours() -> None:
    ordinals = [ordinal(index, leaving) for index in range(3) for leaving in (True, False)]
    assert ordinals == [0, 1, 2, 3, 4, 5]
