"""Several statements in one message: their answers come in order, and what was prepared is known for sure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from consumers.errors import Overtaken
from consumers.script import Answer, Script
from tests.histories import Source, Write
from tests.integration.applied import Applied

ONE, DIVIDED = "SELECT %(load)s + 1, %(word)s::text", "SELECT 1 / %(load)s"
TENANT, INBOX = 1, 11


@pytest.fixture
def session(applied: Applied) -> Iterator[Connection[Any]]:
    with applied.target.connected("applier") as session:
        yield session


def prepared(session: Connection[Any]) -> int:
    ((count,),) = session.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'ours%'").fetchall()
    return int(count)


def test_values_are_what_they_were_given_as(session: Connection[Any]) -> None:
    script, found = Script(session), list[object]()
    words = ("it's", "back\\slash", "100 %(load)s", "", None)
    for word in words:
        script.ask(ONE, {"load": -3, "word": word, "other": 1}, lambda answer: found.extend(answer.rows))
    script.send()
    assert found == [("-2", word) for word in words]
    assert prepared(session) == 1


def test_a_name_may_look_like_a_placeholder(session: Connection[Any]) -> None:
    script, found = Script(session), list[object]()
    for doubled in ("%%(load)s", "%%%%(word)s", "100%%"):
        script.ask(f'SELECT x."{doubled}", %(load)s FROM (SELECT 5) AS x ("{doubled}")', {"load": 1}, found.append)
    script.ask("SELECT 17 %% %(load)s, 17 %%%(load)s", {"load": 5}, lambda answer: found.extend(answer.rows))
    script.send()
    assert found[3:] == [("2", "2")]


def test_what_an_earlier_answer_says_comes_before_the_error_of_a_later_statement(session: Connection[Any]) -> None:
    def refuse(_: Answer) -> None:
        raise Overtaken("by somebody")

    script = Script(session)
    script.ask(ONE, {"load": 1, "word": "x"}, refuse)
    script.ask(DIVIDED, {"load": 0})
    with pytest.raises(Overtaken):
        script.send()


def test_what_an_error_kept_from_being_prepared_is_prepared_the_next_time(session: Connection[Any]) -> None:
    script, found = Script(session), list[object]()
    script.ask(DIVIDED, {"load": 0})
    script.ask(ONE, {"load": 1, "word": "x"})
    with pytest.raises(psycopg.errors.DivisionByZero):
        script.send()
    for statement in (ONE, DIVIDED):
        script.ask(statement, {"load": 1, "word": "x"}, lambda answer: found.extend(answer.rows))
    script.send()
    assert found == [("2", "x"), ("1",)]
    script.ask("SELECT %(load)s", {"load": 1})
    script.drop()
    script.ask("SELECT %(load)s", {"load": 1})
    script.send()
    assert prepared(session) == 3


def test_a_session_lets_its_statements_go_when_they_are_too_many(
    applied: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.add_tenant(TENANT, [INBOX])
    applied.session.use(applied.relations)
    history, most = Source(), 0
    for number in range(3):
        monkeypatch.setattr("consumers.script._MOST_PREPARED", 5 if number == 2 else 1000)
        history.carry_out(Write("messages", number + 1, INBOX, None, long=True))
        applied.apply(TENANT, history.published[number:], [INBOX])
        most = most or prepared(applied.session.connection)
    assert prepared(applied.session.connection) == most, "that of a first watermark is gone, that of a later one came"
    assert applied.rows(TENANT, "SELECT count(*) FROM messages") == [(3,)]


def test_a_server_keeps_little_of_a_message_that_prepares_much(applied: Applied) -> None:
    with applied.target.connected() as session:
        script, found = Script(session), list[object]()
        for number in range(900):
            wide = f"SELECT %(load)s + {number}, '{'x' * 2000}'"
            script.ask(wide, {"load": 1}, lambda answer: found.append(int(answer.rows[0][0] or 0)))
        script.send()
        ((kept,),) = session.execute(
            "SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'CachedPlan%'"
        ).fetchall()
        assert found == list(range(1, 901))
        assert prepared(session) <= 400
        assert kept < 60 << 20
