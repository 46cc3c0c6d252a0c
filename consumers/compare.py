"""`consumers compare`: a tenant's rows in the source and in the target, at one fence, while everybody goes on.

Compared are the shipped relations, in the columns that the schemas topic names and the target has. Clock columns never
come, lead signals are the target's own, and relations that a user declared are known to the replicator alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import Connection

from consumers import layout, schemas, target_session
from consumers.config import Settings
from consumers.errors import Refused, SettingsError
from consumers.fence import Fence
from consumers.ownership import Owned, chosen, owned
from consumers.relation import LEAD_COLUMNS, Relation
from consumers.row_comparison import Compared, compare_table
from consumers.row_text import texts
from consumers.session import connect
from consumers.source_rows import SourceRows
from consumers.source_session import Source, open_source
from consumers.target_rows import TargetRows
from replicator import PINNED_SETTINGS, REPLICATED, TableSchema

Say = Callable[[str], None]
_TELL_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    tenant: int
    inboxes: frozenset[int] = frozenset()
    """Empty: all of the tenant's."""
    tables: tuple[str, ...] = ()
    """Empty: every shipped relation."""
    wait_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    tenant: int
    inboxes: tuple[int, ...]
    """That were compared."""
    awaited: tuple[int, ...]
    """That are backfilled at present: not compared."""
    tables: tuple[Compared, ...]
    skipped: tuple[str, ...]
    """Relations that could not be compared."""
    seconds: float

    @property
    def is_equal(self) -> bool:
        return not any(table.unlike for table in self.tables)


def compare(settings: Settings, wish: Wish, say: Say) -> Comparison:
    """Raises SettingsError, Refused, LogUnavailable, TargetUnavailable or TargetRefused."""
    began = time.monotonic()
    if strange := sorted(set(wish.tables) - set(REPLICATED)):
        raise SettingsError(f"--table {', '.join(strange)}: compared are {', '.join(REPLICATED)}")
    with open_source(settings) as source, connect(settings, settings.target_dsn, "compare") as connection:
        connection.autocommit = True
        inboxes = chosen(connection, wish.tenant, wish.inboxes)
        own = owned(connection, wish.tenant)
        compared = inboxes - own.awaited
        if not compared:
            raise Refused(f"the inboxes of tenant {wish.tenant} are being backfilled: `consumers status`")
        relations = _bind(connection, wish.tenant)
        known = schemas.latest(settings)
        fence = Fence(source, connection, wish.tenant, wish.wait_s, say)
        fence.wait()
        comparing = _Comparing(settings, wish, source, connection, fence, own, compared, say)
        wanted = [name for name in REPLICATED if not wish.tables or name in wish.tables]
        ready = [name for name in wanted if name in known and name in relations]
        return Comparison(
            tenant=wish.tenant,
            inboxes=tuple(sorted(compared)),
            awaited=tuple(sorted(inboxes & own.awaited)),
            tables=tuple(comparing.table(relations[name], known[name]) for name in ready),
            skipped=tuple(name for name in wanted if name not in ready),
            seconds=round(time.monotonic() - began, 3),
        )


class _Comparing:
    """Table by table."""

    def __init__(
        self,
        settings: Settings,
        wish: Wish,
        source: Source,
        connection: Connection[Any],
        fence: Fence,
        own: Owned,
        inboxes: Collection[int],
        say: Say,
    ) -> None:
        self._settings, self._wish, self._source, self._connection = settings, wish, source, connection
        self._fence, self._own, self._inboxes, self._say = fence, own, inboxes, say
        self._told_at = time.monotonic()

    def table(self, relation: Relation, schema: TableSchema) -> Compared:
        made = LEAD_COLUMNS if relation.has_leads else ()
        shown = texts(schema.columns, relation.columns, schema.unstable, made)
        source = SourceRows(self._source, relation.name, self._settings.source_view, self._inboxes, shown)
        here = TargetRows(
            self._connection,
            relation,
            self._wish.tenant,
            shown,
            only=self._inboxes if self._wish.inboxes else (),
            apart=self._own.inactive | self._own.awaited,
        )
        found = Compared(relation.name, left_out=shown.left_out)
        columns: Sequence[str] = tuple(shown.columns)
        return compare_table(found, source, here, self._fence, columns, min(self._inboxes), self._tell)

    def _tell(self, found: Compared) -> None:
        if time.monotonic() - self._told_at >= _TELL_S:
            self._told_at = time.monotonic()
            self._say(f"{found.table}: {found.equal:,} equal so far, {found.unlike:,} not")


def _bind(connection: psycopg.Connection[Any], tenant: int) -> Mapping[str, Relation]:
    """The session is the applier's, for one tenant, and prints values as the source's does."""
    relations = layout.read_relations(connection)
    target_session.refuse_unbound(connection, relations)
    for name, value in {**PINNED_SETTINGS, "jit": "off", "app.current_tenant_id": str(tenant)}.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    return relations
