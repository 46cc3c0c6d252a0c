"""What one tenant's transaction does to rows, rule by rule, on a real server with foreign keys on."""

from __future__ import annotations

from typing import Any, Literal

import orjson
import pytest

from consumers.ordering import Event
from replicator import REPLICATED, BackfillMarker, KeysRequest, Position
from tests.histories import EPOCH, Rekey, Source, Truncate, Write, partition_of, schema_of
from tests.integration.applied import Applied

TENANT = 1
INBOX, OTHER = 11, 12


@pytest.fixture(autouse=True)
def _tenant(applied: Applied) -> None:
    applied.add_tenant(TENANT, [INBOX, OTHER])


def change(
    op: str, table: str, row: int, point: int, inbox: int | None = INBOX, *, lacks: tuple[str, ...] = (), **columns: Any
) -> Event:
    """An event at this point of the source's history; its offset is the point too."""
    own = {"id": row} if table == "inboxes" else {"id": row, "inbox_id": inbox}
    every = {name: None for name, _ in schema_of(table).columns if name not in lacks}
    return Event(
        partition=partition_of(inbox or 0),
        offset=point,
        op=op,
        table=table,
        key=b"[%d]" % row,
        inbox=inbox,
        position=Position(EPOCH, point, 1),
        is_read=False,
        schema=table,
        absent=orjson.dumps(lacks) if lacks else b"",
        body=orjson.dumps({"after": {**every, **own, **columns}}),
        error="",
        marker=None,
        inboxes=(),
    )


def found(applied: Applied, table: str, columns: str = "id") -> list[tuple[Any, ...]]:
    return applied.rows(TENANT, f"SELECT {columns} FROM {table} ORDER BY id")


STATE = "id, synced_at IS NOT NULL, source_point"


def test_a_child_that_comes_first_makes_its_parents_and_they_are_filled_later(applied: Applied) -> None:
    made = [applied.apply(TENANT, [change("c", "messages", 7, 10, conversation_id=5)]).stubs]
    assert found(applied, "conversations", STATE) == [(5, False, 0)]
    made += [applied.apply(TENANT, [change("c", "conversations", 5, 20, contact_id=3, identifier="x")]).stubs]
    assert found(applied, "conversations", f"{STATE}, identifier") == [(5, True, 20, "x")]
    assert found(applied, "contacts", STATE) == [(3, False, 0)]
    made += [applied.apply(TENANT, [change("c", "messages", 8, 30, conversation_id=5)]).stubs]
    assert made == [1, 2, 0], "of the conversation; of its inbox and its contact"
    assert found(applied, "inboxes", STATE) == [(INBOX, False, 0)]


def test_a_parent_deleted_before_its_children_becomes_a_stub_that_goes_with_the_last_of_them(applied: Applied) -> None:
    applied.apply(TENANT, [change("c", "conversations", 5, 10, contact_id=3, identifier="x")])
    applied.apply(TENANT, [change("c", "messages", n, 11 + n, conversation_id=5) for n in (1, 2)])
    applied.apply(TENANT, [change("d", "conversations", 5, 20)])
    wiped = f"{STATE}, inbox_id, contact_id, identifier"
    assert found(applied, "conversations", wiped) == [(5, False, 20, INBOX, None, None)]
    assert found(applied, "contacts") == []
    applied.apply(TENANT, [change("d", "messages", 1, 21)])
    assert found(applied, "conversations") == [(5,)]
    applied.apply(TENANT, [change("d", "messages", 2, 22)])
    assert [found(applied, table) for table in ("messages", "conversations", "inboxes")] == [[], [], []]


def test_a_session_that_has_had_as_many_transactions_as_an_integer_counts_goes_on(applied: Applied) -> None:
    applied.session._load = 2**31 - 2
    for row in (1, 2, 3):
        applied.apply(TENANT, [change("c", "conversations", row, row)])
    assert found(applied, "conversations") == [(1,), (2,), (3,)]
    assert applied.session._load == 3


def test_a_child_that_leaves_its_parent_for_another_takes_the_stub_along(applied: Applied) -> None:
    applied.apply(TENANT, [change("c", "conversations", 5, 10, contact_id=3)])
    applied.apply(TENANT, [change("u", "conversations", 5, 11, contact_id=4)])
    assert found(applied, "contacts") == [(4,)]
    applied.apply(TENANT, [change("u", "conversations", 5, 12, contact_id=None)])
    assert found(applied, "contacts") == []


def test_a_parent_that_another_child_holds_stays(applied: Applied) -> None:
    applied.apply(TENANT, [change("c", "conversations", n, 10 + n, contact_id=3) for n in (1, 2)])
    applied.apply(TENANT, [change("d", "conversations", 1, 20)])
    assert found(applied, "contacts") == [(3,)]


def test_a_row_too_old_to_be_written_makes_no_parents(applied: Applied) -> None:
    applied.apply(TENANT, [change("c", "conversations", 5, 20, contact_id=3)])
    applied.apply(TENANT, [change("u", "conversations", 5, 10, OTHER, contact_id=4)])
    assert found(applied, "contacts") == [(3,)]
    assert found(applied, "inboxes") == [(INBOX,)]


def test_a_deleted_row_that_its_children_hold_is_not_brought_back_by_what_was_before(applied: Applied) -> None:
    applied.apply(TENANT, [change("c", "messages", 7, 10, conversation_id=5)])
    applied.apply(TENANT, [change("d", "conversations", 5, 30)])
    applied.apply(TENANT, [change("u", "conversations", 5, 20, OTHER, identifier="old")])
    assert found(applied, "conversations", f"{STATE}, identifier") == [(5, False, 30, None)]
    applied.apply(TENANT, [change("c", "conversations", 5, 40, identifier="new")])
    assert found(applied, "conversations", f"{STATE}, identifier") == [(5, True, 40, "new")]


@pytest.mark.parametrize("inbox", [INBOX, None])
def test_an_older_delete_leaves_a_newer_row(applied: Applied, inbox: int | None) -> None:
    applied.apply(TENANT, [change("c", "messages", 7, 20)])
    applied.apply(TENANT, [change("d", "messages", 7, 19, inbox)])
    assert found(applied, "messages") == [(7,)]
    applied.apply(TENANT, [change("d", "messages", 7, 20, inbox)])
    assert found(applied, "messages") == []


def test_a_delete_at_an_inbox_leaves_the_row_of_another(applied: Applied) -> None:
    applied.apply(TENANT, [change("u", "messages", 7, 20, OTHER)])
    applied.apply(TENANT, [change("d", "messages", 7, 30, INBOX)])
    assert found(applied, "messages") == [(7,)]
    applied.apply(TENANT, [change("d", "messages", 7, 30, None)])
    assert found(applied, "messages") == []


@pytest.mark.parametrize("tables", [("conversations", "messages"), ("messages", "conversations")])
def test_two_tables_truncated_in_one_statement_leave_nothing_behind(applied: Applied, tables: tuple[str, str]) -> None:
    source = Source()
    source.carry_out(Write("conversations", 1, INBOX, 3, long=True))
    source.carry_out(Write("messages", 1, INBOX, 1, long=True))
    source.carry_out(Write("contact_inboxes", 1, INBOX, 4, long=True))
    source.commit()
    source.carry_out(Truncate(tables))
    source.commit()
    source.carry_out(Write("messages", 2, INBOX, 2, long=True))
    for partition in (1, 0):
        applied.apply(TENANT, [event for event in source.published if event.partition == partition])
    assert found(applied, "messages") == [(2,)]
    assert found(applied, "conversations", "id, synced_at IS NOT NULL") == [(2, False)]
    assert found(applied, "contacts") == [(4,)]


def test_a_changed_primary_key_is_another_row(applied: Applied) -> None:
    source = Source()
    source.carry_out(Write("messages", 1, INBOX, None, long=True))
    source.carry_out(Rekey("messages", 1, 2, broadcast=False))
    outcome = applied.apply(TENANT, source.published)
    assert found(applied, "messages", "id, synced_at IS NULL") == [(2, True)]
    assert outcome.incomplete == [KeysRequest(table="messages", inbox=INBOX, keys=((2,),))]
    source.read_owed()
    applied.apply(TENANT, source.published[-1:])
    assert found(applied, "messages", "id, content") == [(2, "long 1")]


def test_a_partial_event_of_a_row_that_is_missing_or_a_stub_asks_for_its_key(applied: Applied) -> None:
    applied.apply(TENANT, [change("c", "messages", 1, 10, conversation_id=5, content="whole")])
    outcome = applied.apply(
        TENANT,
        [
            change("u", "messages", 1, 20, lacks=("content",), conversation_id=5, source_id="s"),
            change("u", "messages", 2, 21, lacks=("content",)),
            change("u", "conversations", 5, 22, lacks=("cached_label_list",), identifier="known"),
        ],
    )
    assert sorted(outcome.incomplete, key=str) == [
        KeysRequest(table="conversations", inbox=INBOX, keys=((5,),)),
        KeysRequest(table="messages", inbox=INBOX, keys=((2,),)),
    ]
    assert outcome.stubs == 3, "the inbox too; and what was asked for may be lost on the way"
    assert found(applied, "messages", "id, content, source_id, synced_at IS NULL") == [
        (1, "whole", "s", False),
        (2, None, None, True),
    ]
    assert found(applied, "conversations", "id, identifier, synced_at IS NULL") == [(5, "known", True)]


def test_a_json_null_is_no_sql_null(applied: Applied) -> None:
    def typed(table: str, version: str) -> Any:
        columns = (("id", "integer"), ("content_attributes", "json"), ("sentiment", "jsonb"))
        return schema_of(table, version) if table != "messages" else _with(schema_of(table), columns)

    values = [(None, None), ("null", "null"), ('{"a":1,"a":2}', "[1]"), ('"text"', "1.50")]
    events = [
        change("c", "messages", n, n, content_attributes=plain, sentiment=binary)
        for n, (plain, binary) in enumerate(values, 1)
    ]
    applied.session.apply(applied.work(TENANT, events), typed)
    assert found(applied, "messages", "content_attributes::text, sentiment::text") == values


def test_a_column_that_the_target_lacks_is_left_out(applied: Applied) -> None:
    def wider(table: str, _version: str) -> Any:
        return _with(schema_of(table), (*schema_of(table).columns, ("unheard_of", "text")))

    events = [change("c", "messages", 7, 10, content="x", unheard_of="y")]
    applied.session.apply(applied.work(TENANT, events), wider)
    assert found(applied, "messages", "id, content, synced_at IS NULL") == [(7, "x", False)]


def _with(schema: Any, columns: tuple[tuple[str, str], ...]) -> Any:
    return type(schema)(table=schema.table, columns=columns, key=schema.key, inbox=schema.inbox)


# --- the sweep


def marker(
    boundary: Literal["begin", "end"], point: int, name: str = "b", tables: tuple[str, ...] = REPLICATED
) -> Event:
    """Of a backfill of INBOX that began at 50."""
    start = Position(EPOCH, 50, 0)
    content = BackfillMarker(
        id=name,
        boundary=boundary,
        tables=tables,
        is_complete=tables == REPLICATED,
        inboxes=(INBOX,),
        start=start,
        start_read=start,
    )
    event = change("m", "messages", 0, point)._replace(table="", key=b"", inbox=None, partition=1, is_read=True)
    return event._replace(marker=content, inboxes=(INBOX,))


@pytest.fixture
def swept(applied: Applied) -> Applied:
    """Conversations of INBOX: 1 and 2 are old, 2 has a new child, 3 is read again, 4 a stub; 5 is old, of OTHER."""
    applied.apply(TENANT, [change("c", "conversations", n, 10 + n) for n in (1, 2, 3)])
    applied.apply(TENANT, [change("c", "conversations", 5, 20, OTHER)])
    applied.apply(TENANT, [change("c", "messages", 1, 25, OTHER, conversation_id=4)])
    applied.apply(TENANT, [change("c", "messages", 2, 60, conversation_id=2)])
    return applied


def mapping(applied: Applied) -> list[tuple[Any, ...]]:
    return applied.target.rows(
        "SELECT backfill_id, backfilled_at IS NOT NULL FROM inbox_tenant_mapping ORDER BY inbox_id"
    )


def test_a_sweep_takes_older_rows_of_its_inboxes_and_no_stubs(swept: Applied) -> None:
    swept.apply(TENANT, [marker("begin", 70), change("r", "conversations", 3, 71), marker("end", 72)], [INBOX])
    assert found(swept, "conversations", "id, synced_at IS NOT NULL, inbox_id") == [
        (2, False, INBOX),
        (3, True, INBOX),
        (4, False, None),
        (5, True, OTHER),
    ]
    assert found(swept, "messages") == [(1,), (2,)]
    assert mapping(swept) == [("b", True), (None, False)]


def test_a_sweep_of_some_tables_leaves_the_others_and_completes_nothing(swept: Applied) -> None:
    swept.apply(TENANT, [marker("begin", 70), marker("end", 72, tables=("messages",))], [INBOX])
    assert [row for (row,) in found(swept, "conversations")] == [1, 2, 3, 4, 5]
    assert mapping(swept) == [(None, False), (None, False)]


@pytest.mark.parametrize(
    "before",
    [
        "UPDATE inbox_tenant_mapping SET backfill_id = 'another'",
        "UPDATE inbox_tenant_mapping SET backfill_id = NULL",
        "UPDATE inbox_tenant_mapping SET is_active = false; UPDATE inbox_tenant_mapping SET is_active = true",
    ],
)
def test_a_sweep_counts_only_if_the_inbox_has_had_this_backfills_begin(swept: Applied, before: str) -> None:
    swept.apply(TENANT, [marker("begin", 70)], [INBOX])
    swept.target.execute(before)
    swept.apply(TENANT, [marker("end", 72)], [INBOX])
    assert [row for (row,) in found(swept, "conversations")] == [1, 2, 3, 4, 5]
    assert [is_complete for _, is_complete in mapping(swept)] == [False, False]


def test_a_marker_that_changes_nothing_of_the_mapping_does_not_wait_for_whoever_holds_it(swept: Applied) -> None:
    """A person's UPDATE holds the row and waits for the tenant's lock: a worker that waited for the row would die."""
    swept.apply(TENANT, [marker("begin", 70), marker("end", 72), marker("begin", 80, "c")], [INBOX])
    with swept.target.connected() as person, person.transaction():
        person.execute("SELECT FROM inbox_tenant_mapping FOR UPDATE")
        swept.apply(TENANT, [marker("begin", 81, "c"), marker("end", 82, "c", tables=("messages",))], [INBOX])
    assert mapping(swept) == [("c", True), (None, False)]
