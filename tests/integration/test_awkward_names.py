"""Tables and columns whose names hold what psycopg takes for a placeholder, in all that is done with rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import pytest

from consumers.identifiers import quoted
from consumers.layout import read_relations
from consumers.misfits import misfits
from consumers.ordering import Begin, Delete, Event, Rows, Step, Sweep, Truncate, Upsert
from consumers.requests import Stubs
from consumers.status import gather
from consumers.target import Outcome, Session, Work
from replicator import BackfillMarker, Position, TableSchema
from tests.integration.targets import Target, target_of

TENANT, INBOX = 1, 11
PARENT, CHILD = '100% of "the" parents', "%s %(tenant)s %%"
KEY, SHARE, OF, KIND = "key %b", "share in %", "of 100%", "kind %t"
OWN = (
    "tenant_id integer, source_epoch bigint NOT NULL DEFAULT 0, source_point bigint NOT NULL DEFAULT 0,"
    " source_ordinal bigint NOT NULL DEFAULT 0, synced_at timestamptz, inbox_id integer"
)
TABLES = f"""
    CREATE TYPE "{KIND}" AS ENUM ('a', 'b');
    CREATE TABLE {quoted(PARENT)} ({OWN}, "{KEY}" bigint, "{SHARE}" jsonb, PRIMARY KEY (tenant_id, "{KEY}"));
    CREATE TABLE "{CHILD}" (
        {OWN}, "{KEY}" bigint, "{OF}" bigint, "{SHARE}" smallint, "{KIND}" "{KIND}", PRIMARY KEY (tenant_id, "{KEY}"),
        FOREIGN KEY (tenant_id, "{OF}") REFERENCES {quoted(PARENT)} (tenant_id, "{KEY}")
    );
    CREATE INDEX {quoted(PARENT + "_stubs")} ON {quoted(PARENT)} (tenant_id, "{KEY}") WHERE synced_at IS NULL;
    CREATE INDEX "{CHILD}_stubs" ON "{CHILD}" (tenant_id, "{KEY}") WHERE synced_at IS NULL;
    GRANT ALL ON {quoted(PARENT)}, "{CHILD}" TO replication_readers
"""
COLUMNS = {
    PARENT: ((KEY, "bigint"), ("inbox_id", "integer"), (SHARE, "jsonb")),
    CHILD: ((KEY, "bigint"), ("inbox_id", "integer"), (OF, "bigint"), (SHARE, "bigint"), (KIND, KIND)),
}


def schema_of(table: str, _version: str = "") -> TableSchema:
    return TableSchema(table=table, columns=COLUMNS[table], key=(KEY,), inbox="inbox_id")


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as made:
        made.apply()
        made.execute(TABLES)
        made.execute(f"GRANT replication_readers TO {made.role('applier')}")
        made.execute("INSERT INTO tenants (id, slug) VALUES (1, 't')")
        made.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", INBOX, TENANT)
        yield made


@pytest.fixture
def session(target: Target) -> Iterator[Session]:
    with target.connected("applier") as looking, closing(Session(target.settings(), read_relations(looking))) as made:
        yield made


def upsert(table: str, row: int, point: int, *, absent: tuple[str, ...] = (), **columns: Any) -> Rows:
    after = {KEY: row, "inbox_id": INBOX, **columns}
    body = orjson.dumps({"after": {name: after.get(name) for name, _ in COLUMNS[table] if name not in absent}})
    lacks = orjson.dumps(absent) if absent else b""
    return Rows({table: [Upsert(row, INBOX, Position(1, point, 1), "", lacks, body)]}, {})


def delete(table: str, row: int, point: int) -> Rows:
    return Rows({}, {table: [Delete(row, INBOX, Position(1, point, 1))]})


def sweep(start: int) -> Sweep:
    begun = Position(1, start, 0)
    return Sweep(
        BackfillMarker(
            id="b",
            boundary="end",
            tables=(PARENT, CHILD),
            is_complete=False,
            inboxes=(INBOX,),
            start=begun,
            start_read=begun,
        ),
        (INBOX,),
    )


def apply(session: Session, *steps: Step) -> Outcome:
    work = Work(tenant=TENANT, topic_id="t", steps=steps, inboxes=frozenset([INBOX]), marks={})
    return session.apply(work, schema_of)


def keys(target: Target, table: str) -> list[tuple[Any, ...]]:
    """With whether the row is a stub."""
    return target.rows(f'SELECT "{KEY}", synced_at IS NULL FROM {quoted(table)} ORDER BY 1')


def test_rows_come_move_and_go(target: Target, session: Session) -> None:
    apply(session, upsert(CHILD, 1, 10, **{OF: 5, SHARE: 7, KIND: "a"}))
    assert keys(target, PARENT) == [(5, True)]
    apply(session, upsert(PARENT, 5, 11, **{SHARE: '{"%s": 1}'}), upsert(CHILD, 1, 12, **{OF: 6, SHARE: 8, KIND: "b"}))
    assert keys(target, PARENT) == [(5, False), (6, True)]
    assert target.rows(f'SELECT "{OF}", "{SHARE}", "{KIND}"::text FROM "{CHILD}"') == [(6, 8, "b")]
    partial = apply(session, upsert(CHILD, 2, 13, absent=(SHARE,), **{OF: 5}))
    assert [request.keys for request in partial.incomplete] == [((2,),)]
    apply(session, delete(PARENT, 5, 14))
    assert keys(target, PARENT) == [(5, True), (6, True)], "wiped, for it has a child"
    apply(session, delete(CHILD, 2, 15))
    assert keys(target, PARENT) == [(6, True)], "its last child took it along"
    apply(session, Begin("b", (INBOX,)), sweep(20))
    assert keys(target, CHILD) == []
    apply(session, upsert(PARENT, 7, 30), Truncate(PARENT, Position(1, 40, 1)))
    assert keys(target, PARENT) == []


def test_what_is_said_of_rows(target: Target, session: Session) -> None:
    """Which are awaited, and which column is too narrow."""
    apply(session, upsert(CHILD, 1, 10, **{OF: -5}))
    (request,) = Stubs(0).overdue(session.connection, session.relations[PARENT], TENANT, [INBOX])
    assert request.keys == ((-5,),)
    assert gather(target.settings()).tenants[0].stubs == 1
    body = orjson.dumps({"after": {KEY: 1, "inbox_id": INBOX, OF: 5, SHARE: 1 << 40}})
    event = Event(0, 0, "c", CHILD, b"[1]", INBOX, Position(1, 20, 1), False, "v", b"", body, "", None, ())
    found = misfits(session.connection, session.relations[CHILD], event, schema_of)
    assert found == [(SHARE, "smallint", "bigint")]
