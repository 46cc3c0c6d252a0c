"""The source polled, by a role that may only SELECT: the log holds what the source holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from demo.servers import wait_until
from demo.source.seed import seed
from replicator import poller, topics
from replicator.candidates import stamped_after
from replicator.derived import Derived
from replicator.modes import Mode, Standing, Why
from replicator.polling import Polling
from replicator.rolling_pass import RollingPass
from replicator.runtime import Stop
from tests.integration.chatwoot import Source, add_message, connect, differences
from tests.integration.derived_rows import ENLARGED, ROOM, wait_for_all_but_the_largest
from tests.integration.polled import (
    ANALYTICS,
    BY_CANDIDATES,
    SEES_ALL,
    SEES_VIEW,
    TABLES,
    clock,
    differences_of,
    polling,
    reader,
    repaired,
    show,
    verified_through,
    wait_all,
    wait_none,
    wait_view,
)
from tests.integration.programs import Program, settings_of
from tests.integration.replayed import Replayed

POLLS = 15
"""As many as a test waits for, where a change must not get lost over several of them."""
MOVED = "UPDATE conversations SET inbox_id = 1 + inbox_id % 6 WHERE id = 11"


@pytest.fixture
def by_view(environment: dict[str, str], source: Source, source_dsn: str) -> Iterator[dict[str, str]]:
    """The settings of a poller that may read the view, and nothing else."""
    seed(source_dsn, conversations=80, messages_per_conversation=3)
    with reader(source, source_dsn, environment, *SEES_VIEW) as settings:
        yield settings


def test_rows_that_are_too_large_to_be_read_at_once_all_arrive(
    by_view: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    source.execute("DELETE FROM conversations WHERE id > 40")
    source.execute(ENLARGED)
    with polling(by_view | ROOM, tmp_path / "log") as program:
        wait_for_all_but_the_largest(replayed, source)
        assert program.stop() == 0


@pytest.fixture
def by_tables(environment: dict[str, str], source: Source, source_dsn: str) -> Iterator[dict[str, str]]:
    """Of one that may read the tables too."""
    seed(source_dsn, conversations=80, messages_per_conversation=3)
    with reader(source, source_dsn, environment, *SEES_ALL) as settings:
        yield settings | TABLES


def stamp(source: Source, key: int, at: str = "clock_timestamp()") -> None:
    """A write as Chatwoot makes it."""
    statement = (
        f"UPDATE conversations SET status = (status + 1) %% 4, updated_at = {at} AT TIME ZONE 'UTC' WHERE id = %s"
    )
    source.execute(statement.encode(), (key,))


def wait_rests(program: Program) -> None:
    """Until the rolling pass has seen the view, and so rests."""
    wait_until(lambda: program.status().get("verified", {}).get(ANALYTICS, {}).get("keys"), "the pass rests", 60)


def wait_polls(program: Program, more: int = POLLS) -> None:
    before = program.status()["polls"]
    wait_until(lambda: program.status()["polls"] >= before + more, "some more polls", 60)


@contextmanager
def writer(dsn: str) -> Iterator[Source]:
    """One more session."""
    with closing(connect(dsn)) as session:
        yield session


def test_what_no_stamp_tells_of_is_found_before_it_is_called_verified(
    by_view: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """Rows gone, moved, renamed, edited, answered; and one whose writer's clock is an hour behind."""
    with polling(by_view, tmp_path / "log") as replicator:
        wait_view(replayed, source)
        stamp(source, 3, "(clock_timestamp() - interval '1 hour')")
        source.execute("UPDATE contacts SET name = 'renamed' WHERE id % 5 = 0")
        source.execute("UPDATE messages SET content = 'edited' WHERE conversation_id = 7")
        source.execute("DELETE FROM conversations WHERE id = 9")
        source.execute(MOVED)
        source.execute(
            "INSERT INTO csat_survey_responses"
            " (account_id, conversation_id, message_id, rating, contact_id, created_at, updated_at)"
            " SELECT account_id, id, -id, 4, coalesce(contact_id, 1), '2020-01-01', '2020-01-01' FROM conversations"
            " WHERE id BETWEEN 20 AND 25"
        )
        changed = clock(source)
        wait_until(lambda: verified_through(replicator) > changed, "verified", 60)
        replayed.wait_for("it is said in the log", lambda: len(_told(replayed, changed)) == 6)
        told = _told(replayed, changed)
        late = [each for each in replayed.events if each.head.op != "m" and each.offset > told[each.partition]]
        assert late == [], "nobody has written since"
        wait_view(replayed, source, 0)
        gone = replayed.events_of(ANALYTICS, 11, "d")
        assert gone, "who has the inbox that it has left is told"
        assert repaired(replicator)[ANALYTICS] >= 5, show(replicator)
        assert replicator.status()["mode"] == "polling"
        assert replicator.stop() == 0


def test_the_first_run_of_all_makes_its_topics_before_it_chooses(by_view: dict[str, str], tmp_path: Path) -> None:
    with polling(by_view | {"REPLICATOR_MODE": "auto"}, tmp_path / "log") as replicator:
        assert replicator.status()["mode_because"] == "the role may not replicate"
        assert replicator.logged("run.ended") == []


def _told(replayed: Replayed, at_s: float) -> dict[int, int]:
    """Partition → offset of the first heartbeat that says that all before is there."""
    told: dict[int, int] = {}
    for event in replayed.markers("heartbeat"):
        if event.body["message"]["source_ms"] > at_s * 1000:
            told.setdefault(event.partition, event.offset)
    return told


def test_a_row_that_was_stamped_long_before_it_is_committed_is_polled(
    by_view: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    """Though many polls come in between, at first alone, then beside writes of others with later stamps."""
    with polling(by_view | BY_CANDIDATES, tmp_path / "log") as replicator, writer(source_dsn) as slow:
        wait_view(replayed, source)
        wait_rests(replicator)
        with slow.transaction():
            stamp(slow, 3)
            wait_until(lambda: replicator.status()["held_back_s"] > 2, "the bound is held back", 60)
            stamp(source, 4)
            wait_polls(replicator)
            stamp(source, 5)
            wait_polls(replicator)
        wait_view(replayed, source)
        wait_until(lambda: replicator.status()["held_back_s"] < 2, "the bound goes on", 60)
        assert repaired(replicator) == {}, show(replicator)


def test_a_writer_whose_clock_is_behind_by_less_than_the_margin_is_polled(
    by_view: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    settings = by_view | BY_CANDIDATES | {"REPLICATOR_POLL_CLOCK_MARGIN_S": "2.5"}
    with polling(settings, tmp_path / "log") as replicator:
        wait_view(replayed, source)
        wait_rests(replicator)
        for key in range(1, 4):
            stamp(source, key)
            wait_polls(replicator, 1)
            stamp(source, 10 + key, "(clock_timestamp() - interval '2 seconds')")
        wait_view(replayed, source)
        assert repaired(replicator) == {}, show(replicator)


def test_a_transaction_that_is_told_its_beginning_as_the_time_is_verified_only_when_it_is_found(
    by_view: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    """It had no id yet when it took its stamp, so no snapshot knew of it, and no bound waited for it."""
    with polling(by_view, tmp_path / "log") as replicator, writer(source_dsn) as slow:
        wait_view(replayed, source)
        with slow.transaction():
            slow.execute("SELECT now()")
            wait_polls(replicator)
            stamp(slow, 3, "now()")
            held = clock(source)
            wait_until(lambda: verified_through(replicator) > held, "a pass, without it", 60)
        changed = clock(source)
        wait_until(lambda: verified_through(replicator) > changed, "a pass, with it", 60)
        replayed.wait_for("it is said in the log", lambda: len(_told(replayed, changed)) == 6)
        wait_view(replayed, source, 0)


class Cut(Exception):
    """Ends a run."""


@contextmanager
def polling_here(settings: dict[str, str], ends_by: type[Exception] | None = None) -> Iterator[Polling]:
    """One run in this process, which ends at the end, or by an error."""
    stop, parsed = Stop(), settings_of(settings)
    standing = Standing(mode=Mode.POLL, why=Why.SETTING, since_ms=0)
    run = Polling(parsed, topics.kafka_base(parsed), stop, standing, lambda source: None, lambda: 0)
    failed: list[type[Exception] | None] = []

    def serve() -> None:
        try:
            run.serve()
        except Exception as error:  # compared below
            failed.append(type(error))
        else:
            failed.append(None)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield run
        if ends_by is not None:
            thread.join(60)
    finally:
        stop.ask()
        thread.join(30)
        assert failed == [ends_by]


def test_rows_that_are_stamped_alike_or_move_on_between_pages_are_all_polled(
    by_view: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends in the middle of equal stamps; the row that would come next is stamped anew before it is read."""
    pages: list[list[int]] = []

    def watched(connection: psycopg.Connection[Any], *asked: Any) -> Any:
        found = stamped_after(connection, *asked)
        pages.append([each.key for each in found])
        if len(found) == 5 and len(pages) < 40:
            with writer(source_dsn) as other:
                stamp(other, found[-1].key + 1)
                stamp(other, found[0].key)
        return found

    monkeypatch.setattr(poller, "CANDIDATES", 5)
    monkeypatch.setattr(RollingPass, "serve", lambda *_: False)
    with polling_here(by_view) as run:
        wait_view(replayed, source)
        monkeypatch.setattr(poller, "stamped_after", watched)
        source.execute("UPDATE conversations SET status = (status + 1) % 4, updated_at = now() AT TIME ZONE 'UTC'")
        replayed.wait_for("every key was found", lambda: len({key for page in pages for key in page}) == 80)
        replayed.wait_for("and those stamped last", lambda: run.status["held_back_s"] and pages[-3:] == [[], [], []])
        wait_view(replayed, source)
        assert any(len(page) == 5 for page in pages)


def meet(source: Source, contact: int) -> None:
    """A new contact writes for the first time."""
    with source.transaction():
        source.execute(
            "INSERT INTO contacts (id, name, account_id, created_at, updated_at)"
            " VALUES (%s, 'new', 1, clock_timestamp() AT TIME ZONE 'UTC', clock_timestamp() AT TIME ZONE 'UTC')",
            (contact,),
        )
        source.execute(
            "INSERT INTO conversations (account_id, inbox_id, contact_id, created_at, updated_at) VALUES"
            " (1, 1, %s, clock_timestamp() AT TIME ZONE 'UTC', clock_timestamp() AT TIME ZONE 'UTC')",
            (contact,),
        )


def test_a_contact_comes_after_what_refers_to_it_though_it_was_found_first(
    by_tables: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant keeps no contact that nothing refers to: one that came before would be gone, or a stub for long."""
    met: list[int] = []

    def watched(connection: psycopg.Connection[Any], derived: Derived, *asked: Any) -> Any:
        if derived.relation.name == "contacts" and not met:
            with writer(source_dsn) as other:
                met.append(90_001)
                meet(other, 90_001)
        return stamped_after(connection, derived, *asked)

    def last(table: str, key: str, value: int) -> int:
        rows = [each for each in replayed.events if each.head.table == table and each.head.op != "d"]
        return max((each.offset for each in rows if each.body["after"][key] == value and each.inbox == 1), default=-1)

    monkeypatch.setattr(RollingPass, "serve", lambda *_: False)
    with polling_here(by_tables):
        wait_all(replayed, source)
        monkeypatch.setattr(poller, "stamped_after", watched)
        replayed.wait_for("the conversation", lambda: last("conversations", "contact_id", 90_001) > 0)
        replayed.wait_for(
            "the contact after it",
            lambda: last("contacts", "id", 90_001) > last("conversations", "contact_id", 90_001),
            15,
        )


def test_a_mark_stands_between_two_stamps(
    by_view: dict[str, str], source: Source, replayed: Replayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends in the middle of equal stamps leaves all of them to the next."""
    full: list[int] = []

    def cut(connection: psycopg.Connection[Any], *asked: Any) -> Any:
        found = stamped_after(connection, *asked)
        if len(found) == 5:
            full.append(found[0].key)
        if len(full) == 3:
            raise Cut
        return found

    monkeypatch.setattr(poller, "CANDIDATES", 5)
    monkeypatch.setattr(RollingPass, "serve", lambda *_: False)
    with polling_here(by_view):
        wait_view(replayed, source)
    source.execute("UPDATE conversations SET status = (status + 1) % 4, updated_at = now() AT TIME ZONE 'UTC'")
    with monkeypatch.context() as patched:
        patched.setattr(poller, "stamped_after", cut)
        with polling_here(by_view, ends_by=Cut):
            pass
    with polling_here(by_view):
        wait_view(replayed, source)


def test_tables_are_polled_too(
    by_tables: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    """Messages by their keys, of which a smaller one may be committed later; whatever is only found by its hash."""
    by_view = by_tables | {"REPLICATOR_POLL_TABLES": "false"}
    with polling(by_view, tmp_path / "log") as replicator:
        assert replicator.stop() == 0, "the epoch began with the view alone"
    with polling(by_tables | BY_CANDIDATES, tmp_path / "log") as replicator, writer(source_dsn) as slow:
        wait_all(replayed, source)
        with slow.transaction():
            smaller = add_message(slow, 4, "smaller")
            assert add_message(source, 5, "greater") > smaller
            wait_polls(replicator)
            wait_until(lambda: replicator.status()["held_back_s"] > 2, "the bound is held back", 60)
            assert add_message(source, 6, "greater still") > smaller
        source.execute(
            "UPDATE contacts SET name = 'stamped', updated_at = clock_timestamp() AT TIME ZONE 'UTC' WHERE id < 9"
        )
        wait_none(lambda: [*differences(replayed, source), *differences_of("contacts", replayed, source)], replayed)
        assert repaired(replicator) == {}, show(replicator)
        assert replicator.stop() == 0
    with polling(by_tables, tmp_path / "log") as replicator:
        wait_all(replayed, source)
        moved = source.execute("SELECT inbox_id FROM conversations WHERE id = 11").fetchall()[0][0]
        source.execute(MOVED)
        source.execute("UPDATE messages SET inbox_id = 1 + inbox_id % 6, content = 'moved' WHERE conversation_id = 11")
        source.execute("UPDATE contacts SET name = 'renamed' WHERE id % 5 = 0")
        source.execute("DELETE FROM csat_survey_responses WHERE id % 2 = 0")
        source.execute("UPDATE csat_survey_responses SET rating = 1 WHERE id % 2 = 1")
        source.execute("DELETE FROM messages WHERE conversation_id = 8")
        source.execute("DELETE FROM contact_inboxes WHERE id % 9 = 0")
        changed = clock(source)
        wait_until(lambda: verified_through(replicator) > changed, "verified", 60)
        replayed.wait_for("it is said in the log", lambda: len(_told(replayed, changed)) == 6)
        wait_all(replayed, source, 0)
        assert moved in {each.inbox for each in replayed.events_of("conversations", 11, "d")}
        assert {"conversations", "messages", "contacts", "csat_survey_responses"} <= repaired(replicator).keys()
        assert replicator.stop() == 0
    with polling(by_view, tmp_path / "log") as replicator:
        add_message(source, 5, "nobody reads this")
        changed = clock(source)
        wait_until(lambda: verified_through(replicator) > changed, "the view is verified", 60)
        wait_polls(replicator)
        assert replicator.stop() == 0
        (said,) = replicator.logged("poll.leaves_out")
        assert {"messages", "contacts"} <= set(said["relations"])
        replayed.read()
        assert _told(replayed, changed) == {}, "of tables that stand still nobody can say so"
