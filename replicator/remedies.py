"""The SQL that prepares a source, written once: `check` prints it as the remedy, `setup` runs it.

Pure text. Nothing here drops or narrows what exists, but for an index that a failed build left behind.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pglast.keywords import COL_NAME_KEYWORDS, RESERVED_KEYWORDS, TYPE_FUNC_NAME_KEYWORDS

from replicator.config import Settings
from replicator.reference_view import ReferenceView
from replicator.relations import BaseTable, CauseTable
from replicator.view_facts import ViewFacts

_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
COLUMN_LISTS: Final = 150_000
"""`server_version_num` from which on a publication can name columns."""
_RESERVED: Final = RESERVED_KEYWORDS | TYPE_FUNC_NAME_KEYWORDS | COL_NAME_KEYWORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a step changes about one column of a view."""

    view: str
    column: str
    """Empty: about the rows, not a column."""
    change: str
    """`added`, `removed`, `type`, `order` (its place), `definition`, `rows` (FROM, WHERE, GROUP BY)."""
    now: str = ""
    then: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One statement that prepares the source."""

    subject: str
    sql: str
    why: str
    cost: str
    """What it takes from the source while it runs, and afterwards."""
    needs: str
    """Whose right it takes."""
    patient: bool = False
    """It may take hours and wait for others' transactions, because nobody waits for it meanwhile."""
    by_hand: bool = False
    """Shown to whoever has the right or has to decide; `--apply` leaves it out."""
    differences: tuple[Difference, ...] = ()


def quoted(name: str) -> str:
    """An SQL identifier, in quotes where it needs them."""
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def table_name(settings: Settings, table: str) -> str:
    """A captured table with its schema."""
    return f"{quoted(settings.source_schema)}.{quoted(table)}"


def create_publication(settings: Settings, tables: Iterable[BaseTable], version: int) -> str:
    """Exactly these tables: with FOR ALL TABLES, deletes in tables without a primary key would fail."""
    listed = ", ".join(_published(settings, table, version) for table in tables)
    return (
        f"CREATE PUBLICATION {quoted(settings.publication)} FOR TABLE {listed} "
        "WITH (publish = 'insert, update, delete, truncate')"
    )


def add_tables(settings: Settings, tables: Iterable[BaseTable], version: int) -> str:
    listed = ", ".join(_published(settings, table, version) for table in tables)
    return f"ALTER PUBLICATION {quoted(settings.publication)} ADD TABLE {listed}"


def publish_everything(settings: Settings) -> str:
    return f"ALTER PUBLICATION {quoted(settings.publication)} SET (publish = 'insert, update, delete, truncate')"


def publish_anew(settings: Settings, table: BaseTable, version: int) -> str:
    """The table again, without a filter, and with the columns that it should have."""
    publication, name = quoted(settings.publication), table_name(settings, table.name)
    return (
        f"BEGIN; ALTER PUBLICATION {publication} DROP TABLE {name}; "
        f"ALTER PUBLICATION {publication} ADD TABLE {_published(settings, table, version)}; COMMIT"
    )


def _published(settings: Settings, table: BaseTable, version: int) -> str:
    name = table_name(settings, table.name)
    columns = listed_columns(table, version)
    return f"{name} ({', '.join(map(quoted, columns))})" if columns else name


def listed_columns(table: BaseTable, version: int) -> tuple[str, ...]:
    """The columns that a publication on this server should name; empty: none, it publishes all."""
    return table.columns if isinstance(table, CauseTable) and version >= COLUMN_LISTS else ()


def create_index(settings: Settings, relation: BaseTable, name: str) -> str:
    columns = ", ".join(quoted(column) for column in relation.identity.columns)
    table = table_name(settings, relation.name)
    return f"CREATE UNIQUE INDEX CONCURRENTLY {quoted(name)} ON {table} ({columns})"


def drop_index(settings: Settings, name: str) -> str:
    return f"DROP INDEX CONCURRENTLY {quoted(settings.source_schema)}.{quoted(name)}"


def identity_using(settings: Settings, table: str, index: str) -> str:
    return f"ALTER TABLE {table_name(settings, table)} REPLICA IDENTITY USING INDEX {quoted(index)}"


def identity_full(settings: Settings, table: str) -> str:
    return f"ALTER TABLE {table_name(settings, table)} REPLICA IDENTITY FULL"


def identity_default(settings: Settings, table: str) -> str:
    return f"ALTER TABLE {table_name(settings, table)} REPLICA IDENTITY DEFAULT"


def create_views(settings: Settings, views: Iterable[ReferenceView], replaced: Mapping[str, ViewFacts]) -> str:
    """All of these or none. A view that `replaced` names is replaced where it still is what that says, and keeps its
    options, its rights and all that depends on it.
    """
    created = []
    for view in views:
        before = replaced.get(view.name)
        if before is None:
            created.append(f"CREATE VIEW {quoted(view.name)} AS\n{view.query}")
        else:
            created += [
                _still(before),
                f"CREATE OR REPLACE VIEW {quoted(view.name)}{_with(before.options)} AS\n{view.query}",
            ]
    # What another session has altered is seen as soon as it is there.
    fresh = ["SET TRANSACTION ISOLATION LEVEL READ COMMITTED"] if replaced else []
    path = f"SET LOCAL search_path TO {quoted(settings.source_schema)}"
    return ";\n".join(["BEGIN", *fresh, path, *created, "COMMIT"])


def _still(view: ViewFacts) -> str:
    """Fails if the view has another definition by now; as it is read first, nobody alters it until we are done."""
    name = quoted(view.name)
    digest = hashlib.md5(view.definition.encode(), usedforsecurity=False).hexdigest()
    return (
        f"DO $still$BEGIN\n    PERFORM FROM {name} LIMIT 0;\n"
        f"    IF md5(convert_to(pg_get_viewdef({_literal(name)}::regclass), 'UTF8')) <> '{digest}' THEN\n"
        f"        RAISE EXCEPTION '% was altered since this was planned; make a new plan', {_literal(name)}\n"
        "            USING ERRCODE = 'object_not_in_prerequisite_state';\n    END IF;\nEND$still$"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _with(options: Iterable[str]) -> str:
    """A view that is joined to others can't check what is written through it."""
    kept = [option for option in options if not option.startswith("check_option=")]
    return f" WITH ({', '.join(kept)})" if kept else ""


def rename_view(settings: Settings, name: str, kind: str) -> str:
    """What depends on it follows it to its new name. ALTER TABLE renames whatever has the name of a table."""
    what = {"v": "VIEW", "m": "MATERIALIZED VIEW"}.get(kind, "TABLE")
    return f"ALTER {what} {table_name(settings, name)} RENAME TO {quoted(name[:56] + '_before')}"


def grant_select(settings: Settings, view: str, role: str) -> str:
    return f"GRANT SELECT ON {table_name(settings, view)} TO {quoted(role)}"


def script(*statements: str) -> str:
    """Statements one below the other, as psql takes them."""
    return "\n".join(f"{statement};" for statement in statements)
