"""A value of any PostgreSQL type has in the target the text that it has in the source, whichever way it came."""

from __future__ import annotations

from contextlib import closing

from demo.servers import wait_until
from tests.integration import kinds
from tests.integration.chatwoot import Source, add_message, connect, fill
from tests.integration.whole import Whole

INBOXES = (1, 2, 3, 4, 5, 6)


def write(source: Source, message: int, n: int) -> None:
    """The n-th value of every kind."""
    sets = ", ".join(f"{column} = {value}" for column, value in kinds.values(n, xml=kinds.has_xml(source)).items())
    source.execute(f"UPDATE messages SET {sets} WHERE id = {message}".encode())


def insert(source: Source, n: int) -> int:
    """The id of a new message with the n-th value of every kind."""
    given = kinds.values(n, xml=kinds.has_xml(source))
    found = source.execute(
        f"INSERT INTO messages (account_id, inbox_id, conversation_id, message_type, created_at, updated_at,"
        f" {', '.join(given)}) VALUES (1, 1, 6, 0, now(), now(), {', '.join(given.values())}) RETURNING id".encode()
    ).fetchone()
    assert found is not None
    return int(found[0])


def wait_alike(source: Source, target: Source, what: str) -> None:
    """Until every message is there; then each of its values must be the same text."""
    wait_until(lambda: kinds.texts(target).keys() == kinds.texts(source).keys(), what, 20)
    wanted, found = kinds.texts(source), kinds.texts(target)
    assert {name: (found[name], text) for name, text in wanted.items() if found[name] != text} == {}


PECULIAR = {
    "TimeZone": "America/Sao_Paulo",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "xmloption": "document",
}
"""Settings under which a server prints and reads values in other ways."""


def make_peculiar(connection: Source) -> None:
    """For every later session."""
    for name, value in PECULIAR.items():
        connection.execute(f"ALTER DATABASE \"{connection.info.dbname}\" SET {name} = '{value}'".encode())


def test_every_kind_of_value_arrives_as_its_own_text(path: Whole) -> None:
    """Read by a backfill, streamed by an INSERT, and streamed by an UPDATE; whatever the databases' own settings."""
    with closing(connect(path.source_dsn)) as source, closing(connect(path.target.superuser_dsn)) as target:
        for connection in (source, target):
            kinds.define(connection)
            make_peculiar(connection)
        fill(source, conversations=6, messages=1)
        rows = range(kinds.ROWS)
        for n in rows:
            insert(source, n)
        path.map({1: INBOXES})
        path.replicator()
        path.worker()
        path.wait_backfilled()
        wait_alike(source, target, "the backfilled rows")
        for n in rows:
            insert(source, n)
        wait_alike(source, target, "the inserted rows")
        for n in rows:
            write(source, add_message(source, 6, "written later"), n)
        path.wait_equal()
        wait_alike(source, target, "the updated rows")
