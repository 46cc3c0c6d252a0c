"""A reading of a derived relation brings no more than it has room for, and columns of any type come as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest

from replicator import changes, derived
from replicator.chunk import raw_rows
from replicator.config import load
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived, Read, read_rows
from replicator.event import Origin
from replicator.pgoutput import RawValue
from replicator.row_hashes import read_hashed_rows, read_hashes
from replicator.source import Source as Session
from tests.integration.chatwoot import Source

LARGEST = 1 << 20
KINDS = """
    CREATE TYPE mood AS ENUM ('calm', 'upset');
    CREATE DOMAIN short AS varchar(7) CHECK (value <> '');
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE kinds (
        id bigint PRIMARY KEY, inbox_id int, mark smallint, text text, "var 100%" varchar(12), fixed char(5),
        "number" numeric(9,2), any_number numeric, mood mood, moods mood[], short short, words varchar(6)[],
        numbers numeric(4,1)[], document jsonb, as_json json, bits bit(3), more_bits varbit(9), "at" timestamptz(3),
        days interval day to second(2), raw bytea, is_so boolean, pair pair, pairs pair[], u uuid, nothing text
    );
    INSERT INTO kinds VALUES (
        1, 4, 1, 'a', 'b%s', 'c', 1.50, 'NaN', 'upset', '{calm,NULL}', 'd', '{e,"f g"}', '{1.5}', '{"g": [1, null]}',
        '{"h" : 1}', '101', '1', '2026-01-02 03:04:05.678Z', '1 day 2.25', '\\x00ff', true, '(1,"x y")',
        '{"(2,z)"}', '00000000-0000-0000-0000-000000000001', NULL
    );
    INSERT INTO kinds SELECT * FROM (SELECT (jsonb_populate_record(k, jsonb_build_object('id', g))).*
        FROM kinds AS k, generate_series(2, 60) g) AS more
"""
LARGE = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, {}) AS g)"
"""Of so many times 32 bytes."""
SELECTS = {
    "kinds": "SELECT * FROM kinds",
    "versions": "SELECT id / 10 AS id, inbox_id, mark, text FROM kinds",
}


class Relations:
    """Of the operator's own, read by their keys in one session."""

    def __init__(self, session: Session, found: dict[str, Derived]) -> None:
        self.session, self.found = session, found

    def plainly(self, relation: str, key: int) -> changes.RenderedRow:
        """A row by the relation's own SELECT."""
        result = self.session.connection.execute(f"{SELECTS[relation]} WHERE id = {key}".encode()).pgresult
        assert result is not None
        return self._table(relation).render(list[RawValue](raw_rows(result)[0]))

    def _table(self, relation: str) -> changes.Table:
        return self.found[relation].table(Origin(topic_prefix="t", database="d", schema="public", table=relation))

    def read(self, relation: str, keys: list[int], largest: int = LARGEST) -> Read:
        """By either statement: they bring the same."""
        found, table = self.found[relation], self._table(relation)
        with self.session.reading():
            read = read_rows(self.session.connection, found, table, keys, largest)
            hashed, seen = read_hashed_rows(self.session.connection, found, table, keys, largest)
            hashes = read_hashes(self.session.connection, found, keys)
        assert hashed == read
        assert seen == [each for each in hashes if each.key not in read.crowded]
        return read


@pytest.fixture
def relations(source_dsn: str, source: Source) -> Iterator[Relations]:
    source.execute(KINDS.encode())
    own = {
        name: {"select": select, "key": "id", "inbox": "inbox_id", "newest": "mark" if name == "versions" else ""}
        for name, select in SELECTS.items()
    }
    settings = load(source_dsn=source_dsn, kafka_bootstrap_servers="127.0.0.1:1", _env_file=None, derived=own)
    with Session(settings) as session:
        session.plan_once()
        found = read_definitions(session, captured_by(settings)).relations
        yield Relations(session, {name: each for name, each in found.items() if isinstance(each, Derived)})


@contextmanager
def enlarged(source: Source, key: int, times: int) -> Iterator[None]:
    source.execute(f"UPDATE kinds SET text = {LARGE.format(times)} WHERE id = {key}".encode())
    yield
    source.execute(f"UPDATE kinds SET text = 'a' WHERE id = {key}".encode())


def test_columns_of_every_kind_come_as_they_are(relations: Relations) -> None:
    """With their types and modifiers: else they would not be those that the relation was derived with."""
    modified = {name for name, _, modifier, _ in relations.found["kinds"].columns if modifier != -1}
    assert modified >= {"var 100%", "fixed", "number", "short", "words", "numbers", "bits", "more_bits", "at", "days"}
    expected = relations.plainly("kinds", 1)
    assert orjson.loads(expected.json)["var 100%"] == "b%s"
    for keys in ([1], [1, 2]):
        read = relations.read("kinds", keys)
        assert read.rows[0] == expected
        assert not read.crowded


def test_a_row_that_is_too_large_leaves_others_alone_and_is_said_to_be(relations: Relations, source: Source) -> None:
    with enlarged(source, 2, LARGEST // 32 + 1):
        read = relations.read("kinds", [1, 2, 3])
        assert [row.key for row in read.rows] == [b"[1]", b"[3]"]
        assert read.crowded == {2}
        assert relations.read("kinds", [2]) == Read(
            [changes.RenderedRow(b"[2]", 4, changes.TOO_LARGE, b"")], frozenset()
        )
        assert len(relations.read("kinds", [2], 2 * LARGEST).rows[0].json) > LARGEST


def test_many_rows_are_not_read_at_once_if_they_are_large(relations: Relations, source: Source) -> None:
    """None of sixty that fill twice the room, then all but those that still are too large for half of them."""
    source.execute(f"UPDATE kinds SET text = {LARGE.format(2 * derived.READ_BYTES // 60 // 32)}".encode())
    source.execute("UPDATE kinds SET text = text || text || text WHERE id % 10 = 0")
    keys = list(range(1, 61))
    assert relations.read("kinds", keys) == Read([], frozenset(keys))
    fewer = keys[:20]
    read = relations.read("kinds", fewer)
    assert read.crowded == {10, 20}
    assert len(read.rows) == 18
    assert sum(len(row.json) for row in read.rows) < derived.READ_BYTES
    assert len(relations.read("kinds", [10, 20]).rows) == 2


def test_the_newest_row_of_a_key_may_be_the_one_that_is_too_large(relations: Relations, source: Source) -> None:
    """Keys 10 to 19 are ten versions of key 1, at two inboxes."""
    source.execute("UPDATE kinds SET mark = id % 10, inbox_id = CASE WHEN id % 2 = 0 THEN 4 ELSE 5 END")
    for large, expected in ((18, {4: True, 5: False}), (16, {4: False, 5: False}), (19, {4: False, 5: True})):
        with enlarged(source, large, LARGEST // 32 + 1):
            read = relations.read("versions", [1])
            assert {row.inbox: row.json == changes.TOO_LARGE for row in read.rows} == expected
            assert relations.read("versions", [1, 2]).crowded == {1}
    source.execute("UPDATE kinds SET inbox_id = NULL WHERE id = 18")
    with enlarged(source, 18, LARGEST // 32 + 1):
        read = relations.read("versions", [1])
        assert {row.inbox: orjson.loads(row.json)["mark"] for row in read.rows} == {4: 6, 5: 9}
