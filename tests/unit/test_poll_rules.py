"""What `replicator check` says of polling, and of the way in which the source is read, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicator import check
from replicator.config import Settings, load
from replicator.errors import SourceUnavailable
from replicator.facts import PolledFacts, SourceFacts, StampFacts
from replicator.findings import Finding, Severity
from replicator.mode_rules import judge_mode, why_polled
from replicator.modes import Why
from replicator.poll_rules import judge_polling
from replicator.relations import ANALYTICS
from tests.unit.test_findings import READY, ROLE, SERVER, SLOT

REFUSAL, WARNING, NOTE, OK = Severity.REFUSAL, Severity.WARNING, Severity.NOTE, Severity.OK
STAMP = StampFacts(schema="public", table="conversations", column="updated_at", is_indexed=False)
VIEW = PolledFacts(
    name=ANALYTICS,
    updated="conversation_updated_at",
    stamp=STAMP,
    cost=4733.4,
    took_ms=25.0,
    scanned=("conversations",),
    rows=100_000,
    key_ms=0.15,
)
MAY_NOT = replace(READY, role=replace(ROLE, replication=False), publication=None)


def _settings(**changed: Any) -> Settings:
    return load(source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:9092", _env_file=None, **changed)


def _judge(*polled: PolledFacts, **changed: Any) -> dict[tuple[str, str], Finding]:
    found = judge_polling(polled, "poller", _settings(**changed))
    return {(each.name, each.subject): each for each in found}


def test_an_index_is_a_choice_and_has_its_price() -> None:
    found = _judge(VIEW)["poll", ANALYTICS]
    assert found.severity is NOTE
    assert "25.0 ms where nothing has changed, cost 4,733" in found.reason
    assert found.remedy.startswith(
        "CREATE INDEX CONCURRENTLY conversations_updated_at ON public.conversations (updated_at);"
    )
    assert "HOT" in found.remedy


@pytest.mark.parametrize(
    "polled",
    [
        replace(VIEW, scanned=()),
        replace(VIEW, took_ms=3.0),
        replace(VIEW, stamp=replace(STAMP, is_indexed=True)),
        replace(VIEW, stamp=None),
        replace(VIEW, is_appended=True),
    ],
)
def test_where_an_index_would_not_help_none_is_offered(polled: PolledFacts) -> None:
    found = _judge(polled)["poll", ANALYTICS]
    assert (found.severity, found.remedy) == (OK, "")


def test_without_a_stamp_only_the_rolling_pass_finds_changes() -> None:
    found = _judge(replace(VIEW, updated="", stamp=None))["poll", ANALYTICS]
    assert found.severity is NOTE
    assert "rolling pass" in found.reason


def test_polls_that_leave_no_time_are_warned_of() -> None:
    subject = "REPLICATOR_POLL_SHARE=0.1"
    assert _judge(VIEW)["poll_share", subject].severity is OK
    found = _judge(replace(VIEW, took_ms=900.0))["poll_share", subject]
    assert found.severity is WARNING
    assert "every 9 s, not every 5 s" in found.reason


@pytest.mark.parametrize(
    ("changed", "takes"),
    [({}, "some 150 s, 15 s"), ({"poll_share": 1}, "some 50 s"), ({"digest_keys_per_second": 500}, "some 200 s")],
)
def test_a_pass_takes_what_pace_and_share_leave_it(changed: dict[str, Any], takes: str) -> None:
    assert takes in _judge(VIEW, **changed)["poll_pass", "about 100,000 rows"].reason


def test_what_can_not_be_read_is_a_refusal_only_if_nothing_can() -> None:
    denied = PolledFacts(name="contacts", problem="permission denied for table contacts")
    assert _judge(denied)["poll", "contacts"].severity is REFUSAL
    found = _judge(VIEW, denied)["poll", "contacts"]
    assert found.severity is WARNING
    assert "GRANT SELECT ON public.contacts TO poller;" in found.remedy
    (nothing,) = judge_polling([], "poller", _settings(view=""))
    assert nothing.severity is REFUSAL


@pytest.mark.parametrize(
    ("facts", "mode", "can_poll", "why"),
    [
        (READY, "auto", True, Why.NONE),
        (READY, "poll", False, Why.SETTING),
        (MAY_NOT, "auto", True, Why.RIGHT),
        (MAY_NOT, "auto", False, Why.NONE),
        (MAY_NOT, "stream", True, Why.NONE),
        (replace(READY, server=replace(SERVER, in_recovery=True)), "auto", True, Why.STANDBY),
        (replace(READY, server=replace(SERVER, wal_level="replica")), "auto", True, Why.WAL_LEVEL),
        (replace(READY, slot=replace(SLOT, invalidated="wal_removed")), "auto", True, Why.SLOT_LOST),
        (replace(READY, publication=None), "auto", True, Why.NONE),
    ],
)
def test_the_mode_is_what_a_run_would_choose(facts: SourceFacts, mode: str, can_poll: bool, why: Why) -> None:
    assert why_polled(facts, _settings(mode=mode), can_poll=can_poll) is why


def test_who_has_to_wait_for_a_right_hears_that_it_is_polled_until_then() -> None:
    found = judge_mode(Why.RIGHT, _settings())
    assert (found.severity, found.reason) == (
        NOTE,
        "the role may not replicate: the source is polled until ALTER ROLE … REPLICATION",
    )


def _checked(monkeypatch: pytest.MonkeyPatch, facts: SourceFacts, *polled: PolledFacts, mode: str) -> list[Finding]:
    monkeypatch.setattr(check, "read_source", lambda settings: facts)
    monkeypatch.setattr(check, "read_polled", lambda settings: polled)
    monkeypatch.setattr(check, "read_derived", lambda settings: ())
    return check._source(_settings(mode=mode))


def test_what_keeps_the_stream_away_does_not_refuse_a_run_that_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _checked(monkeypatch, MAY_NOT, VIEW, mode="auto")
    assert {each.name for each in found if each.severity is WARNING} >= {"role", "publication"}
    assert not [each for each in found if each.severity is REFUSAL]
    assert check.has_findings(found)
    assert len({(each.name, each.subject) for each in found}) == len(found)


def test_who_chose_polling_is_asked_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _checked(monkeypatch, MAY_NOT, VIEW, mode="poll")
    assert not check.has_findings(found)
    assert {"role", "wal_level", "publication", "identity", "slot", "table"}.isdisjoint(each.name for each in found)


@pytest.mark.parametrize("mode", ["auto", "poll"])
def test_a_pooler_that_changes_sessions_refuses_polling_too(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    pooled = replace(MAY_NOT, session=replace(MAY_NOT.session, same_backend=False))
    found = _checked(monkeypatch, pooled, VIEW, mode=mode)
    assert [each.name for each in found if each.severity is REFUSAL] == ["session"]


def test_who_can_neither_stream_nor_poll_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _checked(monkeypatch, MAY_NOT, PolledFacts(name=ANALYTICS, problem="permission denied"), mode="auto")
    assert {each.name for each in found if each.severity is REFUSAL} == {"role", "publication"}
    assert [each.name for each in found if each.severity is WARNING] == ["poll"]


def test_a_source_that_goes_away_in_between_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(settings: Settings) -> tuple[PolledFacts, ...]:
        raise SourceUnavailable("gone")

    monkeypatch.setattr(check, "read_source", lambda settings: MAY_NOT)
    monkeypatch.setattr(check, "read_polled", gone)
    (found,) = check._source(_settings(mode="poll"))
    assert (found.name, found.severity) == ("source", REFUSAL)
