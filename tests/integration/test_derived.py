"""Derived relations on a real source: whatever base row changes, their rows of the keys concerned are in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import replicator.source
from demo.servers import wait_until
from demo.source.seed import seed
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Redefined, read_rows
from replicator.errors import SourceRefused
from replicator.event import Origin
from tests.integration.chatwoot import Source, add_message
from tests.integration.derived_rows import (
    ENLARGED,
    ROOM,
    VIEW,
    expected,
    wait_for_all_but_the_largest,
    wait_until_derived,
)
from tests.integration.programs import RUN, Program, settings_of, started
from tests.integration.replayed import Replayed


@pytest.fixture
def running(environment: dict[str, str], source_dsn: str, replayed: Replayed, tmp_path: Path) -> Iterator[Program]:
    """A replicator that has read a seeded source."""
    seed(source_dsn, conversations=120, messages_per_conversation=4)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replayed.wait_for_end()
        yield replicator
        assert not replicator.logged("run.ended")
        assert replicator.stop() == 0


# Writes after which conversations.updated_at is what it was before, and what they change.
WRITES = {
    "an agent opens a conversation": "UPDATE conversations SET agent_last_seen_at = now() WHERE id = 7",
    "a conversation waits no longer": "UPDATE conversations SET waiting_since = NULL WHERE id % 5 = 0",
    "a contact is renamed": "UPDATE contacts SET name = 'Outro Nome', phone_number = '+5500900000000' WHERE id = 3",
    "an inbox is renamed": "UPDATE inboxes SET name = 'Outra Caixa' WHERE id = 2",
    "an agent is renamed": "UPDATE users SET name = 'Outra Pessoa' WHERE id IN (SELECT assignee_id FROM conversations)",
    "a team is renamed": "UPDATE teams SET name = name || ' dois' WHERE id IN (SELECT team_id FROM conversations)",
    "an account is renamed": "UPDATE accounts SET name = 'Outra Conta' WHERE id = 1",
    "a survey is answered": (
        "INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, contact_id, created_at,"
        " updated_at) SELECT account_id, conversation_id, id, 2, 1, now(), now() FROM messages WHERE id % 9 = 0"
        " ON CONFLICT DO NOTHING"
    ),
    "an answer is corrected": "UPDATE csat_survey_responses SET rating = 5, feedback_message = 'melhorou'",
    "an answer is deleted": "DELETE FROM csat_survey_responses WHERE id % 2 = 0",
    "a message is edited": "UPDATE messages SET content = 'editada' WHERE id % 7 = 0",
    "a sender is another": "UPDATE messages SET sender_id = 1, sender_type = 'Contact' WHERE id % 11 = 0",
    "a message goes": "DELETE FROM messages WHERE id % 13 = 0",
    "an agent is removed": "UPDATE conversations SET assignee_id = NULL, team_id = NULL WHERE id % 3 = 0",
    "conversations move with their messages": (
        "WITH moved AS (UPDATE conversations SET inbox_id = 1 + inbox_id % 6 WHERE id % 4 = 0 RETURNING id, inbox_id)"
        " UPDATE messages m SET inbox_id = moved.inbox_id FROM moved WHERE m.conversation_id = moved.id"
    ),
    "conversations are deleted, their children stay": "DELETE FROM conversations WHERE id % 10 = 0",
    "contacts are deleted, their conversations stay": "DELETE FROM contacts WHERE id % 10 = 0",
    "contacts are merged": (
        "WITH merged AS (UPDATE conversations SET contact_id = 1 WHERE contact_id = 2),"
        " links AS (UPDATE contact_inboxes SET contact_id = 1 WHERE contact_id = 2)"
        " DELETE FROM contacts WHERE id = 2"
    ),
    "links lose their inbox": "UPDATE contact_inboxes SET inbox_id = NULL WHERE id % 6 = 0",
    "a base table is emptied": "TRUNCATE teams",
    "the view's own tables are emptied": "TRUNCATE messages, csat_survey_responses",
}


def test_every_write_that_leaves_updated_at_alone_is_followed(
    running: Program, source: Source, replayed: Replayed
) -> None:
    wait_until_derived(replayed, source)
    for what, statement in WRITES.items():
        before = {relation: expected(source, relation) for relation in ("contacts", "conversations_analytics")}
        source.execute(statement.encode())
        after = {relation: expected(source, relation) for relation in before}
        assert before != after or "answer" in what, f"{what}: nothing to see"
        try:
            wait_until_derived(replayed, source, seconds=30)
        except AssertionError as error:
            raise AssertionError(what) from error


def test_what_changes_nothing_that_is_used_is_not_read(running: Program, source: Source, replayed: Replayed) -> None:
    wait_until_derived(replayed, source)
    # A row that is met for the first time counts as changed.
    source.execute("UPDATE contacts SET last_activity_at = now(), name = name || '.' WHERE id = 1")
    source.execute("UPDATE users SET name = name || '.'")
    wait_until_derived(replayed, source)

    def read(relation: str) -> int:
        return len([event for event in replayed.events if event.head.table == relation])

    before, contacts = read("conversations_analytics"), read("contacts")
    for _ in range(5):
        source.execute("UPDATE contacts SET last_activity_at = clock_timestamp() WHERE id = 1")
    source.execute("UPDATE users SET sign_in_count = sign_in_count + 1 WHERE id = 1")
    replayed.wait_for("the contact is read", lambda: read("contacts") > contacts, 20)
    wait_until_derived(replayed, source)
    assert read("conversations_analytics") == before


def test_a_contact_leaves_one_inbox_then_the_other(running: Program, source: Source, replayed: Replayed) -> None:
    source.execute(
        "INSERT INTO contacts (id, name, account_id, created_at, updated_at) VALUES (9001, 'Cliente', 1, now(), now())"
    )
    source.execute(
        "INSERT INTO contact_inboxes (id, contact_id, inbox_id, source_id, created_at, updated_at)"
        " VALUES (9001, 9001, 1, 'a', now(), now()), (9002, 9001, 4, 'b', now(), now())"
    )
    replayed.wait_for("both", lambda: {each.inbox for each in replayed.events_of("contacts", 9001, "r")} == {1, 4})
    source.execute("DELETE FROM contact_inboxes WHERE id = 9001")
    replayed.wait_for("one gone", lambda: [each.inbox for each in replayed.events_of("contacts", 9001, "d")] == [1])
    assert 9001 in replayed.rows("contacts")
    source.execute("UPDATE contact_inboxes SET inbox_id = NULL WHERE id = 9002")
    replayed.wait_for("both gone", lambda: None in {each.inbox for each in replayed.events_of("contacts", 9001, "d")})
    assert 9001 not in replayed.rows("contacts")


def test_the_newest_of_two_answers_wins(running: Program, source: Source, replayed: Replayed) -> None:
    for rating in (1, 5, 3):
        message = add_message(source, 5, "pesquisa")
        source.execute(
            "INSERT INTO csat_survey_responses"
            " (account_id, conversation_id, message_id, rating, contact_id, created_at, updated_at)"
            " VALUES (1, 5, %s, %s, 1, now(), now())",
            (message, rating),
        )
        wait_until_derived(replayed, source)
        assert replayed.rows("conversations_analytics")[5]["csat_rating"] == rating


def test_a_change_of_many_keys_is_paced_in_the_background(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    seed(source_dsn, conversations=400, messages_per_conversation=2)
    environment |= {"REPLICATOR_FAN_OUT_KEYS": "20", "REPLICATOR_FAN_OUT_KEYS_PER_SECOND": "20"}
    environment |= {"REPLICATOR_BACKFILL_CHUNK_ROWS": "10"}
    with started(RUN, environment, tmp_path / "first") as first:
        replayed.wait_for_end()
        wait_until_derived(replayed, source)
        source.execute("UPDATE inboxes SET name = 'Outra Caixa' WHERE id = 1")
        fan_out = lambda: [line for line in first.logged("backfill.began") if "fan-out" in line["id"]]  # noqa: E731
        wait_until(fan_out, "a fan-out", 20)
        message = add_message(source, 3, "meanwhile")
        replayed.wait_for("the message", lambda: message in replayed.rows("messages"))
        first.kill()
    with started(RUN, environment, tmp_path / "second") as second:
        wait_until_derived(replayed, source)
        wait_until(lambda: not second.status().get("backfills", [1]), "nothing more to do", 20)
        assert second.stop() == 0


def test_a_row_that_cannot_be_computed_holds_up_no_other(running: Program, source: Source, replayed: Replayed) -> None:
    wait_until_derived(replayed, source)
    # Seconds beyond an integer: the view's own arithmetic fails for this conversation alone.
    source.execute("UPDATE conversations SET first_reply_created_at = '3000-01-01' WHERE id = 9")
    source.execute("UPDATE conversations SET priority = 2 WHERE id <> 9")
    others = f"SELECT * FROM {VIEW} WHERE conversation_id <> 9 AND false"
    assert expected(source, "conversations_analytics", others) == {}

    def failed() -> bool:
        return running.status()["derived"]["conversations_analytics"]["failed_keys"] == [[9]]

    wait_until(failed, "the key that fails is named", 30)
    assert "22003" in running.status()["derived"]["conversations_analytics"]["failed_because"]
    replayed.wait_for(
        "all others",
        lambda: all(row["priority"] == 2 for key, row in replayed.rows("conversations_analytics").items() if key != 9),
    )
    source.execute("UPDATE conversations SET first_reply_created_at = NULL WHERE id = 9")
    wait_until_derived(replayed, source)
    wait_until(lambda: not running.status()["derived"]["conversations_analytics"]["failed"], "nothing fails", 20)


def test_a_view_that_is_replaced_while_running_is_derived_and_read_anew(
    running: Program, source: Source, replayed: Replayed
) -> None:
    wait_until_derived(replayed, source)
    ((definition,),) = source.execute("SELECT pg_get_viewdef(%s::regclass)", (VIEW,)).fetchall()
    body = definition.rstrip().rstrip(";")
    source.execute(
        f"CREATE OR REPLACE VIEW {VIEW} AS SELECT v.*, c.cached_label_list AS labels"
        f" FROM ({body}) AS v JOIN conversations AS c ON c.id = v.conversation_id".encode()
    )
    source.execute("UPDATE conversations SET cached_label_list = 'lead' WHERE id = 3")
    wait_until_derived(replayed, source)
    assert replayed.rows("conversations_analytics")[3]["labels"] == "lead"
    source.execute("UPDATE conversations SET cached_label_list = 'visita' WHERE id = 4")
    wait_until_derived(replayed, source)
    source.execute(f"ALTER VIEW {VIEW} RENAME TO elsewhere".encode())
    wait_until(
        lambda: not running.status()["derived"]["conversations_analytics"]["available"], "the view is missed", 30
    )
    message = add_message(source, 3, "the stream goes on")
    replayed.wait_for("the message", lambda: message in replayed.rows("messages"))
    source.execute(f"ALTER VIEW elsewhere RENAME TO {VIEW}".encode())
    wait_until_derived(replayed, source)


def test_a_relation_of_the_operators_own(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    seed(source_dsn, conversations=60, messages_per_conversation=2)
    query = (
        "SELECT c.id, c.inbox_id, c.cached_label_list AS labels, count(m.id) AS written, max(m.id) AS latest"
        " FROM conversations c LEFT JOIN messages m ON m.conversation_id = c.id AND NOT m.private"
        " WHERE c.cached_label_list LIKE '%a%' GROUP BY c.id"
    )
    own = {"labelled": {"select": query, "key": "id", "inbox": "inbox_id"}}
    with started(RUN, environment | {"REPLICATOR_DERIVED": json.dumps(own)}, tmp_path / "log") as replicator:
        replayed.wait_for_end()

        def alike() -> bool:
            return replayed.rows("labelled") == expected(source, "labelled", query)

        replayed.wait_for("the first load", alike)
        source.execute("UPDATE conversations SET cached_label_list = 'visita' WHERE id % 3 = 0")
        add_message(source, 3, "mais uma")
        assert expected(source, "labelled", query)
        replayed.wait_for("labels and messages", alike)
        source.execute("UPDATE conversations SET cached_label_list = NULL WHERE id % 6 = 0")
        source.execute("DELETE FROM messages WHERE id % 4 = 0")
        replayed.wait_for("what went", alike)
        assert replicator.stop() == 0


def test_null_leads_to_the_rows_that_have_null_too(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    seed(source_dsn, conversations=30, messages_per_conversation=1)
    source.execute(
        "INSERT INTO teams (id, name, account_id, created_at, updated_at) VALUES (900, 'a', 1, now(), now())"
    )
    source.execute("UPDATE conversations SET team_id = NULL WHERE id % 2 = 0")
    source.execute("UPDATE conversations SET cached_label_list = 'b' WHERE id < 5")
    queries = {
        "peers": (
            "SELECT id, inbox_id, count(*) FILTER (WHERE team_id IS NULL) OVER (PARTITION BY team_id) AS peers"
            " FROM conversations"  # of the old team nothing changes: the replica identity does not carry it
        ),
        "named": (
            "SELECT c.id, c.inbox_id, t.name FROM conversations c"
            " JOIN teams t ON coalesce(t.description, t.name) = c.cached_label_list"
        ),
    }
    own = {name: {"select": query, "key": "id", "inbox": "inbox_id"} for name, query in queries.items()}

    def alike() -> bool:
        return all(replayed.rows(name) == expected(source, name, query) for name, query in queries.items())

    with started(RUN, environment | {"REPLICATOR_DERIVED": json.dumps(own)}, tmp_path / "log") as replicator:
        replayed.wait_for_end()
        replayed.wait_for("the first load", alike)
        for write in (
            "UPDATE conversations SET team_id = NULL WHERE id = (SELECT min(id) FROM conversations WHERE team_id > 0)",
            "INSERT INTO conversations (account_id, inbox_id, created_at, updated_at) VALUES (1, 1, now(), now())",
            "UPDATE teams SET name = 'b' WHERE id = 900",
            "UPDATE teams SET name = 'a' WHERE id = 900",
        ):
            before = [expected(source, name, query) for name, query in queries.items()]
            source.execute(write)
            assert before != [expected(source, name, query) for name, query in queries.items()], write
            replayed.wait_for(write, alike, 20)
        assert replicator.stop() == 0


def test_what_changed_while_the_view_was_away_from_the_start_is_read_when_it_returns(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    seed(source_dsn, conversations=30, messages_per_conversation=1)
    with started(RUN, environment, tmp_path / "first") as first:
        replayed.wait_for_end()
        wait_until_derived(replayed, source)
        wait_until(lambda: not first.status().get("backfills", [1]), "nothing more to do", 20)
        assert first.stop() == 0
    source.execute(f"ALTER VIEW {VIEW} RENAME TO elsewhere".encode())
    with started(RUN, environment, tmp_path / "second") as second:
        source.execute("UPDATE conversations SET status = 3 - status WHERE id = 5")
        message = add_message(source, 6, "the view is away")
        replayed.wait_for("the message", lambda: message in replayed.rows("messages"))
        assert second.stop() == 0
    with started(RUN, environment, tmp_path / "third") as third:
        wait_until(lambda: third.logged("relation.unavailable"), "the view is missed", 20)
        source.execute(f"ALTER VIEW elsewhere RENAME TO {VIEW}".encode())
        wait_until_derived(replayed, source)
        assert third.stop() == 0


def test_rows_that_are_too_large_to_be_read_at_once_all_arrive(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    """But for one that the topic can't take: it is an event without a body."""
    seed(source_dsn, conversations=40, messages_per_conversation=1)
    source.execute(ENLARGED)
    with started(RUN, environment | ROOM, tmp_path / "log") as replicator:
        wait_for_all_but_the_largest(replayed, source)
        source.execute("UPDATE conversations SET priority = 3 - coalesce(priority, 0)")
        wait_for_all_but_the_largest(replayed, source)
        wait_until(lambda: replicator.status()["oversized"] > 0, "the status counts it", 20)
        assert replicator.stop() == 0


def test_a_read_is_planned_once_for_as_long_as_the_view_is_the_same(
    environment: dict[str, str], source: Source
) -> None:
    """Planning the analytics view takes ten times as long as reading a row of it."""
    settings = settings_of(environment)
    planned = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%%OFFSET 0%%'"
    with replicator.source.Source(settings) as session:
        session.plan_once()
        derived = read_definitions(session, captured_by(settings)).relations["conversations_analytics"]
        assert not isinstance(derived, str)
        table = derived.table(Origin(topic_prefix="t", database="d", schema="public", table="t"))

        def read() -> None:
            with session.reading():
                read_rows(session.connection, derived, table, [1], settings.max_message_bytes)

        for _ in range(12):
            read()
        assert session.rows(planned) == [(12, 0)]
        ((definition,),) = source.execute("SELECT pg_get_viewdef(%s::regclass)", (VIEW,)).fetchall()
        source.execute(
            f"CREATE OR REPLACE VIEW {VIEW} AS SELECT *, 1 AS one FROM ({definition.rstrip(';')}) AS v".encode()
        )
        for _ in range(2):
            with pytest.raises(SourceRefused, match="FeatureNotSupported"):
                read()
        session.forget_plans()
        with pytest.raises(Redefined):
            read()
