"""SQL that lays the batch ETL's rows of one tenant, `e`, beside ours, `o`, and says why they differ where they do.

A stretch of conversations at a time, so that neither the server nor we hold more than that. Values never leave the
server: names of columns, kinds, counts and conversation ids do. Placeholders are psycopg's named ones: %(tenant)s,
%(after)s, %(upto)s, %(zone)s. Makes text, and knows no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from consumers.batch_etl import OTHERWISE, PICKS, SILENT
from consumers.identifiers import literal, quoted
from consumers.live import ANALYTICS

STRETCH: Final = 5_000
"""Rows of either side at the most."""
EXAMPLES: Final = 5
ONLY_THERE: Final = "only there"
ONLY_HERE: Final = "only here"
MAPPING: Final = "mapping"
_MESSAGES: Final = "message_compiled"
_UPDATED: Final = "conversation_updated_at"
_WRITTEN: Final = "etl_updated_at"
_SAME: Final = (
    frozenset({"smallint", "integer", "bigint"}),
    frozenset({"text", "character varying", "character"}),
)
"""Types that PostgreSQL compares with one another as they are."""
_INEXACT: Final = frozenset({"numeric", "real", "double precision"})


class Kind(Enum):
    """Why a row, or a column of it, differs; whether that is explained, and in what words."""

    GONE = ("gone", True, "the source has no such conversation at an inbox of this tenant; the ETL never deletes")
    MISSED = ("missed", True, "the source has the conversation; the ETL has not got it yet, or never will")
    STALE = ("stale", True, "the conversation was changed after the ETL read it")
    SILENT = ("silent", True, "Chatwoot changes this without touching updated_at; we read it after the ETL did")
    TIES = ("ties", True, "the same messages; of two of the same moment another was picked")
    OTHERWISE = ("otherwise", True, "the ETL computes this by a definition of its own")
    EXPECTED = ("expected", True, "named by --expect")
    ELSEWHERE = (
        "elsewhere",
        False,
        "its inbox is another tenant's: neither side keeps it up; delete it in the ETL's table",
    )
    UNMAPPED = ("unmapped", False, "its inbox is nobody's, or not active: `consumers map add`, or delete it there")
    AWAITED = ("awaited", False, "its inbox is not backfilled yet: see `consumers status`")
    LOST = ("lost", False, "the source has the conversation, and we have no row of it")
    GHOST = ("ghost", False, "we have a row, and the source has no such conversation")
    BEHIND = ("behind", False, "the ETL has read a later state than we have: run this again")
    DIFFERENT = (
        "different",
        False,
        "both read the same state, or the ETL the later one; unless an analyser was the last to write its row",
    )
    REMAPPED = ("remapped", False, "inboxes that the ETL's mapping gives otherwise than the copy's")

    def __init__(self, word: str, is_explained: bool, says: str) -> None:
        self.word, self.is_explained, self.says = word, is_explained, says


KINDS: Final = {kind.word: kind for kind in Kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Where both stand, and what is compared."""

    there: str
    """The ETL's schema."""
    here: str
    columns: Mapping[str, tuple[str, str]]
    """Name → type there, type here."""
    expected: frozenset[str]
    """Columns whose differences a person has explained."""
    has_written_at: bool
    """Whether the ETL's rows say when they were written."""


def stretch_end(sides: Sides) -> str:
    """The last conversation of the next stretch; NULL: no more than that is left."""
    one = (
        f"(SELECT conversation_id::bigint AS id FROM {{}} WHERE tenant_id = %(tenant)s AND conversation_id > %(after)s"
        f" ORDER BY conversation_id OFFSET {STRETCH - 1} LIMIT 1)"
    )
    there, here = (one.format(_table(schema, ANALYTICS)) for schema in (sides.there, sides.here))
    return f"SELECT min(id) FROM ({there} UNION ALL {here}) AS ends"


def differences(sides: Sides) -> str:
    """(what, kind, rows, examples) of one stretch; then counts, without a kind: there, here, both, unlike, tested."""
    scope = "tenant_id = %(tenant)s AND conversation_id > %(after)s AND conversation_id <= %(upto)s"
    columns = ", ".join(_column(sides, name) for name in sides.columns) or "NULL"
    tested = f"(e.{_WRITTEN} AT TIME ZONE %(zone)s) > o.synced_at" if sides.has_written_at else "false"
    return (
        "WITH judged AS MATERIALIZED (SELECT COALESCE(e.conversation_id, o.conversation_id)::bigint AS id,"
        " e.conversation_id IS NOT NULL AS is_there, o.conversation_id IS NOT NULL AS is_here,"
        f" COALESCE({tested}, false) AS is_tested,"
        f" CASE WHEN o.conversation_id IS NULL THEN ARRAY[{_only_there()}]"
        f" WHEN e.conversation_id IS NULL THEN ARRAY[{_only_here()}]"
        f" ELSE array_remove(ARRAY[{columns}]::text[], NULL) END AS found"
        f" FROM (SELECT * FROM {_table(sides.there, ANALYTICS)} WHERE {scope}) AS e"
        f" FULL JOIN (SELECT * FROM {_table(sides.here, ANALYTICS)} WHERE {scope} AND synced_at IS NOT NULL) AS o"
        " ON o.conversation_id = e.conversation_id"
        f" LEFT JOIN {_table(sides.here, 'inbox_tenant_mapping')} AS m"
        " ON o.conversation_id IS NULL AND m.inbox_id = e.inbox_id"
        f" LEFT JOIN {_table(sides.here, 'conversations')} AS c"
        " ON (o.conversation_id IS NULL OR e.conversation_id IS NULL) AND c.tenant_id = %(tenant)s"
        " AND c.id = COALESCE(e.conversation_id, o.conversation_id)"
        " AND c.synced_at IS NOT NULL)"
        " SELECT split_part(f, '|', 1), split_part(f, '|', 2), count(*),"
        f" (array_agg(id ORDER BY id))[:{EXAMPLES}] FROM judged CROSS JOIN unnest(found) AS f GROUP BY 1, 2"
        " UNION ALL SELECT t.what, NULL, t.rows, NULL FROM (SELECT count(*) FILTER (WHERE is_there) AS a,"
        " count(*) FILTER (WHERE is_here) AS b, count(*) FILTER (WHERE is_there AND is_here) AS c,"
        f" count(*) FILTER (WHERE is_there AND is_here AND EXISTS (SELECT FROM unnest(found) AS f"
        f" WHERE split_part(f, '|', 2) <> {literal(Kind.OTHERWISE.word)})) AS d,"
        " count(*) FILTER (WHERE is_tested) AS e FROM judged) AS n CROSS JOIN LATERAL"
        " (VALUES ('there', n.a), ('here', n.b), ('both', n.c), ('unlike', n.d), ('tested', n.e)) AS t (what, rows)"
    )


def filled(schema: str, columns: list[str]) -> str:
    """One row: of each column whether any row of the ETL's has a value."""
    asked = ", ".join(f"count({quoted(name)}) > 0" for name in columns)
    return f"SELECT {asked} FROM {_table(schema, ANALYTICS)}"


def remapped(there: str, here: str) -> str:
    """(tenant, inbox) that the two mappings give otherwise."""
    return (
        "SELECT COALESCE(e.tenant_id, o.tenant_id), COALESCE(e.inbox_id, o.inbox_id)"
        f" FROM {_table(there, 'inbox_tenant_mapping')} AS e"
        f" FULL JOIN {_table(here, 'inbox_tenant_mapping')} AS o ON o.inbox_id = e.inbox_id"
        " WHERE (e.tenant_id, e.is_active IS TRUE) IS DISTINCT FROM (o.tenant_id, o.is_active IS TRUE) ORDER BY 1, 2"
    )


def _only_there() -> str:
    return (
        f"{literal(ONLY_THERE + '|')} || CASE WHEN m.tenant_id <> %(tenant)s THEN 'elsewhere'"
        " WHEN m.is_active IS NOT TRUE THEN 'unmapped' WHEN m.backfilled_at IS NULL THEN 'awaited'"
        " WHEN c.id IS NOT NULL THEN 'lost' ELSE 'gone' END"
    )


def _only_here() -> str:
    return f"{literal(ONLY_HERE + '|')} || CASE WHEN c.id IS NULL THEN 'ghost' ELSE 'missed' END"


def _column(sides: Sides, name: str) -> str:
    """NULL where both sides say the same."""
    reasons = []
    if _UPDATED in sides.columns:
        reasons.append((f"e.{_UPDATED} < o.{_UPDATED}", Kind.STALE))
        reasons.append((f"e.{_UPDATED} > o.{_UPDATED}", Kind.BEHIND))
    if name in SILENT and sides.has_written_at:
        reasons.append((f"(e.{_WRITTEN} AT TIME ZONE %(zone)s) <= o.synced_at", Kind.SILENT))
    if name in PICKS and _MESSAGES in sides.columns:
        reasons.append((f"NOT ({_differs(sides, _MESSAGES)})", Kind.TIES))
    if name in OTHERWISE:
        reasons.append((OTHERWISE[name].replace("%", "%%"), Kind.OTHERWISE))
    if name in sides.expected:
        reasons = [("true", Kind.EXPECTED)]
    cases = "".join(f" WHEN {condition} THEN {literal(f'{name}|{kind.word}')}" for condition, kind in reasons)
    otherwise = literal(f"{name}|{Kind.DIFFERENT.word}")
    return f"CASE WHEN NOT ({_differs(sides, name)}) THEN NULL{cases} ELSE {otherwise} END"


def _differs(sides: Sides, name: str) -> str:
    there, here = (kind.partition("(")[0] for kind in sides.columns[name])
    e, o = f"e.{quoted(name)}", f"o.{quoted(name)}"
    if "jsonb" in (there, here) or "json" in (there, here):
        e, o = f"{e}::jsonb", f"{o}::jsonb"
        unlike = [f"{part(e)} IS DISTINCT FROM {part(o)}" for part in (_unordered, _times)]
        return f"{e} IS DISTINCT FROM {o} AND ({' OR '.join(unlike)})"
    if _INEXACT & {there, here}:
        # It passes through binary floating point there.
        e, o = f"{e}::numeric", f"{o}::numeric"
        near = f"COALESCE(abs({e} - {o}) <= 0.000001 * GREATEST(1, abs({o})), false)"
        return f"{e} IS DISTINCT FROM {o} AND NOT {near}"
    if there != here and not any({there, here} <= family for family in _SAME):
        e, o = f"{e}::text", f"{o}::text"
    return f"{e} IS DISTINCT FROM {o}"


def _times(document: str) -> str:
    """By them messages are in order; those of the same moment have none."""
    return f"jsonb_path_query_array({document}, '$[*].sent_at')"


def _unordered(document: str) -> str:
    return (
        f"CASE jsonb_typeof({document}) WHEN 'array' THEN"
        f" (SELECT jsonb_agg(v ORDER BY v) FROM jsonb_array_elements({document}) AS v) ELSE {document} END"
    )


def _table(schema: str, name: str) -> str:
    return f"{quoted(schema)}.{quoted(name)}"
