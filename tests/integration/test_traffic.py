"""The stand-in source: its history and its live traffic run on a real server, and are the same for the same seed."""

from collections.abc import Callable

import psycopg
import pytest

from demo.servers import Servers, wait_until
from demo.source.installation import install
from demo.source.patterns import PATTERNS
from demo.source.seed import seed
from demo.source.traffic import Traffic

SECONDS = 60.0


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def test_the_same_seed_gives_the_same_history(source_dsn: str) -> None:
    written = seed(source_dsn, tenants=2, inboxes_per_tenant=2, conversations=300, seed=7)
    assert written.inboxes == {1: (1, 2), 2: (3, 4)}
    assert written.rows["messages"] > 2000
    digest = "SELECT md5(string_agg(m::text, '|' ORDER BY id)) FROM messages m"
    [(first,)] = rows(source_dsn, digest)
    tables = ", ".join(written.rows)
    with psycopg.connect(source_dsn) as connection:
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")
    seed(source_dsn, tenants=2, inboxes_per_tenant=2, conversations=300, seed=7)
    assert rows(source_dsn, digest) == [(first,)]


def test_the_history_is_as_untidy_as_a_real_one(source_dsn: str) -> None:
    seed(source_dsn, conversations=3000)
    [(orphans, stored_outside, without_inbox, without_contact)] = rows(
        source_dsn,
        "SELECT (SELECT count(*) FROM messages m WHERE NOT EXISTS"
        "           (SELECT FROM conversations c WHERE c.id = m.conversation_id)),"
        " (SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'messages'::regclass),"
        " (SELECT count(*) FROM contact_inboxes WHERE inbox_id IS NULL),"
        " (SELECT count(*) FROM conversations WHERE contact_id IS NULL)",
    )
    assert all(isinstance(n, int) and n > 0 for n in (orphans, stored_outside, without_inbox, without_contact))


@pytest.mark.parametrize("writers", [1, 2])
def test_traffic_of_every_kind_runs_without_a_failure(source_dsn: str, writers: int) -> None:
    history = seed(source_dsn, conversations=200)
    inboxes = [inbox for owned in history.inboxes.values() for inbox in owned]
    with Traffic(source_dsn, inboxes=inboxes, seed=3, rate=5000, writers=writers) as traffic:
        wait_until(lambda: len(traffic.counts.actions) == len(PATTERNS), "an action of every kind", SECONDS)
        wait_until(lambda: traffic.counts.transactions > 1500, "1500 transactions", SECONDS)
        traffic.pause()
        quiet = traffic.counts
        [before] = rows(source_dsn, "SELECT pg_current_wal_insert_lsn()")
        assert traffic.counts == quiet
        traffic.resume()
        wait_until(lambda: traffic.counts.transactions > quiet.transactions, "traffic after a pause", SECONDS)
    counts = traffic.counts
    # Two writers may meet in a merge of contacts, and one of them loses.
    assert counts.failed <= (0 if writers == 1 else 20)
    assert counts.rows > counts.transactions * 0.9
    assert before < tuple(rows(source_dsn, "SELECT pg_current_wal_insert_lsn()")[0])


def test_one_writer_repeats_its_choices(source_dsn: str) -> None:
    """The first 40 messages of two runs on equal histories are equal, but for the clock."""
    texts = []
    for _ in range(2):
        with psycopg.connect(source_dsn) as connection:
            tables = "accounts, inboxes, users, teams, contacts, contact_inboxes, conversations, messages"
            connection.execute(f"TRUNCATE {tables}, csat_survey_responses RESTART IDENTITY")
        seed(source_dsn, conversations=50)
        [(last,)] = rows(source_dsn, "SELECT max(id) FROM messages")
        with Traffic(source_dsn, inboxes=[1, 2, 3], seed=11, rate=5000) as traffic:
            wait_until(lambda t=traffic: t.counts.transactions > 300, "300 transactions", SECONDS)
        assert traffic.counts.failed == 0
        columns = "id, conversation_id, message_type, sender_type, sender_id"
        texts.append(rows(source_dsn, f"SELECT {columns} FROM messages WHERE id > {last} ORDER BY id LIMIT 40"))
    assert texts[0] == texts[1]


def test_traffic_survives_a_crash_of_the_source(own_servers: Callable[..., Servers]) -> None:
    server = own_servers(kafka=False, postgres=("source",)).source
    dsn = server.create_database("crashing")
    install(dsn)
    seed(dsn, conversations=50)
    with Traffic(dsn, inboxes=[1, 2, 3, 4, 5, 6], rate=2000, writers=2) as traffic:
        wait_until(lambda: traffic.counts.transactions > 100, "100 transactions", SECONDS)
        server.kill()
        server.start()
        before = traffic.counts.transactions
        wait_until(lambda: traffic.counts.transactions > before + 100, "traffic after the crash", SECONDS)


def test_an_empty_history_is_possible(source_dsn: str) -> None:
    seed(source_dsn, tenants=1, conversations=0)
    with Traffic(source_dsn, inboxes=[1], rate=1000) as traffic:
        wait_until(lambda: traffic.counts.transactions > 50, "50 transactions", SECONDS)
    assert traffic.counts.failed == 0
