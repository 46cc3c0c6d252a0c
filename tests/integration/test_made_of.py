"""What the publication holds follows from what derived relations are made of, and never stops the source's writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from demo.servers import wait_until
from replicator import check, setup
from replicator.findings import Finding, Severity
from replicator.remedies import Step
from tests.integration.chatwoot import Source, fill
from tests.integration.programs import RUN, prepare_source, settings_of, started
from tests.integration.replayed import Replayed

SCHEMA = """
    CREATE TABLE tags (id serial PRIMARY KEY, name text, internal_note text);
    CREATE TABLE taggings (id serial PRIMARY KEY, tag_id int, taggable_type text, taggable_id int, context text);
    CREATE TABLE shifts (conversation_id bigint NOT NULL, label text)
"""
LABELS = {
    "select": (
        "SELECT g.id, c.inbox_id, c.id AS conversation_id, t.name FROM taggings AS g JOIN tags AS t ON t.id = g.tag_id"
        " JOIN conversations AS c ON g.taggable_type = 'Conversation' AND c.id = g.taggable_id"
    ),
    "key": "id",
    "inbox": "inbox_id",
}
SHIFTS = {
    "select": (
        "SELECT c.id, c.inbox_id, (SELECT string_agg(s.label, ',' ORDER BY s.label) FROM shifts AS s"
        " WHERE s.conversation_id = c.id) AS shifts FROM conversations AS c"
    ),
    "key": "id",
    "inbox": "inbox_id",
}
AVAILABLE = """
    CREATE VIEW {} AS SELECT c.id AS conversation_id, c.inbox_id, u.availability, u.name AS assignee_name
      FROM conversations AS c LEFT JOIN users AS u ON u.id = c.assignee_id
"""


ADDED = [
    "ALTER PUBLICATION inbox_replicator ADD TABLE public.taggings (id, tag_id, taggable_id, taggable_type)",
    "ALTER PUBLICATION inbox_replicator ADD TABLE public.tags (id, name)",
]
BY_HAND = "ALTER TABLE public.shifts REPLICA IDENTITY FULL"


@pytest.fixture
def own(environment: dict[str, str], source: Source) -> dict[str, str]:
    """The settings with two relations of a user's own, for which nothing is prepared yet."""
    source.execute(SCHEMA.encode())
    return {
        **environment,
        "REPLICATOR_DERIVED": json.dumps({"conversation_labels": LABELS, "conversation_shifts": SHIFTS}),
    }


def _steps(environment: dict[str, str]) -> list[Step]:
    return setup.plan(settings_of(environment))


def _about(environment: dict[str, str], *names: str) -> list[Finding]:
    bad = (Severity.WARNING, Severity.REFUSAL)
    return [found for found in check.run(settings_of(environment)) if found.name in names and found.severity in bad]


def _published(source: Source) -> dict[str, list[str]]:
    rows = source.execute("SELECT tablename, attnames::text[] FROM pg_publication_tables").fetchall()
    return {name: sorted(columns) for name, columns in rows}


def test_setup_publishes_what_own_relations_are_made_of(own: dict[str, str], source: Source) -> None:
    told = _about(own, "publication", "identity")
    assert {found.severity for found in told} == {Severity.WARNING}
    assert any("lacks shifts, taggings, tags" in found.reason for found in told)
    check.refuse(settings_of(own))  # warnings alone: the stream goes on

    assert [(step.sql, step.by_hand) for step in _steps(own)] == [*((sql, False) for sql in ADDED), (BY_HAND, True)]
    prepare_source(own)
    assert "shifts" not in _published(source), "its own UPDATE and DELETE would fail"
    assert [step.sql for step in _steps(own)] == [BY_HAND]
    source.execute(BY_HAND.encode())
    prepare_source(own)

    assert _steps(own) == []
    assert _about(own, "publication", "identity", "path") == []
    assert _published(source)["tags"] == ["id", "name"]
    source.execute("INSERT INTO shifts VALUES (1, 'a')")
    source.execute("UPDATE shifts SET label = 'b'")
    source.execute("DELETE FROM shifts")


def test_own_relations_are_followed_from_tables_that_chatwoot_has_and_we_did_not_know(
    own: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=12, messages=1)
    source.execute("INSERT INTO tags (name) SELECT 'tag ' || g FROM generate_series(1, 3) g")
    source.execute(
        "INSERT INTO taggings (tag_id, taggable_type, taggable_id)"
        " SELECT 1 + g % 3, 'Conversation', g FROM generate_series(1, 12) g"
    )
    source.execute(BY_HAND.encode())
    prepare_source(own)

    def as_at_the_source() -> bool:
        replayed.read()
        return all(
            _by_id(replayed.rows(name).values()) == _by_id(_rows(source, relation["select"]))
            for name, relation in (("conversation_labels", LABELS), ("conversation_shifts", SHIFTS))
        )

    with started(RUN, own, tmp_path / "log") as replicator:
        wait_until(as_at_the_source, "the initial load", 60)
        for statement in (
            "UPDATE tags SET name = 'renamed' WHERE id = 2",
            "UPDATE taggings SET taggable_id = 5 WHERE id = 3",
            "DELETE FROM taggings WHERE id IN (1, 4)",
            "INSERT INTO shifts VALUES (3, 'night'), (4, 'day')",
            "UPDATE shifts SET conversation_id = 6 WHERE label = 'day'",
            "DELETE FROM shifts WHERE label = 'night'",
        ):
            source.execute(statement.encode())
            wait_until(as_at_the_source, statement, 30)
        assert not replicator.logged("relation.not_followed")
        assert replicator.stop() == 0


def _by_id(rows: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def _rows(source: Source, select: str) -> list[dict[str, Any]]:
    return [row for (row,) in source.execute(f"SELECT to_jsonb(q) FROM ({select}) q".encode()).fetchall()]


def test_what_is_not_published_yet_is_told_and_read_once_it_is(
    own: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=12, messages=1)
    with started(RUN, own, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        replayed.wait_for_end()
        told = {line["relation"]: line["tables"] for line in replicator.logged("relation.not_followed")}
        assert told == {
            "conversation_labels": ["public.taggings", "public.tags"],
            "conversation_shifts": ["public.shifts"],
        }
        derived = replicator.status()["derived"]
        assert derived["conversation_shifts"]["not_followed_from"] == ["public.shifts"]
        assert derived["contacts"]["not_followed_from"] == []

        source.execute("INSERT INTO shifts VALUES (3, 'unseen')")
        source.execute(BY_HAND.encode())
        prepare_source(own)

        def is_read() -> bool:
            replayed.read()
            return any(row["shifts"] == "unseen" for row in replayed.rows("conversation_shifts").values())

        wait_until(is_read, "what was written before the table was published", 60)
        assert replicator.stop() == 0


def test_a_view_that_uses_another_column_of_users_widens_what_is_published(
    environment: dict[str, str], source: Source
) -> None:
    assert _published(source)["users"] == ["email", "id", "name"]
    settings = settings_of(environment)
    source.execute(f"DROP VIEW {settings.view}".encode())
    source.execute(AVAILABLE.format(settings.view).encode())

    (told,) = [found for found in _about(environment, "publication") if "only some columns" in found.reason]
    assert told.severity is Severity.WARNING
    assert "users" in told.reason
    prepare_source(environment)

    assert _published(source)["users"] == ["availability", "id", "name"]
    assert [found for found in _about(environment, "publication") if "only some columns" in found.reason] == []


def test_a_list_of_columns_never_stops_the_sources_writes(
    environment: dict[str, str], source: Source, source_dsn: str
) -> None:
    """PostgreSQL refuses UPDATE and DELETE of a table whose list lacks a column of the replica identity."""
    source.execute("ALTER TABLE users REPLICA IDENTITY FULL")
    (told,) = _about(environment, "publication")
    assert told.severity is Severity.REFUSAL
    assert "own UPDATE and DELETE fail on users" in told.reason
    for statement in told.remedy.splitlines():
        source.execute(statement.encode())
    source.execute("UPDATE users SET name = 'somebody'")
    assert _about(environment, "publication") == []
    assert _steps(environment) == []
    source.execute("DROP PUBLICATION inbox_replicator")
    prepare_source(environment)
    source.execute("UPDATE users SET name = 'somebody else'")
    assert len(_published(source)["users"]) > 3
