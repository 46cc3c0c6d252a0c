"""Every rule of `replicator check`, from facts alone."""

from dataclasses import replace
from typing import Any

import pytest

from replicator import check
from replicator.check import has_findings, judge_source
from replicator.config import Settings, load
from replicator.errors import SourceUnavailable
from replicator.facts import (
    ColumnFacts,
    IndexFacts,
    KafkaFacts,
    PublicationFacts,
    PublishedTable,
    RoleFacts,
    ServerFacts,
    SessionFacts,
    SlotFacts,
    SourceFacts,
    TableFacts,
    TopicFacts,
)
from replicator.findings import Finding, Severity
from replicator.preparation import missing
from replicator.publication import wanted_tables
from replicator.relations import BaseTable
from replicator.remedies import listed_columns
from replicator.server_rules import waits_for
from replicator.topic_layout import layouts
from replicator.topic_rules import judge_kafka

SETTINGS = load(source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:9092", _env_file=None)
REFUSAL, WARNING, NOTE, OK = Severity.REFUSAL, Severity.WARNING, Severity.NOTE, Severity.OK

SERVER = ServerFacts(
    version=150_018,
    in_recovery=False,
    database="chatwoot",
    encoding="UTF8",
    wal_level="logical",
    max_slots=10,
    used_slots=2,
    max_walsenders=10,
    used_walsenders=2,
    keep_size_mb=51_200,
    synchronous_standbys="",
    wal_sender_timeout_ms=60_000,
    idle_session_timeout_ms=0,
    transaction_timeout_ms=0,
)
ROLE = RoleFacts(name="replicator", superuser=False, replication=True, can_create=True)
SESSION = SessionFacts(same_backend=True, direct=True, walsender_error=None, same_system=True)
SLOT = SlotFacts(
    kind="logical",
    plugin="pgoutput",
    database="chatwoot",
    temporary=False,
    active_pid=None,
    holder=None,
    wal_status="reserved",
    held_bytes=1 << 20,
    invalidated=None,
)


TABLES = wanted_tables({}, SETTINGS)


def _index(name: str, *columns: str, **more: bool) -> IndexFacts:
    flags = {"unique": True, "valid": True, "primary": False, "identity": False} | more
    return IndexFacts(name=name, columns=columns, definition="", **flags)


def _table(relation: BaseTable) -> TableFacts:
    """As it is once `setup` was applied."""
    columns = dict.fromkeys(("id", "inbox_id", "conversation_id"), ColumnFacts(type_name="integer", not_null=True))
    indexes = [_index("primary", "id", primary=True)]
    if relation.identity.columns:
        indexes.append(_index("ours", *relation.identity.columns, identity=True))
    return TableFacts(
        schema="public",
        name=relation.name,
        kind="r",
        persistence="p",
        is_partition=False,
        inheritance=(),
        owned=True,
        readable=True,
        row_security=False,
        identity={"default": "d", "index": "i", "full": "f"}[relation.identity.kind],
        columns=columns,
        indexes=tuple(indexes),
        rows=1_000,
        bytes=1 << 20,
    )


def _published(name: str, **more: Any) -> PublishedTable:
    return PublishedTable(**{"schema": "public", "name": name, "columns": None, "has_filter": False} | more)


PUBLICATION = PublicationFacts(
    owned=True,
    all_tables=False,
    schemas=(),
    operations=frozenset({"insert", "update", "delete", "truncate"}),
    tables=tuple(_published(each.name, columns=frozenset(listed_columns(each, 180_000)) or None) for each in TABLES),
)
READY = SourceFacts(
    server=SERVER,
    role=ROLE,
    session=SESSION,
    slot=SLOT,
    idle_slots=(),
    publication=PUBLICATION,
    made_of={},
    tables={relation.name: _table(relation) for relation in TABLES},
)
KAFKA = KafkaFacts(
    brokers=3,
    unreachable=(),
    request_max_bytes=100 << 20,
    topics={
        layout.name: TopicFacts(
            partitions=layout.partitions, replicas=3, config=dict(layout.config) | {"min.insync.replicas": "2"}
        )
        for layout in layouts(SETTINGS)
    },
)


def _server(**changed: Any) -> SourceFacts:
    return replace(READY, server=replace(SERVER, **changed))


def _session(**changed: Any) -> SourceFacts:
    return replace(READY, session=replace(SESSION, **changed))


def _slot(**changed: Any) -> SourceFacts:
    return replace(READY, slot=replace(SLOT, **changed))


def _publication(**changed: Any) -> SourceFacts:
    return replace(READY, publication=replace(PUBLICATION, **changed))


def _with_table(name: str, **changed: Any) -> SourceFacts:
    return replace(READY, tables={**READY.tables, name: replace(READY.tables[name], **changed)})


def _bad(facts: SourceFacts, settings: Settings = SETTINGS) -> list[Finding]:
    return [finding for finding in judge_source(facts, settings) if finding.severity in (WARNING, REFUSAL)]


def _only(facts: SourceFacts, settings: Settings = SETTINGS) -> Finding:
    (finding,) = _bad(facts, settings)
    return finding


def test_a_source_that_is_ready_has_nothing_to_mend() -> None:
    findings = judge_source(READY, SETTINGS)
    assert not has_findings(findings)
    assert missing(READY, SETTINGS) == []
    assert {f.subject for f in findings if f.severity is NOTE} == {
        "public.conversations",
        "public.messages",
        "public.csat_survey_responses",
    }


@pytest.mark.parametrize(
    ("facts", "name", "severity", "says"),
    [
        (_server(version=130_022), "version", REFUSAL, "14 or later"),
        (_server(in_recovery=True), "primary", REFUSAL, "standby"),
        (_session(same_backend=False), "session", REFUSAL, "pooler"),
        (_session(direct=False), "session", WARNING, "between"),
        (_session(walsender_error="unsupported startup parameter: replication"), "walsender", REFUSAL, "unsupported"),
        (_session(walsender_error="too many"), "walsender", WARNING, "too many"),
        (_session(same_system=False), "walsender", REFUSAL, "another server"),
        (replace(READY, role=replace(ROLE, replication=False)), "role", REFUSAL, "may not replicate"),
        (_server(wal_level="replica"), "wal_level", REFUSAL, "restart"),
        (replace(_server(used_slots=10), slot=None), "capacity", REFUSAL, "no replication slot"),
        (_server(used_walsenders=10), "capacity", WARNING, "no walsender"),
        (_slot(kind="physical", plugin=None, database=None), "slot", REFUSAL, "physical"),
        (_slot(plugin="wal2json"), "slot", REFUSAL, "wal2json"),
        (_slot(database="other"), "slot", REFUSAL, "database other"),
        (_slot(temporary=True), "slot", REFUSAL, "temporary"),
        (_slot(invalidated="wal_removed", wal_status="lost"), "slot", WARNING, "new epoch"),
        (_slot(active_pid=7, holder="pg_recvlogical"), "slot", WARNING, "pg_recvlogical"),
        (_slot(wal_status="unreserved"), "slot", WARNING, "soon removed"),
        (replace(READY, idle_slots=("inbox_replicator_2",)), "idle_slots", WARNING, "keeps WAL"),
        (_server(keep_size_mb=-1), "wal_budget", WARNING, "disk"),
        (_server(synchronous_standbys="*"), "synchronous", REFUSAL, "commits would wait"),
        (_server(wal_sender_timeout_ms=0), "sender_timeout", WARNING, "TCP"),
        (_server(wal_sender_timeout_ms=9_999), "sender_timeout", WARNING, "cut"),
        (_server(idle_session_timeout_ms=5_000), "time_limits", WARNING, "idle_session_timeout = 5000 ms"),
        (_server(transaction_timeout_ms=5_000), "time_limits", WARNING, "transaction_timeout"),
        (_server(encoding="SQL_ASCII"), "encoding", WARNING, "UTF-8"),
        (replace(READY, publication=None), "publication", REFUSAL, "does not exist"),
        (_publication(all_tables=True), "publication", REFUSAL, "primary key"),
        (_publication(schemas=("public",)), "publication", REFUSAL, "nobody named"),
        (_publication(operations=frozenset({"insert", "update"})), "publication", REFUSAL, "delete, truncate"),
        (_publication(tables=PUBLICATION.tables[1:]), "publication", REFUSAL, "lacks inboxes"),
        (
            _publication(tables=(_published("inboxes", columns=frozenset({"id"})), *PUBLICATION.tables[1:])),
            "publication",
            REFUSAL,
            "only some columns or rows of inboxes",
        ),
        (
            _publication(tables=(_published("inboxes", has_filter=True), *PUBLICATION.tables[1:])),
            "publication",
            REFUSAL,
            "only some columns or rows of inboxes",
        ),
        (_publication(tables=(*PUBLICATION.tables, _published("notes"))), "publication", WARNING, "public.notes"),
        (_with_table("messages", kind="p"), "table", REFUSAL, "partitioned"),
        (_with_table("messages", is_partition=True), "table", REFUSAL, "partition of"),
        (
            _with_table("messages", inheritance=(("public.old", "public.messages"),)),
            "table",
            REFUSAL,
            "public.old inherits from",
        ),
        (_with_table("messages", kind="f"), "table", REFUSAL, "foreign"),
        (_with_table("messages", persistence="u"), "table", REFUSAL, "not logged"),
        (_with_table("messages", readable=False), "table", REFUSAL, "can't be read"),
        (_with_table("messages", row_security=True), "table", REFUSAL, "row security"),
        (
            _with_table("messages", columns={"id": ColumnFacts(type_name="integer", not_null=True)}),
            "table",
            REFUSAL,
            "no",
        ),
        (
            _with_table("inboxes", columns={"id": ColumnFacts(type_name="uuid", not_null=True)}),
            "table",
            REFUSAL,
            "uuid",
        ),
        (_with_table("inboxes", indexes=()), "table", REFUSAL, "primary key"),
        (_with_table("messages", identity="d"), "identity", REFUSAL, "no old inbox"),
        (_with_table("messages", identity="n"), "identity", REFUSAL, "own UPDATE and DELETE fail"),
        (_with_table("contact_inboxes", identity="d"), "identity", REFUSAL, "no old inbox"),
    ],
)
def test_each_fault_is_found_alone(facts: SourceFacts, name: str, severity: Severity, says: str) -> None:
    finding = _only(facts)
    assert (finding.name, finding.severity) == (name, severity)
    assert says in finding.reason
    assert finding.remedy


def test_a_run_waits_out_a_standby_in_the_middle_of_a_failover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "read_source", lambda settings: _server(in_recovery=True, wal_level="replica"))
    with pytest.raises(SourceUnavailable, match="standby"):
        check.refuse(SETTINGS)


def test_a_table_that_is_missing_is_named() -> None:
    facts = replace(READY, tables={name: table for name, table in READY.tables.items() if name != "messages"})
    assert _only(facts).reason == "does not exist"


def test_who_may_not_replicate_gets_no_walsender_and_hears_why() -> None:
    facts = replace(_session(walsender_error="permission denied"), role=replace(ROLE, replication=False))
    assert [(f.name, f.severity) for f in _bad(facts)] == [("walsender", REFUSAL), ("role", REFUSAL)]


def test_a_superuser_is_too_much_but_works() -> None:
    facts = replace(READY, role=replace(ROLE, superuser=True, replication=False))
    assert _bad(facts) == []
    assert any(f.name == "role" and f.severity is NOTE for f in judge_source(facts, SETTINGS))


def test_a_running_replicator_is_no_fault() -> None:
    facts = replace(_slot(active_pid=7, holder=SETTINGS.slot), server=replace(SERVER, used_walsenders=10))
    assert _bad(facts) == []


def test_a_full_identity_is_enough_everywhere() -> None:
    facts = _with_table("messages", identity="f", indexes=(_index("primary", "id", primary=True),))
    assert _bad(facts) == []


def test_an_identity_index_that_was_dropped_is_refused_even_if_the_default_is_accepted() -> None:
    facts = _with_table("messages", indexes=(_index("primary", "id", primary=True),))
    accepting = SETTINGS.model_copy(update={"accept_default_identity": True})
    finding = _only(facts, accepting)
    assert finding.severity is REFUSAL
    build, use = finding.remedy.splitlines()
    assert build.startswith("CREATE UNIQUE INDEX CONCURRENTLY messages_replica_identity ON public.messages (inbox_id, ")
    assert use == "ALTER TABLE public.messages REPLICA IDENTITY USING INDEX messages_replica_identity;"
    assert len(missing(facts, accepting)) == 2


def test_an_identity_without_the_key_is_refused_even_if_the_default_is_accepted() -> None:
    """Its DELETEs name nothing at all."""
    lacking = (_index("primary", "id", primary=True), _index("theirs", "inbox_id", "conversation_id", identity=True))
    facts = _with_table("messages", indexes=lacking)
    accepting = SETTINGS.model_copy(update={"accept_default_identity": True})
    finding = _only(facts, accepting)
    assert (finding.severity, finding.reason) == (REFUSAL, "the replica identity does not hold the primary key")
    assert len(missing(facts, accepting)) == 2


def test_the_default_identity_can_be_accepted() -> None:
    accepting = SETTINGS.model_copy(update={"accept_default_identity": True})
    facts = _with_table("messages", identity="d", indexes=(_index("primary", "id", primary=True),))
    assert _only(facts, accepting).severity is WARNING
    assert missing(facts, accepting) == []
    assert "dropping such an index" in _only(facts).remedy


def test_a_column_that_may_be_null_takes_a_full_identity() -> None:
    columns = dict(READY.tables["messages"].columns) | {"inbox_id": ColumnFacts(type_name="integer", not_null=False)}
    facts = _with_table("messages", identity="d", columns=columns, indexes=(_index("primary", "id", primary=True),))
    assert _only(facts).remedy == "ALTER TABLE public.messages REPLICA IDENTITY FULL;"


@pytest.mark.parametrize(
    ("index", "used"),
    [
        (_index("wider", "id", "conversation_id", "inbox_id"), True),
        (_index("narrow", "inbox_id", "id"), False),
        (_index("broken", "inbox_id", "conversation_id", "id", valid=False), False),
        (_index("partial", "inbox_id", "conversation_id", "id", unique=False), False),
        (_index("expression", "inbox_id", "conversation_id", "id", ""), False),
    ],
)
def test_only_an_index_that_can_be_an_identity_is_used(index: IndexFacts, used: bool) -> None:
    facts = _with_table("messages", identity="d", indexes=(_index("primary", "id", primary=True), index))
    steps = missing(facts, SETTINGS)
    assert len(steps) == (1 if used else 2)
    assert (f"USING INDEX {index.name}" in steps[-1].sql) is used


@pytest.mark.parametrize(
    ("standbys", "waits"),
    [
        ("", False),
        ("*", True),
        ("inbox_replicator", True),
        ('"Inbox_Replicator"', True),
        ("FIRST 2 (a, inbox_replicator)", True),
        ("ANY 1 (a, b)", False),
        ("2 (a,*)", True),
        ("first, any", False),
        ('"a, inbox_replicator"', False),
    ],
)
def test_synchronous_standby_names_are_read_as_postgresql_reads_them(standbys: str, waits: bool) -> None:
    assert waits_for(standbys, "inbox_replicator") is waits


def _topic(name: str, **changed: Any) -> KafkaFacts:
    full = f"{SETTINGS.topic_prefix}.{name}"
    return replace(KAFKA, topics={**KAFKA.topics, full: replace(KAFKA.topics[full], **changed)})


def _topic_config(name: str, **changed: str) -> KafkaFacts:
    config = KAFKA.topics[f"{SETTINGS.topic_prefix}.{name}"].config or {}
    return _topic(name, config=dict(config) | {key.replace("_", "."): value for key, value in changed.items()})


def test_a_kafka_that_is_ready_has_nothing_to_mend() -> None:
    assert {finding.severity for finding in judge_kafka(KAFKA, SETTINGS)} == {OK}


@pytest.mark.parametrize(
    ("facts", "name", "severity", "says"),
    [
        (replace(KAFKA, unreachable=("b:9092",)), "brokers", WARNING, "1 of 3"),
        (replace(KAFKA, request_max_bytes=1 << 20), "request_size", WARNING, "socket.request.max.bytes"),
        (_topic("changes", partitions=12), "topic", REFUSAL, "REPLICATOR_PARTITIONS=12"),
        (_topic("state", partitions=2), "topic", REFUSAL, "must have one"),
        (_topic_config("changes", max_message_bytes="1048588"), "topic", REFUSAL, "max.message.bytes"),
        (_topic_config("changes", cleanup_policy="compact"), "topic", REFUSAL, "remove changes"),
        (_topic_config("state", cleanup_policy="delete"), "topic", REFUSAL, "never expire"),
        (_topic_config("schemas", cleanup_policy="compact,delete"), "topic", REFUSAL, "never expire"),
        (_topic_config("changes", retention_ms="86400000"), "topic", WARNING, "1 days"),
        (_topic_config("changes", retention_bytes="1000"), "topic", WARNING, "however young"),
        (_topic_config("changes", message_timestamp_type="CreateTime"), "topic", WARNING, "expire early"),
        (_topic_config("state", message_timestamp_type="CreateTime"), "topic", WARNING, "are refused"),
        (_topic_config("changes", unclean_leader_election_enable="true"), "topic", WARNING, "may be lost"),
        (_topic_config("changes", min_insync_replicas="1"), "topic", WARNING, "min.insync.replicas=1"),
        (_topic("changes", replicas=1), "topic", NOTE, "one copy"),
        (_topic("changes", config=None), "topic", NOTE, "unverified"),
    ],
)
def test_each_fault_of_kafka_is_found_alone(facts: KafkaFacts, name: str, severity: Severity, says: str) -> None:
    (finding,) = [f for f in judge_kafka(facts, SETTINGS) if f.severity is not OK]
    assert (finding.name, finding.severity) == (name, severity)
    assert says in finding.reason


def test_topics_that_do_not_exist_yet_are_no_fault() -> None:
    assert not has_findings(judge_kafka(replace(KAFKA, topics={}), SETTINGS))
