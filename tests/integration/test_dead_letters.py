"""Events that can't be applied are dead letters: their rows wait, are healed, or tried again, and the rest goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from consumers import dead_letters
from consumers.__main__ import app
from consumers.apply import Applier, Result
from consumers.layout import Layout
from consumers.ordering import Event
from consumers.parking import park
from consumers.retrying import Retrying
from consumers.target import holders
from consumers.target_session import open_session
from consumers.watermark import Mark, Place
from demo.servers import wait_until
from replicator import BackfillMarker, Head, KeysRequest, Position
from replicator.event import pack_head
from tests.histories import EPOCH, schema_of
from tests.integration.applied import TOPIC_ID, Applied

TENANT, INBOX, ELSEWHERE = 1, 12, 13
"""The inboxes stand in two partitions."""
SECONDS = 30.0
GOOD = 10_000


class Reader:
    """What a worker does for one tenant, partition after partition."""

    def __init__(self, applied: Applied) -> None:
        self.layout = Layout()
        self.applied = applied
        self._retrying: Retrying | None = None
        self.look()
        self.applier = Applier(applied.target.settings(lock_timeout_s=0.2), self.layout, schema_of)
        self.marks: dict[Place, Mark] = {}

    def look(self) -> list[str]:
        """Tables that were altered; who retries is told of them, as by a worker."""
        known = dict(self.layout.relations)
        with closing(open_session(self.applied.target.settings(), "test")) as control:
            self.layout.read(control)
        altered = [name for name, each in self.layout.relations.items() if each != known.get(name)]
        if self._retrying is not None:
            self._retrying.altered(altered)
        return altered

    def take(self, *events: Event, ended: threading.Event | None = None) -> Result:
        ended = ended or threading.Event()
        result = self.applier.run(TENANT, TOPIC_ID, events, self.marks, ended)
        assert not result.overtaken
        self.marks.update(result.marks)
        return result

    @contextmanager
    def retrying(self, **changes: Any) -> Iterator[list[KeysRequest]]:
        """What is asked for is tried; the rows that are asked of the replicator."""
        asked: list[KeysRequest] = []
        settings = self.applied.target.settings(**changes)
        self._retrying = retrying = Retrying(settings, self.layout, schema_of, asked.append)
        retrying.want(range(6))
        try:
            yield asked
        finally:
            assert retrying.close()


@pytest.fixture
def reader(applied: Applied) -> Iterator[Reader]:
    applied.add_tenant(TENANT, [INBOX, ELSEWHERE])
    made = Reader(applied)
    with closing(made.applier):
        yield made


@pytest.fixture
def refusing(applied: Applied) -> Iterator[Callable[[str], None]]:
    """Refuses messages by a CHECK of the target's own, which goes with the test."""

    def refuse(condition: str) -> None:
        applied.target.execute(f"ALTER TABLE messages ADD CONSTRAINT own CHECK ({condition}) NOT VALID")

    yield refuse
    applied.target.execute("ALTER TABLE messages DROP CONSTRAINT IF EXISTS own")


def event(
    op: Any, row: int, point: int, inbox: int | None = INBOX, *, lacks: tuple[str, ...] = (), **columns: Any
) -> Event:
    """A change of a message at this point, which is its offset too; with the headers that it would have."""
    table, key, absent = "messages", b"[%d]" % row, orjson.dumps(lacks) if lacks else b""
    body = b""
    if op != "d":
        every = {name: None for name, _ in schema_of(table).columns if name not in lacks}
        body = orjson.dumps({"after": {**every, "id": row, "inbox_id": inbox, **columns}})
    head = Head(op, table, key, Position(EPOCH, point, 1), 1, table if op != "d" else "", absent, False, "")
    partition = (inbox or 0) % 2
    return Event(
        *(partition, point, op, table, key, inbox, head.position, False, head.schema, absent, body, "", None, ()),
        pack_head(head),
    )


def partial(row: int, point: int, inbox: int = INBOX, **columns: Any) -> Event:
    return event("u", row, point, inbox, lacks=("content",), **columns)


def letters(applied: Applied, columns: str = "log_offset, waits") -> list[tuple[Any, ...]]:
    return applied.target.rows(f"SELECT {columns} FROM replication_dead_letters ORDER BY log_offset")


def messages(applied: Applied, columns: str = "id, content") -> list[tuple[Any, ...]]:
    return applied.rows(TENANT, f"SELECT {columns} FROM messages WHERE synced_at IS NOT NULL ORDER BY id")


# --- which events


def poison(number: int, point: int) -> tuple[Event, str]:
    """A message that the target refuses, and the error's class."""

    def row(**columns: Any) -> Event:
        return event("c", GOOD + number, point, **columns)

    unreadable = row()
    return [
        (event("c", 3_000_000_000, point), "22003"),
        (row(content="own"), "23514"),
        (row(content="once"), "23505"),
        (row(content="".join(f"{each * 2654435761 % 2**32:08x}" for each in range(4000))), "54000"),
        (row(source_id="nobody"), "23503"),
        (row(content="trigger"), "P0001"),
        (row(content="\0"), "22P05"),
        (unreadable._replace(body=b'{"before":null,"after":{"content":},"op":"c"}'), "22P02"),
        (unreadable._replace(body=b'{"after":{"content":"\xff"}}'), "BadEvent"),
        (unreadable._replace(absent=b"{"), "BadEvent"),
    ][number]


def test_a_poison_row_of_each_class_amid_ten_thousand_good_ones(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    refusing("content <> 'own'")
    applied.target.execute(
        "CREATE UNIQUE INDEX own_contents ON messages (tenant_id, content);"
        "CREATE TABLE own_sources (source_id text PRIMARY KEY); GRANT SELECT ON own_sources TO PUBLIC;"
        "ALTER TABLE messages ADD CONSTRAINT own_source FOREIGN KEY (source_id) REFERENCES own_sources;"
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;"
        "CREATE TRIGGER own BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.content = 'trigger')"
        " EXECUTE FUNCTION own()"
    )
    try:
        reader.look()
        good = [event("c", row, row, content=f"good {row}") for row in range(1, GOOD)]
        events = [*good, event("c", GOOD, GOOD, content="once")]
        expected = []
        for number in range(10):
            place = 997 * (number + 1) if number != 2 else len(events)  # "once" after the row that has it
            bad, kind = poison(number, 0)
            events.insert(place, bad)
            expected.append((bad.key, kind))
        events = [each._replace(offset=n, position=Position(EPOCH, n + 1, 1)) for n, each in enumerate(events)]
        for first in range(0, len(events), 5000):
            assert reader.take(*events[first : first + 5000]).stuck == {}
        found = letters(applied, "key, error_class, tries, waits")
        assert sorted(found) == sorted((key.decode(), kind, 1, False) for key, kind in expected)
        assert applied.rows(TENANT, "SELECT count(*) FROM messages WHERE synced_at IS NOT NULL") == [(GOOD,)]
        ((says,),) = applied.target.rows("SELECT string_agg(error || advice, '') FROM replication_dead_letters")
        assert not any(value in says for value in ("nobody", "trigger'", "once", "3000000000")), "never a row's value"
    finally:
        applied.target.execute(
            "DROP FUNCTION own CASCADE; DROP INDEX own_contents; DROP TABLE own_sources CASCADE;DELETE FROM tenants"
        )


def test_a_fault_of_the_environment_makes_none(reader: Reader, applied: Applied) -> None:
    role = applied.target.role("applier")
    applied.target.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    try:
        ended = threading.Event()
        threading.Timer(1.0, ended.set).start()
        result = reader.take(event("c", 1, 1), ended=ended)
        assert (result.abandoned, result.stuck, letters(applied)) == (True, {}, [])
    finally:
        applied.target.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")


# --- order, waiting, healing


def test_what_comes_later_of_the_row_waits_and_a_whole_row_heals_it(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    refusing("content <> 'bad'")
    result = reader.take(
        event("c", 1, 1, content="first"),
        event("c", 2, 2, content="other"),
        event("u", 1, 3, content="bad"),
        partial(1, 4, source_id="s"),
        partial(2, 5, source_id="goes on"),
    )
    assert letters(applied) == [(3, False), (4, True)]
    assert messages(applied, "id, content, source_id") == [(1, "first", None), (2, "other", "goes on")]
    assert result.outcome.incomplete == [KeysRequest(table="messages", inbox=INBOX, keys=((1,),))], "the row as a whole"
    reader.take(partial(1, 6, source_id="t"), event("u", 1, 7, content="healed"), partial(1, 8, source_id="u"))
    assert letters(applied) == []
    assert messages(applied, "id, content, source_id")[0] == (1, "healed", "u")


def test_a_whole_row_that_fails_too_stands_for_those_before(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    refusing("content <> 'bad'")
    reader.take(event("c", 1, 1, content="bad"))
    reader.take(partial(1, 2, source_id="s"))
    (since,) = {since for offset, since in letters(applied, "log_offset, since") if offset == 1}
    reader.take(event("u", 1, 3, content="bad"))
    assert letters(applied, "log_offset, since, tries") == [(3, since, 2)]


@pytest.mark.parametrize("inbox", [INBOX, None])
def test_a_delete_closes_the_rows_dead_letters(
    reader: Reader, applied: Applied, refusing: Callable[[str], None], inbox: int | None
) -> None:
    refusing("content <> 'bad'")
    reader.take(event("c", 1, 1, content="bad"), event("c", 2, 2, content="bad"))
    if inbox is None:
        assert holders(applied.session.connection, "messages", [1, 5]) == {1: [TENANT]}, "a broadcast is told of it"
    reader.take(event("d", 1, 3, inbox))
    assert letters(applied) == [(2, False)]
    reader.take(event("d", 2, 4, ELSEWHERE))
    assert letters(applied) == [(2, False)], "it left another inbox than its own"


def test_a_sweep_spares_a_row_that_its_backfill_has_seen_and_a_child_has_its_parent(
    reader: Reader, applied: Applied
) -> None:
    """Of a row with an older dead letter alone it has seen nothing: that is gone, and its letter with it."""
    applied.target.execute("ALTER TABLE conversations ADD CONSTRAINT own CHECK (identifier <> 'bad')")
    try:
        good = event("c", 5, 1)._replace(table="conversations", schema="conversations")
        columns = {name: None for name, _ in schema_of("conversations").columns} | {"id": 5, "inbox_id": INBOX}
        whole = orjson.dumps({"after": {**columns, "identifier": "good"}})
        bad = orjson.dumps({"after": {**columns, "identifier": "bad"}})
        reader.take(good._replace(body=whole))
        reader.take(good._replace(body=bad, offset=2, position=Position(EPOCH, 2, 1)))
        lost = good._replace(key=b"[6]", offset=3, position=Position(EPOCH, 3, 1))
        reader.take(lost._replace(body=bad.replace(b'"id":5', b'"id":6')), event("c", 1, 4, conversation_id=6))
        assert letters(applied) == [(2, False), (3, False)]
        stub = "SELECT id, synced_at IS NULL FROM conversations ORDER BY id"
        assert applied.rows(TENANT, stub) == [(5, False), (6, True)]
        start = Position(EPOCH, 50, 0)
        reader.take(good._replace(body=bad, offset=5, position=Position(EPOCH, 60, 1), is_read=True))
        assert letters(applied) == [(3, False), (5, False)]
        for offset, boundary in enumerate(("begin", "end"), 6):
            marker = BackfillMarker(
                id="b",
                boundary=boundary,  # type: ignore[arg-type]
                tables=("conversations", "messages"),
                is_complete=False,
                inboxes=(INBOX,),
                start=start,
                start_read=start,
            )
            told = good._replace(op="m", table="", key=b"", inbox=None, offset=offset, is_read=True, body=b"")
            reader.take(told._replace(marker=marker, inboxes=(INBOX,)))
        assert applied.rows(TENANT, stub) == [(5, False)], "the child is swept, and its parent's stub goes with it"
        assert letters(applied) == [(5, False)]
    finally:
        applied.target.execute("ALTER TABLE conversations DROP CONSTRAINT own")


# --- tried again


def test_what_the_mended_table_takes_is_applied_in_order(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    applied.target.execute("ALTER TABLE messages ALTER COLUMN content TYPE varchar(5)")
    try:
        refusing("source_id <> 'bad'")
        reader.look()
        reader.take(
            event("c", 1, 1, content="too long for it", source_id="a"),
            partial(1, 2, source_id="b"),
            event("c", 2, 3, content="too long as well"),
            partial(2, 4, source_id="bad"),
        )
        assert letters(applied, "log_offset, waits, concerns") == [
            (1, False, "content"),
            (2, True, ""),
            (3, False, "content"),
            (4, True, ""),
        ]
        with reader.retrying():
            applied.target.execute("ALTER TABLE messages ALTER COLUMN content TYPE text")
            assert reader.look() == ["messages"]
            left, columns = [(4, False, "23514")], "log_offset, waits, error_class"
            wait_until(lambda: letters(applied, columns) == left, "what can be applied is, as far as it goes", SECONDS)
            assert messages(applied, "id, content, source_id") == [
                (1, "too long for it", "b"),
                (2, "too long as well", None),
            ]
            applied.target.execute("ALTER TABLE messages DROP CONSTRAINT own")
            assert reader.look() == ["messages"]
            wait_until(lambda: not letters(applied), "the constraint is gone", SECONDS)
        assert messages(applied, "id, source_id") == [(1, "b"), (2, "bad")]
    finally:
        applied.target.execute("ALTER TABLE messages ALTER COLUMN content TYPE text")


def test_what_is_older_than_the_row_changes_nothing(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    refusing("content <> 'bad'")
    reader.take(event("c", 1, 1, content="first"), event("u", 1, 2, content="bad"))
    applied.target.execute("UPDATE messages SET content = 'newer', source_point = 9")
    applied.target.execute("ALTER TABLE messages DROP CONSTRAINT own")
    with reader.retrying():
        reader.look()
        wait_until(lambda: not letters(applied), "it was tried", SECONDS)
    assert messages(applied) == [(1, "newer")]


def test_a_row_whose_tenant_changes_pools_meanwhile_is_left_to_the_other_pool(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    refusing("content <> 'bad'")
    reader.take(event("c", 1, 1, content="bad"))
    applied.target.execute("ALTER TABLE messages DROP CONSTRAINT own")
    applied.target.execute("UPDATE replication_dead_letters SET due_at = now()")
    settings = applied.target.settings()
    with closing(Retrying(settings, reader.layout, schema_of, lambda _: None)) as of_the_pool_it_left:
        applied.target.execute("INSERT INTO replication_tenant_pools (tenant_id, pool) VALUES (%s, 'heavy')", TENANT)
        assert of_the_pool_it_left._row(TENANT, "messages", "[1]") == 0
    assert letters(applied, "error_class, due_at IS NOT NULL") == [("23514", True)], "still asked for"
    with reader.retrying(pool="heavy"):
        wait_until(lambda: not letters(applied), "the other pool has tried it", SECONDS)
    assert messages(applied) == [(1, "bad")]


# --- bounds


def test_the_same_error_on_many_rows_parks_the_tenant_and_is_not_let_in_by_and_by(
    reader: Reader, applied: Applied, refusing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_OF_A_KIND", 3)
    refusing("content <> 'bad'")
    rows = [event("c", row, row, content="bad") for row in range(1, 7)]
    stuck = reader.take(*rows)
    assert stuck.reason is not None
    assert (stuck.stuck, stuck.reason.kind, len(letters(applied))) == ({0: 4}, "23514", 3)
    assert "own" in stuck.reason.says
    park(applied.session.connection, "default", TOPIC_ID, (TENANT, 0), 4, stuck.reason)
    applied.target.execute("UPDATE replication_dead_letters SET since = since - interval '1 hour'")
    applied.target.execute("UPDATE replication_parked SET since = since - interval '1 hour'")
    assert reader.take(*rows[3:]).stuck == {0: 4}, "an hour later, still parked"
    applied.target.execute("ALTER TABLE messages DROP CONSTRAINT own")
    assert reader.take(*rows[3:]).stuck == {}
    assert [row for row, _ in messages(applied)] == [4, 5, 6]


def test_a_tenant_with_too_many_is_parked_where_the_next_would_be(
    reader: Reader, applied: Applied, refusing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_OF_A_TENANT", 2)
    refusing("content <> 'bad'")
    events = [event("c", 1, 1, content="bad"), partial(1, 2), event("c", 2, 3, content="x"), partial(1, 4)]
    stuck = reader.take(*events, event("c", 3, 5, content="y"))
    assert stuck.reason is not None
    assert (stuck.stuck, stuck.reason.kind) == ({0: 4}, "DeadLetters")
    assert (letters(applied), messages(applied)) == ([(1, False), (2, True)], [(2, "x")])


# --- crashes, and others


def test_a_session_lost_while_a_dead_letter_is_written_leaves_one(
    reader: Reader, applied: Applied, refusing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing("content <> 'bad'")
    bury, times = dead_letters._bury, []

    def lost(connection: Any, *given: Any) -> None:
        bury(connection, *given)
        times.append(1)
        if len(times) == 1:
            applied.target.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid})")

    monkeypatch.setattr(dead_letters, "_bury", lost)
    reader.take(event("c", 1, 1, content="a"), event("c", 2, 2, content="bad"), event("c", 3, 3, content="c"))
    assert (len(times), letters(applied), messages(applied)) == (2, [(2, False)], [(1, "a"), (3, "c")])
    assert applied.target.rows("SELECT next_offset FROM replication_watermarks") == [(4,)]


def test_what_another_worker_found_dead_is_known_in_the_transaction(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    """The row has moved to an inbox in another partition, which another worker reads."""
    refusing("content <> 'bad'")
    reader.take(event("c", 1, 1, content="first"))
    another = Reader(applied)
    with closing(another.applier):
        another.take(event("u", 1, 3, ELSEWHERE, content="bad"))
        reader.take(partial(1, 4))
        assert letters(applied) == [(3, False), (4, True)]
        another.take(event("u", 1, 5, ELSEWHERE, content="healed"))
    reader.take(partial(1, 6, source_id="goes on"))
    assert (letters(applied), messages(applied, "content, source_id")) == ([], [("healed", "goes on")])


# --- the commands


def command(applied: Applied, *arguments: str, exits: int = 0) -> str:
    environment = applied.target.environment(COLUMNS="300")
    done = CliRunner().invoke(app, ["dead-letters", *arguments], env=environment)
    assert done.exit_code == exits, done.output + done.stderr
    return done.output + done.stderr


def test_they_are_listed_shown_asked_for_and_given_up(
    reader: Reader, applied: Applied, refusing: Callable[[str], None]
) -> None:
    refusing("content <> 'bad'")
    assert "no dead letters" in command(applied, "list")
    reader.take(event("c", 1, 1, content="bad", source_id="private"), partial(1, 2), event("c", 2, 3, content="bad"))
    found = json.loads(command(applied, "list", "--tenant", "1", "--table", "messages", "--json"))
    assert [(kind["error_class"], kind["concerns"], kind["letters"]) for kind in found["kinds"]] == [
        ("23514", "own", 2),
        ("waits", "", 1),
    ]
    first, behind, other = (letter["id"] for letter in found["letters"])
    listed = command(applied, "list")
    assert "23514" in listed
    assert "private" not in listed
    assert json.loads(command(applied, "list", "--tenant", "2", "--json"))["kinds"] == []
    shown = json.loads(command(applied, "show", str(first), "--json"))
    assert shown["body"]["after"]["source_id"] == "private"
    assert ["op", "c"] in shown["headers"]
    assert "private" in command(applied, "show", str(first))

    assert "no dead letter 999" in command(applied, "show", "999", exits=1)
    assert "no dead letter 999" in command(applied, "retry", "--id", "999", exits=1)
    assert "no dead letter 999" in command(applied, "discard", "--id", "999", "--id", str(first), exits=1)
    command(applied, "retry", exits=2)
    assert json.loads(command(applied, "retry", "--id", str(other), "--json")) == {"asked": 1}
    assert [due for (due,) in letters(applied, "due_at IS NOT NULL")] == [False, False, True]
    with reader.retrying():
        wait_until(lambda: letters(applied, "tries") == [(1,), (0,), (2,)], "a worker has tried it", SECONDS)

    plan = command(applied, "discard", "--id", str(first))
    assert "the target stays without this row until" in plan
    assert "1 later events of the row are applied without it" in plan
    assert "run again with --apply" in plan
    assert len(letters(applied)) == 3
    assert "done: discard" in command(applied, "discard", "--id", str(first), "--apply")
    assert [number for (number,) in letters(applied, "id")] == [behind, other]
    with reader.retrying() as asked:
        wait_until(lambda: len(letters(applied)) == 1, "what waited is applied", SECONDS)
    assert asked == [KeysRequest(table="messages", inbox=INBOX, keys=((1,),))], "of which only a part is known"


def test_every_command_has_an_example(applied: Applied) -> None:
    for name in ("list", "show", "retry", "discard"):
        assert f"Example: consumers dead-letters {name}" in command(applied, name, "--help")
