"""The five columns of a lead: by the shipped rules, by a tenant's own, by the source, or somebody else's."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from consumers.errors import Overtaken
from consumers.lead_columns import FROM_SOURCE, LeadColumns
from consumers.leads import Leads
from consumers.recomputation import _READ, Recomputation, _asked, recompute
from consumers.relation import LEAD_SIGNALS
from consumers.target import Session, Work
from demo.servers import Servers, wait_until
from tests.integration.sorted_out import Applied, applied
from tests.integration.targets import Target
from tests.lead_conversations import conversations

TABLE = "conversations_analytics"
FIVE = ", ".join(LEAD_SIGNALS)
ASKS = [{"message_id": 7, "text": "Quanto custa a mensalidade?", "message_type": 0}]
SILENT = [{"message_id": 8, "text": "Gostam de capivaras?", "message_type": 0}]
LEAD_BY_PRICE = (True, False, False, "Baixo", 20)
NO_LEAD = (False, False, False, "Nenhum", 0)
OWN = "INSERT INTO lead_rules (tenant_id, name, signal, speaker, weight, pattern) VALUES (%s, %s, %s, %s, %s, %s)"


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    with applied(servers, prepared, {1: (1,), 2: (4,)}) as made:
        yield made


def put(log: Applied, conversation: int, inbox: int, messages: list[dict[str, Any]], n: int, **more: Any) -> None:
    compiled = json.dumps(messages)
    given = {"inbox_id": inbox, "message_compiled": compiled, **more}
    log.apply(log.read(TABLE, conversation, inbox, n, "conversation_id", **given))


def five(log: Applied, *conversations: int) -> list[tuple[Any, ...]]:
    found = {key: row for _, key, *row in log.rows(TABLE, FIVE, "conversation_id")}
    return [tuple(found[conversation]) for conversation in conversations]


def decide(log: Applied, tenant: int, origin: str | None) -> None:
    log.target.execute(
        "INSERT INTO tenant_settings (tenant_id, lead_signals) VALUES (%s, %s)"
        " ON CONFLICT (tenant_id) DO UPDATE SET lead_signals = EXCLUDED.lead_signals",
        tenant,
        origin,
    )
    log.leads.expire()


def recomputed(log: Applied, tenant: int) -> int:
    """How many rows, all told."""
    log.leads.expire()
    leads, done = log.leads.of(log.control, tenant), 0
    assert leads is not None
    last, written = recompute(log.control, tenant, leads, log.relations[TABLE], 10)
    while last is not None:
        done += written
        last, written = recompute(log.control, tenant, leads, log.relations[TABLE], 10, last)
    return done


def test_every_known_conversation_gets_its_signals_and_their_evidence(log: Applied) -> None:
    known = conversations()
    for number, each in enumerate(known, 1):
        put(log, number, 1, each.message_compiled, number)
    found = log.rows(TABLE, f"{FIVE}, lead_evidence", "conversation_id")
    assert len(found) == len(known) >= 60
    for each, (_, _, is_lead, visit, converted, label, score, evidence) in zip(known, found, strict=True):
        signals = {"lead": is_lead, "visit": visit, "conversion": converted}
        assert {name for name, given in signals.items() if given} == each.signals, each.what
        assert (label, score) == (each.label, each.score)
        assert [(piece["rule"], piece["message_id"]) for piece in evidence] == each.evidence
    assert recomputed(log, 1) == 0


def test_a_changed_rule_concerns_the_rows_of_its_tenant_alone(log: Applied) -> None:
    for inbox in (1, 4):
        put(log, inbox, inbox, SILENT, inbox)
        put(log, inbox + 10, inbox, ASKS, inbox + 10)
    before = log.rows(TABLE, "xmin::text", "conversation_id")
    log.target.execute(OWN, 1, "capivaras", "visit", "client", 70, r"\bcapivaras\b")
    log.target.execute(OWN, 1, "pergunta-preco", None, None, None, None)
    assert (recomputed(log, 1), recomputed(log, 2)) == (2, 0)
    assert five(log, 1, 11) == [(True, True, False, "Alto", 70), NO_LEAD]
    assert five(log, 4, 14) == [NO_LEAD, LEAD_BY_PRICE]
    after = log.rows(TABLE, "xmin::text", "conversation_id")
    assert [row for row in after if row[0] == 2] == [row for row in before if row[0] == 2]
    put(log, 1, 1, ASKS, 50)  # and what comes is by the same rules
    assert five(log, 1) == [NO_LEAD]
    assert recomputed(log, 1) == 0


def test_a_rule_that_cannot_be_taken_says_why_and_stops_no_other(log: Applied) -> None:
    log.target.execute(OWN, 1, "capivaras", "lead", "client", 30, r"capivaras")
    log.target.execute(OWN, 1, "broken", "lead", "client", 30, r"(capivaras")
    log.target.execute(OWN, 1, "back", "lead", "client", 30, r"(a)\1")
    put(log, 1, 1, SILENT, 1)
    assert five(log, 1) == [(True, False, False, "Baixo", 30)]
    refused = dict(log.target.rows("SELECT name, refused FROM lead_rules WHERE refused IS NOT NULL"))
    assert refused.keys() == {"broken", "back"}
    assert refused["broken"].startswith("RE2: missing )")
    log.target.execute("UPDATE lead_rules SET pattern = 'gostam' WHERE name = 'broken'")
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [(True, False, False, "Médio", 60)]
    assert log.target.rows("SELECT name FROM lead_rules WHERE refused IS NOT NULL") == [("back",)]


def test_where_they_come_from_is_the_tenants_choice(log: Applied) -> None:
    source = {"is_lead": False, "visit_scheduled": None, "ai_probability_score": "12.5", "crm_converted": True}
    nothing = dict.fromkeys(LEAD_SIGNALS)
    of_source = (False, None, True, None, 12.5)
    put(log, 1, 1, ASKS, 1, **source)
    put(log, 2, 1, ASKS, 2, **nothing)
    put(log, 3, 1, ASKS, 3)
    assert five(log, 1, 2, 3) == [(False, False, True, "Baixo", 12.5), LEAD_BY_PRICE, LEAD_BY_PRICE]
    assert recomputed(log, 1) == 0
    decide(log, 1, "rules")
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [LEAD_BY_PRICE]
    put(log, 1, 1, SILENT, 11, **source)
    assert five(log, 1) == [NO_LEAD]
    decide(log, 1, "source")
    put(log, 1, 1, ASKS, 12, **source)
    put(log, 2, 1, ASKS, 13, **nothing)
    put(log, 3, 1, SILENT, 14)  # the view has none
    assert five(log, 1, 2, 3) == [of_source, (None,) * 5, LEAD_BY_PRICE]
    decide(log, 1, "external")
    log.target.execute(f"UPDATE {TABLE} SET is_lead = true, ai_probability_score = 99 WHERE conversation_id = 2")
    put(log, 2, 1, SILENT, 20, **source)
    assert five(log, 2) == [(True, None, None, None, 99)]


def test_what_a_row_became_meanwhile_is_not_overwritten(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)

    @dataclass(frozen=True)
    class Slow(LeadColumns):
        def derived(self, document: str | None, given: Mapping[str, object]) -> bytes:
            put(log, 1, 1, SILENT, 2)
            return super().derived(document, given)

    real = log.leads.of(log.control, 1)
    assert real is not None
    slow = Slow(None, real.rules, "another")
    with closing(psycopg.connect(log.target.dsn("applier"), autocommit=True)) as session:
        assert recompute(session, 1, slow, log.relations[TABLE], 10) == (1, 0)
    assert five(log, 1) == [NO_LEAD]


def test_signals_of_a_document_that_cannot_be_read_are_unknown(log: Applied) -> None:
    deep = "[" * 2000 + "]" * 2000
    log.apply(log.read(TABLE, 1, 1, 1, "conversation_id", inbox_id=1, message_compiled=deep))
    assert five(log, 1) == [(None,) * 5]
    assert recomputed(log, 1) == 0


def test_editors_write_the_rules_of_their_tenant_alone(log: Applied) -> None:
    role = log.target.role("editor")
    if not log.target.rows("SELECT FROM pg_roles WHERE rolname = %s", role):
        log.target.make_role("editor")
    log.target.execute(f"GRANT replication_rule_editors TO {role}")
    with log.target.connected("editor", 1) as session:
        session.execute(OWN.encode(), [1, "mine", "lead", "any", 5, "capivaras"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(OWN.encode(), [2, "theirs", "lead", "any", 5, "capivaras"])
        with pytest.raises(psycopg.errors.CheckViolation):
            session.execute(OWN.encode(), [1, "no weight", "lead", "any", None, "capivaras"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("UPDATE lead_rules SET refused = 'x'")
    assert log.target.rows("SELECT name FROM lead_rules", what="editor", tenant=2) == []


def test_rows_that_somebody_holds_are_left_for_another_time(log: Applied) -> None:
    for conversation in (1, 2, 3):
        put(log, conversation, 1, SILENT, conversation)
    log.target.execute(OWN, 1, "capivaras", "lead", "client", 30, "capivaras")
    with log.target.connected() as session, session.transaction():
        session.execute(f"SELECT FROM {TABLE} WHERE conversation_id = 2 FOR UPDATE")
        assert recomputed(log, 1) == 2
    assert recomputed(log, 1) == 1


def test_what_comes_back_is_never_mixed_with_what_is_said_anew(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)
    log.apply(*log.nowhere(TABLE, 1, 2))
    put(log, 1, 1, ASKS, 3, is_lead=False, **dict.fromkeys(LEAD_SIGNALS[1:]))
    assert five(log, 1) == [(False, False, False, "Baixo", 20)]
    decide(log, 1, "external")
    log.target.execute(f"UPDATE {TABLE} SET is_lead = true")
    log.apply(*log.nowhere(TABLE, 1, 4))
    put(log, 1, 1, ASKS, 5)
    assert five(log, 1) == [(True, False, False, "Baixo", 20)]


def test_what_others_wrote_is_not_signed_by_our_rules(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)
    decide(log, 1, "external")
    log.target.execute(f"UPDATE {TABLE} SET is_lead = false, ai_probability_score = 99")
    assert log.rows(TABLE, "lead_evidence, lead_rules_digest", "conversation_id") == [(1, 1, None, None)]
    decide(log, 1, None)
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [LEAD_BY_PRICE]


def test_a_tenants_slow_rules_hold_up_nobody(log: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    log.target.execute(OWN, 1, "slow", "lead", "client", 30, "[a-m][a-z ]{900}zzq")
    log.target.execute(OWN, 1, "too-slow", "lead", "client", 30, "([a-m][a-z ]{900}zzq|[b-n][a-z ]{900}zzq)")
    monkeypatch.setattr("consumers.staging.LEADS_S", 1e-9)
    put(log, 1, 1, ASKS, 1)
    assert five(log, 1) == [LEAD_BY_PRICE], "the first one is always made"
    rows = [
        log.read(TABLE, n, 1, n, "conversation_id", inbox_id=1, message_compiled=json.dumps(ASKS)) for n in (2, 3, 4)
    ]
    log.apply(*rows)
    assert five(log, 2, 3, 4) == [LEAD_BY_PRICE, (None,) * 5, (None,) * 5]
    assert recomputed(log, 1) == 2
    assert five(log, 3, 4) == [LEAD_BY_PRICE] * 2
    ((name, refused),) = log.target.rows("SELECT name, refused FROM lead_rules WHERE refused IS NOT NULL")
    assert (name, "RE2 instructions" in refused) == ("too-slow", True)


@pytest.mark.parametrize(
    ("column", "kind", "takes"),
    [
        ("is_lead", "integer", False),
        ("is_lead", "text", True),
        ("ai_probability_label", "varchar(5)", False),
        ("ai_probability_score", "integer", True),
        ("lead_rules_digest", "varchar(8)", False),
    ],
)
def test_a_column_that_does_not_take_ours_is_left_alone(log: Applied, column: str, kind: str, takes: bool) -> None:
    log.target.execute("DROP TRIGGER replication_signals_written ON conversations_analytics")
    log.target.execute("DROP VIEW conversations_analytics_live")
    log.target.execute(f"ALTER TABLE {TABLE} DROP COLUMN {column}")
    log.target.execute(f"ALTER TABLE {TABLE} ADD COLUMN {column} {kind}")
    log.look_again()
    put(log, 1, 1, ASKS, 1)
    assert log.relations[TABLE].has_leads is takes
    assert [found is not None for (found,) in log.target.rows(f"SELECT ai_probability_score FROM {TABLE}")] == [takes]


def test_a_tenant_that_was_given_to_others_meanwhile_is_not_written(log: Applied) -> None:
    leads = log.leads.of(log.control, 1)
    work = Work(tenant=1, topic_id="t", steps=[], inboxes=frozenset(), marks={}, leads=leads)
    with closing(Session(log.target.settings(), log.relations)) as session:
        session.apply(work, lambda *_: None)  # type: ignore[arg-type,return-value]  # nothing is staged
        log.target.execute("INSERT INTO tenant_settings (tenant_id, lead_signals) VALUES (1, 'external')")
        with pytest.raises(Overtaken):
            session.apply(work, lambda *_: None)  # type: ignore[arg-type,return-value]


def test_rules_that_are_locked_hide_no_change_of_where_signals_come_from(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)
    with log.target.connected() as session, session.transaction():
        session.execute("LOCK TABLE lead_rules IN ACCESS EXCLUSIVE MODE")
        decide(log, 1, "external")
        put(log, 1, 1, SILENT, 2)
    assert five(log, 1) == [LEAD_BY_PRICE]


def test_rows_are_not_made_anew_for_a_tenant_that_was_given_to_others(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)
    leads = log.leads.of(log.control, 1)
    assert leads is not None
    decide(log, 1, "external")
    log.target.execute(f"UPDATE {TABLE} SET is_lead = false, ai_probability_score = 99")
    assert recompute(log.control, 1, leads, log.relations[TABLE], 10) == (None, 0)
    assert five(log, 1) == [(False, False, False, "Baixo", 99)]


def test_a_round_of_many_rows_stops_where_nobody_wants_it_any_more(
    log: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads, turns, unwanted = log.leads.of(log.control, 1), [], threading.Event()
    assert leads is not None
    wanted = {1: (leads, log.relations[TABLE])}
    with closing(Recomputation(log.target.settings())) as recomputation:

        def turn(_: object, tenant: int, *__: object) -> tuple[int, int]:
            turns.append(tenant)
            if len(turns) == 3:
                recomputation.want({2: wanted[1]})
            if len(turns) == 6:
                recomputation.want({})
                unwanted.set()
            return len(turns), 1

        monkeypatch.setattr("consumers.recomputation.recompute", turn)
        recomputation.want(wanted)
        assert unwanted.wait(10.0)
        recomputation.want({3: wanted[1]})  # its turn comes with the next round: the one before has ended
        wait_until(lambda: 3 in turns, "the next round", 10.0)
    assert turns[:6] == [1, 1, 1, 2, 2, 2]
    assert set(turns[6:]) == {3}


@pytest.mark.parametrize("back_to", [None, "rules"])
def test_what_was_written_while_others_made_the_signals_is_seen_afterwards(log: Applied, back_to: str | None) -> None:
    put(log, 1, 1, ASKS, 1)
    decide(log, 1, "external")
    put(log, 1, 1, SILENT, 2)
    assert five(log, 1) == [LEAD_BY_PRICE]
    decide(log, 1, back_to)
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [NO_LEAD]


def test_what_was_written_while_rules_could_not_be_read_is_seen_afterwards(log: Applied) -> None:
    put(log, 1, 1, ASKS, 1)
    log.leads = Leads(60)  # a worker that has just begun
    with log.target.connected() as session, session.transaction():
        session.execute("LOCK TABLE lead_rules IN ACCESS EXCLUSIVE MODE")
        put(log, 1, 1, SILENT, 2)
    assert five(log, 1) == [LEAD_BY_PRICE]
    log.leads = Leads(60)
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [NO_LEAD]


def test_rules_that_are_locked_are_waited_for_once(log: Applied) -> None:
    with log.target.connected() as session, session.transaction():
        session.execute("LOCK TABLE lead_rules IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert [log.leads.of(log.control, tenant) for tenant in range(20)] == [None] * 20
        assert time.monotonic() - began < 1.0


def test_few_documents_are_read_at_once_where_they_are_long(log: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 5):
        put(log, number, 1, ASKS, number)
    log.target.execute(OWN, 1, "capivaras", "lead", "client", 30, "capivaras")
    monkeypatch.setattr("consumers.recomputation._BYTES_AT_ONCE", 100)  # a document has 77
    log.leads.expire()
    leads = log.leads.of(log.control, 1)
    assert leads is not None
    assert recompute(log.control, 1, leads, log.relations[TABLE], 10) == (2, 2)
    assert recompute(log.control, 1, leads, log.relations[TABLE], 10, 2) == (4, 2)


@pytest.mark.parametrize("origin", [None, "rules"])
def test_a_look_reads_no_row_that_is_as_it_should_be(log: Applied, origin: str | None) -> None:
    decide(log, 1, origin)
    leads = log.leads.of(log.control, 1)
    assert leads is not None
    mark = leads.digest if origin else FROM_SOURCE
    with log.target.connected() as session:
        session.execute(
            f"INSERT INTO {TABLE} (tenant_id, conversation_id, synced_at, message_compiled, lead_rules_digest)"
            f" SELECT 1, g, now(), '[]', '{mark}' FROM generate_series(1, 5000) AS g".encode()
        )
        session.execute(f"ANALYZE {TABLE}")
    with log.control.transaction():
        log.control.execute("SELECT set_config('app.current_tenant_id', '1', true)")
        asked = {**_asked(1, leads, 50), "after": 0, "bytes": 1}
        ((plan,),) = log.control.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {_READ}".encode(), asked).fetchall()
    assert all(float(rows) == 0 for rows in re.findall(r'"Rows Removed by [^"]*": ([^,}]*)', json.dumps(plan)))
    assert recomputed(log, 1) == 0


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"is_lead": True}, (True, False, False, "Nenhum", 0)),
        ({"visit_scheduled": True}, (True, True, False, "Nenhum", 0)),
        ({"is_lead": False, "crm_converted": True}, (False, False, True, "Nenhum", 0)),
        ({"ai_probability_score": "71.5"}, (False, False, False, "Alto", 71.5)),
        ({"ai_probability_label": "Médio"}, (False, False, False, "Médio", 40)),
        ({"ai_probability_label": "Quente"}, (False, False, False, "Quente", 0)),
    ],
)
def test_what_the_source_does_not_say_is_made_by_rules(
    log: Applied, given: dict[str, Any], found: tuple[Any, ...]
) -> None:
    """Its view may have only some of the five columns, or may have recorded only some."""
    put(log, 1, 1, SILENT, 1, **given)
    put(log, 2, 1, SILENT, 2, **{**dict.fromkeys(LEAD_SIGNALS), **given})
    assert five(log, 1, 2) == [found] * 2
    assert recomputed(log, 1) == 0
    put(log, 1, 1, SILENT, 3, **dict.fromkeys(LEAD_SIGNALS))  # nor does it say it any longer
    assert five(log, 1) == [NO_LEAD]


def test_what_is_the_sources_stays_when_rules_change(log: Applied) -> None:
    put(log, 1, 1, SILENT, 1, is_lead=False, ai_probability_score="12.50")
    log.target.execute(OWN, 1, "capivaras", "visit", "client", 70, "capivaras")
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [(False, True, False, "Baixo", 12.5)]
    assert recomputed(log, 1) == 0
    ((_, _, evidence),) = log.rows(TABLE, "lead_evidence", "conversation_id")
    assert evidence == [{"rule": "capivaras", "message_id": 8}]
    put(log, 1, 1, SILENT, 2, is_lead=True, ai_probability_score="12.50")  # the same evidence, another signal
    assert five(log, 1) == [(True, True, False, "Baixo", 12.5)]
    assert recomputed(log, 1) == 0
    decide(log, 1, "rules")
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [(True, True, False, "Alto", 70)]


def test_what_is_the_sources_stays_where_time_was_short_or_rules_were_locked(
    log: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"is_lead": True, "visit_scheduled": True}
    with monkeypatch.context() as patched:
        patched.setattr("consumers.staging.LEADS_S", -1)
        put(log, 1, 1, SILENT, 1, **given)
    assert five(log, 1) == [(True, True, None, None, None)]
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [(True, True, False, "Nenhum", 0)]
    log.leads = Leads(60)
    with log.target.connected() as session, session.transaction():
        session.execute("LOCK TABLE lead_rules IN ACCESS EXCLUSIVE MODE")
        put(log, 1, 1, ASKS, 2, **given)
    log.leads = Leads(60)
    assert recomputed(log, 1) == 1
    assert five(log, 1) == [(True, True, False, "Baixo", 20)]


def test_a_row_whose_signals_the_target_refuses_holds_up_no_other(log: Applied) -> None:
    """Its owner may have rules of their own about the table."""
    for conversation in range(1, 6):
        put(log, conversation, 1, SILENT, conversation)
    log.target.execute(OWN, 1, "capivara", "lead", "any", 90, "capivara")
    log.target.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT dry CHECK (conversation_id <> 3 OR NOT is_lead)")
    log.leads.expire()
    leads = log.leads.of(log.control, 1)
    assert leads is not None
    try:
        with closing(Recomputation(log.target.settings())) as recomputation:
            recomputation.want({1: (leads, log.relations[TABLE])})
            wait_until(lambda: all(row[0] for row in five(log, 1, 2, 4, 5)), "the others made anew", 20)
        assert five(log, 3) == [NO_LEAD]
    finally:
        log.target.execute(f"ALTER TABLE {TABLE} DROP CONSTRAINT dry")
