"""What is captured, as data.

A streamed relation is a table with an inbox column of its own: its row changes go straight from the stream to the
topic. A derived relation is everything else: a SELECT with a key and an inbox, of which the rows of changed keys are
read again. Which base rows lead to which keys is found by `lineage`, from the SELECT itself.

Pure data: nothing here knows how a relation is read or published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from replicator.lineage import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The replica identity that lets the stream name the old inbox and key of a row.

    Under PostgreSQL's default identity an UPDATE carries no old inbox and a DELETE only the primary key
    (https://www.postgresql.org/docs/current/logical-replication-publication.html, "replica identity").
    """

    columns: tuple[str, ...] = ()
    """Columns of a unique index that `REPLICA IDENTITY USING INDEX` names; empty: the kind says all."""
    kind: str = "index"
    """`index`, `full`, or `default` (the primary key carries all that is needed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedRelation:
    """A table of the source whose changes are published as they come."""

    name: str
    inbox: str
    """The column that holds the inbox id."""
    key: tuple[str, ...] = ("id",)
    """Its primary key in the source."""
    identity: Identity
    scan: tuple[str, ...] = ("id",)
    """The order in which one inbox's rows are read: a unique suffix of the identity's index, so that it is used."""
    excluded: frozenset[str] = frozenset()
    """Columns that never leave the source."""

    def order(self, inbox: int | None) -> tuple[str, ...]:
        """The unique columns by which its rows, or one inbox's, are read."""
        return self.key if inbox is None else self.scan


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedRelation:
    """A SELECT over the source whose rows are read again when what they are made of changes.

    At most one row of a key is published at an inbox.
    """

    name: str
    """Of the table in the target."""
    select: str
    """Run with the source's schema as the search path."""
    key: tuple[str, ...]
    """One column of the SELECT, an integer."""
    inbox: str
    """The column of the SELECT that holds the inbox id."""
    excluded: frozenset[str] = frozenset()
    """Columns that are not published. The inbox, where a row may be at several: the row then says none."""
    paths: tuple[Path, ...] = ()
    """How base rows lead to keys where the SELECT alone can't tell."""
    newest: str = ""
    """Of several rows of one key at one inbox the one where this column is greatest is taken."""
    updated: str = "updated_at"
    """The column that a writer sets to its clock's time, if there is one: how polling finds most changes."""
    is_appended: bool = False
    """Polling looks for greater keys instead: rows are many, come in the order of their keys, and seldom change."""
    held_by: tuple[tuple[str, str], ...] = ()
    """Where rows say no inbox: (table, its column with the key) of what refers to them. A tenant takes a row only while
    it has a reference to it, so the row is published after each new one. The stream sees to that by the paths."""

    def order(self, inbox: int | None) -> tuple[str, ...]:
        """Keys are read in their own order, whatever the scope."""
        del inbox
        return self.key


Relation = StreamedRelation | DerivedRelation

STREAMED: Final[tuple[StreamedRelation, ...]] = (
    StreamedRelation(name="inboxes", inbox="id", identity=Identity(kind="default")),
    StreamedRelation(name="conversations", inbox="inbox_id", identity=Identity(columns=("inbox_id", "id"))),
    # inbox_id is nullable here, so no index can carry it.
    StreamedRelation(name="contact_inboxes", inbox="inbox_id", identity=Identity(kind="full")),
    StreamedRelation(
        name="messages",
        inbox="inbox_id",
        identity=Identity(columns=("inbox_id", "conversation_id", "id")),
        scan=("conversation_id", "id"),
    ),
)
"""Parents before children: the order of an initial load."""

STREAMED_BY_NAME: Final[dict[str, StreamedRelation]] = {relation.name: relation for relation in STREAMED}


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseTable:
    """A table that is streamed only because derived relations are made of it: none of its rows is published as such."""

    name: str
    key: tuple[str, ...] = ("id",)
    identity: Identity = Identity(kind="default")
    is_read: bool = True
    """Our role reads it itself, not only through the view."""
    columns: tuple[str, ...] = ()
    """The only ones that leave the source, where the server can leave columns out (PostgreSQL 15); empty: all."""
    is_shipped: bool = True
    """Chatwoot has it and every installation needs it; others only some definition of a derived relation."""


BaseTable = StreamedRelation | CauseTable


def names_every_row(relation: BaseTable, identity: str, held: AbstractSet[str]) -> bool:
    """Whether the stream names the old key and the old inbox of every row under a replica identity.

    `identity`: its kind, as `pg_class.relreplident` has it; `held`: the columns that it holds, none if it is broken.
    """
    if identity == "f":
        return True
    return relation.identity.kind != "full" and held >= set(relation.identity.columns or relation.key)


_CAUSES: Final = (
    CauseTable(name="contacts"),
    CauseTable(name="csat_survey_responses", identity=Identity(columns=("conversation_id", "id"))),
)
SHIPPED: Final[tuple[BaseTable, ...]] = (*STREAMED, *_CAUSES)
"""What every installation needs, whatever its other derived relations are made of."""
WITH_SECRETS: Final = frozenset({"users"})
"""Tables of Chatwoot with columns, passwords and tokens, that should not even reach us."""


CONTACTS: Final = DerivedRelation(
    name="contacts",
    # LATERAL: inboxes are looked up contact by contact. As a subquery of its own the UNION would be made of all of them
    # wherever it is not asked for one contact.
    select=(
        "SELECT c.*, at.inbox_id FROM contacts AS c CROSS JOIN LATERAL ("
        "SELECT i.inbox_id FROM contact_inboxes AS i WHERE i.contact_id = c.id"
        " UNION SELECT v.inbox_id FROM conversations AS v WHERE v.contact_id = c.id"
        ") AS at"
    ),
    key=("id",),
    inbox="inbox_id",
    excluded=frozenset({"inbox_id"}),
    held_by=(("contact_inboxes", "contact_id"), ("conversations", "contact_id")),
)
SURVEY_ANSWERS: Final = DerivedRelation(
    name="csat_survey_responses",
    select="SELECT r.*, c.inbox_id FROM csat_survey_responses AS r JOIN conversations AS c ON c.id = r.conversation_id",
    key=("id",),
    inbox="inbox_id",
)
ANALYTICS: Final = "conversations_analytics"
"""The analytics view's name in the target."""


def analytics(view: str, paths: tuple[Path, ...] = ()) -> DerivedRelation:
    """The analytics view, of which a conversation that was surveyed twice has two rows. `view` is quoted as SQL."""
    return DerivedRelation(
        name=ANALYTICS,
        select=f"SELECT * FROM {view}",
        key=("conversation_id",),
        inbox="inbox_id",
        newest="csat_response_id",
        updated="conversation_updated_at",
        paths=paths,
    )


POLLED_TABLES: Final[tuple[DerivedRelation, ...]] = tuple(
    DerivedRelation(
        name=table.name,
        select=f"SELECT * FROM {table.name}",
        key=table.key,
        inbox=table.inbox,
        excluded=table.excluded,
        is_appended=table.name == "messages",
    )
    for table in STREAMED
)
"""The streamed tables, as they are read where there is no stream."""


class Captured:
    """Every relation of one installation, in the order of an initial load: what others derive from first."""

    def __init__(
        self, derived: Sequence[DerivedRelation], streamed: Mapping[str, StreamedRelation] = STREAMED_BY_NAME
    ) -> None:
        """`streamed`: empty where the source is polled."""
        self.derived: Final[tuple[DerivedRelation, ...]] = tuple(derived)
        self.by_name: Final[dict[str, Relation]] = {**streamed, **{each.name: each for each in derived}}
        self.names: Final[tuple[str, ...]] = tuple(self.by_name)

    def in_order(self, tables: Sequence[str] | None) -> tuple[str, ...]:
        """Known names among these (None: all)."""
        return tuple(name for name in self.names if tables is None or name in tables)

    def derived_among(self, tables: Sequence[str]) -> tuple[str, ...]:
        return tuple(each.name for each in self.derived if each.name in tables)


REPLICATED: Final[tuple[str, ...]] = (*STREAMED_BY_NAME, CONTACTS.name, SURVEY_ANSWERS.name, ANALYTICS)
"""The tables that every target has."""
_CONTROL: Final = frozenset(
    {"tenants", "tenant_settings", "inbox_tenant_mapping", "analysis_queue", "etl_control", "unmapped_inboxes"}
)
"""What else a target keeps under names that do not begin with `replication_`."""


def is_taken(name: str) -> bool:
    """Whether a target already has something of this name, or will have: of the reading views that it may make too."""
    return name.removesuffix("_live") in REPLICATED or name in _CONTROL or name.startswith("replication_")
