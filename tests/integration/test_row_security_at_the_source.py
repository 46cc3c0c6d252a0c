"""Rows that a policy of the source hides from our role are not gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from demo.servers import wait_until
from replicator import BackfillRequest, Topics
from replicator.control import send
from tests.integration.chatwoot import Source, add_message, fill, wait_until_alike
from tests.integration.programs import RUN, started
from tests.integration.replayed import Replayed


@pytest.fixture
def role_environment(environment: dict[str, str], source: Source, source_dsn: str) -> Iterator[dict[str, str]]:
    """The replicator under a role that owns nothing: one that row security would bind."""
    role = environment["REPLICATOR_SLOT"]
    source.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'any'".encode())
    source.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}".encode())
    yield {**environment, "REPLICATOR_SOURCE_DSN": make_conninfo(source_dsn, user=role, password="any")}
    source.execute(f"DROP OWNED BY {role}".encode())
    source.execute(f"DROP ROLE {role}".encode())


def test_rows_that_are_hidden_for_a_while_are_waited_for(
    role_environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    fill(source, conversations=6, messages=1)
    source.execute(
        "INSERT INTO contacts (id, name, account_id, created_at, updated_at)"
        " SELECT id, 'c' || id, 1, now(), now() FROM generate_series(1, 6) AS id"
    )
    with started(RUN, role_environment, tmp_path / "log") as replicator:
        wait_until_alike(replayed, source)
        replayed.wait_for("contacts too", lambda: len(replayed.rows("contacts")) == 6)
        for table in ("messages", "contacts"):
            source.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY".encode())
        send(
            {"bootstrap.servers": kafka_bootstrap},
            Topics(topic_prefix),
            BackfillRequest(id="mine", tables=("messages", "contacts"), inboxes=None),
        )
        source.execute("UPDATE contacts SET name = 'renamed' WHERE id = 1")
        add_message(source, 1, "streamed all the same")
        wait_until(
            lambda: "row-level security" in replicator.status()["backfill_waits_for"], "the backfill says why", 30
        )
        wait_until(
            lambda: "row-level security" in replicator.status()["derived"]["contacts"]["problem"],
            "so does the derived relation",
            30,
        )
        wait_until_alike(replayed, source)
        for table in ("messages", "contacts"):
            source.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY".encode())
        replayed.wait_for_end("mine")
        replayed.wait_for("the renamed one", lambda: replayed.rows("contacts")[1]["name"] == "renamed")
        wait_until_alike(replayed, source)
        assert [event for event in replayed.events if event.head.op == "d"] == []
        assert len(replayed.rows("contacts")) == 6
        assert replicator.stop() == 0
