"""The last states of rows → SQL that writes them, in the order that foreign keys ask for.

Every statement reads what was staged before (`pg_temp.staged_rows`, `staged_deletes`), writes one table of one tenant,
and compares with the stored row's own position. Placeholders are psycopg's named ones: %(tenant)s, %(load)s, %(step)s,
%(form)s. Foreign keys stay on: a parent that is missing is made as a stub before its child; one that is deleted while
it has children is wiped to a stub; one that may have lost its last child is noted in `pg_temp.orphans`.

A relation without an inbox column (contacts) belongs to a tenant by what refers to it: its absence at one inbox deletes
what nothing refers to and wipes nothing, and it goes, synced or not, with its last reference.

Pure: knows the shape of the target's tables, never a connection.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from consumers.identifiers import doubled, literal, quoted
from consumers.relation import LEAD_COLUMNS, MESSAGES, Form, Relation, is_rewritten

STAGING: Final = (
    """CREATE TEMPORARY TABLE IF NOT EXISTS staged_rows (load integer, step integer, form integer, id bigint,
        epoch bigint, point bigint, ordinal bigint, is_whole boolean, parents bigint[], doc json, leads json)""",
    # Else every statement of a transaction reads what those before it have left: 250 us where 2500 rows are left.
    "CREATE INDEX IF NOT EXISTS staged_rows_load ON pg_temp.staged_rows (load)",
    # Compressing a row that is read once costs twice what writing it does (measured on rows of 6.7 kB).
    "ALTER TABLE pg_temp.staged_rows ALTER COLUMN doc SET STORAGE EXTERNAL",
    """CREATE TEMPORARY TABLE IF NOT EXISTS staged_deletes (load integer, step integer, relation text, id bigint,
        inbox bigint, epoch bigint, point bigint, ordinal bigint)""",
    "CREATE TEMPORARY TABLE IF NOT EXISTS orphans (relation text, id bigint)",
)

STAGE_ROWS: Final = "COPY pg_temp.staged_rows FROM STDIN"
"""One line for each row; `doc` is the row as the event has it (three times as fast as one JSON document of all rows),
`parents` the ids that it names in the order of `Form.parents`, `leads` its lead columns."""
STAGE_DELETES: Final = (
    "INSERT INTO pg_temp.staged_deletes"
    " SELECT %(load)s, x.s, x.r, x.i, x.n, x.e, x.p, x.o FROM json_to_recordset(%(rows)s::json)"
    " AS x (s integer, r text, i bigint, n bigint, e bigint, p bigint, o bigint)"
)

TENANT: Final = "(SELECT %(tenant)s::integer)"
"""The tenant, in conditions on replicated tables. A plan made for its very number would trust statistics that are older
than its rows, and look up each row among all that it has (measured: a minute for 10 000 rows instead of 20 ms)."""
_EACH: Final = "OFFSET 0"
"""Ends a subquery on a stored row: it stays one, and is asked for each row outside by its key. Made a join, it would be
planned by how many rows a tenant has, and without statistics that is one (measured: 2 s for 6 deletes among 131 rows,
as each was looked up among all, for all)."""
_REFER_TO_CONTACTS: Final = frozenset({"conversations", "contact_inboxes"})
_STORED: Final = "(t.source_epoch, t.source_point, t.source_ordinal)"
_STAGED: Final = "s.load = %(load)s AND s.step = %(step)s AND s.form = %(form)s"
_DELETED: Final = "d.load = %(load)s AND d.step = %(step)s"


def try_column(relation: Relation, name: str, kind: str) -> str:
    """Reads one column (its type in the source: `kind`) of the row in %(body)s, and fails, as the target would."""
    rewritten = {name} if is_rewritten(relation.columns[name], kind) else frozenset[str]()
    shape = f"{_quoted(name)} {_staged_type(relation, name, rewritten)}"
    taken = _taken(relation, name, rewritten)
    return f"SELECT {taken} FROM json_to_record(%(body)s::json -> 'after') AS r ({shape})"


def note_parents_of_deleted(relation: Relation) -> str | None:
    """Parents of rows that are about to be deleted: they may lose their last child."""
    if not relation.parents:
        return None
    return (
        "INSERT INTO pg_temp.orphans (relation, id) SELECT DISTINCT p.relation, p.id"
        f" FROM {deleted_rows(relation)} CROSS JOIN LATERAL (VALUES {_pointers(relation.parents)}) AS p (relation, id)"
        f" WHERE {_hits(relation)} AND p.id IS NOT NULL"
    )


def delete(relation: Relation) -> str:
    """Rows without children."""
    return (
        f"DELETE FROM {_quoted(relation.name)} AS t"
        f" WHERE {_among(relation, f'SELECT d.id FROM {deleted_rows(relation)} WHERE {_hits(relation)}')}"
        f"{_childless(relation)}"
    )


def deleted_rows(relation: Relation) -> str:
    """What to read: staged deletes `d`, of any table, each with the stored row `t` of its key."""
    return f"pg_temp.staged_deletes AS d{_stored_row(relation, 'd.id')}"


def touched(relation: Relation) -> str:
    """A staged delete `d` and the row `t` of which it leaves nothing, or a stub: a condition on `deleted_rows`."""
    spares = "" if relation.inbox else f" AND (d.inbox IS NULL OR (true{_childless(relation)}))"
    return f"{_hits(relation)}{spares}"


def within(relation: Relation) -> str:
    """A row `t` that only %(inboxes)s can hold: a condition."""
    return _within(relation)


def wipe(relation: Relation) -> str | None:
    """Rows that still have children become stubs: they keep inbox, and take the position of their delete."""
    if not relation.children:
        return None
    emptied = [f"{_quoted(name)} = NULL" for name in relation.data if name != relation.inbox]
    sets = ", ".join(
        [
            *emptied,
            "source_epoch = w.epoch",
            "source_point = w.point",
            "source_ordinal = w.ordinal",
            "synced_at = NULL",
        ]
    )
    return (
        "WITH w AS MATERIALIZED (SELECT DISTINCT ON (d.id) d.id, d.epoch, d.point, d.ordinal"
        f" FROM {deleted_rows(relation)} WHERE {_hits(relation, wiping=True)}"
        " ORDER BY d.id, d.epoch DESC, d.point DESC, d.ordinal DESC)"
        f" UPDATE {_quoted(relation.name)} AS t SET {sets} FROM w"
        f" WHERE {_among(relation, 'SELECT w.id FROM w')} AND {_key(relation)} = w.id"
    )


def stage_older(
    relation: Relation,
    *,
    of_inboxes: bool,
    of_keys: bool = False,
    read: Mapping[str, tuple[int, int, int]] | None = None,
) -> str:
    """Stages the delete of rows not beyond (%(epoch)s, %(point)s, %(ordinal)s): all, or synced ones of %(inboxes)s but
    those of %(spared)s, perhaps only those with keys from %(first)s to %(last)s.

    `read`: tables of which all rows of these inboxes were read, with the last position that is too old for one.
    """
    scope = f" AND {_within(relation, read)} AND t.synced_at IS NOT NULL"
    scope += f" AND {_key(relation)} <> ALL (%(spared)s::bigint[])"
    if of_keys:
        scope += f" AND {_key(relation)} BETWEEN %(first)s AND %(last)s"
    return (
        "INSERT INTO pg_temp.staged_deletes SELECT %(load)s, %(step)s,"
        f" {_literal(relation.name)}, {_key(relation)}, NULL, %(epoch)s, %(point)s, %(ordinal)s"
        f" FROM {_quoted(relation.name)} AS t WHERE t.tenant_id = {TENANT}"
        f" AND {_STORED} <= (%(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint){scope if of_inboxes else ''}"
    )


def make_parents(form: Form) -> list[str]:
    """Stubs for parents that rows of this form name and that do not exist. Rows that are too old name none."""
    table, key, keys = _quoted(form.relation.name), _key(form.relation), form.relation.parent_keys
    statements = []
    for number, (_, parent) in enumerate(form.parents, 1):
        named, parent_key = f"s.parents[{number}]", _quoted(keys.get(parent, "id"))
        # Nearly always none is missing: each parent is looked up once, and only rows of missing ones are asked for.
        # IS TRUE: the planner makes a hash of what is missing, where it would join by reading it for each row.
        missing = (
            f"SELECT n.id FROM (SELECT DISTINCT {named} AS id FROM pg_temp.staged_rows AS s WHERE {_STAGED}) AS n"
            f" WHERE NOT EXISTS (SELECT FROM {_quoted(parent)} AS p"
            f" WHERE p.tenant_id = {TENANT} AND p.{parent_key} = n.id {_EACH})"
        )
        statements.append(
            f"INSERT INTO {_quoted(parent)} (tenant_id, {parent_key}) SELECT DISTINCT {TENANT}, {named}"
            f" FROM pg_temp.staged_rows AS s WHERE {_STAGED} AND ({named} IN ({missing})) IS TRUE AND NOT EXISTS ("
            f"SELECT FROM {table} AS t WHERE t.tenant_id = {TENANT} AND {key} = s.id"
            f" AND {_STORED} >= (s.epoch, s.point, s.ordinal) {_EACH}) ON CONFLICT DO NOTHING"
        )
    return statements


def note_parents_left(form: Form) -> str | None:
    """Parents that rows of this form are about to leave for another."""
    if not form.parents:
        return None
    pointers = ", ".join(
        f"({_literal(parent)}, t.{_quoted(column)}::bigint, s.parents[{number}])"
        for number, (column, parent) in enumerate(form.parents, 1)
    )
    return (
        "INSERT INTO pg_temp.orphans (relation, id) SELECT DISTINCT p.relation, p.id"
        f" FROM pg_temp.staged_rows AS s{_stored_row(form.relation, 's.id')}"
        f" CROSS JOIN LATERAL (VALUES {pointers}) AS p (relation, id, soon)"
        f" WHERE {_STAGED} AND {_STORED} < (s.epoch, s.point, s.ordinal)"
        " AND p.id IS NOT NULL AND p.id IS DISTINCT FROM p.soon"
    )


def note_unheld(form: Form) -> str | None:
    """Rows of this form that say no inbox: they go again unless something refers to them by the end.

    A row comes after the reference by which it is the tenant's, wherever it was read. So where there is none it has
    gone meanwhile, though the row was read when it still was there; whatever refers to it later has it read again.
    """
    relation = form.relation
    # An adopted table may lack a foreign key: then something may refer to a row that is not known as its child.
    if relation.inbox or not {child for child, _ in relation.children} >= _REFER_TO_CONTACTS:
        return None
    return (
        f"INSERT INTO pg_temp.orphans (relation, id) SELECT {_literal(relation.name)}, s.id"
        f" FROM pg_temp.staged_rows AS s WHERE {_STAGED}"
    )


def upsert(form: Form) -> str:
    """Writes rows that are newer than what is stored. A partial row that meets no whole one stays a stub."""
    relation = form.relation
    key, names = _quoted(relation.key), [_quoted(name) for name in form.columns]
    taken = [_taken(relation, name, form.rewritten) for name in form.columns]
    shape = [f"{_quoted(name)} {_staged_type(relation, name, form.rewritten)}" for name in form.columns]
    shape = shape or ["id bigint"]
    leads = ""
    if form.with_leads:
        kinds = ", ".join(f"{_quoted(name)} {doubled(relation.columns[name])}" for name in LEAD_COLUMNS)
        leads = f" CROSS JOIN LATERAL json_to_record(s.leads) AS l ({kinds})"
        names += [_quoted(name) for name in LEAD_COLUMNS]
        taken += [f"l.{_quoted(name)}" for name in LEAD_COLUMNS]
    position = ["source_epoch", "source_point", "source_ordinal"]
    sets = [f"{name} = EXCLUDED.{name}" for name in [*names, *position]]
    if relation.has_leads and not form.with_leads and MESSAGES in form.columns:
        # What rules have made of other messages stays, unsigned; what is the source's is still the source's.
        sets.append(
            "lead_rules_digest = CASE WHEN t.lead_rules_digest <> 'source'"
            " THEN COALESCE(substring(t.lead_rules_digest FROM 'x.*'), '') ELSE t.lead_rules_digest END"
        )
    return (
        f"INSERT INTO {_quoted(relation.name)} AS t ({', '.join(['tenant_id', key, *names, *position, 'synced_at'])})"
        f" SELECT {', '.join(['%(tenant)s', 's.id', *taken, 's.epoch', 's.point', 's.ordinal'])},"
        " CASE WHEN s.is_whole THEN now() END"
        f" FROM pg_temp.staged_rows AS s CROSS JOIN LATERAL json_to_record(s.doc) AS r ({', '.join(shape)})"
        f"{leads} WHERE {_STAGED} ON CONFLICT (tenant_id, {key}) DO UPDATE SET {', '.join(sets)},"
        " synced_at = CASE WHEN EXCLUDED.synced_at IS NULL AND t.synced_at IS NULL THEN NULL ELSE now() END"
        f" WHERE {_STORED} < (EXCLUDED.source_epoch, EXCLUDED.source_point, EXCLUDED.source_ordinal)"
    )


def empty(form: Form) -> str:
    """Rows of this form that were just written are stubs, whatever they were before."""
    written = (
        f"SELECT s.id FROM pg_temp.staged_rows AS s{_stored_row(form.relation, 's.id')}"
        f" WHERE {_STAGED} AND {_STORED} = (s.epoch, s.point, s.ordinal)"
    )
    return f"UPDATE {_quoted(form.relation.name)} AS t SET synced_at = NULL WHERE {_among(form.relation, written)}"


def partial_stubs(form: Form) -> str:
    """Rows of this form that are incomplete in the target and must be read again, as (id, inbox)."""
    relation = form.relation
    return (
        f"SELECT s.id, {_inbox(relation)} FROM pg_temp.staged_rows AS s{_stored_row(relation, 's.id')}"
        f" WHERE {_STAGED} AND t.synced_at IS NULL"
    )


def delete_orphans(relation: Relation) -> str:
    """Stubs that were noted and have no child left; then their own parents are noted.

    Rows without an inbox go too, filled or not: nothing says any more that they are the tenant's.
    """
    kind = " AND t.synced_at IS NULL" if relation.inbox else ""
    noted = f"SELECT o.id FROM pg_temp.orphans AS o WHERE o.relation = {_literal(relation.name)}"
    gone = f"DELETE FROM {_quoted(relation.name)} AS t WHERE {_among(relation, noted)}{kind}{_childless(relation)}"
    if not relation.parents:
        return gone
    return (
        f"WITH gone AS ({gone} RETURNING t.*) INSERT INTO pg_temp.orphans (relation, id)"
        f" SELECT p.relation, p.id FROM gone AS t"
        f" CROSS JOIN LATERAL (VALUES {_pointers(relation.parents)}) AS p (relation, id) WHERE p.id IS NOT NULL"
    )


def stubs(relation: Relation) -> str:
    """Up to %(limit)s stubs after %(after)s, as (id, inbox).

    Of rows without an inbox not those whose absence was read (its ordinals are even): whatever comes after it is told.
    A sweep only infers it, from a reading in which a reference may have gone that the target still had; and a row that
    was too large may fit by now.
    """
    unheard = "" if relation.inbox else " AND (t.source_epoch = 0 OR t.source_ordinal & 1 = 1)"
    return (
        f"SELECT {_key(relation)}, {_inbox(relation)} FROM {_quoted(relation.name)} AS t WHERE t.tenant_id = {TENANT}"
        f" AND t.synced_at IS NULL{unheard} AND {_key(relation)} > %(after)s ORDER BY 1 LIMIT %(limit)s"
    )


def _key(relation: Relation) -> str:
    return f"t.{_quoted(relation.key)}"


def _inbox(relation: Relation) -> str:
    return f"t.{_quoted(relation.inbox)}" if relation.inbox else "NULL"


def _stored_row(relation: Relation, key: str) -> str:
    """Joins the stored row `t` of that key."""
    return (
        f" CROSS JOIN LATERAL (SELECT * FROM {_quoted(relation.name)} AS t"
        f" WHERE t.tenant_id = {TENANT} AND {_key(relation)} = {key} {_EACH}) AS t"
    )


def _among(relation: Relation, keys: str) -> str:
    """A stored row `t` whose key this query finds."""
    return f"t.tenant_id = {TENANT} AND {_key(relation)} = ANY (ARRAY({keys}))"


def _hits(relation: Relation, *, wiping: bool = False) -> str:
    """A staged delete `d` and the stored row `t` that it may touch.

    A stub that never had an inbox is of any. So is every row without one, to be deleted but not to be wiped: while
    something refers to it, it is at another inbox. Where nothing can refer to it, that is so if the tenant has one.
    """
    inbox = _inbox(relation)
    if relation.inbox:
        reached = f"{inbox} = d.inbox OR ({inbox} IS NULL AND t.synced_at IS NULL)"
    elif wiping:
        reached = "false"
    else:
        reached = "true" if relation.children else _no_inbox_but("d.inbox")
    return (
        f"{_DELETED} AND d.relation = {_literal(relation.name)}"
        f" AND {_STORED} <= (d.epoch, d.point, d.ordinal) AND (d.inbox IS NULL OR {reached})"
    )


def _within(relation: Relation, read: Mapping[str, tuple[int, int, int]] | None = None) -> str:
    """A row `t` that only %(inboxes)s can hold, or that they would have brought.

    A sweep speaks for the inboxes of one partition: those of the tenant's others are swept, and their rows read, at
    other times. So a row without an inbox is within if nothing of another inbox refers to it. Then it was read with
    these inboxes, or it is not there any more: for what a reference of another partition brings, its row comes after
    that reference.

    It is within, too, if one of these inboxes refers to it by what was `read`, or came since: it would have come with
    that, or will. Else a row that is gone, while inboxes of two partitions refer to it, would be left to each other.
    Where the source had lost that reference by the time the row was looked for, it is wiped though it lives: `stubs`.
    """
    if relation.inbox:
        return f"{_inbox(relation)} = ANY (%(inboxes)s)"
    if not relation.children:
        return _no_inbox_but("ALL (%(inboxes)s)")
    held, brought = [], ""
    for child, column in relation.children:
        inbox = relation.child_inboxes.get(child, "inbox_id")
        refers = f"FROM {_quoted(child)} AS c WHERE c.tenant_id = {TENANT} AND c.{_quoted(column)} = {_key(relation)}"
        held.append(f"NOT EXISTS (SELECT {refers}{_elsewhere(inbox)} {_EACH})")
        if inbox and (older := (read or {}).get(child)) is not None:
            newer = f"(c.source_epoch, c.source_point, c.source_ordinal) > ({', '.join(map(str, older))})"
            brought += f" OR EXISTS (SELECT {refers} AND c.{_quoted(inbox)} = ANY (%(inboxes)s) AND {newer} {_EACH})"
    return f"({' AND '.join(held)}{brought})"


def _elsewhere(inbox: str) -> str:
    return f" AND (c.{_quoted(inbox)} = ANY (%(inboxes)s)) IS NOT TRUE" if inbox else ""


def _no_inbox_but(given: str) -> str:
    return (
        "NOT EXISTS (SELECT FROM inbox_tenant_mapping AS m WHERE m.tenant_id = %(tenant)s AND m.is_active"
        f" AND m.inbox_id <> {given})"
    )


def _childless(relation: Relation) -> str:
    return "".join(
        f" AND NOT EXISTS (SELECT FROM {_quoted(child)} AS c"
        f" WHERE c.tenant_id = {TENANT} AND c.{_quoted(column)} = {_key(relation)} {_EACH})"
        for child, column in relation.children
    )


def _pointers(parents: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"({_literal(parent)}, t.{_quoted(column)}::bigint)" for column, parent in parents)


def _staged_type(relation: Relation, name: str, rewritten: Collection[str]) -> str:
    # json_to_record would make a JSON string of a document that stands in a JSON string: taken as text, then cast.
    if name in relation.documents:
        return "text"
    return "numeric" if name in rewritten else doubled(relation.columns[name])


def _taken(relation: Relation, name: str, rewritten: Collection[str]) -> str:
    column, kind = f"r.{_quoted(name)}", doubled(relation.columns[name])
    if name in relation.documents:
        return f"{column}::{kind}"
    # By way of text: a cast from numeric would round what is no integer, where this fails.
    return f"trim_scale({column})::text::{kind}" if name in rewritten else column


def _quoted(name: str) -> str:
    return doubled(quoted(name))


def _literal(text: str) -> str:
    return doubled(literal(text))
