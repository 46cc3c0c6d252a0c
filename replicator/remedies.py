"""The SQL that prepares a source, written once: `check` prints it as the remedy, `setup` runs it.

Pure text. Nothing here drops or narrows what exists, but for an index that a failed build left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from replicator.config import Settings
from replicator.relations import StreamedRelation

_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
_RESERVED: Final = frozenset({"all", "analyse", "default", "group", "limit", "order", "table", "user", "to"})


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


def quoted(name: str) -> str:
    """An SQL identifier, in quotes where it needs them."""
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def table_name(settings: Settings, table: str) -> str:
    """A captured table with its schema."""
    return f"{quoted(settings.source_schema)}.{quoted(table)}"


def create_publication(settings: Settings, tables: Iterable[str]) -> str:
    """Exactly these tables: with FOR ALL TABLES, deletes in tables without a primary key would fail."""
    listed = ", ".join(table_name(settings, table) for table in tables)
    return (
        f"CREATE PUBLICATION {quoted(settings.publication)} FOR TABLE {listed} "
        "WITH (publish = 'insert, update, delete, truncate')"
    )


def add_tables(settings: Settings, tables: Iterable[str]) -> str:
    listed = ", ".join(table_name(settings, table) for table in tables)
    return f"ALTER PUBLICATION {quoted(settings.publication)} ADD TABLE {listed}"


def publish_everything(settings: Settings) -> str:
    return f"ALTER PUBLICATION {quoted(settings.publication)} SET (publish = 'insert, update, delete, truncate')"


def publish_plainly(settings: Settings, table: str) -> str:
    """The table again, without a list of columns and without a filter."""
    publication, name = quoted(settings.publication), table_name(settings, table)
    return (
        f"BEGIN; ALTER PUBLICATION {publication} DROP TABLE {name}; "
        f"ALTER PUBLICATION {publication} ADD TABLE {name}; COMMIT"
    )


def create_index(settings: Settings, relation: StreamedRelation, name: str) -> str:
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


def script(*statements: str) -> str:
    """Statements one below the other, as psql takes them."""
    return "\n".join(f"{statement};" for statement in statements)
