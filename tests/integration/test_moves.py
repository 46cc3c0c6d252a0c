"""An inbox changes hands: its rows go with it in the same transaction, whole, and to nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from consumers import mapping_moves
from demo.servers import Servers
from tests.integration import batch_etl
from tests.integration.sorted_out import Applied, applied
from tests.integration.targets import Target, target_of

MOVES, STAYS, OF_ANOTHER = 1, 2, 4
"""Two inboxes of tenant 1, one of tenant 2."""
ROWS = ("inboxes", "conversations", "messages", "contact_inboxes", "contacts")
ANALYTICS = "conversations_analytics"
KEPT = "nivel_interesse, score_prioridade"


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    """Contact 5 is of both inboxes, 6 of the one that moves, 7 of the one that stays."""
    with applied(servers, prepared, {1: (MOVES, STAYS), 2: (OF_ANOTHER,)}) as made:
        for inbox in (MOVES, STAYS):
            made.apply(made.streamed("c", "inboxes", inbox, inbox, name=f"inbox {inbox}"))
        for row, inbox, contact in ((1, MOVES, 5), (2, STAYS, 5), (3, MOVES, 6), (4, STAYS, 7)):
            made.apply(
                made.streamed("c", "contact_inboxes", row, inbox, inbox_id=inbox, contact_id=contact),
                made.streamed("c", "conversations", row, inbox, inbox_id=inbox, contact_id=contact),
                made.streamed("c", "messages", row, inbox, inbox_id=inbox, conversation_id=row, content="Olá"),
                made.read("contacts", contact, inbox, row, name=f"contact {contact}"),
                made.read(ANALYTICS, row, inbox, row, "conversation_id", inbox_id=inbox, message_compiled="[]"),
            )
        yield made


def held(log: Applied, tenant: int) -> dict[str, list[int]]:
    """Ids by table, whole rows and stubs."""
    return {
        table: [row for (row,) in log.target.rows(f"SELECT id FROM {table} WHERE tenant_id = %s ORDER BY id", tenant)]
        for table in ROWS
    }


def analysed(log: Applied, tenant: int) -> list[tuple[Any, ...]]:
    return log.target.rows(f"SELECT conversation_id, {KEPT} FROM {ANALYTICS} WHERE tenant_id = %s ORDER BY 1", tenant)


def positions(log: Applied) -> list[tuple[Any, ...]]:
    """Of every row but contacts, whosever it is."""
    return [
        row
        for table in ROWS[:-1]
        for row in log.target.rows(
            f"SELECT id, source_epoch, source_point, source_ordinal, synced_at FROM {table} ORDER BY id"
        )
    ]


def by_hand(log: Applied, inbox: int = MOVES, tenant: int = 2) -> None:
    log.target.execute("UPDATE inbox_tenant_mapping SET tenant_id = %s WHERE inbox_id = %s", tenant, inbox)


def by_owner(log: Applied, inbox: int = MOVES, tenant: int = 2) -> None:
    """Who is bound by row-level security itself."""
    log.target.execute(
        "UPDATE inbox_tenant_mapping SET tenant_id = %s WHERE inbox_id = %s", tenant, inbox, what="owner"
    )


def by_command(log: Applied, inbox: int = MOVES, tenant: int = 2) -> None:
    mapping_moves.move(log.target.settings(), inbox, tenant, apply=True)


def by_removal(log: Applied, inbox: int = MOVES, tenant: int = 2) -> None:
    """Taken out of the mapping, and given to somebody else later."""
    log.target.execute("DELETE FROM inbox_tenant_mapping WHERE inbox_id = %s", inbox)
    assert held(log, 1)["messages"] == [1, 2, 3, 4], "kept"
    log.target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", inbox, tenant)


@pytest.mark.parametrize("moved", [by_hand, by_owner, by_command, by_removal])
def test_rows_go_with_their_inbox_and_shared_ones_are_copied(log: Applied, moved: Callable[[Applied], None]) -> None:
    before = positions(log)
    log.target.execute("UPDATE inbox_tenant_mapping SET backfill_id = 'b', backfilled_at = now()")
    moved(log)
    assert held(log, 1) == {
        "inboxes": [STAYS],
        "conversations": [2, 4],
        "messages": [2, 4],
        "contact_inboxes": [2, 4],
        "contacts": [5, 7],
    }
    assert held(log, 2) == {
        "inboxes": [MOVES],
        "conversations": [1, 3],
        "messages": [1, 3],
        "contact_inboxes": [1, 3],
        "contacts": [5, 6],
    }
    assert positions(log) == before
    assert log.rows("contacts", "name") == [
        (1, 5, "contact 5"),
        (1, 7, "contact 7"),
        (2, 5, "contact 5"),
        (2, 6, "contact 6"),
    ]
    incomplete = "SELECT inbox_id FROM inbox_tenant_mapping WHERE backfill_id IS NULL AND backfilled_at IS NULL"
    assert log.target.rows(incomplete) == [(MOVES,)], "a backfill brings what the one had read and the other not"
    assert log.target.rows(
        "SELECT from_tenant, to_tenant, row_counts FROM replication_inbox_log WHERE change = 'moved'"
    ) == [(1, 2, {"inboxes": 1, "contacts": 2, "messages": 2, ANALYTICS: 2, "conversations": 2, "contact_inboxes": 2})]
    assert log.target.rows("SELECT 1 FROM replication_former_inboxes") == []


def test_what_the_tenant_wrote_beside_a_conversation_and_what_waits_for_analysis_go_along(log: Applied) -> None:
    log.target.execute(f"UPDATE {ANALYTICS} SET nivel_interesse = 'alto', score_prioridade = 7 WHERE tenant_id = 1")
    log.target.execute("DELETE FROM analysis_queue WHERE conversation_id IN (1, 2)")
    by_owner(log)
    assert analysed(log, 1) == [(2, "alto", 7), (4, "alto", 7)]
    assert analysed(log, 2) == [(1, "alto", 7), (3, "alto", 7)]
    assert log.target.rows("SELECT 1 FROM replication_set_aside") == []
    assert log.target.rows("SELECT tenant_id, conversation_id FROM analysis_queue ORDER BY 2") == [(2, 3), (1, 4)]


def test_there_and_back_everything_is_as_it_was(log: Applied) -> None:
    before = held(log, 1)
    by_owner(log)
    by_owner(log, tenant=1)
    assert (held(log, 1), any(held(log, 2).values())) == (before, False)


def test_several_inboxes_move_in_one_statement(log: Applied) -> None:
    before = held(log, 1)
    log.target.execute("UPDATE inbox_tenant_mapping SET tenant_id = 2 WHERE tenant_id = 1", what="owner")
    assert (held(log, 2), any(held(log, 1).values())) == (before, False)


def test_a_parent_of_other_inboxes_rows_leaves_a_stub_without_inbox(log: Applied) -> None:
    """A conversation has moved from the other inbox, and one of its messages has not been told of yet."""
    log.apply(log.streamed("c", "messages", 9, STAYS, inbox_id=STAYS, conversation_id=1, content="Oi"))
    by_owner(log)
    assert log.target.rows(
        "SELECT id, inbox_id, contact_id, synced_at FROM conversations WHERE tenant_id = 1 AND id = 1"
    ) == [(1, None, None, None)]
    assert held(log, 2)["conversations"] == [1, 3]
    log.apply(log.streamed("d", "messages", 9, STAYS))
    assert held(log, 1)["conversations"] == [2, 4], "it goes with its last child"


def test_a_child_of_another_inboxes_parent_gets_a_stub_and_takes_a_lonely_one_along(log: Applied) -> None:
    log.apply(
        log.streamed("c", "messages", 8, MOVES, inbox_id=MOVES, conversation_id=2, content="Oi"),
        log.streamed("c", "messages", 9, MOVES, inbox_id=MOVES, conversation_id=77, content="Oi"),
    )
    by_owner(log)
    assert (held(log, 1)["conversations"], held(log, 1)["messages"]) == ([2, 4], [2, 4])
    assert (held(log, 2)["conversations"], held(log, 2)["messages"]) == ([1, 2, 3, 77], [1, 3, 8, 9])
    assert log.stubs("conversations") == [(2, 2), (2, 77)]


def test_a_contact_that_nothing_refers_to_is_not_left_behind(log: Applied) -> None:
    """Whose it is can't be told: its references were not read yet."""
    log.apply(log.read("contacts", 8, MOVES, 9, name="early"))
    by_owner(log)
    assert (held(log, 1)["contacts"], held(log, 2)["contacts"]) == ([5, 7], [5, 6])


def test_what_the_new_tenant_has_already_stays_if_it_is_later(log: Applied) -> None:
    """Rows that moved between inboxes of the two, whose leaving has been read and whose coming has not."""
    log.apply(
        log.streamed("u", "conversations", 1, OF_ANOTHER, inbox_id=OF_ANOTHER, contact_id=5),
        log.read("contacts", 5, OF_ANOTHER, 9, name="newer"),
    )
    by_owner(log)
    assert log.rows("conversations", "inbox_id")[:2] == [(1, 2, STAYS), (1, 4, STAYS)]
    assert log.rows("conversations", "inbox_id")[2:] == [(2, 1, OF_ANOTHER), (2, 3, MOVES)]
    assert log.rows("contacts", "name") == [
        (1, 5, "contact 5"),
        (1, 7, "contact 7"),
        (2, 5, "newer"),
        (2, 6, "contact 6"),
    ]


def test_an_older_snapshot_is_refused(log: Applied) -> None:
    with log.target.connected("owner") as session:
        session.execute("SET default_transaction_isolation = 'repeatable read'")
        with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
            session.execute("UPDATE inbox_tenant_mapping SET tenant_id = 2 WHERE inbox_id = %s", [MOVES])
    assert held(log, 1)["messages"] == [1, 2, 3, 4]


def test_a_tenant_that_was_set_aside_gets_nothing(log: Applied) -> None:
    log.target.execute("UPDATE tenants SET deleted_at = now() WHERE id = 2")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="marked as deleted"):
        by_owner(log)


def test_whoever_moves_an_inbox_keeps_their_own_setting(log: Applied) -> None:
    with log.target.connected("owner", tenant=2) as session, session.transaction():
        session.execute("UPDATE inbox_tenant_mapping SET tenant_id = 2 WHERE inbox_id = %s", [MOVES])
        assert session.execute("SELECT current_setting('app.current_tenant_id')").fetchone() == ("2",)


def test_moves_the_other_way_round_at_once_do_not_wait_for_each_other(log: Applied) -> None:
    moves = [
        threading.Thread(target=by_owner, args=(log, inbox, tenant)) for inbox, tenant in ((MOVES, 2), (OF_ANOTHER, 1))
    ]
    for move in moves:
        move.start()
    for move in moves:
        move.join(20)
    owned = "SELECT inbox_id, tenant_id FROM inbox_tenant_mapping ORDER BY 1"
    assert log.target.rows(owned) == [(MOVES, 2), (STAYS, 1), (OF_ANOTHER, 1)]


# --- deactivating, purging


@pytest.mark.parametrize("how", ["deactivated", "removed"])
def test_an_inbox_that_is_given_up_keeps_its_rows_until_they_are_purged(log: Applied, how: str) -> None:
    before = held(log, 1)
    statement = (
        "UPDATE inbox_tenant_mapping SET is_active = false"
        if how == "deactivated"
        else "DELETE FROM inbox_tenant_mapping"
    )
    log.target.execute(f"{statement} WHERE inbox_id = %s", MOVES, what="owner")
    assert held(log, 1) == before
    log.target.execute(f"UPDATE {ANALYTICS} SET nivel_interesse = 'alto' WHERE tenant_id = 1")
    log.target.execute("SELECT replication_purge_inbox(%s)", MOVES, what="owner")
    assert held(log, 1) == {
        "inboxes": [STAYS],
        "conversations": [2, 4],
        "messages": [2, 4],
        "contact_inboxes": [2, 4],
        "contacts": [5, 7],
    }
    assert log.target.rows("SELECT 1 FROM replication_set_aside") == [], "purged is not set aside"
    assert [row for (row, *_) in analysed(log, 1)] == [2, 4]
    assert [change for (change,) in log.target.rows("SELECT change FROM replication_inbox_log ORDER BY id")][-2:] == [
        how,
        "purged",
    ]


def test_an_active_inbox_is_not_purged(log: Applied) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="deactivate it first"):
        log.target.execute("SELECT replication_purge_inbox(%s)", MOVES, what="owner")


def test_a_removed_tenants_rows_and_notes_go_with_it(log: Applied) -> None:
    log.target.execute("DELETE FROM inbox_tenant_mapping WHERE inbox_id = %s", STAYS)
    log.target.execute("DELETE FROM tenants WHERE id = 1")
    assert log.target.rows("SELECT 1 FROM replication_former_inboxes") == []
    assert not any(held(log, 1).values())


def test_a_mapping_that_was_removed_before_this_version_is_found_by_its_rows(log: Applied) -> None:
    log.target.execute("DELETE FROM inbox_tenant_mapping WHERE inbox_id = %s", MOVES)
    log.target.execute("DELETE FROM replication_former_inboxes")
    log.target.execute("SELECT replication_note_former_inboxes()", what="owner")
    assert log.target.rows("SELECT inbox_id, tenant_id FROM replication_former_inboxes") == [(MOVES, 1)]


def test_nobody_but_the_owner_may_purge(log: Applied) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        log.target.execute("SELECT replication_purge_inbox(%s)", MOVES, what="applier")


# --- an adopted table, which numbers its rows itself


def test_rows_of_an_adopted_table_keep_their_own_numbers(target_dsn: str) -> None:
    with target_of(target_dsn) as target:
        batch_etl.make(target)
        batch_etl.fill(target)
        target.apply()
        whose = "SELECT inbox_id, count(*) FROM conversations_analytics WHERE tenant_id = 1 GROUP BY 1 ORDER BY 2 DESC"
        inbox, count = target.rows(whose)[0]
        of_inbox = f"SELECT to_jsonb(t) - 'tenant_id' FROM conversations_analytics AS t WHERE inbox_id = {inbox}"
        before = target.rows(f"{of_inbox} ORDER BY conversation_id")
        target.execute("UPDATE inbox_tenant_mapping SET tenant_id = 2 WHERE inbox_id = %s", inbox, what="owner")
        assert target.rows(f"{of_inbox} AND tenant_id = 2 ORDER BY conversation_id") == before
        assert target.rows(f"SELECT count(*) FROM ({of_inbox}) AS t") == [(count,)]
