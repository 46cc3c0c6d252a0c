"""A tenant whose rows are newer than the tables' statistics: each row is found by its key, not among all it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from consumers import upsert
from consumers.upsert import Relation
from replicator import TableSchema
from tests.integration.applied import Applied

KNOWN, NEW, INBOX = 20, 1, 11
ROWS = 2000
TABLES = ("contacts", "conversations", "contact_inboxes", "messages")
LOADED = (
    "INSERT INTO {table} (tenant_id, id{columns}, source_epoch, synced_at)"
    " SELECT {tenant}, g{values}, 1, now() FROM generate_series(1, {rows}) AS g"
)
COLUMNS = {"messages": ("conversation_id",), "conversations": ("contact_id",), "contact_inboxes": ("contact_id",)}
GIVEN = {"tenant": NEW, "load": 1, "step": 0, "form": 0, "epoch": 1, "point": 9, "ordinal": 0}


@pytest.fixture
def unanalysed(applied: Applied) -> Iterator[Applied]:
    """Statistics know one tenant; the other has as many rows, and some of them are staged."""
    applied.add_tenant(KNOWN)
    applied.add_tenant(NEW, [INBOX])
    with applied.target.connected() as loading:
        loading.execute("SET session_replication_role = replica")
        for tenant in (KNOWN, NEW):
            for table in TABLES:
                inbox = () if table == "contacts" else (("inbox_id", INBOX),)
                given = (*inbox, *((column, "g") for column in COLUMNS.get(table, ())))
                columns, values = ("".join(f", {each[part]}" for each in given) for part in (0, 1))
                statement = LOADED.format(table=table, columns=columns, values=values, tenant=tenant, rows=ROWS)
                loading.execute(statement.encode())
            if tenant == KNOWN:
                loading.execute(f"ANALYZE {', '.join(TABLES)}".encode())
    session = applied.session.connection
    session.execute("INSERT INTO pg_temp.staged_deletes SELECT 1, 0, 'messages', g FROM generate_series(1, 1000) AS g")
    yield applied
    session.execute("TRUNCATE pg_temp.staged_deletes")


def statements(relation: Relation) -> Iterator[str]:
    """Those that look up rows one by one."""
    columns = tuple((name, relation.columns[name]) for name in (relation.key, *relation.data))
    schema = TableSchema(table=relation.name, columns=columns, key=(relation.key,), inbox="")
    form = upsert.form(relation, schema, ())
    yield from upsert.make_parents(form)
    for found in (
        upsert.note_parents_left(form),
        upsert.empty(form),
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


@pytest.mark.parametrize("table", TABLES)
def test_a_row_is_found_by_its_key(unanalysed: Applied, table: str) -> None:
    session: Any = unanalysed.session.connection
    for statement in statements(unanalysed.relations[table]):
        with session.transaction(force_rollback=True):
            session.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(NEW)])
            given = {name: value for name, value in GIVEN.items() if f"%({name})s" in statement}
            plan = session.execute(f"EXPLAIN {statement}".encode(), given).fetchall()
        assert by_tenant_alone(plan) == [], statement
