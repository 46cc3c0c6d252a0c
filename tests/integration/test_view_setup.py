"""`replicator setup` and the analytics view: made if missing, replaced only if asked, nothing of others ever lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from replicator import setup
from replicator.__main__ import app
from replicator.config import Settings, load
from replicator.errors import SourceBusy, SourceRefused
from replicator.remedies import Difference, Step
from replicator.view_preparation import Existing
from tests.integration.chatwoot import Source, connect, role

VIEW = "vw_conversations_analytics_final"
Cli = Callable[..., Any]
PARTS = ("base", "messages", "csat", "metrics", "message_stats", "temporal", "leads")
ALL = [*(f"vw_conversations_analytics_{part}" for part in PARTS), VIEW]


@pytest.fixture
def settings(source_dsn: str) -> Settings:
    return _settings(source_dsn)


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    with connect(source_dsn) as connection:
        yield connection


def _settings(dsn: str, **more: Any) -> Settings:
    """Identities as they are: these tests are about the view."""
    return load(
        source_dsn=dsn, kafka_bootstrap_servers="127.0.0.1:1", accept_default_identity=True, _env_file=None, **more
    )


@pytest.fixture
def cli(source_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The program, on this source; identities are left out of it."""
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", source_dsn)
    monkeypatch.setenv("REPLICATOR_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("REPLICATOR_ACCEPT_DEFAULT_IDENTITY", "true")
    return lambda *arguments: CliRunner().invoke(app, arguments)


def _about_view(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.subject != "inbox_replicator"]


def _plan(settings: Settings, *, replace: bool = False) -> list[Step]:
    return _about_view(setup.plan(settings, existing_view=_wanted(replace)))


def _apply(settings: Settings, *, replace: bool = False) -> list[Step]:
    done: list[Step] = []
    steps = setup.plan(settings, existing_view=_wanted(replace))
    setup.apply(settings, steps, done.append, existing_view=_wanted(replace))
    return _about_view(done)


def _wanted(replace: bool) -> Existing:
    """What a view lacks of leads is another file's affair."""
    return "replaced" if replace else "kept"


def _views(source: Source) -> set[str]:
    rows = source.execute("SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace")
    return {name for (name,) in rows}


def _column(source: Source, name: str, view: str = VIEW) -> Any:
    rows = source.execute(f"SELECT {name} FROM {view} ORDER BY 1".encode()).fetchall()
    return [value for (value,) in rows]


def _definition(source: Source, view: str = VIEW) -> str:
    row = source.execute("SELECT pg_get_viewdef(%s::regclass)", (view,)).fetchone()
    assert row is not None
    return str(row[0])


def _seeded(source: Source) -> None:
    """One conversation of each status."""
    source.execute("INSERT INTO accounts (id, name, created_at, updated_at) VALUES (1, 'a', now(), now())")
    source.execute(
        "INSERT INTO conversations (id, account_id, inbox_id, status, created_at, updated_at)"
        " SELECT 1 + s, 1, 1, s, '2025-01-01', '2025-01-01' FROM generate_series(0, 3) s"
    )


def _drifted(settings: Settings, source: Source) -> None:
    """A view of all 118 columns, as installations have it: pending counts as open there."""
    _apply(settings)
    definition = _definition(source).replace("metrics.is_open,", "base.status IN (0, 2) AS is_open,")
    source.execute(f"CREATE OR REPLACE VIEW {VIEW} AS {definition}".encode())


def _other(source: Source, query: str = "SELECT id AS conversation_id, inbox_id, status::bigint FROM conversations"):  # type: ignore[no-untyped-def]
    """A view of our name that was made by others."""
    source.execute(f"CREATE VIEW {VIEW} AS {query}".encode())


def test_a_view_that_is_missing_is_planned_whole_and_made(settings: Settings, source: Source) -> None:
    (step,) = _plan(settings)
    made = [line.split()[2] for line in step.sql.splitlines() if line.startswith("CREATE VIEW")]
    assert made == ALL
    assert not step.by_hand
    assert step.differences == ()
    assert _views(source) == set()
    assert _apply(settings) == [step]
    assert _views(source) == set(ALL)
    assert setup.plan(settings) == []


def test_the_plan_can_be_copied_from_the_screen(cli: Cli, settings: Settings, source: Source) -> None:
    """No line of it is broken to fit: a format between quotes would not survive that."""
    shown = cli("setup").stdout
    source.execute(shown[shown.index("BEGIN;") : shown.index("COMMIT;")].encode() + b"COMMIT")
    assert _plan(settings, replace=True) == []


def test_the_view_is_made_in_the_schema_and_under_the_name_that_settings_give(
    settings: Settings, source: Source, source_dsn: str
) -> None:
    source.execute('ALTER SCHEMA public RENAME TO "Chat woot"; CREATE SCHEMA public')
    elsewhere = _settings(source_dsn, source_schema="Chat woot", view="Analytics")
    _apply(elsewhere)
    assert _column(source, "count(*)", '"Chat woot"."Analytics"') == [0]
    assert _views(source) == set()
    assert _plan(elsewhere, replace=True) == []


def test_no_view_is_made_where_none_is_wanted(source_dsn: str, source: Source) -> None:
    without = _settings(source_dsn, view="")
    assert [step.subject for step in setup.plan(without, existing_view="replaced")] == ["inbox_replicator"]
    _apply(without)
    assert _views(source) == set()


def test_an_existing_view_is_left_alone(settings: Settings, source: Source) -> None:
    _other(source)
    assert _plan(settings) == []
    assert _apply(settings) == []
    assert _views(source) == {VIEW}


def test_our_own_view_has_nothing_to_be_replaced(settings: Settings) -> None:
    _apply(settings)
    assert _plan(settings, replace=True) == []


def test_replacing_says_which_columns_change_and_changes_just_those(settings: Settings, source: Source) -> None:
    _drifted(settings, source)
    _seeded(source)
    assert _column(source, "is_open") == [False, False, True, True]
    (step,) = _plan(settings, replace=True)
    assert step.differences == (
        Difference(
            view=VIEW,
            column="is_open",
            change="definition",
            now="conversations.status = ANY(ARRAY[0, 2])",
            then="conversations.status = 0",
        ),
    )
    assert _apply(settings, replace=True) == [step]
    assert _column(source, "is_open") == [False, False, False, True]
    assert _plan(settings, replace=True) == []


def test_a_change_deep_inside_is_told_as_a_column_of_the_view(settings: Settings, source: Source) -> None:
    _apply(settings)
    metrics = "vw_conversations_analytics_metrics"
    definition = _definition(source, metrics).replace("status = 0) AS is_open", "status <> 1) AS is_open")
    source.execute(f"CREATE OR REPLACE VIEW {metrics} AS {definition}".encode())
    assert _plan(settings) == []
    (step,) = _plan(settings, replace=True)
    assert [(each.view, each.column, each.change) for each in step.differences] == [
        (VIEW, "is_open", "definition"),
        (metrics, "is_open", "definition"),
    ]
    _apply(settings, replace=True)
    assert _plan(settings, replace=True) == []


def test_rows_that_may_be_others_are_told(settings: Settings, source: Source) -> None:
    _apply(settings)
    definition = _definition(source).removesuffix(";")
    source.execute(f"CREATE OR REPLACE VIEW {VIEW} AS {definition} WHERE base.status <> 1".encode())
    (step,) = _plan(settings, replace=True)
    (difference,) = step.differences
    assert (difference.column, difference.change) == ("", "rows")
    assert "WHERE conversations.status <> 1" in difference.now
    assert "WHERE" not in difference.then


def test_rights_comments_options_and_dependent_views_outlive_a_replacement(settings: Settings, source: Source) -> None:
    _other(source, "SELECT id AS conversation_id, display_id, uuid AS conversation_uuid FROM conversations")
    source.execute(f"CREATE VIEW theirs AS SELECT conversation_id FROM {VIEW}".encode())
    source.execute(f"COMMENT ON VIEW {VIEW} IS 'ours to read'".encode())
    source.execute(f"ALTER VIEW {VIEW} SET (security_barrier = true)".encode())
    _seeded(source)
    with role(source, "", f"GRANT SELECT ON {VIEW} TO {{role}}"):
        kept = "SELECT relacl::text, obj_description(oid), reloptions, oid FROM pg_class WHERE relname = %s"
        before = source.execute(kept, (VIEW,)).fetchone()
        (step,) = _plan(settings, replace=True)
        assert Counter(each.change for each in step.differences) == {"added": 120, "rows": 1}
        _apply(settings, replace=True)
        assert source.execute(kept, (VIEW,)).fetchone() == before
    assert _column(source, "conversation_id", "theirs") == [1, 2, 3, 4]
    assert _column(source, "is_pending") == [False, False, False, True]


def test_what_cannot_be_replaced_in_place_is_left_to_a_person_with_every_difference(
    settings: Settings, source: Source
) -> None:
    _other(source, "SELECT inbox_id, id AS conversation_id, 7 AS strange, status::bigint AS status FROM conversations")
    source.execute(f"CREATE VIEW theirs AS SELECT strange FROM {VIEW}".encode())
    before = _definition(source)
    (step,) = _plan(settings, replace=True)
    told = {(each.column, each.change): (each.now, each.then) for each in step.differences}
    assert step.by_hand
    assert step.sql == f"ALTER VIEW public.{VIEW} RENAME TO {VIEW}_before"
    assert told["strange", "removed"] == ("integer", "")
    assert told["status", "type"] == ("bigint", "integer")
    assert told["inbox_id", "order"] == ("1", "12")
    assert told["display_id", "added"] == ("", "integer")
    assert ("conversation_id", "definition") not in told
    assert _apply(settings, replace=True) == []
    assert _definition(source) == before
    assert _views(source) == {VIEW, "theirs"}

    source.execute(step.sql.encode())
    _apply(settings)
    _seeded(source)
    assert _column(source, "conversation_id") == [1, 2, 3, 4]
    assert _column(source, "strange", "theirs") == [7, 7, 7, 7]


def test_a_name_that_one_of_our_views_needs_is_not_taken_from_others(settings: Settings, source: Source) -> None:
    taken = "vw_conversations_analytics_csat"
    source.execute(f"CREATE TABLE {taken} (id integer)".encode())
    for replace in (False, True):
        (step,) = _plan(settings, replace=replace)
        assert step.by_hand
        assert step.sql == f"ALTER TABLE public.{taken} RENAME TO {taken}_before"
        assert _apply(settings, replace=replace) == []


def test_what_an_interrupted_setup_left_is_used(settings: Settings, source: Source) -> None:
    _apply(settings)
    source.execute(f"DROP VIEW {VIEW}; DROP VIEW vw_conversations_analytics_temporal".encode())
    (step,) = _plan(settings)
    assert step.sql.count("CREATE VIEW") == 2
    _apply(settings)
    assert _plan(settings, replace=True) == []


def test_a_replacement_that_fails_leaves_the_old_view(
    settings: Settings, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that stays in the way of the last of the statements takes those before it back as well."""
    monkeypatch.setattr(setup, "QUEUED_SECONDS", 0.1)
    monkeypatch.setattr(setup, "TRIES", 2)
    _other(source, "SELECT id AS conversation_id FROM conversations")
    before = _definition(source)
    with connect(settings.source_dsn.get_secret_value()) as reader:
        reader.execute(f"BEGIN; SELECT * FROM {VIEW}".encode())
        with pytest.raises(SourceBusy, match=f"{VIEW} stays locked"):
            _apply(settings, replace=True)
        reader.execute("ROLLBACK")
    assert _views(source) == {VIEW}
    assert _definition(source) == before
    _apply(settings, replace=True)
    assert _plan(settings, replace=True) == []


def test_a_view_that_the_tables_do_not_allow_leaves_nothing_behind(settings: Settings, source: Source) -> None:
    source.execute("ALTER TABLE messages RENAME COLUMN content TO body")
    with pytest.raises(SourceRefused, match="content does not exist"):
        _apply(settings)
    assert _views(source) == set()


def test_a_view_that_came_meanwhile_is_not_replaced(settings: Settings, source: Source) -> None:
    steps = setup.plan(settings)
    _other(source)
    with pytest.raises(SourceBusy, match="changed since"):
        setup.apply(settings, steps, lambda step: None)
    assert _views(source) == {VIEW}


def test_who_may_not_make_views_gets_the_rest_and_the_sql_for_the_owner(
    settings: Settings, source: Source, source_dsn: str
) -> None:
    """All else is applied; the owner's copy of the step gives the role its right too."""
    with role(source, source_dsn, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}") as dsn:
        setup.apply(
            settings.model_copy(update={"view": ""}), setup.plan(settings.model_copy(update={"view": ""})), print
        )
        source.execute("ALTER PUBLICATION inbox_replicator ADD TABLE users (id, name, email), teams, accounts")
        theirs = _settings(dsn)
        (step,) = setup.plan(theirs)
        assert step.by_hand
        assert "may not create views in public" in step.needs
        setup.apply(theirs, [step], lambda done: pytest.fail(done.subject))
        source.execute(step.sql.encode())
        assert setup.plan(theirs) == []


def test_who_cannot_read_a_table_of_the_view_does_not_make_it(source: Source, source_dsn: str) -> None:
    """A view reads with its owner's rights: made by this role it would fail for everybody."""
    rights = ("GRANT CREATE, USAGE ON SCHEMA public TO {role}", "GRANT SELECT ON messages, conversations TO {role}")
    with role(source, source_dsn, *rights) as dsn:
        (step,) = _plan(_settings(dsn))
        assert step.by_hand
        assert "can't read public.users" in step.needs


def test_the_role_that_reads_is_given_its_right_by_the_owner(
    settings: Settings, source: Source, source_dsn: str
) -> None:
    _apply(settings)
    assert _plan(settings) == []
    with role(source, source_dsn, "GRANT USAGE ON SCHEMA public TO {role}") as dsn:
        theirs = _settings(dsn)
        (step,) = _plan(theirs)
        assert step.by_hand
        assert step.sql.startswith(f"GRANT SELECT ON public.{VIEW} TO role_")
        source.execute(step.sql.encode())
        assert _plan(theirs) == []


def test_machines_read_the_whole_difference_and_people_a_line_of_each(
    cli: Cli, settings: Settings, source: Source
) -> None:
    _drifted(settings, source)
    answer = cli("setup", "--replace-view", "--json")
    assert answer.exit_code == 0
    (step,) = json.loads(answer.stdout)
    assert step["subject"] == f"public.{VIEW}"
    assert [each["column"] for each in step["differences"]] == ["is_open"]
    assert f"{VIEW}.is_open: definition conversations.status = ANY" in cli("setup", "--replace-view").stdout


def test_a_replacement_that_is_left_to_a_person_is_no_success(cli: Cli, source: Source) -> None:
    _other(source)
    assert cli("setup", "--apply").exit_code == 0
    assert cli("setup", "--replace-view", "--apply").exit_code == 1
