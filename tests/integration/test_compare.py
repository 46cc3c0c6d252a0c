"""The witness sees what it must see: a missing, an extra and a different row, and nothing else."""

import ast
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from demo import compare as witness
from demo.compare import Comparison, all_equal, compare, render
from demo.source.seed import seed
from demo.verdict import judge

TABLES = tuple(witness.INBOX_COLUMN)


@pytest.fixture
def replicated(source_dsn: str, target_dsn: str) -> tuple[str, str]:
    """Two tenants with two inboxes each (3 is inactive), copied faithfully by hand."""
    seed(source_dsn, tenants=2, inboxes_per_tenant=2, conversations=120, messages_per_conversation=4)
    with psycopg.connect(source_dsn) as source, psycopg.connect(target_dsn) as target:
        target.execute(
            "CREATE TABLE inbox_tenant_mapping (inbox_id integer PRIMARY KEY, tenant_id integer, is_active bool)"
        )
        target.execute(
            "INSERT INTO inbox_tenant_mapping VALUES (1, 10, true), (2, 10, true), (3, 20, false), (4, 20, true)"
        )
        for table, inbox in witness.INBOX_COLUMN.items():
            _copy(source, target, table, inbox)
    return source_dsn, target_dsn


def _copy(source: psycopg.Connection, target: psycopg.Connection, table: str, inbox: str) -> None:
    columns = source.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        [table],
    ).fetchall()
    # The order of the columns is not the source's, as after an ALTER TABLE ADD COLUMN.
    listed = ", ".join(f'"{name}" {kind}' for name, kind in reversed(columns))
    target.execute(f"CREATE TABLE {table} (tenant_id integer, {listed}, synced_at timestamptz DEFAULT now())")
    names = ", ".join(f'"{name}"' for name, _ in columns)
    rows = f"SELECT CASE WHEN {inbox} < 3 THEN 10 ELSE 20 END, {names} FROM {table} WHERE {inbox} IS NOT NULL"
    with (
        source.cursor().copy(f"COPY ({rows}) TO STDOUT") as reading,
        target.cursor().copy(f"COPY {table} (tenant_id, {names}) FROM STDIN") as writing,
    ):
        for block in reading:
            writing.write(block)


def one(results: list[Comparison], tenant: int, table: str) -> Comparison:
    (found,) = [result for result in results if (result.tenant, result.table) == (tenant, table)]
    return found


def change(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1


def test_equal_sides_are_equal(replicated: tuple[str, str]) -> None:
    results = compare(*replicated)
    assert all_equal(results)
    assert judge(results, [10, 20], []).exit_code == 0
    assert [(result.tenant, result.table) for result in results] == [(t, table) for t in (10, 20) for table in TABLES]
    assert one(results, 10, "messages").equal > 100
    assert one(results, 20, "inboxes").equal == 1  # the other one is not active


def test_a_missing_an_extra_and_a_different_row_are_seen(replicated: tuple[str, str]) -> None:
    source, target = replicated
    with psycopg.connect(source) as connection:
        (mine,) = (
            connection.execute("SELECT array_agg(id ORDER BY id) FROM messages WHERE inbox_id = 1").fetchone() or ()
        )
    change(
        target,
        f"DELETE FROM messages WHERE id = {mine[0]}",
        f"UPDATE messages SET content = content || ' ' WHERE id = {mine[1]}",
        f"INSERT INTO messages SELECT * FROM messages WHERE id = {mine[3]}",
        f"UPDATE messages SET id = 999999 WHERE ctid = (SELECT max(ctid) FROM messages WHERE id = {mine[3]})",
    )
    results = compare(source, target)
    found = one(results, 10, "messages")
    assert (found.missing_ids, found.extra_ids, found.different_ids) == ((mine[0],), (999999,), (mine[1],))
    assert (found.missing, found.extra, found.different) == (1, 1, 1)
    assert found.equal == len(expected_ids(source)) - 2
    assert [result for result in results if not result.same] == [found]
    assert not all_equal(results)
    verdict = judge(results, [10, 20], [])
    assert verdict.exit_code == 1
    assert verdict.reasons == ("messages of tenant 10: 1 missing, 1 extra, 1 different",)
    console = Console(record=True, width=140, force_terminal=False)
    console.print(render(results))
    assert f"missing {mine[0]}; extra 999999; different {mine[1]}" in console.export_text()


def expected_ids(source: str) -> list[tuple[object, ...]]:
    with psycopg.connect(source) as connection:
        return connection.execute("SELECT id FROM messages WHERE inbox_id IN (1, 2)").fetchall()


def test_null_is_not_the_empty_text(replicated: tuple[str, str]) -> None:
    source, target = replicated
    change(target, "UPDATE inboxes SET greeting_message = '' WHERE id = 2")
    assert one(compare(source, target), 10, "inboxes").different_ids == (2,)


def test_a_row_under_the_wrong_tenant_is_extra_there(replicated: tuple[str, str]) -> None:
    source, target = replicated
    change(target, "UPDATE inboxes SET tenant_id = 30 WHERE id = 1")
    results = compare(source, target)
    assert one(results, 10, "inboxes").missing_ids == (1,)
    assert one(results, 30, "inboxes").extra_ids == (1,)


def test_a_stub_is_not_a_row(replicated: tuple[str, str]) -> None:
    source, target = replicated
    change(target, "UPDATE inboxes SET synced_at = NULL WHERE id = 4")
    assert one(compare(source, target), 20, "inboxes").missing_ids == (4,)


def test_a_column_that_the_target_lacks_is_named(replicated: tuple[str, str]) -> None:
    source, target = replicated
    with psycopg.connect(target) as connection:
        connection.execute("ALTER TABLE messages DROP COLUMN sentiment")
    with pytest.raises(LookupError, match=r"public\.messages lacks sentiment"):
        compare(source, target)


def test_the_witness_knows_nothing_of_the_product() -> None:
    tree = ast.parse(Path(witness.__file__).read_text())
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in named if name.split(".")[0] in ("replicator", "consumers")]
