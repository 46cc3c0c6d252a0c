"""`replicator backfill`: a scope is read again, and its ghosts are swept; no other row is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from demo.servers import wait_until
from tests.integration.chatwoot import Source, connect, fill
from tests.integration.programs import Program
from tests.integration.whole import Whole


@pytest.fixture
def source(path: Whole) -> Iterator[Source]:
    with closing(connect(path.source_dsn)) as connection:
        fill(connection, conversations=30, messages=4)
        yield connection


@pytest.fixture
def replicator(path: Whole, source: Source) -> Program:
    """The whole path, equal."""
    del source
    path.map({10: (1, 2, 3), 20: (4, 5, 6)})
    replicator = path.replicator(REPLICATOR_BACKFILL_CHUNK_ROWS="100", REPLICATOR_BACKFILL_ROWS_PER_SECOND="200")
    path.worker()
    path.wait_equal()
    return replicator


def backfill(path: Whole, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "replicator", "backfill", *arguments],
        env={**os.environ, **path.replicator_environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def damage(path: Whole, keys: str) -> None:
    """Rows of tenant 10 as somebody might write them by hand: changed, gone, and one too many."""
    path.target.execute(f"UPDATE messages SET content = 'damaged' WHERE tenant_id = 10 AND id {keys}")


def damaged(path: Whole) -> list[int]:
    return [key for (key,) in path.target.rows("SELECT id FROM messages WHERE content = 'damaged' ORDER BY id")]


def test_only_rows_of_the_range_are_read_and_swept(path: Whole, source: Source, replicator: Program) -> None:
    inbox = 2
    mine = [key for (key,) in source.execute("SELECT id FROM messages WHERE inbox_id = %s ORDER BY id", [inbox])]
    first, last = mine[2], mine[5]
    damage(path, f"= ANY (ARRAY{mine})")
    ghosts = (last + 1_000_001, first + 1)  # beyond the range, and one within that the source has at another inbox
    assert ghosts[1] not in mine
    path.target.execute(
        "INSERT INTO messages (tenant_id, id, inbox_id, conversation_id, synced_at, source_epoch)"
        f" SELECT 10, {ghosts[0]}, inbox_id, conversation_id, now(), 1 FROM messages WHERE id = {mine[0]}"
    )
    asked = backfill(path, "--inbox", str(inbox), "--table", "messages", "--key-range", f"{first}..{last}", "--wait")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    left = [key for key in mine if not first <= key <= last]
    wait_until(lambda: damaged(path) == left, "the range repaired", 30)
    assert path.target.rows(f"SELECT count(*) FROM messages WHERE id = {ghosts[0]}") == [(1,)], "it is beyond the range"
    assert backfill(path, "--inbox", str(inbox), "--table", "messages", "--wait").returncode == 0
    path.wait_equal()
    assert replicator.running


def test_single_rows_are_read_again(path: Whole, source: Source, replicator: Program) -> None:
    (key,) = source.execute("SELECT min(id) FROM messages WHERE inbox_id = 2").fetchone() or (0,)
    damage(path, f"= {key}")
    assert backfill(path, "--inbox", "2", "--table", "messages", "--keys", f"{key},{key}").returncode == 0
    path.wait_equal()
    assert replicator.running


def test_one_that_was_asked_for_may_be_given_up(path: Whole, source: Source, replicator: Program) -> None:
    source.execute(
        "INSERT INTO messages (account_id, inbox_id, conversation_id, message_type, created_at, updated_at)"
        " SELECT c.account_id, c.inbox_id, c.id, 0, now(), now() FROM conversations c, generate_series(1, 100)"
    )
    asked = json.loads(backfill(path, "--all", "--table", "messages", "--json").stdout)
    listed = ""

    def is_listed() -> bool:
        nonlocal listed
        listed = backfill(path, "list", "--json").stdout
        return asked["id"] in listed

    wait_until(is_listed, "the backfill under way", 20)
    assert "epoch-1" not in listed
    assert backfill(path, "cancel", asked["id"]).returncode == 0
    wait_until(lambda: replicator.logged("backfill.cancelled"), "given up", 20)
    wait_until(lambda: json.loads(backfill(path, "list", "--json").stdout) == [], "no longer listed", 20)
    assert not [line for line in replicator.logged("backfill.finished") if line["id"] == asked["id"]]
    assert backfill(path, "cancel", "epoch-1").returncode == 1
    path.wait_equal()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--inbox", "1", "--key-range", "1..2"), "needs one --table"),
        (("--inbox", "1", "--table", "messages", "--key-range", "9..2"), "the smaller first"),
        (("--inbox", "1", "--table", "messages", "--keys", "seven"), "takes numbers"),
        (("--table", "messages"), "one of them"),
        (("--all", "--table", "nothing"), "unknown table"),
    ],
)
def test_what_makes_no_sense_is_refused(path: Whole, arguments: tuple[str, ...], says: str) -> None:
    refused = backfill(path, *arguments)
    assert refused.returncode == 2
    assert says in " ".join(refused.stderr.split())
