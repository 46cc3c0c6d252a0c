"""Are the rows of every tenant in the target exactly those of its inboxes in the source?

A witness, not a part of the product: nothing of it is imported, and both servers do the work themselves. Each gives
one md5 per row, over the text of all columns that the source's catalogue names, in sessions that print values alike;
here the digests are only laid side by side. The caller sees to it that nothing is on its way while both are read.

Expected of a tenant are the rows of its active inboxes. Its rows of an inbox that is mapped to it but not active count
neither way; stubs (synced_at IS NULL) are not rows yet; everything else that it holds is extra.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest

import psycopg
from psycopg import sql
from rich.table import Table

# The inbox of a row of each compared table.
INBOX_COLUMN = {"inboxes": "id", "conversations": "inbox_id", "messages": "inbox_id", "contact_inboxes": "inbox_id"}
EXAMPLES = 5
# Both servers must print the same text for the same value, whatever their own settings and versions.
SESSION = (
    "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c extra_float_digits=1"
    " -c lc_monetary=C -c statement_timeout=300s -c application_name=compare"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One table of one tenant: how many rows are alike and how many are not, with the first ids of those."""

    tenant: int
    table: str
    equal: int
    missing: int
    """In the source, not in the target."""
    extra: int
    """In the target, though not the tenant's, or no longer in the source."""
    different: int
    """In both, with different values."""
    missing_ids: tuple[int, ...] = ()
    extra_ids: tuple[int, ...] = ()
    different_ids: tuple[int, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing is amiss."""
        return not (self.missing or self.extra or self.different)


@dataclass(frozen=True, slots=True)
class _Inboxes:
    active: list[int]
    inactive: list[int]


def compare(
    source_dsn: str, target_dsn: str, *, schema: str = "public", tables: Sequence[str] = tuple(INBOX_COLUMN)
) -> list[Comparison]:
    """Compare each table for each tenant that has a mapping or a row.

    LookupError if a table of the target lacks a column of the source's.
    """
    with _reading(source_dsn) as source, _reading(target_dsn) as target:
        columns = {table: _columns(source, "public", table) for table in tables}
        for table in tables:
            _require_columns(target, schema, table, columns[table])
        owned = _tenants(target, schema, tables)
        return [
            _compared(
                tenant,
                table,
                _expected(source, table, columns[table], inboxes),
                _present(target, schema, table, columns[table], tenant, inboxes),
            )
            for tenant, inboxes in sorted(owned.items())
            for table in tables
        ]


def all_equal(results: Iterable[Comparison]) -> bool:
    """Whether every table of every tenant is the same on both sides."""
    return all(result.same for result in results)


def render(results: Iterable[Comparison]) -> Table:
    """The comparison as a table for the terminal."""
    table = Table("tenant", title="source and target, row by row")
    table.add_column("table", no_wrap=True)
    for heading in ("equal", "missing", "extra", "different"):
        table.add_column(heading, justify="right")
    table.add_column("examples")
    for result in results:
        figures = [f"{count:,}" for count in (result.equal, result.missing, result.extra, result.different)]
        style = None if result.same else "bold red"
        table.add_row(str(result.tenant), result.table, *figures, _examples(result), style=style)
    return table


def _examples(result: Comparison) -> str:
    kinds = {"missing": result.missing_ids, "extra": result.extra_ids, "different": result.different_ids}
    return "; ".join(f"{kind} {', '.join(map(str, ids))}" for kind, ids in kinds.items() if ids)


def _reading(dsn: str) -> psycopg.Connection:
    connection = psycopg.connect(dsn, options=SESSION, connect_timeout=10)
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def _columns(connection: psycopg.Connection, schema: str, table: str) -> list[str]:
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        [f"{schema}.{table}"],
    )
    return [name for (name,) in rows]


def _require_columns(target: psycopg.Connection, schema: str, table: str, wanted: Sequence[str]) -> None:
    there = _columns(target, schema, table)
    lacking = [column for column in wanted if column not in there]
    if lacking:
        raise LookupError(f"the target's {schema}.{table} lacks {', '.join(lacking)}")


def _tenants(target: psycopg.Connection, schema: str, tables: Sequence[str]) -> dict[int, _Inboxes]:
    """The inboxes of every tenant that is named in the mapping or holds a row."""
    mapping = sql.SQL(
        "SELECT tenant_id, coalesce(array_agg(inbox_id) FILTER (WHERE is_active), '{{}}'),"
        " coalesce(array_agg(inbox_id) FILTER (WHERE is_active IS NOT TRUE), '{{}}')"
        " FROM {} GROUP BY tenant_id"
    ).format(sql.Identifier(schema, "inbox_tenant_mapping"))
    owned = {tenant: _Inboxes(active, inactive) for tenant, active, inactive in target.execute(mapping)}
    for table in tables:
        holders = sql.SQL("SELECT DISTINCT tenant_id FROM {}").format(sql.Identifier(schema, table))
        for (tenant,) in target.execute(holders):
            owned.setdefault(tenant, _Inboxes([], []))
    return owned


def _digest(columns: Sequence[str]) -> sql.Composed:
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
    return sql.SQL("md5(ROW({})::text)").format(texts)


def _expected(source: psycopg.Connection, table: str, columns: Sequence[str], inboxes: _Inboxes) -> dict[int, str]:
    query = sql.SQL("SELECT id, {} FROM {} WHERE {} = ANY (%s)").format(
        _digest(columns), sql.Identifier("public", table), sql.Identifier(INBOX_COLUMN[table])
    )
    return dict(source.execute(query, [inboxes.active]).fetchall())


def _present(
    target: psycopg.Connection, schema: str, table: str, columns: Sequence[str], tenant: int, inboxes: _Inboxes
) -> dict[int, str]:
    query = sql.SQL(
        "SELECT id, {} FROM {} WHERE tenant_id = %s AND synced_at IS NOT NULL AND ({} = ANY (%s)) IS NOT TRUE"
    ).format(_digest(columns), sql.Identifier(schema, table), sql.Identifier(INBOX_COLUMN[table]))
    return dict(target.execute(query, [tenant, inboxes.inactive]).fetchall())


def _compared(tenant: int, table: str, expected: Mapping[int, str], present: Mapping[int, str]) -> Comparison:
    missing, extra = expected.keys() - present.keys(), present.keys() - expected.keys()
    different = {key for key in expected.keys() & present.keys() if expected[key] != present[key]}
    return Comparison(
        tenant=tenant,
        table=table,
        equal=len(expected) - len(missing) - len(different),
        missing=len(missing),
        extra=len(extra),
        different=len(different),
        missing_ids=tuple(nsmallest(EXAMPLES, missing)),
        extra_ids=tuple(nsmallest(EXAMPLES, extra)),
        different_ids=tuple(nsmallest(EXAMPLES, different)),
    )
