"""Our own definition of the analytics view: the numbered files of sql/source, one view each, the last the one to read.

Reads files, never a database. A file's names are looked up in the schema that comes first in search_path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pglast
from pglast import ast

from replicator.view_columns import LEAD_SIGNALS

FOLDER: Final = Path(__file__).resolve().parent.parent / "sql" / "source"
LEADS: Final = "vw_conversations_analytics_leads"
"""The one that says what is recorded of leads, by conversation_id."""
NOTHING_RECORDED: Final = (
    "SELECT\n    c.id AS conversation_id,\n    "
    + ",\n    ".join(f"NULL::{kind} AS {name}" for name, kind in LEAD_SIGNALS.items())
    + "\nFROM conversations AS c"
)
"""Its query where conversations have no custom_attributes."""
_CREATE: Final = re.compile(r"CREATE VIEW (?P<name>\w+) AS\s+(?P<query>SELECT\s.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceView:
    """One of the views, and the SELECT that it is."""

    name: str
    query: str


def load(final: str, folder: Path = FOLDER, *, records_leads: bool = True) -> tuple[ReferenceView, ...]:
    """All views, each after those that it reads; the last one is given the name `final`.

    `records_leads`: conversations have custom_attributes, of jsonb.
    """
    *inner, last = (_view(path) for path in sorted(folder.glob("*.sql")))
    if not records_leads:
        inner = [replace(view, query=NOTHING_RECORDED) if view.name == LEADS else view for view in inner]
    return (*inner, ReferenceView(name=final, query=last.query))


def tables(views: tuple[ReferenceView, ...]) -> frozenset[str]:
    """The tables that these views read."""
    read = {name for view in views for name in _relations(pglast.parse_sql(view.query))}
    return frozenset(read - {view.name for view in views})


def _view(path: Path) -> ReferenceView:
    (statement,) = pglast.split(path.read_text(encoding="utf-8"))
    matched = _CREATE.fullmatch(statement)
    if matched is None:
        raise ValueError(f"{path.name}: holds one CREATE VIEW … AS SELECT …")
    return ReferenceView(name=matched["name"], query=matched["query"])


def _relations(part: Any) -> Iterator[str]:
    if isinstance(part, ast.RangeVar):
        yield str(part.relname)
    elif isinstance(part, tuple):
        for each in part:
            yield from _relations(each)
    elif isinstance(part, ast.Node):
        for attribute in part:
            yield from _relations(getattr(part, attribute))
