"""`consumers map` as a person uses it: plans that change nothing, refusals that say what to do, what was done."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from typer.testing import CliRunner

from consumers.__main__ import app
from demo.servers import Servers
from tests.integration.sorted_out import Applied, applied
from tests.integration.targets import Target

INBOX, OTHER = 1, 2
"""Of tenant 1."""


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    with applied(servers, prepared, {1: (INBOX, OTHER), 2: ()}) as made:
        for row, inbox in ((1, INBOX), (2, OTHER)):
            made.apply(
                made.streamed("c", "conversations", row, inbox, inbox_id=inbox, contact_id=5),
                made.streamed("c", "messages", row, inbox, inbox_id=inbox, conversation_id=row),
                made.read("contacts", 5, inbox, row, name="Ana"),
            )
        yield made


def run(log: Applied, *arguments: str, exits: int = 0, **environment: str) -> str:
    done = CliRunner().invoke(app, ["map", *arguments], env=log.target.environment(COLUMNS="200", **environment))
    assert done.exit_code == exits, done.output + done.stderr
    return done.output + done.stderr


def state(log: Applied) -> list[tuple[int, int, bool, int]]:
    """(inbox, tenant, is active, messages)"""
    return log.target.rows(
        "SELECT m.inbox_id, m.tenant_id, m.is_active, (SELECT count(*)::int FROM messages AS s"
        " WHERE s.tenant_id = m.tenant_id AND s.inbox_id = m.inbox_id) FROM inbox_tenant_mapping AS m ORDER BY 1"
    )


BEFORE = [(INBOX, 1, True, 1), (OTHER, 1, True, 1)]


def test_a_move_is_planned_with_counts_then_done_and_then_there_is_nothing_to_do(log: Applied) -> None:
    planned = run(log, "move", "--inbox", "1", "--to", "2")
    assert "move inbox 1 from tenant 1 to tenant 2" in planned
    assert ["contacts", "1", "rows,", "1", "of", "them", "shared"] in [
        line.split()[:7] for line in planned.splitlines()
    ]
    assert (state(log), log.target.rows("SELECT 1 FROM replication_inbox_log WHERE change = 'moved'")) == (BEFORE, [])
    told = json.loads(run(log, "move", "--inbox", "1", "--to", "2", "--apply", "--json"))
    assert {tally["table"]: tally["rows"] for tally in told["holdings"][0]["rows"]} == {
        "contacts": 1,
        "conversations": 1,
        "inboxes": 1,
        "messages": 1,
    }
    assert (told["applied"], state(log)) == (True, [(INBOX, 2, True, 1), (OTHER, 1, True, 1)])
    assert log.target.rows("SELECT changed_by FROM replication_inbox_log WHERE change = 'moved'") == [
        (log.target.role("owner"),)
    ]
    assert "nothing to do" in run(log, "move", "--inbox", "1", "--to", "2", "--apply")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["move", "--inbox", "9", "--to", "2"], "belongs to nobody: `consumers map add --inbox 9 --tenant 2`"),
        (["move", "--inbox", "1", "--to", "9"], "tenant 9 does not exist"),
        (["move", "--inbox", "1", "--to", "3"], "tenant 3 is marked as deleted"),
        (["deactivate", "--inbox", "9"], "belongs to nobody, and nobody keeps rows of it"),
        (["deactivate", "--inbox", "9", "--purge"], "belongs to nobody, and nobody keeps rows of it"),
        (["add", "--inbox", "1", "--tenant", "2"], "`consumers map move`"),
    ],
)
def test_what_would_do_harm_is_refused_in_one_sentence(log: Applied, arguments: list[str], says: str) -> None:
    log.target.execute("INSERT INTO tenants (id, slug, deleted_at) VALUES (3, 't3', now())")
    assert says in run(log, *arguments, "--apply", exits=1)
    assert state(log) == BEFORE


def test_a_target_of_an_older_version_is_refused(log: Applied) -> None:
    log.target.execute("DROP FUNCTION replication_purge_inbox(bigint)")
    assert "run `consumers setup`" in run(log, "move", "--inbox", "1", "--to", "2", "--apply", exits=1)


def test_an_inbox_is_deactivated_purged_and_taken_back(log: Applied) -> None:
    assert "keep its rows" in run(log, "deactivate", "--inbox", "1")
    assert state(log) == BEFORE
    run(log, "deactivate", "--inbox", "1", "--apply")
    assert state(log)[0] == (INBOX, 1, False, 1)
    assert "nothing to do" in run(log, "deactivate", "--inbox", "1", "--apply")
    assert "delete the rows of inbox 1 for good" in run(log, "deactivate", "--inbox", "1", "--purge")
    assert state(log)[0] == (INBOX, 1, False, 1)
    run(log, "deactivate", "--inbox", "1", "--purge", "--apply")
    assert state(log) == [(INBOX, 1, False, 0), (OTHER, 1, True, 1)]
    log.target.execute("INSERT INTO unmapped_inboxes (inbox_id, events) VALUES (1, 3)")
    run(log, "add", "--inbox", "1", "--tenant", "1", "--apply")
    assert log.target.rows("SELECT is_active, backfilled_at FROM inbox_tenant_mapping WHERE inbox_id = 1") == [
        (True, None)
    ]
    assert log.target.rows("SELECT 1 FROM unmapped_inboxes") == []
    assert [each for (each,) in log.target.rows("SELECT change FROM replication_inbox_log ORDER BY id")][-3:] == [
        "deactivated",
        "purged",
        "reactivated",
    ]


def test_an_active_inbox_is_deactivated_and_purged_at_once(log: Applied) -> None:
    run(log, "deactivate", "--inbox", "1", "--purge", "--apply")
    assert state(log) == [(INBOX, 1, False, 0), (OTHER, 1, True, 1)]


def test_what_is_kept_of_a_removed_inbox_is_listed_and_goes_to_whoever_gets_it(log: Applied) -> None:
    log.target.execute("DELETE FROM inbox_tenant_mapping WHERE inbox_id = 1")
    (kept,) = json.loads(run(log, "list", "--json"))["kept"]
    assert (kept["inbox_id"], kept["tenant_id"]) == (1, 1)
    assert "kept by 1" in run(log, "list")
    assert "--purge deletes what is kept" in run(log, "deactivate", "--inbox", "1", exits=1)
    assert "delete the rows" in run(log, "deactivate", "--inbox", "1", "--purge")
    planned = run(log, "add", "--inbox", "1", "--tenant", "2", "--apply")
    assert "with the rows that tenant 1 has kept of it" in planned
    assert state(log) == [(INBOX, 2, True, 1), (OTHER, 1, True, 1)]


def test_the_listing_says_how_far_each_backfill_is(log: Applied) -> None:
    def progress() -> list[str]:
        return [each["progress"] for each in json.loads(run(log, "list", "--json"))["mapped"]]

    assert progress() == ["asked for", "asked for"]
    log.target.execute("UPDATE inbox_tenant_mapping SET backfill_id = 'b' WHERE inbox_id = 1")
    log.target.execute("UPDATE inbox_tenant_mapping SET backfilled_at = '2026-03-01Z' WHERE inbox_id = 2")
    assert progress() == ["under way", "complete since 2026-03-01 00:00:00Z"]


def test_an_inbox_is_proposed_by_its_account(log: Applied, source_dsn: str) -> None:
    log.target.execute("INSERT INTO unmapped_inboxes (inbox_id, events) VALUES (3, 5)")
    assert "CONSUMERS_SOURCE_DSN" in run(log, "suggest")
    with psycopg.connect(source_dsn) as source:
        source.execute(
            "INSERT INTO inboxes (id, channel_id, account_id, name, created_at, updated_at)"
            " SELECT id, 1, account, name, now(), now()"
            " FROM (VALUES (1, 10, 'a'), (3, 10, 'Novo site'), (4, 12, 'b')) AS v (id, account, name)"
        )
    found = json.loads(run(log, "suggest", "--json", CONSUMERS_SOURCE_DSN=source_dsn))
    assert [(each["inbox_id"], each["tenant_id"], each["command"]) for each in found] == [
        (3, 1, "consumers map add --inbox 3 --tenant 1 --inbox-name 'Novo site'"),
        (4, None, None),
    ]
    assert state(log) == BEFORE
    assert "no other inbox of account 12" in run(log, "suggest", CONSUMERS_SOURCE_DSN=source_dsn)
    away = "postgresql://nobody@127.0.0.1:1/none"
    assert "the source of CONSUMERS_SOURCE_DSN says" in run(log, "suggest", exits=1, CONSUMERS_SOURCE_DSN=away)


@pytest.mark.parametrize("command", ["list", "suggest", "add", "move", "deactivate"])
def test_help_shows_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, ["map", command, "--help"], env={"COLUMNS": "200"}).output
    assert f"consumers map {command}" in shown.partition("Example:")[2]
