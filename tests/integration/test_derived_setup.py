"""`consumers setup` for derived relations: a table for a user's own, reading views, and targets that are older."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported silently

from consumers import migrations, setup
from consumers.errors import TargetRefused
from consumers.plan import Plan, Severity
from replicator import ClockColumn, TableSchema, Topics
from tests.integration.sorted_out import Applied
from tests.integration.targets import Target, target_of

LABELS = TableSchema(
    table="conversation_labels",
    columns=(("id", "bigint"), ("inbox_id", "integer"), ("title", "character varying(255)"), ("colour", "hue")),
    key=("id",),
    inbox="inbox_id",
    is_derived=True,
)
LIVE = "conversations_analytics_live"


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as prepared:
        yield prepared


Say = Callable[[TableSchema], None]


@pytest.fixture
def say(kafka_bootstrap: str, topic_prefix: str) -> Say:
    """Puts a relation into the schemas topic, as the replicator does."""
    topics = Topics(topic_prefix)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    compacted = NewTopic(topics.schemas, num_partitions=1, config={"cleanup.policy": "compact"})
    for made in admin.create_topics([compacted, NewTopic(topics.control, num_partitions=1)]).values():
        made.result(30)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})

    def put(schema: TableSchema) -> None:
        producer.produce(topics.schemas, schema.encode(), key=f"{schema.table}:{schema.version}")
        assert producer.flush(30) == 0

    return put


@pytest.fixture
def kafka(kafka_bootstrap: str, topic_prefix: str) -> dict[str, str]:
    return {"kafka_bootstrap_servers": kafka_bootstrap, "topic_prefix": topic_prefix}


def steps(plan: Plan) -> list[str]:
    return [step.does for step in plan.steps]


def says(plan: Plan, severity: Severity) -> list[str]:
    return [found.says for found in plan.of(severity)]


def columns_of(target: Target, relation: str) -> list[tuple[str, str]]:
    return [
        (name, kind)
        for name, kind in target.rows(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            relation,
        )
    ]


def test_a_users_own_relation_gets_a_table_and_is_filled(target: Target, say: Say, kafka: dict[str, str]) -> None:
    say(LABELS)
    planned = target.plan(**kafka)
    assert "create table conversation_labels" in steps(planned)
    assert says(planned, Severity.NOTE) == ["the target has no type hue: conversation_labels.colour becomes text"]
    assert target.apply(**kafka) == steps(planned)
    again = target.plan(**kafka)
    assert (again.steps, again.findings) == ((), ())
    assert columns_of(target, "conversation_labels")[:5] == [
        ("tenant_id", "integer"),
        ("id", "bigint"),
        ("inbox_id", "integer"),
        ("title", "character varying(255)"),
        ("colour", "text"),
    ]
    target.make_reader()
    for tenant, inbox in ((1, 1), (2, 4)):
        target.execute("INSERT INTO tenants (id, slug) VALUES (%s, %s)", tenant, f"t{tenant}")
        target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", inbox, tenant)
    with closing(Applied(target)) as log:
        log.apply(*(log.read("conversation_labels", row, row, 1, inbox_id=row, title="vip") for row in (1, 4)))
        assert log.rows("conversation_labels", "title, inbox_id") == [(1, 1, "vip", 1), (2, 4, "vip", 4)]
        log.apply(log.absent("conversation_labels", 4, 4, 2), *log.nowhere("conversation_labels", 1, 2))
        assert log.rows("conversation_labels", "title") == []
        log.apply(log.read("conversation_labels", 1, 1, 3, inbox_id=1, title="vip"))
    seen = "SELECT tenant_id FROM conversation_labels"
    assert [target.rows(seen, what="reader", tenant=tenant) for tenant in (1, 2, None)] == [[(1,)], [], []]


def test_its_inbox_and_its_key_may_be_named_otherwise(target: Target, say: Say, kafka: dict[str, str]) -> None:
    columns = (("label no", "integer"), ("where", "integer"), ("inbox_id", "integer"))
    say(TableSchema(table="labels of", columns=columns, key=("label no",), inbox="where", is_derived=True))
    target.apply(**kafka)
    assert ("labels of", "label no", "where") in target.rows("SELECT * FROM replication_relations()", what="applier")
    assert target.plan(**kafka).steps == ()


def test_what_was_not_kept_until_now_is_asked_for(
    target: Target, say: Say, kafka: dict[str, str], kafka_bootstrap: str, topic_prefix: str
) -> None:
    target.apply()
    target.execute("INSERT INTO tenants (id, slug) VALUES (1, 't1')")
    target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (7, 1), (8, 1)")
    say(LABELS)
    assert target.apply(**kafka)[-1] == "ask the replicator for the rows of conversation_labels"
    say(TableSchema(**{**_fields(LABELS), "columns": (*LABELS.columns, ("note", "text"))}))
    assert target.apply(**kafka) == [
        "adopt table conversation_labels: add column note",
        "ask the replicator for the rows of conversation_labels",
    ]
    assert target.apply(**kafka) == []
    asked = _control(kafka_bootstrap, topic_prefix, 2)
    assert [(each["kind"], each["tables"], each["inboxes"]) for each in asked] == [
        ("backfill", ["conversation_labels"], [7, 8])
    ] * 2


def _fields(schema: TableSchema) -> dict[str, object]:
    return {name: getattr(schema, name) for name in schema.__slots__}


def _control(kafka: str, prefix: str, most: int) -> list[dict[str, object]]:
    with closing(Consumer({"bootstrap.servers": kafka, "group.id": "asked"})) as consumer:
        consumer.assign([TopicPartition(Topics(prefix).control, 0, 0)])
        return [orjson.loads(record.value() or b"") for record in consumer.consume(most, timeout=20)]


def test_a_relation_with_clock_columns_gets_a_reading_view(target: Target, say: Say, kafka: dict[str, str]) -> None:
    waits = ClockColumn("waits", "interval", "timezone('UTC', now()) - since")
    schema = TableSchema(
        table="queue",
        columns=(("id", "integer"), ("inbox_id", "integer"), ("since", "timestamp without time zone")),
        key=("id",),
        inbox="inbox_id",
        is_derived=True,
        clock=(waits,),
        order=("id", "waits", "since", "inbox_id"),
    )
    say(schema)
    assert "create view queue_live" in target.apply(**kafka)
    assert columns_of(target, "queue_live") == [
        ("tenant_id", "integer"),
        ("id", "integer"),
        ("waits", "interval"),
        ("since", "timestamp without time zone"),
        ("inbox_id", "integer"),
    ]
    assert target.plan(**kafka).steps == ()
    target.execute("REVOKE SELECT ON queue_live FROM replication_readers")
    assert target.apply(**kafka) == ["grant select on queue_live to replication_readers"]


def _analytics(*, order: tuple[str, ...] = (), is_today: str = "false", extra: str = "") -> TableSchema:
    columns = (("conversation_id", "integer"), ("inbox_id", "integer"), ("t_messages", "bigint"))
    return TableSchema(
        table="conversations_analytics",
        columns=(*columns, *(((extra, "text"),) if extra else ())),
        key=("conversation_id",),
        inbox="inbox_id",
        is_derived=True,
        clock=(ClockColumn("is_today", "boolean", is_today),),
        order=order,
    )


def test_the_sources_own_expressions_replace_the_shipped_ones(target: Target, say: Say, kafka: dict[str, str]) -> None:
    assert f"create view {LIVE}" in target.apply()
    ours = {name for name, _ in columns_of(target, LIVE)}
    say(_analytics(is_today="t_messages > 3", order=("conversation_id", "is_today", "t_messages", "inbox_id")))
    assert target.apply(**kafka) == [f"drop view {LIVE} and create it anew with other columns"]
    assert [name for name, _ in columns_of(target, LIVE)][:3] == ["tenant_id", "conversation_id", "is_today"]
    assert {name for name, _ in columns_of(target, LIVE)} == ours
    assert target.apply() == [], "without Kafka what the source has said stays"
    say(_analytics(is_today="t_messages > 4", order=("conversation_id", "is_today", "t_messages", "inbox_id")))
    assert target.apply(**kafka) == [f"replace view {LIVE}"]
    assert target.plan(**kafka).steps == ()
    assert "t_messages > 4" in target.rows("SELECT pg_get_viewdef(%s::regclass)", LIVE)[0][0]


def test_a_view_made_anew_keeps_its_readers_and_never_takes_others_along(
    target: Target, say: Say, kafka: dict[str, str]
) -> None:
    target.apply()
    target.make_role("auditor")
    target.execute(f"GRANT SELECT ON {LIVE} TO {target.role('auditor')}", what="owner")
    target.execute(f"CREATE VIEW dashboard AS SELECT inbox_id FROM {LIVE}", what="owner")
    say(_analytics())
    with pytest.raises(TargetRefused, match="drop view conversations_analytics_live"):
        target.apply(**kafka)
    assert target.rows("SELECT * FROM dashboard") == []
    target.execute("DROP VIEW dashboard")
    target.apply(**kafka)
    for what in (target.role("auditor"), target.role("applier"), "replication_readers"):
        assert target.rows("SELECT has_table_privilege(%s, %s, 'SELECT')", what, LIVE) == [(True,)]
    assert target.plan(**kafka).steps == ()


def test_a_column_that_is_widened_first_is_not_said_to_stay_narrow(
    target: Target, say: Say, kafka: dict[str, str]
) -> None:
    target.execute(
        "CREATE TABLE conversations_analytics (tenant_id int, conversation_id int, inbox_id int, t_messages int,"
        " contact_name varchar(3), is_lead varchar(9)); CREATE VIEW theirs AS SELECT contact_name FROM"
        " conversations_analytics",
        what="owner",
    )
    analytics = _analytics()
    own = {"t_messages": "bigint", "contact_name": "character varying"}
    columns = dict(analytics.columns) | own
    say(TableSchema(**{**_fields(analytics), "columns": tuple(columns.items())}))
    plan = target.plan(**kafka)
    assert any("t_messages (integer → bigint)" in each for each in steps(plan))
    narrow = [each for each in says(plan, Severity.FINDING) if "narrower than or unlike" in each]
    assert not any("t_messages" in each for each in narrow)
    assert any("contact_name" in each and "view theirs" in each for each in narrow)


def test_a_column_that_the_view_has_got_is_added(target: Target, say: Say, kafka: dict[str, str]) -> None:
    target.apply()
    say(_analytics(extra="mood"))
    planned = steps(target.plan(**kafka))
    assert planned[0] == "adopt table conversations_analytics: add column mood"
    assert target.apply(**kafka) == planned
    assert ("mood", "text") in columns_of(target, LIVE)
    assert target.plan(**kafka).steps == ()


def test_a_new_target_is_planned_at_once_as_it_will_be_made(target: Target, say: Say, kafka: dict[str, str]) -> None:
    say(_analytics(extra="mood"))
    say(LABELS)
    planned = steps(target.plan(**kafka))
    assert planned.count("create table conversations_analytics") == 1
    assert target.apply(**kafka) == planned


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"key": ("id", "inbox_id")}, "the key of conversation_labels is not one column of integers"),
        ({"key": ("title",)}, "the key of conversation_labels is not one column of integers"),
        ({"inbox": "title"}, "the inbox of conversation_labels is not one of its columns, or no integer"),
        ({"columns": (*LABELS.columns, ("synced_at", "text"))}, "columns named as our own: synced_at"),
        ({"table": "tenants"}, "tenants is the name of one of our own tables"),
        ({"table": "x" * 60}, "is longer than"),
        ({"clock": (ClockColumn("a", "text", "now(); DROP TABLE tenants"),)}, "is no single expression"),
        ({"clock": (ClockColumn("a", "text", "nothing || title"),)}, "names what is no stored column: nothing"),
        ({"clock": (ClockColumn("a", "text", "(SELECT max(slug) FROM tenants)"),)}, "asks another table"),
    ],
)
def test_what_can_have_no_table_or_view_is_a_finding(
    target: Target, say: Say, kafka: dict[str, str], change: dict[str, object], finding: str
) -> None:
    say(TableSchema(**{**_fields(LABELS), **change}))
    planned = target.plan(**kafka)
    assert any(finding in each for each in says(planned, Severity.FINDING))
    view = "clock" in change
    assert ("create table conversation_labels" in steps(planned)) == view
    assert "create view conversation_labels_live" not in steps(planned)
    target.apply(**kafka)
    assert target.rows("SELECT count(*) FROM tenants") == [(0,)]


def test_a_view_that_setup_did_not_make_is_left_alone(target: Target) -> None:
    target.execute(f"CREATE VIEW {LIVE} AS SELECT 1 AS mine", what="owner")
    planned = target.plan()
    assert says(planned, Severity.FINDING) == [
        f"{LIVE} exists and was not made by setup: rename it to get the reading view"
    ]
    target.apply()
    assert target.rows(f"SELECT mine FROM {LIVE}") == [(1,)]


def test_without_kafka_or_a_relation_setup_goes_on_and_says_so(target: Target, say: Say, kafka: dict[str, str]) -> None:
    (without,) = says(target.plan(), Severity.NOTE)
    assert without.startswith("Kafka does not answer")
    (empty,) = says(target.plan(**kafka), Severity.NOTE)
    assert empty.startswith("the replicator has named no relation yet")
    (missing,) = says(target.plan(**{**kafka, "topic_prefix": "nobody"}), Severity.NOTE)
    assert missing == empty


def test_a_target_of_the_streamed_tables_alone_gets_the_derived_ones(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the version before left it, rows and all."""
    older = tmp_path / "older"
    older.mkdir()
    for path in migrations.FOLDER.glob("00[1-7]*.sql"):
        text = path.read_text()
        if path.name.startswith("006"):  # it knew its tables by name
            begin, end = text.index("CREATE OR REPLACE FUNCTION replication_relations"), text.index("-- Which tenants")
            text = text[:begin] + text[end:]
            begin, end = text.index("    key CONSTANT text := ("), text.index("    question CONSTANT")
            text = text[:begin] + "    key CONSTANT text := 'id';\n" + text[end:]
        (older / path.name).write_text(text)
    with monkeypatch.context() as before:
        shown = migrations.load
        before.setattr(setup, "load", lambda **names: shown(**names, folder=older))
        before.setattr("consumers.provision.wanted", lambda *_: ())
        target.apply()
    assert columns_of(target, "conversations_analytics") == []
    target.execute("INSERT INTO tenants (id, slug) VALUES (1, 't1')")
    target.execute("INSERT INTO contacts (tenant_id, id, name, synced_at) VALUES (1, 5, 'Ana', now())")
    planned = steps(target.plan())
    assert target.apply() == planned
    assert planned[0] == "create function replication_relations()"
    assert "replace function replication_holders(text, jsonb)" in planned
    assert {"create table csat_survey_responses", "create table conversations_analytics"} < set(planned)
    assert target.plan().steps == ()
    assert target.rows("SELECT name FROM contacts") == [("Ana",)]
    with closing(Applied(target)) as log:
        assert {"csat_survey_responses", "conversations_analytics"} < log.relations.keys()


def test_the_batch_etls_table_is_adopted_with_the_key_it_has(target: Target) -> None:
    target.execute(
        "CREATE TABLE tenants (id serial PRIMARY KEY, slug varchar(100) UNIQUE);"
        "CREATE TABLE conversations_analytics (id serial PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants"
        " ON DELETE CASCADE, conversation_id int NOT NULL, inbox_id int, t_messages int, is_lead boolean,"
        " UNIQUE (tenant_id, id), UNIQUE (tenant_id, conversation_id));"
        "INSERT INTO tenants (slug) VALUES ('one'); INSERT INTO conversations_analytics (tenant_id, conversation_id,"
        " t_messages, is_lead) VALUES (1, 3, 1, true)",
        what="owner",
    )
    plan = target.plan()
    findings = says(plan, Severity.FINDING)
    assert any("widen" in each and "t_messages (integer → bigint)" in each for each in steps(plan))
    assert not any("without tenant_id" in each and "conversations_analytics" in each for each in findings)
    target.apply()
    target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (1, 1)")
    with closing(Applied(target)) as log:
        assert log.relations["conversations_analytics"].key == "conversation_id"
        for row in (3, 4):
            log.apply(log.read("conversations_analytics", row, 1, 1, "conversation_id", inbox_id=1, t_messages=9))
        assert log.rows("conversations_analytics", "t_messages, is_lead", "conversation_id") == [
            (1, 3, 9, True),
            (1, 4, 9, None),
        ]
        assert target.rows("SELECT id FROM conversations_analytics WHERE conversation_id = 3") == [(1,)]
        log.apply(*log.nowhere("conversations_analytics", 4, 2))
        assert len(log.rows("conversations_analytics", "id", "conversation_id")) == 1
