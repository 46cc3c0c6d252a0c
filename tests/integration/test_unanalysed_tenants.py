"""A tenant whose rows are newer than the tables' statistics: each row is found by its key, not among all it has."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from psycopg import Connection

from consumers import upsert
from consumers.ordering import Event
from consumers.relation import Relation, form
from consumers.target import _PLANS_S
from demo.servers import wait_until
from replicator import TableSchema
from tests.histories import Source, Write
from tests.integration.applied import Applied
from tests.integration.test_apply_rules import change

KNOWN, NEW, INBOX = 20, 1, 11
Stage = Callable[[str, int], None]
ROWS, FEW = 2000, 150
"""Few are enough where no table was ever analysed: the planner takes the tenant to have one."""
TABLES = ("contacts", "conversations", "contact_inboxes", "messages")
LOADED = (
    "INSERT INTO {table} (tenant_id, id{columns}, source_epoch, synced_at)"
    " SELECT {tenant}, g{values}, 1, now() FROM generate_series(1, {rows}) AS g"
)
COLUMNS = {"messages": ("conversation_id",), "conversations": ("contact_id",), "contact_inboxes": ("contact_id",)}
GIVEN = {"tenant": NEW, "load": 1, "step": 0, "form": 0, "epoch": 1, "point": 9, "ordinal": 0}


def load(applied: Applied, tenants: Sequence[int], rows: int) -> None:
    """So many rows of each table for each tenant. Statistics know KNOWN alone, or nothing."""
    applied.add_tenant(KNOWN)
    applied.add_tenant(NEW, [INBOX])
    with applied.target.connected() as loading:
        loading.execute("SET session_replication_role = replica")
        empty(loading)
        for tenant in tenants:
            fill(loading, tenant, rows)
            if tenant == KNOWN:
                loading.execute(f"ANALYZE {', '.join(TABLES)}".encode())


def empty(loading: Connection[Any]) -> None:
    loading.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE".encode())  # or their size would tell of earlier rows
    loading.execute("DELETE FROM pg_statistic WHERE starelid = ANY (%s::regclass[])", [list(TABLES)])


def fill(loading: Connection[Any], tenant: int, rows: int) -> None:
    for table in TABLES:
        inbox = () if table == "contacts" else (("inbox_id", INBOX),)
        given = (*inbox, *((column, "g") for column in COLUMNS.get(table, ())))
        columns, values = ("".join(f", {each[part]}" for each in given) for part in (0, 1))
        statement = LOADED.format(table=table, columns=columns, values=values, tenant=tenant, rows=rows)
        loading.execute(f"{statement} ON CONFLICT DO NOTHING".encode())


@pytest.fixture
def staged(applied: Applied) -> Iterator[Stage]:
    """Makes deletes of a table's first rows stand in the session's staging table."""
    session = applied.session.connection

    def stage(table: str, rows: int) -> None:
        session.execute(
            "INSERT INTO pg_temp.staged_deletes SELECT 1, 0, %s, g, NULL, 1, 1, 1 FROM generate_series(1, %s) AS g",
            [table, rows],
        )

    yield stage
    session.execute("TRUNCATE pg_temp.staged_deletes")


def statements(relation: Relation) -> Iterator[str]:
    """Those that look up rows one by one."""
    columns = tuple((name, relation.columns[name]) for name in (relation.key, *relation.data))
    schema = TableSchema(table=relation.name, columns=columns, key=(relation.key,), inbox="")
    of_all = form(relation, schema, ())
    yield from upsert.make_parents(of_all)
    for found in (
        upsert.note_parents_left(of_all),
        upsert.empty(of_all),
        upsert.partial_stubs(of_all),
        upsert.note_parents_of_deleted(relation),
        upsert.delete(relation),
        upsert.wipe(relation),
        upsert.delete_orphans(relation),
    ):
        if found is not None:
            yield found


def by_tenant_alone(plan: list[tuple[str]]) -> list[str]:
    """Indexes of the filled tables that are read for all of the tenant's rows. That of stubs has few."""
    text = "".join(f"{line}\n" for (line,) in plan)
    found = re.findall(r" using (\w+) on (\w+) .*\n\s*Index Cond: \(tenant_id = [^=]*\)\n", text)
    return [index for index, table in found if table in TABLES and not index.endswith("_stubs")]


def plans(applied: Applied, table: str, command: str) -> Iterator[tuple[str, list[tuple[str]]]]:
    session = applied.session.connection
    for statement in statements(applied.relations[table]):
        with session.transaction(force_rollback=True):
            session.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(NEW)])
            given = {name: value for name, value in GIVEN.items() if f"%({name})s" in statement}
            yield statement, session.execute(f"{command} {statement}".encode(), given).fetchall()


@pytest.mark.parametrize("table", TABLES)
def test_a_row_is_found_by_its_key(applied: Applied, staged: Stage, table: str) -> None:
    load(applied, (KNOWN, NEW), ROWS)
    staged("messages", 1000)
    for statement, plan in plans(applied, table, "EXPLAIN"):
        assert by_tenant_alone(plan) == [], statement


def kept(applied: Applied) -> list[str]:
    """Indexes that the session's kept plans read for all of a tenant's rows."""
    session = applied.session.connection
    found: list[str] = []
    with session.transaction():
        session.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for name, parameters in session.execute(
            "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements"
            " WHERE 'integer'::regtype = ALL (parameter_types)"
        ).fetchall():
            values = ", ".join(["1"] * parameters)
            found += by_tenant_alone(session.execute(f"EXPLAIN EXECUTE {name} ({values})".encode()).fetchall())
    return found


def test_a_plan_that_was_made_for_empty_tables_is_kept_for_a_second_only(applied: Applied) -> None:
    load(applied, (), 0)
    history = Source()

    def write() -> None:
        before = len(history.published)
        history.carry_out(Write("messages", before + 1, INBOX, None, long=True))
        applied.apply(NEW, history.published[before:], [INBOX])

    def is_kept_for_empty_tables() -> bool:
        """The server may make plans anew by itself: after autovacuum, or when others' DDL overflows its queue."""
        with applied.target.connected() as loading:
            loading.execute("SET session_replication_role = replica")
            empty(loading)
            applied.session.use(applied.relations)  # nothing is planned yet
            write()
            fill(loading, NEW, ROWS)
        return kept(applied) != []

    wait_until(is_kept_for_empty_tables, "a plan of empty tables is kept", 60)
    wait_until(lambda: time.monotonic() > applied.session._planned_at + _PLANS_S, "a second is over", 10)
    write()
    assert kept(applied) == []


@pytest.mark.parametrize("table", TABLES)
def test_what_is_staged_is_read_once_and_not_for_each_row_that_the_tenant_has(
    applied: Applied, staged: Stage, table: str
) -> None:
    load(applied, (NEW,), FEW)
    staged(table, FEW - 30)
    read = 0
    for statement, plan in plans(applied, table, "EXPLAIN (ANALYZE, TIMING OFF)"):
        times = [int(times) for (line,) in plan for times in re.findall(r" on staged_\w+ .* loops=(\d+)", line)]
        read += len(times)
        assert max(times, default=0) <= 1, statement
    assert read >= 3


def test_parents_of_many_rows_are_looked_up_by_key_by_a_session_that_began_with_few(applied: Applied) -> None:
    load(applied, (), 0)
    applied.apply(NEW, [child(row, row % 9) for row in range(1, 1 + ROWS)])
    before = looked_at(applied)
    for first in (10_000, 20_000):
        applied.apply(NEW, [child(row, row) for row in range(first, first + ROWS)])
    read = looked_at(applied) - before
    assert read < 2 * ROWS * FEW, "a table of a few rows may be read through, for each of ours; not one of thousands"


def child(row: int, conversation: int) -> Event:
    """A message whose conversation nobody has brought."""
    return change("c", "messages", row, row, INBOX, conversation_id=conversation)


def looked_at(applied: Applied) -> int:
    """Index entries of conversations that were read so far."""
    applied.session.connection.execute("SELECT pg_stat_force_next_flush()")
    query = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'conversations'"
    ((read,),) = applied.target.rows(query)
    return int(read)
