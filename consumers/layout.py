"""The target's replicated tables as its catalogue had them at the last look.

Their owner may alter them at any time: a column added, widened, dropped. Looked at again now and then, and before
anything is given up for an error that an older look may have caused. Shared by the worker's loop and its threads, which
take `relations` anew for each piece of work; a look replaces the mapping, never changes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import Connection

from consumers import target_session
from consumers.errors import TargetRefused
from consumers.relation import Relation
from replicator import REPLICATED

log = structlog.get_logger(__name__)


class Layout:
    """Empty until it is read."""

    def __init__(self) -> None:
        self.relations: Mapping[str, Relation] = {}

    def read(self, connection: Connection[Any]) -> bool:
        """Whether the tables were altered since the last look. Raises psycopg.Error or TargetRefused."""
        found = read_relations(connection)
        if found == self.relations:
            return False
        if self.relations:
            altered = sorted(name for name, relation in found.items() if relation != self.relations.get(name))
            log.info("target.altered", tables=altered)
            target_session.forget_plans(connection)
        self.relations = found
        return True


def read_relations(connection: Connection[Any]) -> dict[str, Relation]:
    """The replicated tables of the current schema, with the graph of their foreign keys. Raises TargetRefused."""
    try:
        known = {
            name: (key, inbox or "")
            for name, key, inbox in connection.execute("SELECT relation, key, inbox FROM replication_relations()")
        }
    except psycopg.errors.UndefinedFunction:
        raise TargetRefused("the target is not set up, or for an older version of this program") from None
    if not set(REPLICATED) <= known.keys():
        lacking = ", ".join(sorted(set(REPLICATED) - known.keys()))
        raise TargetRefused(f"the target is not set up: {lacking} missing or without its own columns")
    columns: dict[str, dict[str, str]] = defaultdict(dict)
    documents: dict[str, set[str]] = defaultdict(set)
    for table, name, kind, is_document in connection.execute(_COLUMNS):
        columns[table][name] = kind
        if is_document:
            documents[table].add(name)
    rules: dict[str, str] = dict(connection.execute(_RULES, [list(known)]))
    parents: dict[str, set[tuple[str, str]]] = defaultdict(set)
    children: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for child, parent, own, referenced in connection.execute(_FOREIGN_KEYS):
        if child in known and parent in known and known[parent][0] == referenced:
            parents[child].add((own, parent))
            children[parent].add((child, own))
    return {
        name: Relation(
            name=name,
            columns=columns[name],
            documents=frozenset(documents[name]),
            parents=tuple(sorted(parents[name])),
            children=tuple(sorted(children[name])),
            key=key,
            inbox_column=inbox,
            parent_keys={parent: known[parent][0] for _, parent in parents[name]},
            child_inboxes={child: known[child][1] for child, _ in children[name]},
            rules=rules.get(name, ""),
        )
        for name, (key, inbox) in known.items()
    }


_COLUMNS: Final = """
    WITH RECURSIVE documents (type) AS (
        VALUES ('json'::regtype::oid), ('jsonb'::regtype::oid)
        UNION SELECT t.oid FROM pg_type AS t JOIN documents ON t.typbasetype = documents.type
    )
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid IN (SELECT type FROM documents)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY c.relname, a.attnum"""

# Of two columns, the tenant's and another: (child, parent, the child's other column, the parent's).
_FOREIGN_KEYS: Final = """
    SELECT c.relname, p.relname, o.attname, r.attname
    FROM pg_constraint AS k
    JOIN pg_class AS c ON c.oid = k.conrelid
    JOIN pg_class AS p ON p.oid = k.confrelid
    CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS pair (own, referenced)
    JOIN pg_attribute AS o ON o.attrelid = c.oid AND o.attnum = pair.own
    JOIN pg_attribute AS r ON r.attrelid = p.oid AND r.attnum = pair.referenced
    WHERE k.contype = 'f' AND c.relnamespace = current_schema()::regnamespace AND p.relnamespace = c.relnamespace
        AND NOT c.relispartition AND NOT p.relispartition
        AND cardinality(k.conkey) = 2 AND o.attname <> 'tenant_id'"""

# What may refuse a row beside its columns' types, in the server's own words.
_RULES: Final = """
    SELECT c.relname, md5(string_agg(r.says, E'\\n' ORDER BY r.says))
    FROM pg_class AS c
    CROSS JOIN LATERAL (
        SELECT a.attname || ' NOT NULL' FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnotnull
        UNION ALL SELECT pg_get_constraintdef(k.oid) FROM pg_constraint AS k WHERE k.conrelid = c.oid
        UNION ALL SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisunique
        UNION ALL SELECT pg_get_triggerdef(t.oid) || t.tgenabled::text || p.prosrc
            FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
    ) AS r (says)
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY (%s)
    GROUP BY c.relname"""
