"""Adopted tables that are partitioned: each is one relation, and no partition is a way round row-level security."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from consumers.layout import read_relations
from consumers.plan import Severity
from consumers.target_session import refuse_unbound
from replicator import REPLICATED
from tests.integration.sorted_out import Applied
from tests.integration.targets import Target, target_of
from tests.integration.test_lead_signals import ASKS, OWN, TABLE, five, put, recomputed

A, B = 1, 2
"""An inbox each of two tenants."""
TABLES = """
    CREATE TABLE conversations (tenant_id integer NOT NULL, id integer NOT NULL, identifier text,
        PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id);
    CREATE TABLE conversations_0 PARTITION OF conversations FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    CREATE TABLE messages (tenant_id integer NOT NULL, id integer NOT NULL, content text, PRIMARY KEY (tenant_id, id))
        PARTITION BY LIST (tenant_id);
    CREATE TABLE messages_of_1 PARTITION OF messages FOR VALUES IN (1);
    CREATE TABLE messages_of_others PARTITION OF messages DEFAULT PARTITION BY HASH (id);
    CREATE SCHEMA elsewhere;
    CREATE TABLE elsewhere."Others %" PARTITION OF messages_of_others FOR VALUES WITH (MODULUS 1, REMAINDER 0);
"""
CONVERSATIONS = """
    CREATE TABLE conversations_analytics (id bigserial, tenant_id integer NOT NULL, conversation_id integer NOT NULL,
        inbox_id integer, message_compiled jsonb, UNIQUE (tenant_id, conversation_id)) PARTITION BY HASH (tenant_id);
    CREATE TABLE analytics_0 PARTITION OF conversations_analytics FOR VALUES WITH (MODULUS 1, REMAINDER 0);
"""
PARTS = ("conversations_0", "messages_of_1", "messages_of_others", 'elsewhere."Others %"')


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    """Not set up yet. The tables' owner lets a reader read all of them, and their partitions."""
    with target_of(target_dsn) as made:
        made.make_role("reader")
        made.execute(TABLES, what="owner")
        made.execute(f"GRANT USAGE ON SCHEMA elsewhere TO {made.role('reader')}", what="owner")
        for table in ("conversations", "messages", *PARTS):
            made.execute(f"GRANT SELECT ON {table} TO {made.role('reader')}", what="owner")
        yield made


@pytest.fixture
def log(target: Target) -> Iterator[Applied]:
    """Set up, with two tenants."""
    target.apply()
    for tenant, inbox in ((1, A), (2, B)):
        target.execute("INSERT INTO tenants (id, slug) VALUES (%s, %s)", tenant, f"t{tenant}")
        target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", inbox, tenant)
    with closing(Applied(target)) as made:
        yield made


def test_a_plan_names_each_partition_and_whom_it_will_hide_its_rows_from(target: Target) -> None:
    plan = target.plan()
    for part in PARTS:
        assert [step.does for step in plan.steps if part in step.does] == [f"force row-level security on {part}"]
        assert [target.role("reader") in note.says for note in plan.of(Severity.NOTE) if part in note.says] == [True]
    target.apply()
    assert target.plan().steps == ()


def test_a_partition_that_is_another_roles_is_refused_until_it_is_secured(target: Target) -> None:
    target.apply()
    target.execute("ALTER TABLE messages_of_1 NO FORCE ROW LEVEL SECURITY")
    target.execute(f"ALTER TABLE messages_of_1 OWNER TO {target.role('reader')}")
    (refused,) = [found.says for found in target.plan().of(Severity.REFUSAL)]
    assert refused.startswith("messages_of_1, a part of messages, belongs to")
    target.execute("ALTER TABLE messages_of_1 FORCE ROW LEVEL SECURITY")
    assert target.plan().of(Severity.REFUSAL) == ()


def test_a_partition_is_no_relation_of_its_own(log: Applied) -> None:
    relations = read_relations(log.control)
    assert sorted(relations) == sorted(REPLICATED)
    assert relations["conversations"].children == (
        ("csat_survey_responses", "conversation_id"),
        ("messages", "conversation_id"),
    )
    refuse_unbound(log.control, relations)


def test_rows_come_and_go_and_are_seen_by_their_tenant_alone(log: Applied) -> None:
    for inbox in (A, B):
        log.apply(log.streamed("c", "messages", 10 + inbox, inbox, inbox_id=inbox, conversation_id=inbox, content="x"))
        log.apply(log.streamed("c", "conversations", inbox, inbox, inbox_id=inbox, identifier="y"))
    assert log.rows("messages", "content") == [(1, 11, "x"), (2, 12, "x")]
    assert log.rows("conversations", "identifier") == [(1, 1, "y"), (2, 2, "y")]
    for tenant in (1, 2):
        assert log.target.rows("SELECT id FROM messages", what="reader", tenant=tenant) == [(10 + tenant,)]
        for part in PARTS:
            assert log.target.rows(f"SELECT id FROM {part}", what="reader", tenant=tenant) == []
    for inbox in (A, B):
        log.apply(log.streamed("d", "conversations", inbox, inbox))
        assert log.stubs("conversations") == [(inbox, inbox)]
        log.apply(log.streamed("d", "messages", 10 + inbox, inbox))
        assert log.stubs("conversations") == []
    assert log.rows("messages", "id") == []


def test_a_partition_that_is_made_later_is_secured_by_the_next_setup(log: Applied) -> None:
    log.target.execute("CREATE TABLE messages_of_9 PARTITION OF messages FOR VALUES IN (9)", what="owner")
    assert log.target.apply() == ["force row-level security on messages_of_9"]
    log.target.execute("CREATE POLICY everyone ON messages_of_9 USING (true)", what="owner")
    says = [note.says for note in log.target.plan().of(Severity.NOTE) if "everyone" in note.says]
    assert [text.startswith("policies of messages_of_9") for text in says] == [True]


def test_lead_signals_of_a_partitioned_table_are_made_anew(target_dsn: str) -> None:
    with target_of(target_dsn) as target:
        target.execute(CONVERSATIONS, what="owner")
        target.apply()
        target.execute("INSERT INTO tenants (id, slug) VALUES (1, 't1')")
        target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, 1)", A)
        with closing(Applied(target)) as log:
            put(log, 1, A, ASKS, 1)
            target.execute(OWN, 1, "price", "lead", "client", 30, "custa")
            with target.connected() as session, session.transaction():
                session.execute(f"SELECT FROM {TABLE} FOR UPDATE")
                assert recomputed(log, 1) == 0
            assert recomputed(log, 1) == 1
            assert five(log, 1) == [(True, False, False, "Médio", 50)]
