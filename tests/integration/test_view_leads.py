"""`replicator setup` and a view that lacks the five columns of leads: added in place, all else as it was."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from threading import Timer
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from demo.servers import Servers
from demo.source.seed import seed
from replicator import check, setup
from replicator.__main__ import app
from replicator.config import Settings, load
from replicator.definitions import captured_by, read_definitions
from replicator.derived import Derived
from replicator.errors import SourceRefused
from replicator.findings import Severity
from replicator.reference_view import LEADS, ReferenceView
from replicator.reference_view import load as load_views
from replicator.relations import ANALYTICS
from replicator.remedies import Step, create_views
from replicator.source import Source as Session
from replicator.view_columns import LEAD_SIGNALS
from replicator.view_difference import differences
from replicator.view_inspection import read_views
from tests.integration.chatwoot import Source, connect, role

VIEW = "vw_conversations_analytics_final"
FIVE = list(LEAD_SIGNALS)
ADDED = [(VIEW, name, "added") for name in FIVE]
COUNTED = """
    SELECT c.id AS conversation_id, c.inbox_id, c.created_at AS began, answer.id AS csat_response_id, m.said
    FROM conversations AS c
    LEFT JOIN csat_survey_responses AS answer ON answer.conversation_id = c.id
    LEFT JOIN (SELECT conversation_id, count(*) AS said FROM messages GROUP BY conversation_id) AS m
        ON m.conversation_id = c.id
"""
FOREIGN = {
    "in order": f"{COUNTED} ORDER BY c.created_at DESC, m.said NULLS FIRST, c.id, answer.id",
    "in an order that it does not show": f"{COUNTED} ORDER BY c.id DESC, answer.id DESC, c.updated_at",
    "WITH": f"WITH counted AS ({COUNTED}) SELECT * FROM counted",
    "UNION": f"{COUNTED} WHERE c.inbox_id < 3 UNION ALL {COUNTED} WHERE c.inbox_id >= 3 ORDER BY 3 DESC, 1, 4",
}
"""What others may have: two rows of some conversations, an aggregate over messages."""


def _ours_without_leads() -> str:
    """The reference view's 118 columns."""
    query = load_views(VIEW)[-1].query
    begins, ends = query.index(",\n    lead.is_lead"), query.index("\nFROM")
    return "\n".join(line for line in (query[:begins] + query[ends:]).splitlines() if LEADS not in line)


DEFINITIONS = {"of ours": "", **FOREIGN}
KEYED = (
    "SELECT v.* FROM unnest({keys}::bigint[]) AS k (id)"
    f" CROSS JOIN LATERAL (SELECT * FROM {VIEW} WHERE conversation_id = k.id OFFSET 0) AS v"
)


def _settings(dsn: str) -> Settings:
    """Identities as they are: these tests are about the view."""
    return load(source_dsn=dsn, kafka_bootstrap_servers="127.0.0.1:1", accept_default_identity=True, _env_file=None)


@pytest.fixture
def settings(source_dsn: str, kafka_bootstrap: str) -> Settings:
    # Each look would wait for a Kafka that is not there.
    return _settings(source_dsn).model_copy(update={"kafka_bootstrap_servers": kafka_bootstrap})


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    with connect(source_dsn) as connection:
        yield connection


@pytest.fixture
def foreign(source: Source) -> str:
    """A view of others; its query."""
    source.execute(f"CREATE VIEW {VIEW} AS {FOREIGN['in order']}".encode())
    return FOREIGN["in order"]


@pytest.fixture
def cli(source_dsn: str, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", source_dsn)
    monkeypatch.setenv("REPLICATOR_KAFKA_BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("REPLICATOR_ACCEPT_DEFAULT_IDENTITY", "true")
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def history(servers: Servers, chatwoot_template: str) -> Iterator[tuple[Source, Settings]]:
    """Some 2 000 conversations with 24 000 messages; some record leads."""
    name = f"leads_{uuid.uuid4().hex[:12]}"
    dsn = servers.source.create_database(name, template=chatwoot_template)
    with connect(dsn) as connection:
        seed(dsn, conversations=2_000)
        connection.execute(
            "UPDATE conversations SET custom_attributes = jsonb_build_object("
            "'is_lead', id % 2 = 0, 'ai_probability_score', id % 101) WHERE id % 3 = 0"
        )
        connection.execute("ANALYZE; SET jit = off; SET max_parallel_workers_per_gather = 0")
        yield connection, _settings(dsn)
    servers.source.drop_database(name)


def _make(source: Source, settings: Settings, name: str) -> None:
    source.execute(f"DROP VIEW IF EXISTS {VIEW}".encode())
    if FOREIGN.get(name):
        source.execute(f"CREATE VIEW {VIEW} AS {FOREIGN[name]}".encode())
        return
    views = [view for view in load_views(VIEW)[:-1] if view.name != LEADS]
    if source.execute("SELECT to_regclass(%s)", (views[0].name,)).fetchone() != (None,):
        views = []
    views.append(ReferenceView(name=VIEW, query=_ours_without_leads()))
    source.execute(create_views(settings, views, {}).encode())


def _about_view(steps: list[Step]) -> list[Step]:
    return [step for step in steps if VIEW in step.subject]


def _plan(settings: Settings) -> list[Step]:
    return _about_view(setup.plan(settings))


def _apply(settings: Settings) -> list[Step]:
    done: list[Step] = []
    setup.apply(settings, setup.plan(settings), done.append)
    return _about_view(done)


def _columns(source: Source) -> list[tuple[str, str]]:
    return source.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        (VIEW,),
    ).fetchall()


def _five(source: Source) -> list[tuple[Any, ...]]:
    return source.execute(f"SELECT {', '.join(FIVE)} FROM {VIEW} ORDER BY conversation_id".encode()).fetchall()


def _said_of_view(settings: Settings) -> dict[str, list[str]]:
    """By severity."""
    found: dict[str, list[str]] = {}
    for each in check.run(settings):
        if each.name == "view":
            found.setdefault(each.severity, []).append(each.reason)
    return found


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_five_come_last_and_nothing_else_changes(history: tuple[Source, Settings], name: str) -> None:
    source, settings = history
    _make(source, settings, name)
    columns = _columns(source)
    listed = ", ".join(column for column, _ in columns)
    whole = f"SELECT {listed} FROM {VIEW}"
    with source.transaction():  # now() stands still
        source.execute(f"CREATE TEMPORARY TABLE earlier ON COMMIT DROP AS {whole}".encode())
        in_order = source.execute(whole.encode()).fetchall() if name in ("in order", "UNION") else None
        (step,) = _plan(settings)
        assert not step.by_hand
        assert [(each.view, each.column, each.change) for each in step.differences] == ADDED
        in_it = step.sql.replace("SET TRANSACTION ISOLATION LEVEL READ COMMITTED;", "")
        source.execute(in_it.removeprefix("BEGIN;").removesuffix("COMMIT").encode())
        assert _columns(source) == [*columns, *LEAD_SIGNALS.items()]
        if in_order is not None:
            assert source.execute(whole.encode()).fetchall() == in_order
        for one, other in (("TABLE earlier", whole), (whole, "TABLE earlier")):
            assert source.execute(f"{one} EXCEPT ALL {other} LIMIT 1".encode()).fetchall() == []
        recorded = f"SELECT count(DISTINCT conversation_id) FROM {VIEW} WHERE is_lead AND ai_probability_label = 'Alto'"
        wanted = "SELECT count(*) FROM conversations WHERE id % 6 = 0 AND id % 101 >= 70"
        assert source.execute(recorded.encode()).fetchone() == source.execute(wanted).fetchone()
    assert _plan(settings) == []


@pytest.mark.parametrize("option", ["", "security_barrier"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_row_by_its_key_still_reads_no_table_as_a_whole(
    history: tuple[Source, Settings], name: str, option: str
) -> None:
    source, settings = history
    _make(source, settings, name)
    if option:
        source.execute(f"ALTER VIEW {VIEW} SET ({option})".encode())
    assert len(_apply(settings)) == 1
    source.execute("SET plan_cache_mode = force_generic_plan; DEALLOCATE ALL")
    source.execute(f"PREPARE reading (bigint[]) AS {KEYED.format(keys='$1')}".encode())
    for query in (f"SELECT * FROM {VIEW} WHERE conversation_id = 42", "EXECUTE reading ('{5,700,1900}')"):
        row = source.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode()).fetchone()
        assert row is not None
        scans = [
            node for node in _nodes(row[0][0]["Plan"]) if node.get("Relation Name") in ("messages", "conversations")
        ]
        assert {node["Relation Name"] for node in scans} == {"messages", "conversations"}
        for node in scans:
            assert node["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan"), json.dumps(row[0])
            assert node["Actual Rows"] < 500, json.dumps(row[0])


@pytest.mark.parametrize("name", DEFINITIONS)
def test_what_was_extended_is_followed_and_compared(history: tuple[Source, Settings], name: str) -> None:
    source, settings = history
    _make(source, settings, name)
    before, known = _view_of(settings), _derived(settings)
    _apply(settings)
    after, found = _view_of(settings), _derived(settings)
    assert found.lineage.problems == ()
    assert set(known.lineage.paths) <= set(found.lineage.paths)
    assert {path.table for path in found.lineage.paths} == set(found.lineage.sources)
    assert dict(found.lineage.unstable) == dict(known.lineage.unstable)
    assert "custom_attributes" in found.lineage.sources["public", "conversations"]
    told = differences(before[0], before[1], after[0], after[1])
    if name not in ("WITH", "UNION"):  # their text stands for all of their columns
        assert [(each.view, each.column, each.change) for each in told] == [*ADDED, (VIEW, "", "rows")]
    assert differences(after[0], after[1], after[0], after[1]) == ()


def _view_of(settings: Settings) -> tuple[Any, Any]:
    facts = read_views(settings, load_views(VIEW), replacing=False)
    return facts.existing[VIEW], facts.nested


def _derived(settings: Settings) -> Derived:
    with Session(settings) as session:
        found = read_definitions(session, captured_by(settings)).relations[ANALYTICS]
    assert isinstance(found, Derived), found
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def test_check_says_what_setup_adds_and_is_content_afterwards(
    settings: Settings, source: Source, cli: Callable[..., Any]
) -> None:
    setup.apply(settings, setup.plan(settings), print)
    source.execute(f"DROP VIEW {VIEW}".encode())
    _make(source, settings, "of ours")
    (told,) = [each for each in _said_of_view(settings)["note"] if "is_lead" in each]
    assert f"has no {', '.join(FIVE)}" in told
    assert "replicator setup adds what conversations.custom_attributes say" in told
    shown = " ".join(cli("check").stdout.split())
    assert f"has no {', '.join(FIVE)}" in shown
    assert "--keep-view" in shown
    assert told in [each["reason"] for each in json.loads(cli("check", "--json").stdout)]
    assert cli("setup", "--apply").exit_code == 0
    assert not [each for each in _said_of_view(settings).get("note", ()) if "is_lead" in each]
    assert Severity.WARNING not in _said_of_view(settings)


def test_columns_of_theirs_stay_and_those_of_another_kind_are_told(settings: Settings, source: Source) -> None:
    source.execute(
        f"CREATE VIEW {VIEW} AS SELECT c.id AS conversation_id, 'yes' AS is_lead, inbox_id, 5 AS ai_probability_score"
        " FROM conversations AS c LEFT JOIN teams AS t ON t.id = c.team_id".encode()
    )
    _apply(settings)
    assert [name for name, _ in _columns(source)] == [
        *("conversation_id", "is_lead", "inbox_id", "ai_probability_score"),
        *("visit_scheduled", "crm_converted", "ai_probability_label"),
    ]
    assert _plan(settings) == []
    assert any(
        "another kind than dashboards read: is_lead (text)" in each for each in _said_of_view(settings)["warning"]
    )


def test_what_the_view_is_to_others_outlives_the_extension(settings: Settings, source: Source, foreign: str) -> None:
    source.execute(f"CREATE VIEW theirs AS SELECT * FROM {VIEW}".encode())
    source.execute(f"COMMENT ON VIEW {VIEW} IS 'ours to read'".encode())
    source.execute(f"ALTER VIEW {VIEW} SET (security_barrier = true)".encode())
    with role(source, "", f"GRANT SELECT ON {VIEW} TO {{role}}"):
        kept = "SELECT relacl::text, obj_description(oid), reloptions, relowner, oid FROM pg_class WHERE relname = %s"
        before = source.execute(kept, (VIEW,)).fetchone()
        assert len(_apply(settings)) == 1
        assert source.execute(kept, (VIEW,)).fetchone() == before
    assert _plan(settings) == []


def test_who_does_not_own_the_view_gets_the_sql_for_its_owner(
    settings: Settings, source: Source, source_dsn: str, foreign: str
) -> None:
    rights = ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", "GRANT CREATE ON SCHEMA public TO {role}")
    with role(source, source_dsn, *rights) as dsn:
        _apply(settings.model_copy(update={"view": ""}))
        theirs = _settings(dsn)
        (step,) = setup.plan(theirs)
        assert step.by_hand
        assert "does not own" in step.needs
        setup.apply(theirs, [step], lambda done: pytest.fail(done.subject))
        source.execute(step.sql.encode())
        assert setup.plan(theirs) == []
    assert [name for name, _ in _columns(source)][-5:] == FIVE


def test_a_member_of_the_owner_extends_it_and_it_stays_the_owners(
    settings: Settings, source: Source, source_dsn: str, foreign: str
) -> None:
    rights = ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", "GRANT CREATE ON SCHEMA public TO {role}")
    with role(source, source_dsn, *rights) as owner:
        name = conninfo_to_dict(owner)["user"]
        source.execute(f"ALTER VIEW {VIEW} OWNER TO {name}".encode())
        with role(source, source_dsn, f"GRANT {name} TO {{role}}") as member:
            _apply(settings.model_copy(update={"view": ""}))
            theirs = _settings(member)
            (step,) = _apply(theirs)
            assert not step.by_hand
            assert setup.plan(theirs) == []
        owned = source.execute("SELECT relowner::regrole::text FROM pg_class WHERE relname = %s", (VIEW,)).fetchone()
        assert owned == (name,)
        source.execute(f"DROP VIEW {VIEW}".encode())


def test_an_owner_who_may_not_read_conversations_is_given_that_first(
    settings: Settings, source: Source, source_dsn: str
) -> None:
    """The view would fail for everybody."""
    source.execute("CREATE VIEW whole AS SELECT id AS conversation_id, inbox_id FROM conversations")
    rights = ("GRANT SELECT ON whole TO {role}", "GRANT CREATE ON SCHEMA public TO {role}")
    with role(source, source_dsn, *rights) as owner:
        name = conninfo_to_dict(owner)["user"]
        source.execute(f"CREATE VIEW {VIEW} AS SELECT * FROM whole".encode())
        source.execute(f"ALTER VIEW {VIEW} OWNER TO {name}".encode())
        (step,) = _plan(settings)
        assert step.by_hand
        assert f"owner {name} can't read public.conversations" in step.needs
        assert _apply(settings) == []
        source.execute(step.sql.encode())
        assert _five(source) == []
        assert _plan(settings) == []
        source.execute(f"DROP VIEW {VIEW}".encode())


def test_a_view_that_reads_with_its_readers_rights_is_left_to_a_person(
    settings: Settings, source: Source, foreign: str
) -> None:
    source.execute(f"ALTER VIEW {VIEW} SET (security_invoker = on)".encode())
    (step,) = _plan(settings)
    assert step.by_hand
    assert "its reader's rights" in step.needs
    assert "WITH (security_invoker=on)" in step.sql


@pytest.mark.parametrize("option", ["", "WITH LOCAL CHECK OPTION"])
def test_a_view_that_is_written_through_is_left_to_a_person(settings: Settings, source: Source, option: str) -> None:
    query = "SELECT id AS conversation_id, inbox_id FROM conversations WHERE id > 0"
    source.execute(f"CREATE VIEW {VIEW} AS {query} {option}".encode())
    (step,) = _plan(settings)
    assert f"that nobody writes through public.{VIEW}" in step.needs
    assert _apply(settings) == []
    source.execute(f"UPDATE {VIEW} SET inbox_id = 1".encode())
    source.execute(step.sql.encode())
    assert _plan(settings) == []


def test_functions_of_our_own_older_view_are_not_broken(settings: Settings, source: Source) -> None:
    _make(source, settings, "of ours")
    source.execute(f"CREATE FUNCTION theirs() RETURNS SETOF {VIEW} LANGUAGE sql AS 'TABLE {VIEW}'".encode())
    (step,) = _about_view(setup.plan(settings, existing_view="replaced"))
    assert step.by_hand
    assert "to alter theirs() with it" in step.needs


def test_functions_of_the_views_rows_are_not_broken(settings: Settings, source: Source, foreign: str) -> None:
    source.execute(f"CREATE FUNCTION theirs() RETURNS SETOF {VIEW} LANGUAGE sql AS '{foreign}'".encode())
    (step,) = _plan(settings)
    assert "to alter theirs() with it" in step.needs
    assert _apply(settings) == []
    assert source.execute("SELECT * FROM theirs()").fetchall() == []


@pytest.mark.parametrize("changes", ["ALTER TABLE conversations DROP COLUMN custom_attributes", ""])
def test_conversations_without_attributes_have_nothing_recorded(
    settings: Settings, source: Source, changes: str
) -> None:
    """None of that name, or of a type that we do not know."""
    alter = changes or (
        "ALTER TABLE conversations ALTER COLUMN custom_attributes DROP DEFAULT,"
        " ALTER COLUMN custom_attributes TYPE text"
    )
    source.execute(alter.encode())
    source.execute(f"CREATE VIEW {VIEW} AS {COUNTED}".encode())
    assert _plan(settings) == []
    (told,) = [each for each in _said_of_view(settings)["note"] if "is_lead" in each]
    assert "replicator setup adds" not in told
    source.execute(f"DROP VIEW {VIEW}".encode())
    assert len(_apply(settings)) == 1
    assert [name for name, _ in _columns(source)][-5:] == FIVE
    assert _plan(settings) == []
    source.execute(f"DROP VIEW {VIEW}".encode())  # what it is made of is there, and compared
    assert len(_apply(settings)) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_a_view_that_was_altered_while_setup_ran_is_not_set_back(
    settings: Settings, source: Source, source_dsn: str, foreign: str, committed: bool
) -> None:
    """Steps before it may take hours; and whoever alters it may not have committed yet."""
    theirs = f"CREATE OR REPLACE VIEW {VIEW} AS {foreign.replace('count(*)', 'count(*) + 1')}"
    (step,) = _plan(settings)
    with connect(source_dsn) as other, Session(settings) as ours:
        other.execute("BEGIN")
        other.execute(theirs.encode())
        if committed:
            other.execute("COMMIT")
        commit = Timer(0.3, other.execute, ["COMMIT"])
        commit.start()
        with pytest.raises(SourceRefused, match=f"{VIEW} was altered since this was planned"):
            setup._run(ours, settings, step)
        commit.join()
    assert "+ 1" in str(source.execute("SELECT pg_get_viewdef(%s::regclass)", (VIEW,)).fetchone())
    assert len(_apply(settings)) == 1


@pytest.mark.parametrize(
    "made",
    [
        f"CREATE MATERIALIZED VIEW {VIEW} AS {COUNTED}",
        f"CREATE VIEW {VIEW} AS SELECT id::text AS conversation_id, inbox_id FROM conversations",
        f"CREATE VIEW {VIEW} AS SELECT inbox_id FROM conversations",
    ],
)
def test_what_is_no_view_of_conversations_is_left_alone(settings: Settings, source: Source, made: str) -> None:
    source.execute(made.encode())
    assert _plan(settings) == []


def test_an_operator_may_keep_the_view_as_it_is_or_have_ours_instead(
    settings: Settings, source: Source, cli: Callable[..., Any]
) -> None:
    _make(source, settings, "of ours")
    before = _columns(source)
    assert cli("setup", "--keep-view", "--apply").exit_code == 0
    assert _columns(source) == before
    assert cli("setup", "--keep-view", "--replace-view").exit_code == 2
    (step,) = _about_view(setup.plan(settings, existing_view="replaced"))
    assert [(each.view, each.column, each.change) for each in step.differences] == [*ADDED, (VIEW, "", "rows")]
    assert cli("setup", "--replace-view", "--apply").exit_code == 0
    assert _columns(source) == [*before, *LEAD_SIGNALS.items()]
    for wanted in ("extended", "replaced"):
        assert setup.plan(settings, existing_view=wanted) == []  # type: ignore[arg-type]


def test_a_view_that_was_extended_can_still_become_ours(settings: Settings, source: Source) -> None:
    _make(source, settings, "of ours")
    _apply(settings)
    (step,) = _about_view(setup.plan(settings, existing_view="replaced"))
    assert not step.by_hand
    assert [(each.column, each.change) for each in step.differences] == [("", "rows")]
    setup.apply(settings, setup.plan(settings, existing_view="replaced"), print, existing_view="replaced")
    assert setup.plan(settings, existing_view="replaced") == []
