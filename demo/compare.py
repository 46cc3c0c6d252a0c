"""Are the rows of every tenant in the target exactly those of its inboxes in the source?

A witness, not a part of the product: nothing of it is imported, and both servers do the work themselves. Each gives
one md5 per row, over the text of all columns that the source's catalogue names, in sessions that print values alike;
here the digests are only laid side by side. The caller sees to it that nothing is on its way while both are read.

Expected of a tenant are the rows of its active inboxes; a contact is of every inbox where a link or a conversation
names it, a survey answer of its conversation's. Its rows of inboxes that are mapped to it but not active count neither
way; stubs (synced_at IS NULL) are not rows yet; everything else that it holds is extra.

What the clock alone changes has no single right value: it is read in the source, then in the target, then in the
source again, and the target must say what the source said before or after, or a number in between. For that the
servers' clocks must agree. What the source says of a lead must be the target's, column by column; where it says nothing
the target finds it out itself.
"""

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from heapq import nsmallest

import psycopg
from psycopg import sql
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

VIEW = "vw_conversations_analytics_final"
CLOCK = (
    *("waiting_time_seconds", "is_snoozed", "is_waiting_long", "days_since_creation"),
    *("is_today", "is_yesterday", "is_this_week", "is_this_month", "is_this_year"),
)
LEADS = ("is_lead", "visit_scheduled", "crm_converted", "ai_probability_label", "ai_probability_score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What is compared under the name of a table of the target."""

    expected: str
    """Rows of the source, of the inboxes %(inboxes)s."""
    described_by: str
    """The source's table or view whose columns are compared."""
    beside: tuple[str, ...] = ()
    """Columns that the rows have beside those."""
    key: str = "id"
    read: str = ""
    """What shows the rows in the target, if not the table itself."""
    clock: tuple[str, ...] = ()
    leads: tuple[str, ...] = ()
    inbox: str = "inbox_id"
    """Its column in the target; empty: what refers to the row says it."""


def _streamed(table: str, inbox: str = "inbox_id") -> Compared:
    rows = f"SELECT * FROM public.{table} WHERE {inbox} = ANY (%(inboxes)s)"
    return Compared(expected=rows, described_by=table, inbox=inbox)


COMPARED = {
    "inboxes": _streamed("inboxes", "id"),
    "conversations": _streamed("conversations"),
    "messages": _streamed("messages"),
    "contact_inboxes": _streamed("contact_inboxes"),
    "contacts": Compared(
        expected="SELECT * FROM public.contacts WHERE id IN ("
        "SELECT contact_id FROM public.contact_inboxes WHERE inbox_id = ANY (%(inboxes)s)"
        " UNION ALL SELECT contact_id FROM public.conversations WHERE inbox_id = ANY (%(inboxes)s))",
        described_by="contacts",
        inbox="",
    ),
    "csat_survey_responses": Compared(
        expected="SELECT answer.*, c.inbox_id FROM public.csat_survey_responses AS answer"
        " JOIN public.conversations AS c ON c.id = answer.conversation_id WHERE c.inbox_id = ANY (%(inboxes)s)",
        described_by="csat_survey_responses",
        beside=("inbox_id",),
    ),
    "conversations_analytics": Compared(
        # A conversation that was surveyed twice has two rows: the newest answer counts.
        expected=f"SELECT DISTINCT ON (conversation_id) * FROM public.{VIEW} WHERE inbox_id = ANY (%(inboxes)s)"
        " ORDER BY conversation_id, csat_response_id DESC NULLS LAST",
        described_by=VIEW,
        key="conversation_id",
        read="conversations_analytics_live",
        clock=CLOCK,
        leads=LEADS,
    ),
}
TABLES = tuple(COMPARED)
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


Row = tuple[str | None, ...]
"""The digest of a row's columns, what is said of leads, then the columns that the clock changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Of a table, as far as the source has them."""

    settled: Sequence[str]
    leads: Sequence[str]
    clock: Sequence[str]


def compare(
    source_dsn: str, target_dsn: str, *, schema: str = "public", tables: Sequence[str] = TABLES
) -> list[Comparison]:
    """Compare each table for each tenant that has a mapping or a row.

    LookupError if the source lacks a table or the view, or a table of the target a column of the source's.
    """
    with closing(_one_by_one(source_dsn, target_dsn, schema, tables)) as results:
        return list(results)


def is_equal(source_dsn: str, target_dsn: str, *, tables: Sequence[str] = TABLES) -> bool:
    """Whether `compare` would find nothing amiss: whoever waits for that reads no further than the first difference."""
    with closing(_one_by_one(source_dsn, target_dsn, "public", tables)) as results:
        return all_equal(results)


def _one_by_one(
    source_dsn: str, target_dsn: str, schema: str, tables: Sequence[str]
) -> Generator[Comparison, None, None]:
    with _reading(source_dsn) as source, _reading(target_dsn) as target:
        columns = {table: _columns_of(source, COMPARED[table]) for table in tables}
        for table in tables:
            _require_columns(target, schema, COMPARED[table].read or table, columns[table])
        owned = _tenants(target, schema, tables)
        for tenant, inboxes in sorted(owned.items()):
            for table in tables:
                yield _compare_one(source, target, schema, table, columns[table], tenant, inboxes)


def _compare_one(
    source: psycopg.Connection,
    target: psycopg.Connection,
    schema: str,
    table: str,
    columns: Sequence[str],
    tenant: int,
    inboxes: _Inboxes,
) -> Comparison:
    shown = COMPARED[table]
    clock = [column for column in shown.clock if column in columns]
    leads = [column for column in shown.leads if column in columns]
    settled = [column for column in columns if column not in (*clock, *leads)]
    read = _Columns(settled=settled, leads=leads, clock=clock)
    expected = _expected(source, shown, read, inboxes)
    present = _present(target, schema, table, read, tenant, inboxes)
    if not clock:
        return _compared(tenant, table, expected, present, expected)
    source.commit()  # now() stands still in a transaction
    target.commit()
    again = _expected(source, shown, _Columns(settled=(), leads=(), clock=clock), inboxes)
    return _compared(tenant, table, expected, present, again)


def all_equal(results: Iterable[Comparison]) -> bool:
    """Whether every table of every tenant is the same on both sides."""
    return all(result.same for result in results)


def render(results: Iterable[Comparison]) -> RenderableType:
    """The comparison as a table for a terminal of 80 columns; below it the first ids of what differs."""
    table = Table("tenant", title="source and target, row by row")
    table.add_column("table", no_wrap=True)
    for heading in ("equal", "missing", "extra", "different"):
        table.add_column(heading, justify="right", no_wrap=True)
    examples = []
    for result in results:
        figures = [f"{count:,}" for count in (result.equal, result.missing, result.extra, result.different)]
        style = None if result.same else "bold red"
        table.add_row(str(result.tenant), result.table, *figures, style=style)
        if not result.same:
            examples.append(Text(f"tenant {result.tenant}, {result.table}: {_examples(result)}", style="bold red"))
    return Group(table, *examples)


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


def _columns_of(source: psycopg.Connection, shown: Compared) -> list[str]:
    found = _columns(source, "public", shown.described_by)
    if not found:
        raise LookupError(f"the source has no {shown.described_by}")
    return [*found, *shown.beside]


def _values(columns: _Columns) -> sql.Composed:
    settled, leads, clock = (
        [sql.SQL("{}::text").format(sql.Identifier(column)) for column in kind]
        for kind in (columns.settled, columns.leads, columns.clock)
    )
    said: sql.Composable = sql.SQL("NULL")
    if leads:
        named = [
            sql.SQL("{}, {}").format(sql.Literal(name), value) for name, value in zip(columns.leads, leads, strict=True)
        ]
        said = sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))::text").format(sql.SQL(", ").join(named))
    return sql.SQL(", ").join([sql.SQL("md5(ROW({})::text)").format(sql.SQL(", ").join(settled)), said, *clock])


def _expected(
    source: psycopg.Connection,
    shown: Compared,
    columns: _Columns,
    inboxes: _Inboxes,
) -> dict[int, Row]:
    query = sql.SQL("SELECT {}, {} FROM ({}) AS r").format(
        sql.Identifier(shown.key), _values(columns), sql.SQL(shown.expected)
    )
    return {key: tuple(values) for key, *values in source.execute(query, {"inboxes": inboxes.active})}


def _present(
    target: psycopg.Connection,
    schema: str,
    table: str,
    columns: _Columns,
    tenant: int,
    inboxes: _Inboxes,
) -> dict[int, Row]:
    shown = COMPARED[table]
    query = sql.SQL(
        "SELECT r.{key}, {values} FROM {read} AS r WHERE r.tenant_id = %(tenant)s AND {inactive} IS NOT TRUE"
        " AND EXISTS (SELECT FROM {table} AS stored WHERE stored.tenant_id = r.tenant_id AND stored.{key} = r.{key}"
        " AND stored.synced_at IS NOT NULL)"
    ).format(
        key=sql.Identifier(shown.key),
        values=_values(columns),
        read=sql.Identifier(schema, shown.read or table),
        table=sql.Identifier(schema, table),
        inactive=_of_inactive(schema, shown),
    )
    given = {"tenant": tenant, "inactive": inboxes.inactive}
    return {key: tuple(values) for key, *values in target.execute(query, given)}


def _of_inactive(schema: str, shown: Compared) -> sql.Composed:
    if shown.inbox:
        return sql.SQL("(r.{} = ANY (%(inactive)s))").format(sql.Identifier(shown.inbox))
    references = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT c.inbox_id FROM {} AS c WHERE c.tenant_id = r.tenant_id AND c.contact_id = r.id").format(
            sql.Identifier(schema, table)
        )
        for table in ("contact_inboxes", "conversations")
    )
    return sql.SQL("(SELECT bool_and(c.inbox_id = ANY (%(inactive)s)) FROM ({}) AS c)").format(references)


def _is_same(before: Row, found: Row, after: Row) -> bool:
    is_settled = before[0] == found[0] and _said(before[1]).items() <= _said(found[1]).items()
    return is_settled and all(map(_is_between, before[2:], found[2:], after[2:]))


def _said(leads: str | None) -> dict[str, str]:
    """The columns of leads that hold something."""
    return json.loads(leads) if leads is not None else {}


def _is_between(before: str | None, found: str | None, after: str | None) -> bool:
    if found in (before, after):
        return True
    try:
        return int(before or "") <= int(found or "") <= int(after or "")
    except ValueError:
        return False


def _compared(
    tenant: int, table: str, expected: Mapping[int, Row], present: Mapping[int, Row], again: Mapping[int, Row]
) -> Comparison:
    """`again`: the clock's columns as the source has them by now."""
    missing, extra = expected.keys() - present.keys(), present.keys() - expected.keys()
    both = expected.keys() & present.keys()
    different = {key for key in both if not _is_same(expected[key], present[key], again.get(key, expected[key]))}
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
