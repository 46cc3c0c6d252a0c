"""Lineage on a real PostgreSQL: every look-up runs, and no key that a write changed goes unread."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from demo.servers import Servers
from replicator.lineage import Lineage, Name, derive
from replicator.view_catalog import read_catalog
from tests.integration.dirtied import missed
from tests.integration.random_views import REQUIRED, SCHEMA, TABLES, Views
from tests.lineage_cases import SCHEMA as HELP_DESK
from tests.lineage_cases import TABLES as HELP_DESK_TABLES
from tests.lineage_cases import Case, cases, catalog

Session = psycopg.Connection[tuple[object, ...]]
TOP = "SELECT * FROM public.top"
SMALL_TABLES: tuple[Name, ...] = tuple(("public", name) for name in TABLES)
SEED_VIEW = """CREATE VIEW top AS
    SELECT ta.id AS k, ta.x, g.n, g.first, o.y AS other
      FROM ta
      LEFT JOIN (SELECT tb.a, count(*) FILTER (WHERE tb.y = 1) AS n, min(tb.x) AS first FROM tb GROUP BY tb.a) g
             ON g.a = ta.id
      LEFT JOIN tc o ON o.id = g.first"""


@pytest.fixture(scope="module")
def session(servers: Servers) -> Iterator[Session]:
    """A session in one transaction on a database of its own."""
    name = f"lineage_{uuid.uuid4().hex[:12]}"
    dsn = servers.source.create_database(name)
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.rollback()
    servers.source.drop_database(name)


@pytest.fixture
def help_desk(session: Session) -> Iterator[Session]:
    """The tables of the cases."""
    session.execute(HELP_DESK)
    yield session
    session.rollback()


@pytest.fixture
def small_tables(session: Session) -> Iterator[Session]:
    """The tables of the random views."""
    session.execute(SCHEMA)
    yield session
    session.rollback()


# The catalogue, and what the look-ups are to it


def test_the_catalogue_read_is_the_one_that_the_cases_assume(help_desk: Session) -> None:
    names = ", ".join(f"{name}" for _, name in HELP_DESK_TABLES)
    assert read_catalog(help_desk, f"SELECT 1 FROM {names}").tables == HELP_DESK_TABLES


def test_views_within_views_are_read_and_bare_names_found_on_the_search_path(help_desk: Session) -> None:
    help_desk.execute("CREATE SCHEMA desk; CREATE VIEW desk.inner AS SELECT id, name FROM contacts")
    help_desk.execute('CREATE VIEW desk."Outer" AS WITH i AS (SELECT * FROM desk.inner) SELECT i.id FROM i')
    help_desk.execute("SET LOCAL search_path = desk, public")
    read = read_catalog(help_desk, 'SELECT o.id FROM "Outer" o JOIN tags ON tags.id = o.id')
    assert set(read.views) == {("desk", "Outer"), ("desk", "inner")}
    assert set(read.tables) == {("public", "contacts"), ("public", "tags")}
    assert read.search_path == ("desk", "public")
    assert help_desk.execute("SHOW search_path").fetchall() == [("desk, public",)]
    lineage = derive('SELECT o.id FROM "Outer" o JOIN tags ON tags.id = o.id', ("id",), read)
    assert not lineage.problems
    assert {path.description for path in lineage.paths} == {"contacts(id)", "tags(id)"}


@pytest.mark.parametrize(
    "function",
    [
        "(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1'",
        "(integer) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM tags WHERE id = $1'",
        "(integer) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT count(*) FROM tags WHERE id = $1'",
        "(integer) RETURNS bigint IMMUTABLE LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM tags WHERE id = $1; END",
        "(integer) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT reads($1)'",
        "(integer) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT CURRENT_TIMESTAMP::text'",
        "(integer, timestamptz DEFAULT now()) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
        "(a integer) RETURNS int IMMUTABLE RETURN a; CREATE FUNCTION mine(a text) RETURNS text STABLE RETURN a",
    ],
)
def test_a_function_that_may_read_more_than_its_arguments_is_refused(help_desk: Session, function: str) -> None:
    help_desk.execute("CREATE FUNCTION reads(integer) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM tags'")
    help_desk.execute(f"CREATE FUNCTION mine{function}".encode())
    select = "SELECT id, mine(id) AS m FROM tags"
    help_desk.execute(f"CREATE VIEW by_view AS {select}")
    for each in (select, "SELECT id, m FROM by_view"):
        (problem,) = derive(each, ("id",), read_catalog(help_desk, each)).problems
        assert "outside pg_catalog" in problem.reason


@pytest.mark.parametrize(
    "body",
    [
        "sql AS 'SELECT lower(trim(both from $1))'",
        "sql RETURN lower($1)",
        "plpgsql AS 'BEGIN RETURN lower($1); END'",
    ],
)
def test_an_immutable_function_is_an_expression_over_its_row(help_desk: Session, body: str) -> None:
    help_desk.execute(f"CREATE FUNCTION mine(text) RETURNS text IMMUTABLE LANGUAGE {body}".encode())
    select = "SELECT id, mine(name) AS m FROM tags"
    help_desk.execute(f"CREATE VIEW by_view AS {select}")
    for each in (select, "SELECT id, m FROM by_view"):
        lineage = derive(each, ("id",), read_catalog(help_desk, each))
        assert not lineage.problems
        assert {path.description for path in lineage.paths} == {"tags(id)"}


def test_unaccent_is_an_expression_over_its_row(help_desk: Session) -> None:
    help_desk.execute("CREATE EXTENSION unaccent")
    select = "SELECT id, unaccent(name) AS m FROM tags"
    assert not derive(select, ("id",), read_catalog(help_desk, select)).problems


def test_a_materialized_view_cannot_be_followed(help_desk: Session) -> None:
    help_desk.execute("CREATE MATERIALIZED VIEW frozen AS SELECT id FROM tags")
    select = "SELECT id FROM frozen"
    (problem,) = derive(select, ("id",), read_catalog(help_desk, select)).problems
    assert problem.sql == "frozen"


@pytest.mark.parametrize("case", [case for case in cases() if case.paths], ids=lambda case: case.says)
def test_every_look_up_of_a_case_can_be_prepared_and_clock_columns_recomputed(case: Case, help_desk: Session) -> None:
    lineage = derive(case.select, case.key, catalog(case.views))
    for name, definition in reversed(case.views.items()):
        help_desk.execute(f"CREATE VIEW {name} AS {definition}".encode())
    for path in lineage.paths:
        if path.lookup is not None:
            arrays: list[list[object]] = [[] for _ in path.start]
            rows = help_desk.execute(path.lookup.encode(), arrays, prepare=True).fetchall()
            assert rows == []
    for name, expression in lineage.clock.items():
        if expression is not None:
            help_desk.execute(
                "INSERT INTO conversations VALUES (1, 1, 1, 1, 3, gen_random_uuid(), now() - interval '2 days',"
                " now() - interval '3 hours', now()), (2, 1, 1, 1, 1, gen_random_uuid(), now(), NULL, now())"
                " ON CONFLICT DO NOTHING"
            )
            help_desk.execute(
                "INSERT INTO messages VALUES (1, 1, 1, NULL, NULL, NULL, false, now() - interval '1 day')"
                " ON CONFLICT DO NOTHING"
            )
            again = f"SELECT {name} IS NOT DISTINCT FROM ({expression}) FROM ({case.select}) AS stored"
            verdicts = help_desk.execute(again.encode()).fetchall()
            assert verdicts
            assert all(same for (same,) in verdicts)


def test_an_array_is_given_to_a_look_up_as_its_text(help_desk: Session) -> None:
    help_desk.execute("INSERT INTO tags VALUES (1, 'late'), (2, 'angry, loud'), (3, 'other')")
    select = "SELECT t.id, m.content FROM tags t JOIN messages m ON t.name = ANY (m.tags)"
    (lookup,) = [path.lookup for path in derive(select, ("id",), catalog({})).paths if path.lookup]
    found = help_desk.execute(lookup.encode(), [["{late,nothing}", '{"angry, loud"}', None]]).fetchall()
    assert sorted(found) == [(1,), (2,)]


# No key goes unread


def _value(draw: random.Random, table: str, column: str) -> str:
    if column == "id":
        return str(draw.randint(1, 5))
    if (table, column) not in REQUIRED and draw.random() < 0.2:
        return "NULL"
    return str(draw.randint(1, 3))


def _write(draw: random.Random) -> str:
    table = draw.choice(sorted(TABLES))
    columns = TABLES[table]
    which = f"WHERE id = {draw.randint(1, 5)}"
    kind = draw.random()
    if kind < 0.35:
        values = ", ".join(_value(draw, table, column) for column in columns)
        taken = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
        return f"INSERT INTO {table} VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {taken}"
    if kind < 0.75:
        column = draw.choice(columns[1:])
        return f"UPDATE {table} SET {column} = {_value(draw, table, column)} {which}"
    return f"DELETE FROM {table} {which}"


def _fill(session: Session, draw: random.Random) -> None:
    for table, columns in TABLES.items():
        for key in range(1, 6):
            if draw.random() < 0.8:
                values = ", ".join([str(key), *(_value(draw, table, column) for column in columns[1:])])
                session.execute(f"INSERT INTO {table} VALUES ({values})".encode())


def _resolved(session: Session, outputs: tuple[str, ...]) -> Lineage | None:
    """The lineage by the first output that gives one without problems."""
    read = read_catalog(session, TOP)
    lineages = (derive(TOP, (name,), read) for name in outputs)
    return next((lineage for lineage in lineages if not lineage.problems), None)


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_key_whose_rows_a_write_changed_was_dirtied(small_tables: Session, draw: random.Random) -> None:
    with small_tables.transaction(force_rollback=True):
        views = Views(draw)
        sql, outputs = views.select(2)
        for each in (*views.created, f"CREATE VIEW top AS {sql}"):
            small_tables.execute(each.encode())
        lineage = _resolved(small_tables, outputs)
        assume(lineage is not None)
        assert lineage is not None
        for _ in range(3):
            with small_tables.transaction(force_rollback=True):
                _fill(small_tables, draw)
                writes = [_write(draw) for _ in range(draw.choice([1, 1, 2, 4]))]
                assert not missed(small_tables, TOP, lineage, writes, SMALL_TABLES), (sql, views.created, writes)


def _misses(session: Session, lineage: Lineage, rounds: int) -> bool:
    """Whether a changed key was missed in some of so many random rounds on the seed view."""
    draw = random.Random(7)
    for _ in range(rounds):
        with session.transaction(force_rollback=True):
            _fill(session, draw)
            if missed(session, TOP, lineage, [_write(draw)], SMALL_TABLES):
                return True
    return False


def test_the_seed_view_is_resolved_and_nothing_is_missed(small_tables: Session) -> None:
    small_tables.execute(SEED_VIEW.encode())
    lineage = derive(TOP, ("k",), read_catalog(small_tables, TOP))
    assert not lineage.problems
    assert {path.description for path in lineage.paths} == {
        "ta(id)",
        "tb(a)",
        "tc(id) → tb t1 (t1.x = tc.id) → t1.a",
    }
    assert not _misses(small_tables, lineage, rounds=100)


@pytest.mark.parametrize("table", ["ta", "tb", "tc"])
def test_a_path_taken_away_is_noticed(small_tables: Session, table: str) -> None:
    small_tables.execute(SEED_VIEW.encode())
    lineage = derive(TOP, ("k",), read_catalog(small_tables, TOP))
    kept = tuple(path for path in lineage.paths if path.table != ("public", table))
    assert _misses(small_tables, replace(lineage, paths=kept), rounds=1000)


@pytest.mark.parametrize(("table", "column"), [("ta", "x"), ("tb", "a"), ("tb", "x"), ("tb", "y"), ("tc", "y")])
def test_a_used_column_taken_away_is_noticed(small_tables: Session, table: str, column: str) -> None:
    small_tables.execute(SEED_VIEW.encode())
    lineage = derive(TOP, ("k",), read_catalog(small_tables, TOP))
    name = ("public", table)
    assert column in lineage.sources[name]
    fewer = {**lineage.sources, name: lineage.sources[name] - {column}}
    assert _misses(small_tables, replace(lineage, sources=fewer), rounds=1000)
