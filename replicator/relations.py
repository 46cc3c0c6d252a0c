"""What is captured, as data.

A streamed relation is a table with an inbox column of its own: its row changes go straight from the stream to the
topic. Derived relations (a SELECT with a key and an inbox, captured by reading again) will stand beside it here; until
then a contact reaches the target only as a stub.

Pure data: nothing here knows how a relation is read or published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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

BY_NAME: Final[dict[str, StreamedRelation]] = {relation.name: relation for relation in STREAMED}

CAPTURED: Final[tuple[str, ...]] = tuple(BY_NAME)
"""Names of all captured relations: what a complete backfill reads."""
