"""The hash of a derived relation's row is another when what is published is, and the same otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from demo.servers import wait_until
from demo.source.seed import seed
from replicator.config import Settings, load
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived, Redefined, read_rows
from replicator.digests import Seen
from replicator.event import Origin
from replicator.reference_view import load as load_views
from replicator.remedies import create_views
from replicator.row_hashes import hash_expression, read_hashed_rows, read_hashes
from replicator.source import Source as Session
from tests.integration.chatwoot import Source, connect, role
from tests.integration.derived_rows import VIEW

ANALYTICS = "conversations_analytics"
KEYS = range(1, 41)
LARGEST = 1 << 20
ORIGIN = Origin(topic_prefix="t", database="d", schema="public", table="t")
TIES = """
    SELECT c.id AS conversation_id, c.inbox_id, c.display_id AS "100% %s", c.custom_attributes AS as_it_is,
        (SELECT jsonb_agg(jsonb_build_object('text', m.content) ORDER BY m.created_at) FROM messages AS m
            WHERE m.conversation_id = c.id) AS "said 100%",
        (SELECT json_agg(m.content ORDER BY m.created_at) FROM messages AS m WHERE m.conversation_id = c.id) AS as_json,
        (SELECT array_agg(m.content ORDER BY m.created_at) FROM messages AS m WHERE m.conversation_id = c.id) AS texts,
        (SELECT array_agg(a ORDER BY a.created_at) FROM csat_survey_responses AS a WHERE a.conversation_id = c.id)
            AS answers,
        (SELECT string_agg(m.content, ' ' ORDER BY m.created_at) FROM messages AS m WHERE m.conversation_id = c.id)
            AS spoken
    FROM conversations AS c
"""
"""Orders that leave ties."""
UNSTABLE = ["said 100%", "as_json", "texts", "answers", "spoken"]
PLANS = ("enable_sort", "enable_hashagg", "enable_indexscan", "enable_bitmapscan", "enable_nestloop", "enable_hashjoin")


class Hashed:
    """A relation of the source, read by its keys."""

    def __init__(self, settings: Settings, relation: str) -> None:
        self._settings = settings
        with self.session() as session:
            found = read_definitions(session, captured_by(settings)).relations[relation]
        assert isinstance(found, Derived), found
        self.derived = found

    def session(self) -> Session:
        return Session(self._settings)

    def read(self, **options: str) -> Counter[Seen]:
        """The rows as a multiset, by one statement and by the other, under these settings of the session."""
        with self.session() as session:
            for name, value in options.items():
                session.rows("SELECT set_config(%s, %s, false)", (name, value))
            table = self.derived.table(ORIGIN)
            with session.reading():
                hashes = read_hashes(session.connection, self.derived, KEYS)
                read, seen = read_hashed_rows(session.connection, self.derived, table, KEYS, LARGEST)
                assert read == read_rows(session.connection, self.derived, table, KEYS, LARGEST)
        assert Counter(hashes) == Counter(seen)
        assert {row.inbox for row in read.rows} == {row.inbox for row in seen}
        return Counter(hashes)


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    seed(source_dsn, conversations=60, messages_per_conversation=5)
    with connect(source_dsn) as connection:
        connection.execute(create_views(_settings(source_dsn), load_views(VIEW), {}).encode())
        yield connection


@pytest.fixture
def hashed(source_dsn: str, source: Source) -> Callable[[str], Hashed]:
    own = {"ties": {"select": TIES, "key": "conversation_id", "inbox": "inbox_id"}}
    return cache(lambda relation: Hashed(_settings(source_dsn, derived=own), relation))


def _settings(dsn: str, **settings: Any) -> Settings:
    return load(source_dsn=dsn, kafka_bootstrap_servers="127.0.0.1:1", _env_file=None, **settings)


def _keys(seen: Counter[Seen]) -> set[int]:
    return {row.key for row in seen}


def _tie(source: Source) -> None:
    """All of a conversation's messages were written at once."""
    source.execute("UPDATE messages SET created_at = date_trunc('year', created_at) WHERE conversation_id <= 40")
    source.execute(
        "INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, contact_id, created_at,"
        " updated_at) SELECT 1, conversation_id, id, 1 + id % 5, 1, '2026-01-01', '2026-01-01' FROM messages"
        " ON CONFLICT DO NOTHING"
    )


def _turn_round(source: Source) -> None:
    """The tables hold the same rows in the opposite order."""
    for table in ("messages", "csat_survey_responses"):
        source.execute(f"CREATE TEMPORARY TABLE turned AS SELECT * FROM {table} ORDER BY id DESC".encode())
        source.execute(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM turned; DROP TABLE turned".encode())
        source.execute(f"VACUUM FULL {table}".encode())


def test_the_relation_with_ties_is_what_these_tests_need(hashed: Callable[[str], Hashed]) -> None:
    derived = hashed("ties").derived
    assert list(derived.lineage.unstable) == UNSTABLE
    types = {column.name: derived.type_names[column.type_oid, column.type_modifier] for column in derived.columns}
    assert [types[name] for name in UNSTABLE] == ["jsonb", "json", "text[]", "csat_survey_responses[]", "text"]


@pytest.mark.parametrize("relation", [ANALYTICS, "contacts", "csat_survey_responses", "ties"])
def test_a_row_has_one_hash_whatever_its_plan_and_however_its_ties_are_broken(
    hashed: Callable[[str], Hashed], source: Source, relation: str
) -> None:
    _tie(source)
    before = hashed(relation).read()
    assert before
    for option in PLANS:
        assert hashed(relation).read(**{option: "off"}) == before, option
    assert hashed(relation).read(plan_cache_mode="force_generic_plan") == before
    shown = f"SELECT texts, spoken FROM ({TIES}) AS t ORDER BY conversation_id".encode()
    told = source.execute(shown).fetchall()
    _turn_round(source)
    assert source.execute(shown).fetchall() != told, "no tie was broken in another way"
    assert hashed(relation).read() == before


def test_time_passes_and_no_hash_changes(hashed: Callable[[str], Hashed], source: Source) -> None:
    waiting = f"SELECT waiting_time_seconds FROM {VIEW} WHERE conversation_id = 1"
    source.execute("UPDATE conversations SET waiting_since = now()")
    before, told = hashed(ANALYTICS).read(), source.execute(waiting.encode()).fetchall()
    wait_until(lambda: source.execute(waiting.encode()).fetchall() != told, "a second passed", 10.0)
    assert hashed(ANALYTICS).read() == before


def test_what_databases_and_roles_have_set_for_printing_is_all_one(
    hashed: Callable[[str], Hashed], source: Source
) -> None:
    before = hashed(ANALYTICS).read()
    for name, value in (("TimeZone", "Asia/Kolkata"), ("DateStyle", "German"), ("extra_float_digits", "-5")):
        source.execute(f"ALTER DATABASE {source.info.dbname} SET {name} = '{value}'".encode())
    assert hashed(ANALYTICS).read() == before


OF_THE_VIEW = {
    "a message is edited": "UPDATE messages SET content = content || '.' WHERE conversation_id = 7",
    "a message in the middle is edited": (
        "UPDATE messages SET content = 'editada' WHERE id = (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id)"
        " FROM messages WHERE conversation_id = 7)"
    ),
    "a message goes": "DELETE FROM messages WHERE id = (SELECT min(id) FROM messages WHERE conversation_id = 7)",
    "a contact is renamed": (
        "UPDATE contacts SET name = 'Outro Nome' WHERE id = (SELECT contact_id FROM conversations WHERE id = 7)"
    ),
    "a survey is answered": (
        "INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, contact_id, created_at,"
        " updated_at) SELECT account_id, conversation_id, min(id), 2, 1, now(), now() FROM messages"
        " WHERE conversation_id = 7 GROUP BY 1, 2"
    ),
    "an answer is corrected": "UPDATE csat_survey_responses SET rating = 1 + rating % 5 WHERE conversation_id = 7",
    "it moves": "UPDATE conversations SET inbox_id = 1 + inbox_id % 2 WHERE id = 7",
    "nothing becomes an empty text": (
        "UPDATE contacts SET identifier = '' WHERE id = (SELECT contact_id FROM conversations WHERE id = 7)"
    ),
}


def test_a_change_of_what_is_published_is_another_hash(hashed: Callable[[str], Hashed], source: Source) -> None:
    source.execute("UPDATE conversations SET contact_id = (SELECT max(id) FROM contacts) WHERE id = 7")
    source.execute(
        "UPDATE contacts SET identifier = NULL WHERE id = (SELECT contact_id FROM conversations WHERE id = 7)"
    )
    source.execute("UPDATE conversations SET contact_id = NULL WHERE id <> 7")
    before = hashed(ANALYTICS).read()
    for what, statement in OF_THE_VIEW.items():
        source.execute(statement.encode())
        after = hashed(ANALYTICS).read()
        assert _keys(after - before) == {7}, what
        before = after


OF_TIES = {
    "an element changes": "UPDATE messages SET content = 'X' WHERE id = {}",
    "an element becomes NULL": "UPDATE messages SET content = NULL WHERE id = {}",
    "an element that is NULL goes": "DELETE FROM messages WHERE content IS NULL AND conversation_id = 7",
    "a composite element changes in its last field": (
        "UPDATE csat_survey_responses SET updated_at = '2026-02-02' WHERE conversation_id = 7"
    ),
    "a value that is no array": "UPDATE conversations SET custom_attributes = '{{\"a\": 1}}' WHERE id = 7",
    "an array whose order is its own": "UPDATE conversations SET custom_attributes = '[1, 2]' WHERE id = 7",
    "the order of that": "UPDATE conversations SET custom_attributes = '[2, 1]' WHERE id = 7",
    "all elements go": "DELETE FROM messages WHERE conversation_id = 7",
}


def test_elements_without_an_order_count_each(hashed: Callable[[str], Hashed], source: Source) -> None:
    source.execute("DELETE FROM csat_survey_responses")
    _tie(source)
    before = hashed("ties").read()
    for what, statement in OF_TIES.items():
        source.execute(
            statement.format("(SELECT min(id) FROM messages WHERE conversation_id = 7 AND content <> 'X')").encode()
        )
        after = hashed("ties").read()
        assert _keys(after - before) == {7}, what
        before = after


def test_a_row_without_an_inbox_concerns_nobody(hashed: Callable[[str], Hashed], source: Source) -> None:
    source.execute("UPDATE contact_inboxes SET inbox_id = NULL WHERE contact_id = 7")
    source.execute("DELETE FROM conversations WHERE contact_id = 7")
    assert 7 not in _keys(hashed("contacts").read())


def test_all_rows_of_a_key_at_an_inbox_are_hashed_and_the_newest_is_read(
    hashed: Callable[[str], Hashed], source: Source
) -> None:
    source.execute("DELETE FROM csat_survey_responses")
    source.execute(
        "INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, contact_id, created_at,"
        " updated_at) SELECT account_id, conversation_id, id, 2, 1, now(), now() FROM messages"
        " WHERE conversation_id = 7 LIMIT 2"
    )
    seen = hashed(ANALYTICS).read()
    assert Counter(row.key for row in seen)[7] == 2
    assert seen.total() == len(KEYS) + 1


def test_a_role_that_may_read_the_view_alone_has_its_rows_hashed(
    hashed: Callable[[str], Hashed], source: Source, source_dsn: str
) -> None:
    derived, expected = hashed(ANALYTICS).derived, hashed(ANALYTICS).read()
    with (
        role(source, source_dsn, f"GRANT SELECT ON {VIEW} TO {{role}}") as dsn,
        Session(_settings(dsn)) as session,
        session.reading(),
    ):
        assert Counter(read_hashes(session.connection, derived, KEYS)) == expected
        read, seen = read_hashed_rows(session.connection, derived, derived.table(ORIGIN), KEYS, LARGEST)
    assert Counter(seen) == expected
    assert len(read.rows) == len(KEYS)


def test_other_columns_are_found_out_when_rows_are_read(hashed: Callable[[str], Hashed], source: Source) -> None:
    derived = hashed(ANALYTICS).derived
    with hashed(ANALYTICS).session() as session:
        ((definition,),) = source.execute("SELECT pg_get_viewdef(%s::regclass)", (VIEW,)).fetchall()
        source.execute(f"CREATE OR REPLACE VIEW {VIEW} AS SELECT *, 1 AS one FROM ({definition[:-1]}) AS v".encode())
        with session.reading():
            assert len(read_hashes(session.connection, derived, KEYS)) >= len(KEYS)
            with pytest.raises(Redefined):
                read_hashed_rows(session.connection, derived, derived.table(ORIGIN), KEYS, LARGEST)


def test_columns_of_the_clock_have_no_part_in_it(hashed: Callable[[str], Hashed]) -> None:
    derived = hashed(ANALYTICS).derived
    text = hash_expression(derived, "r").as_string()
    assert [column.name for column in derived.columns if f'"{column.name}"' not in text] == list(derived.lineage.clock)
