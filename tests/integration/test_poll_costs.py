"""What polling asks of the source, and what `check` says of it, with a role that may read the view and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg import sql
from typer.testing import CliRunner

from replicator import __main__ as program
from replicator import mode_choice
from replicator.beyond import Stamped
from replicator.candidates import LAST_KEY, between
from replicator.check import run as run_check
from replicator.config import Settings, load
from replicator.definitions import Definitions, polled_by, read_definitions
from replicator.derived import Derived
from replicator.findings import Severity
from replicator.mode_choice import ModeChoice
from replicator.modes import Mode, Standing, Why
from replicator.poll_inspection import read_polled
from replicator.relations import ANALYTICS
from replicator.runtime import Stop
from replicator.source import Source as Session
from tests.integration.chatwoot import Source, fill, role
from tests.integration.derived_rows import VIEW

VIEW_ONLY = ("GRANT USAGE ON SCHEMA public TO {role}", f"GRANT SELECT ON {VIEW} TO {{role}}")
TABLES = (*VIEW_ONLY, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")


@pytest.fixture
def filled(environment: dict[str, str], source: Source) -> dict[str, str]:
    """A source with the view, and what a replicator is told of it."""
    fill(source)
    source.execute("ANALYZE")
    return environment | {"REPLICATOR_MODE": "auto"}


@pytest.fixture
def view_only(filled: dict[str, str], source: Source, source_dsn: str) -> Iterator[dict[str, str]]:
    with role(source, source_dsn, *VIEW_ONLY) as dsn:
        yield filled | {"REPLICATOR_SOURCE_DSN": dsn}


def _settings(environment: dict[str, str], **changed: Any) -> Settings:
    known = {name.removeprefix("REPLICATOR_").lower(): value for name, value in environment.items()}
    return load(**known | changed, _env_file=None)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _plan(session: Session, relation: Derived) -> list[dict[str, Any]]:
    """How changes are asked for, as it is planned once and for all. No table is too small for its index."""
    statement, parameters = between(relation, Stamped(0, LAST_KEY), 0, 10)
    text = statement.as_string(session.connection)
    for number in range(1, len(parameters) + 1):
        text = text.replace("%s", f"${number}", 1)
    session.plan_once()
    session.rows("SELECT set_config('enable_seqscan', 'off', false)")
    session.connection.execute(f"PREPARE asked AS {text.replace('%%', '%')}".encode())
    ((plan,),) = session.rows(sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE asked (0, 0, 0)"))
    return list(_nodes(plan[0]["Plan"]))


def test_keys_and_stamps_of_the_view_read_no_message(view_only: dict[str, str]) -> None:
    settings = _settings(view_only)
    with closing(Session(settings)) as session:
        found = read_definitions(session, polled_by(settings)).relations[ANALYTICS]
        assert isinstance(found, Derived)
        assert "messages" not in {node.get("Relation Name") for node in _plan(session, found)}


def test_the_inboxes_of_contacts_are_looked_up_contact_by_contact(
    filled: dict[str, str], source: Source, source_dsn: str
) -> None:
    with role(source, source_dsn, *TABLES) as dsn:
        settings = _settings(filled | {"REPLICATOR_SOURCE_DSN": dsn}, poll_tables=True)
        with closing(Session(settings)) as session:
            found = read_definitions(session, polled_by(settings)).relations["contacts"]
            assert isinstance(found, Derived)
            read = [node for node in _plan(session, found) if "Relation Name" in node]
            beside = [node for node in read if node["Relation Name"] in ("contact_inboxes", "conversations")]
            assert len(beside) == 2
            assert all("Index Cond" in node or "Recheck Cond" in node for node in beside)


def test_facts_of_polling_are_read_with_rights_on_the_view_alone(view_only: dict[str, str], source: Source) -> None:
    (found,) = read_polled(_settings(view_only))
    assert (found.name, found.problem, found.updated) == (ANALYTICS, "", "conversation_updated_at")
    assert found.stamp is not None
    assert (found.stamp.table, found.stamp.column, found.stamp.is_indexed) == ("conversations", "updated_at", False)
    assert found.cost > 0
    assert found.took_ms > 0
    assert found.key_ms > 0
    source.execute("CREATE INDEX ON conversations (updated_at)")
    (found,) = read_polled(_settings(view_only))
    assert found.stamp is not None
    assert found.stamp.is_indexed


def test_tables_are_polled_as_their_kind_is(filled: dict[str, str], source: Source, source_dsn: str) -> None:
    with role(source, source_dsn, *TABLES) as dsn:
        polled = read_polled(_settings(filled | {"REPLICATOR_SOURCE_DSN": dsn}, poll_tables=True))
    assert [each.problem for each in polled] == [""] * len(polled)
    assert [each.name for each in polled if each.is_appended] == ["messages"]
    assert {each.stamp.table for each in polled if each.stamp is not None} >= {"contacts", "csat_survey_responses"}


def test_who_may_only_read_the_view_is_told_that_it_is_polled(
    view_only: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, as the stream could be had; 0 for who has chosen polling."""
    for name, value in view_only.items():
        monkeypatch.setenv(name, value)
    found = CliRunner().invoke(program.app, ["check", "--json"])
    assert found.exit_code == 1
    by_name = {each["name"]: each for each in json.loads(found.stdout)}
    assert by_name["mode"]["severity"] == "note"
    assert "the role may not replicate: the source is polled" in by_name["mode"]["reason"]
    assert by_name["role"]["severity"] == "warning"
    assert by_name["poll"]["severity"] in ("ok", "note")
    topics = {"topic", "kafka", "brokers", "request_size"}
    refused = [each.name for each in run_check(_settings(view_only)) if each.severity is Severity.REFUSAL]
    assert set(refused) <= topics
    chosen = run_check(_settings(view_only, mode="poll"))
    assert {each.name for each in chosen if each.severity not in (Severity.OK, Severity.NOTE)} <= topics
    assert {"role", "publication", "identity", "wal_level"}.isdisjoint(each.name for each in chosen)


def test_without_a_right_on_the_view_the_grant_is_shown(
    filled: dict[str, str], source: Source, source_dsn: str
) -> None:
    with role(source, source_dsn, VIEW_ONLY[0]) as dsn:
        found = run_check(_settings(filled | {"REPLICATOR_SOURCE_DSN": dsn}, mode="poll"))
    (polled,) = [each for each in found if each.name == "poll"]
    assert polled.severity is Severity.REFUSAL
    assert f"GRANT SELECT ON public.{VIEW}" in polled.remedy


def test_a_source_that_can_be_streamed_is_judged_for_that_alone(filled: dict[str, str]) -> None:
    found = run_check(_settings(filled))
    assert "poll" not in {each.name for each in found}
    (mode,) = [each for each in found if each.name == "mode"]
    assert mode.severity is Severity.OK


def test_who_polls_already_asks_no_definition_whether_it_could(
    view_only: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*given: object) -> Definitions:
        raise AssertionError(given)

    monkeypatch.setattr(mode_choice, "read_definitions", asked)
    settings = _settings(view_only)
    with closing(Session(settings)) as session:
        standing = Standing(mode=Mode.POLL, why=Why.RIGHT, since_ms=0)
        ModeChoice(settings, {}, Stop()).leave_polling(standing, session)
