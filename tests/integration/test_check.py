"""`replicator check` and its refusal, against real servers."""

from collections.abc import Callable

import psycopg
import pytest
from rich.console import Console

from demo.servers import Servers
from demo.servers.starting import free_port
from demo.source.seed import seed
from replicator import check, setup, topics
from replicator.config import Settings, load
from replicator.errors import SourceRefused, SourceUnavailable
from replicator.findings import Finding, Severity

SECRET = "hunter2-is-no-secret"


OTHERS = "conversations, contact_inboxes, messages, contacts, csat_survey_responses, teams, accounts"


@pytest.fixture
def settings(source_dsn: str, kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return _settings(source_dsn, kafka_bootstrap, topic_prefix)


def _settings(dsn: str, bootstrap: str, prefix: str) -> Settings:
    return load(
        source_dsn=dsn,
        kafka_bootstrap_servers=bootstrap,
        topic_prefix=prefix,
        slot=prefix.replace("-", "_")[-40:],
        partitions=2,
        _env_file=None,
    )


def _found(findings: list[Finding], name: str, subject: str = "") -> Finding:
    (finding,) = [f for f in findings if f.name == name and subject in f.subject]
    return finding


def _execute(settings: Settings, *statements: str) -> None:
    with psycopg.connect(settings.source_dsn.get_secret_value(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _prepare(settings: Settings) -> None:
    setup.apply(settings, setup.plan(settings), lambda step: None)
    topics.ensure(topics.kafka_base(settings), settings)


def test_an_unprepared_source_is_refused_with_the_sql_that_mends_it(settings: Settings) -> None:
    findings = check.run(settings)
    assert check.has_findings(findings)
    publication = _found(findings, "publication")
    assert publication.severity is Severity.REFUSAL
    identities = [finding for finding in findings if finding.name == "identity"]
    assert [finding.severity for finding in identities] == [
        *("ok", "refusal", "refusal", "refusal"),
        *("ok", "refusal", "ok", "ok", "ok"),
    ]
    with pytest.raises(SourceRefused, match="publication inbox_replicator: does not exist"):
        check.refuse(settings)

    _execute(settings, *[line for f in (*identities, publication) for line in f.remedy.splitlines() if line])

    check.refuse(settings)


def test_a_prepared_source_is_accepted(settings: Settings) -> None:
    _prepare(settings)
    check.refuse(settings)
    findings = check.run(settings)
    # The tests' server sets no limit, like most servers; that much must be said.
    assert [f.name for f in findings if f.severity in ("warning", "refusal")] == ["wal_budget"]


def test_nothing_is_changed_by_looking(settings: Settings) -> None:
    check.run(settings)
    with psycopg.connect(settings.source_dsn.get_secret_value()) as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
        slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(slots).fetchone() == (0,)
    found = topics.inspect(topics.kafka_base(settings), settings)
    assert found.topics == {}


@pytest.mark.parametrize(
    ("statement", "name", "subject", "says"),
    [
        ("ALTER PUBLICATION inbox_replicator SET (publish = 'insert')", "publication", "", "delete, truncate, update"),
        ("ALTER PUBLICATION inbox_replicator DROP TABLE messages", "publication", "", "lacks messages"),
        (
            f"ALTER PUBLICATION inbox_replicator SET TABLE inboxes (id), users (id, name, email), {OTHERS}",
            "publication",
            "",
            "only some columns or rows of inboxes",
        ),
        (
            "DROP PUBLICATION inbox_replicator; CREATE PUBLICATION inbox_replicator FOR ALL TABLES",
            "publication",
            "",
            "nob",
        ),
        ("DROP INDEX messages_replica_identity", "identity", "messages", "an index that was dropped"),
        ("ALTER TABLE messages REPLICA IDENTITY NOTHING", "identity", "messages", "NOTHING"),
        ("ALTER TABLE contact_inboxes REPLICA IDENTITY DEFAULT", "identity", "contact_inboxes", "no old inbox"),
        ("ALTER TABLE inboxes RENAME TO boxes", "table", "inboxes", "does not exist"),
        (
            "CREATE TABLE messages_2024 () INHERITS (messages)",
            "table",
            "public.messages",
            "messages_2024 inherits from public.messages",
        ),
        (
            "CREATE TABLE parent (id integer NOT NULL); ALTER TABLE inboxes INHERIT parent",
            "table",
            "public.inboxes",
            "public.inboxes inherits from public.parent",
        ),
        ("ALTER TABLE inboxes DROP CONSTRAINT inboxes_pkey", "table", "public.inboxes", "primary key"),
    ],
)
def test_what_was_spoilt_later_is_found(settings: Settings, statement: str, name: str, subject: str, says: str) -> None:
    _prepare(settings)
    _execute(settings, *statement.split("; "))
    found = _found([f for f in check.run(settings) if f.severity is Severity.REFUSAL], name, subject)
    assert says in found.reason
    with pytest.raises(SourceRefused):
        check.refuse(settings)


def test_a_slot_that_is_another_s_is_refused(settings: Settings) -> None:
    _prepare(settings)
    _execute(settings, f"SELECT pg_create_logical_replication_slot('{settings.slot}', 'test_decoding')")
    assert "plugin test_decoding" in _found(check.run(settings), "slot").reason


def test_idle_slots_beside_ours_are_named(settings: Settings) -> None:
    _prepare(settings)
    former, other = f"inbox_replicator_{settings.slot[-8:]}", f"other_{settings.slot[-8:]}"
    for name in (settings.slot, former, other):
        _execute(settings, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    found = _found(check.run(settings), "idle_slots")
    assert (found.severity, found.subject) == (Severity.WARNING, former)
    _execute(settings, *(line for line in found.remedy.splitlines() if not line.startswith("--")))
    found = _found(check.run(settings), "idle_slots")
    assert (found.severity, found.subject) == (Severity.NOTE, other)


def test_rights_are_asked_for_one_by_one(
    settings: Settings, servers: Servers, kafka_bootstrap: str, topic_prefix: str
) -> None:
    role = settings.slot
    _prepare(settings)
    _execute(settings, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    _execute(settings, f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
    try:
        host, port = servers.source.host, servers.source.port
        database = psycopg.conninfo.conninfo_to_dict(settings.source_dsn.get_secret_value())["dbname"]
        dsn = f"postgresql://{role}:{SECRET}@{host}:{port}/{database}"
        theirs = _settings(dsn, kafka_bootstrap, topic_prefix)
        findings = check.run(theirs)
        refused = [f for f in findings if f.severity is Severity.REFUSAL]
        assert [f.name for f in refused] == ["walsender", "role", *(["table"] * 6)]
        assert SECRET not in str(check.to_json(findings))

        remedies = [f.remedy for f in refused if f.name in ("role", "table")]
        _execute(settings, *(line for remedy in remedies for line in remedy.splitlines() if "USAGE" not in line))
        with pytest.raises(SourceRefused, match="can't be read"):
            check.refuse(theirs)
        _execute(settings, *(line for remedy in remedies for line in remedy.splitlines()))
        check.refuse(theirs)
        _execute(settings, "ALTER TABLE messages ENABLE ROW LEVEL SECURITY")
        assert (
            "row security" in _found([f for f in check.run(theirs) if f.severity is Severity.REFUSAL], "table").reason
        )
    finally:
        _execute(settings, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_limits_of_the_role_are_seen_through_our_own_session_settings(settings: Settings, source_dsn: str) -> None:
    database = psycopg.conninfo.conninfo_to_dict(source_dsn)["dbname"]
    _execute(settings, f"ALTER DATABASE {database} SET wal_sender_timeout = '5s'")
    _execute(settings, f"ALTER DATABASE {database} SET idle_session_timeout = '30s'")
    findings = check.run(settings)
    assert _found(findings, "sender_timeout").severity is Severity.WARNING
    assert "idle_session_timeout" in _found(findings, "time_limits").reason


def test_a_source_that_is_away_is_a_finding_and_waited_out_by_a_run(kafka_bootstrap: str, topic_prefix: str) -> None:
    dsn = f"postgresql://someone:{SECRET}@127.0.0.1:{free_port()}/nowhere"
    settings = _settings(dsn, kafka_bootstrap, topic_prefix)
    findings = check.run(settings)
    assert _found(findings, "source").severity is Severity.REFUSAL
    assert SECRET not in str(check.to_json(findings))
    with pytest.raises(SourceUnavailable):
        check.refuse(settings)


def test_the_table_is_readable_at_100_columns(settings: Settings) -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(check.render(check.run(settings)))
    text = console.export_text()
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "CREATE UNIQUE INDEX CONCURRENTLY messages_replica_identity" in text


@pytest.mark.parametrize("standbys", ["*", "FIRST 1 (a, {slot})"])
def test_a_source_whose_commits_would_wait_for_us_is_refused(
    own_servers: Callable[..., Servers], standbys: str
) -> None:
    value = standbys.format(slot="inbox_replicator")
    own = own_servers(
        kafka=False,
        postgres=("source",),
        settings={"synchronous_standby_names": value, "synchronous_commit": "local", "wal_level": "replica"},
    )
    settings = _settings(own.source.dsn, "127.0.0.1:1", "inbox-replicator")
    with pytest.raises(SourceRefused) as refused:
        check.refuse(settings)
    assert "commits would wait" in str(refused.value)
    assert "wal_level replica" in str(refused.value)


def test_the_view_is_judged_as_dashboards_will_find_it(settings: Settings) -> None:
    _prepare(settings)
    seed(settings.source_dsn.get_secret_value(), conversations=60, messages_per_conversation=3)
    said = [found.reason for found in check.run(settings) if found.name == "view"]
    assert any("118 columns" in each for each in said)
    assert not any("is_lead" in each for each in said)
    assert any("is read in" in each for each in said)

    view = settings.view
    _execute(
        settings,
        f"ALTER VIEW {view} RENAME TO whole",
        f"CREATE VIEW {view} AS SELECT conversation_id, inbox_id, status::text, csat_response_id FROM whole",
    )
    told = {found.severity: found.reason for found in check.run(settings) if found.name == "view"}
    assert "lacks display_id" in told[Severity.WARNING] or "another kind" in told[Severity.WARNING]
