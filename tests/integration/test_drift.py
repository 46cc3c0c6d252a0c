"""Columns come, go and change in the source while rows flow: no value shifts, and what does not fit is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from consumers.status import Status, gather
from demo.servers import wait_until
from demo.source.traffic import Traffic
from tests.integration.chatwoot import Source, add_message, fill
from tests.integration.programs import Program
from tests.integration.whole import Whole

MINE, OTHERS = (1, 2, 3), (4, 5, 6)


@pytest.fixture
def path(path: Whole, source: Source) -> Whole:
    """Two tenants with three inboxes each, and a replicator."""
    fill(source, conversations=6, messages=1)
    path.map({1: MINE, 2: OTHERS})
    path.replicator()
    return path


@pytest.fixture
def worker(path: Whole) -> Program:
    """One that has done the initial load."""
    program = path.worker()
    path.wait_backfilled()
    return program


def command(path: Whole, *arguments: str) -> str:
    """What a command prints that has nothing to complain of."""
    environment = {**os.environ, **path.worker_environment, **path.replicator_environment}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status(path: Whole) -> Status:
    """As `consumers status` has it."""
    ours = path.worker_environment
    return gather(
        path.target.settings(
            kafka_bootstrap_servers=ours["CONSUMERS_KAFKA_BOOTSTRAP_SERVERS"],
            topic_prefix=ours["CONSUMERS_TOPIC_PREFIX"],
        )
    )


def held(path: Whole, column: str) -> dict[int, Any]:
    """Message → the target's value."""
    return dict(path.target.rows(f"SELECT id, {column} FROM messages"))  # type: ignore[arg-type]


def wait_held(path: Whole, column: str, message: int, value: object) -> None:
    wait_until(lambda: held(path, column).get(message, ()) == value, f"{column} of {message} is {value}", 30)


def test_a_column_that_the_target_lacks_is_skipped_named_and_there_once_it_is_added(
    path: Whole, source: Source, worker: Program
) -> None:
    """Without a restart; for the rows that are there already by a backfill."""
    source.execute("CREATE TYPE mood AS ENUM ('calm', 'cross')")
    source.execute(
        'ALTER TABLE messages ADD COLUMN mood mood DEFAULT \'calm\', ADD COLUMN "Odd ""name""" numeric(5,2) DEFAULT 1.5'
    )
    first = add_message(source, 6, "without the columns")
    wait_held(path, "content", first, "without the columns")
    wait_until(lambda: worker.logged("columns.skipped"), "the log names them", 20)
    (named,) = worker.logged("columns.skipped")
    statement = 'ALTER TABLE "messages" ADD COLUMN "Odd ""name""" numeric(5,2), ADD COLUMN "mood" text;'
    assert named["sql"] == statement, "a type that the target does not know comes as text"
    assert [(column.name, column.rows > 0) for column in status(path).skipped] == [('Odd "name"', True), ("mood", True)]
    assert json.loads(command(path, "consumers", "status", "--json"))["add_columns"] == {"messages": statement}
    assert statement in command(path, "consumers", "status").replace("\n", " ")

    path.target.execute(statement, what="owner")
    assert status(path).skipped == ()
    wait_until(lambda: worker.logged("target.altered"), "the worker has noticed", 20)
    second = add_message(source, 6, "with the columns")
    wait_held(path, "mood", second, "calm")
    assert held(path, "mood")[first] is None
    command(path, "replicator", "backfill", "--all", "--table", "messages")
    wait_held(path, "mood", first, "calm")
    path.wait_equal()

    path.target.execute("ALTER TABLE messages DROP COLUMN mood", what="owner")
    third = add_message(source, 6, "without the column again")
    wait_held(path, "content", third, "without the column again")
    assert worker.running, "what is prepared for a column that is gone is no reason to stop"


def test_columns_added_dropped_and_renamed_under_traffic_never_shift_a_value(
    path: Whole, source: Source, worker: Program
) -> None:
    path.target.execute("ALTER TABLE messages ADD COLUMN mood text, ADD COLUMN temper text", what="owner")
    wait_until(lambda: worker.logged("target.altered"), "the worker has noticed", 20)
    drifts = (
        ("SELECT 1", None),
        ("ALTER TABLE messages ADD COLUMN mood text DEFAULT 'calm'", "mood"),
        ("ALTER TABLE messages DROP COLUMN sentiment", "mood"),
        ("ALTER TABLE messages RENAME COLUMN mood TO temper", "temper"),
        ("ALTER TABLE messages DROP COLUMN source_id, ADD COLUMN source_id text", "temper"),
    )
    written: dict[int, tuple[str, str | None, str | None]] = {}
    assert source.execute("SELECT inbox_id FROM conversations WHERE id = 6").fetchall() == [(1,)]
    # Not in the inbox of the conversation that is looked at: another change of a row carries all its columns anew.
    with Traffic(path.source_dsn, inboxes=range(2, 7), seed=5, rate=100):
        for number, (drift, column) in enumerate(drifts):
            source.execute(drift.encode())
            message = add_message(source, 6, f"after drift {number}")
            values = [f"after drift {number}", None, None]
            if column is not None:
                source.execute(f"UPDATE messages SET {column} = 'cross' WHERE id = {message}".encode())
                values[("mood", "temper").index(column) + 1] = "cross"
            written[message] = tuple(values)
    query = "SELECT id, (content, mood, temper) FROM messages WHERE content LIKE 'after drift %'"
    wait_until(lambda: dict(path.target.rows(query)) == written, "each value under its own name", 30)
    command(path, "replicator", "backfill", "--all", "--table", "messages")
    path.wait_equal()
    assert worker.running


def test_a_value_wider_than_its_column_is_a_dead_letter_until_the_column_is_widened(
    path: Whole, source: Source, worker: Program
) -> None:
    source.execute("ALTER TABLE messages ALTER COLUMN content_type TYPE bigint")
    fitting = add_message(source, 6, "fits")
    source.execute(f"UPDATE messages SET content_type = 7 WHERE id = {fitting}".encode())
    wait_held(path, "content_type", fitting, 7)
    wide = add_message(source, 6, "does not fit")
    source.execute(f"UPDATE messages SET content_type = {2**40} WHERE id = {wide}".encode())
    wait_until(lambda: status(path).tenants[0].dead_letters, "the event is a dead letter", 20)
    mine, others = status(path).tenants
    assert (mine.parked, others.dead_letters) == ((), 0)
    (letter,) = json.loads(command(path, "consumers", "dead-letters", "list", "--json"))["letters"]
    assert letter["error"].endswith("messages.content_type (integer here, bigint in the source)")
    widen = 'ALTER TABLE "messages" ALTER COLUMN "content_type" TYPE bigint;'
    assert widen in letter["advice"]
    assert str(2**40) not in worker.log.read_text() + str(mine) + str(letter)
    after = add_message(source, 6, "of the same inbox")
    wait_held(path, "content", after, "of the same inbox")

    path.target.execute(widen, what="owner")
    wait_held(path, "content_type", wide, 2**40)
    path.wait_equal()
    wait_until(lambda: not status(path).tenants[0].dead_letters, "it is healed", 20)
    assert worker.running
