"""The numbered files of sql/target as parsed statements.

A file says what must be there; `consumers.comparison` finds out what of it is missing. Reads files, never a database.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pglast
from pglast import ast

from consumers.identifiers import quoted

FOLDER: Final = Path(__file__).resolve().parent.parent / "sql" / "target"
_NAME: Final = re.compile(r"(?P<version>\d{3})_(?P<name>\w+)\.sql")
_PLACEHOLDER: Final = re.compile(r':"(\w+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement, as text without its comments and as a tree."""

    sql: str
    node: Any
    """A pglast node, whose attributes are typed as optional throughout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file. The checksum is that of its text before names are put in: it is the same in every installation."""

    version: int
    """0: statements that no file holds."""
    name: str
    checksum: str
    statements: tuple[Statement, ...]


def load(*, schema: str, applier: str, folder: Path = FOLDER) -> tuple[Migration, ...]:
    """All migrations in order of their numbers, with these names in the places of their placeholders."""
    names = {"schema": quoted(schema), "applier": quoted(applier)}
    return tuple(_migration(path, names) for path in sorted(folder.glob("*.sql")))


def _migration(path: Path, names: dict[str, str]) -> Migration:
    matched = _NAME.fullmatch(path.name)
    if matched is None:
        raise ValueError(f"{path.name}: a migration is named NNN_what.sql")
    text = path.read_text(encoding="utf-8")
    sql = _PLACEHOLDER.sub(lambda found: names[found[1]], text)
    return Migration(
        version=int(matched["version"]),
        name=matched["name"],
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        statements=tuple(_statement(part) for part in pglast.split(sql)),
    )


@lru_cache(maxsize=512)
def _statement(sql: str) -> Statement:
    """A setup plans before, between and after its steps; nobody changes a tree."""
    (raw,) = pglast.parse_sql(sql)
    return Statement(sql=sql, node=raw.stmt)


def tables(migrations: tuple[Migration, ...]) -> dict[str, bool]:
    """The tables that these migrations make; True: replicated rows of tenants, False: control."""
    made: list[Any] = [
        s.node for migration in migrations for s in migration.statements if isinstance(s.node, ast.CreateStmt)
    ]
    return {node.relation.relname: any(_name(part) == "synced_at" for part in node.tableElts) for node in made}


def _name(part: Any) -> str | None:
    return part.colname if isinstance(part, ast.ColumnDef) else None
