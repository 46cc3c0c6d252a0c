"""SQL that lays a shadow's rows, `s`, beside the live ones, `l` or `t`, and puts the live ones right.

Found differences stand in `pg_temp.replay_found` as (relation, id, kind). A live row that is beyond the shadow's is
left alone: somebody newer wrote it. Only columns that events carried are compared, as text, and written; the target's
own stay. Deletes are staged as a worker stages them, and carried out by its statements. The live tables are those that
names mean; the shadow's are named with their schema. Placeholders are psycopg's named ones. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from consumers import upsert
from consumers.identifiers import doubled, literal, quoted
from consumers.relation import LEAD_COLUMNS, MESSAGES, Relation
from consumers.upsert import TENANT

MISSING: Final = "missing"
EXTRA: Final = "extra"
DIFFERENT: Final = "different"
NEWER: Final = "newer"
KINDS: Final = (MISSING, EXTRA, DIFFERENT, NEWER)

FORGET: Final = (
    "DELETE FROM pg_temp.replay_found WHERE relation = %(table)s AND (%(every)s OR id = ANY (%(ids)s::bigint[]))"
)
"""What was found of some rows."""
_POSITION: Final = ("source_epoch", "source_point", "source_ordinal")
_STAGED: Final = "d.load = %(load)s AND d.step = 0"


def find_unlike(relation: Relation, columns: Iterable[str]) -> str:
    """Notes rows that the live table lacks, has otherwise, or has newer."""
    name, key = literal(relation.name), _q(relation.key)
    absent = f"l.{key} IS NULL"
    if not relation.inbox and relation.children:  # gone with the last row that referred to it, here too
        absent += f" AND ({' OR '.join(_refers(relation))})"
    return (
        "INSERT INTO pg_temp.replay_found SELECT f.relation, f.id, f.kind FROM ("
        f"SELECT {doubled(name)}::text AS relation, s.{key} AS id, CASE"
        f" WHEN l.{key} IS NULL THEN CASE WHEN {absent} THEN '{MISSING}' END"
        f" WHEN {_position('l')} > {_position('s')} THEN '{NEWER}'"
        f" WHEN l.synced_at IS NULL THEN '{MISSING}'"
        f" WHEN {_row('l', columns)} IS DISTINCT FROM {_row('s', columns)} THEN '{DIFFERENT}' END AS kind"
        f" FROM {_shadow(relation)} AS s LEFT JOIN {_q(relation.name)} AS l"
        f" ON l.tenant_id = {TENANT} AND l.{key} = s.{key}"
        f" WHERE s.synced_at IS NOT NULL AND {_unspared(relation, 's')}) AS f WHERE f.kind IS NOT NULL"
    )


def stage_deleted(relation: Relation) -> str:
    """Stages what the stretch deleted, and the shadow does not know as written again."""
    again = f"{_position('s')} > (r.epoch, r.point, r.ordinal)"
    if not relation.inbox:
        # A sweep (its ordinals are odd) saw no reference of partitions that the shadow was to read later.
        again = f"({again} OR (s.synced_at IS NOT NULL AND r.inbox IS NULL AND r.ordinal & 1 = 1))"
    return (
        f"INSERT INTO pg_temp.staged_deletes SELECT %(load)s, 0, r.* FROM pg_temp.replay_deletes AS r"
        f" WHERE r.relation = {doubled(literal(relation.name))} AND NOT EXISTS (SELECT FROM {_shadow(relation)} AS s"
        f" WHERE s.{_q(relation.key)} = r.id AND {again})"
        " AND NOT EXISTS (SELECT FROM pg_temp.replay_spared AS p WHERE p.relation = r.relation AND p.id = r.id)"
    )


def stage_unknown(relation: Relation, *, of_inboxes: bool) -> str:
    """Stages live rows that the shadow knows nothing of: of %(inboxes)s, or not beyond (%(epoch)s, …)."""
    scope = upsert.within(relation)
    if not of_inboxes:
        scope = f"{_position('t')} <= (%(epoch)s::bigint, %(point)s::bigint, %(ordinal)s::bigint)"
    return (
        f"INSERT INTO pg_temp.staged_deletes SELECT %(load)s, 0, {doubled(literal(relation.name))},"
        f" t.{_q(relation.key)}, NULL, {', '.join(f't.{name}' for name in _POSITION)}"
        f" FROM {_q(relation.name)} AS t WHERE t.tenant_id = {TENANT} AND t.synced_at IS NOT NULL AND {scope}"
        f" AND {_unspared(relation, 't')} AND NOT EXISTS (SELECT FROM {_shadow(relation)} AS s"
        f" WHERE s.{_q(relation.key)} = t.{_q(relation.key)} AND (s.synced_at IS NOT NULL OR s.source_epoch > 0))"
    )


def find_extra(relation: Relation) -> str:
    """Notes live rows that staged deletes would take."""
    return (
        f"INSERT INTO pg_temp.replay_found SELECT DISTINCT d.relation, d.id, '{EXTRA}'"
        f" FROM {upsert.deleted_rows(relation)} WHERE {_on_load(upsert.touched(relation))} AND t.synced_at IS NOT NULL"
    )


def keep_found() -> str:
    """Of what is staged, only what was found extra is left."""
    return (
        f"DELETE FROM pg_temp.staged_deletes AS d WHERE {_STAGED} AND NOT EXISTS ("
        "SELECT FROM pg_temp.replay_found AS f WHERE f.relation = d.relation AND f.id = d.id"
        f" AND f.kind = '{EXTRA}')"
    )


def count_columns(relation: Relation, columns: Iterable[str]) -> str:
    """One row: in how many different rows each column differs."""
    key = _q(relation.key)
    counts = ", ".join(
        f"count(*) FILTER (WHERE {_text('l', name)} IS DISTINCT FROM {_text('s', name)})" for name in columns
    )
    return (
        f"SELECT {counts or 'count(*)'} FROM pg_temp.replay_found AS f JOIN {_shadow(relation)} AS s ON s.{key} = f.id"
        f" JOIN {_q(relation.name)} AS l ON l.tenant_id = {TENANT} AND l.{key} = f.id"
        f" WHERE f.relation = {doubled(literal(relation.name))} AND f.kind = '{DIFFERENT}'"
    )


def make_parents(relation: Relation) -> list[str]:
    """Stubs for parents that rows to be written name, and that do not exist."""
    return [
        f"INSERT INTO {_q(parent)} (tenant_id, {_q(relation.parent_keys.get(parent, 'id'))})"
        f" SELECT DISTINCT %(tenant)s::integer, s.{_q(column)} FROM {_to_write(relation)}"
        f" WHERE {_is_due()} AND s.{_q(column)} IS NOT NULL ON CONFLICT DO NOTHING"
        for column, parent in relation.parents
    ]


def note_parents_left(relation: Relation, columns: Iterable[str]) -> str | None:
    """Parents that live rows are about to leave for another."""
    written = set(columns)
    pairs = [(column, parent) for column, parent in relation.parents if column in written]
    if not pairs:
        return None
    pointers = ", ".join(
        f"({doubled(literal(parent))}, l.{_q(column)}::bigint, s.{_q(column)}::bigint)" for column, parent in pairs
    )
    return (
        f"INSERT INTO pg_temp.orphans (relation, id) SELECT DISTINCT p.relation, p.id FROM {_to_write(relation)}"
        f" CROSS JOIN LATERAL (VALUES {pointers}) AS p (relation, id, soon)"
        f" WHERE {_is_due()} AND p.id IS NOT NULL AND p.id IS DISTINCT FROM p.soon"
    )


def write(relation: Relation, columns: Iterable[str]) -> str:
    """Writes what was found missing or different, if it still is not beyond the shadow's.

    A new row comes with the lead signals that rules make of it; those of a row that stands stay, unsigned where its
    messages have changed, for the recomputation to make anew.
    """
    carried = [name for name in relation.data if name in set(columns)]
    led = [name for name in LEAD_COLUMNS if relation.has_leads and name not in carried]
    names = [_q(name) for name in (relation.key, *carried, *led)]
    sets = [f"{_q(name)} = EXCLUDED.{_q(name)}" for name in carried]
    if led and MESSAGES in carried:
        sets.append(
            f"lead_rules_digest = CASE WHEN t.{_q(MESSAGES)}::text IS DISTINCT FROM EXCLUDED.{_q(MESSAGES)}::text"
            " AND t.lead_rules_digest <> 'source' THEN COALESCE(substring(t.lead_rules_digest FROM 'x.*'), '')"
            " ELSE t.lead_rules_digest END"
        )
    sets += [f"{name} = EXCLUDED.{name}" for name in _POSITION]
    return (
        f"INSERT INTO {_q(relation.name)} AS t (tenant_id, {', '.join([*names, *_POSITION])}, synced_at)"
        f" SELECT %(tenant)s, {', '.join(f's.{name}' for name in [*names, *_POSITION])}, now()"
        f" FROM {_to_write(relation)} WHERE {_is_due()}"
        f" ON CONFLICT (tenant_id, {_q(relation.key)}) DO UPDATE SET {', '.join(sets)}, synced_at = now()"
    )


def _to_write(relation: Relation) -> str:
    """Found keys `f`, the shadow's rows `s`, and the live ones `l`, if there are any."""
    key = _q(relation.key)
    return (
        f"pg_temp.replay_found AS f JOIN {_shadow(relation)} AS s"
        f" ON f.relation = {doubled(literal(relation.name))} AND f.kind IN ('{MISSING}', '{DIFFERENT}')"
        f" AND s.{key} = f.id AND s.synced_at IS NOT NULL"
        f" LEFT JOIN {_q(relation.name)} AS l ON l.tenant_id = {TENANT} AND l.{key} = f.id"
    )


def _is_due() -> str:
    return f"(l.tenant_id IS NULL OR {_position('l')} <= {_position('s')})"


def _refers(relation: Relation) -> Iterable[str]:
    """Rows of either side that refer to the shadow's row."""
    for child, column in relation.children:
        pointed = f"c.{_q(column)} = s.{_q(relation.key)}"
        yield f"EXISTS (SELECT FROM {_q(child)} AS c WHERE c.tenant_id = {TENANT} AND {pointed})"
        yield f"EXISTS (SELECT FROM pg_temp.{_q(child)} AS c WHERE {pointed} AND c.tenant_id = {TENANT})"


def _unspared(relation: Relation, alias: str) -> str:
    return (
        "NOT EXISTS (SELECT FROM pg_temp.replay_spared AS p"
        f" WHERE p.relation = {doubled(literal(relation.name))} AND p.id = {alias}.{_q(relation.key)})"
    )


def _row(alias: str, columns: Iterable[str]) -> str:
    """NULL and the empty text look different in a row's text."""
    return f'ROW({", ".join(f"{alias}.{_q(name)}" for name in columns)})::text COLLATE "C"'


def _text(alias: str, name: str) -> str:
    return f'{alias}.{_q(name)}::text COLLATE "C"'


def _position(alias: str) -> str:
    return f"({', '.join(f'{alias}.{name}' for name in _POSITION)})"


def _on_load(condition: str) -> str:
    return condition.replace("%(step)s", "0")


def _shadow(relation: Relation) -> str:
    return f"pg_temp.{_q(relation.name)}"


def _q(name: str) -> str:
    return doubled(quoted(name))
