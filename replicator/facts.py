"""What was found on the source and on Kafka, as plain data: `inspection` and `topics` read it, the rules judge it.

Pure data: knows neither where a fact comes from nor what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFacts:
    """The role that the source's address names."""

    name: str
    superuser: bool
    replication: bool
    can_create: bool
    """CREATE on the database: what making a publication takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """How an ordinary session and a walsender behave between us and the server."""

    same_backend: bool
    """Statements one after another reach the same server process and find the session's settings again."""
    direct: bool
    """The server process is the one that the connection's greeting named: nothing stands in between."""
    walsender_error: str | None
    """Why `replication=database` with IDENTIFY_SYSTEM failed; None if it answered."""
    same_system: bool
    """The walsender belongs to the same cluster and database as the ordinary session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The server and its settings, as our role gets them. Times in milliseconds, 0: no limit."""

    version: int
    """As `server_version_num` has it: 150018 is 15.18."""
    in_recovery: bool
    database: str
    encoding: str
    wal_level: str
    max_slots: int
    used_slots: int
    max_walsenders: int
    used_walsenders: int
    keep_size_mb: int
    """`max_slot_wal_keep_size`; -1: no limit."""
    synchronous_standbys: str
    wal_sender_timeout_ms: int
    idle_session_timeout_ms: int
    transaction_timeout_ms: int
    time_zone: str = "UTC"
    """What our role's sessions would have if they did not set it themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """The slot of our name."""

    kind: str
    plugin: str | None
    database: str | None
    temporary: bool
    active_pid: int | None
    holder: str | None
    """The application name of the session that holds it, where we may see it."""
    wal_status: str | None
    held_bytes: int | None
    """WAL that the source keeps for it."""
    invalidated: str | None
    """Why the server gave it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """A table that a publication names."""

    schema: str
    name: str
    columns: frozenset[str] | None
    """The columns that it lists; None: it publishes all."""
    has_filter: bool
    """Published with a row filter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationFacts:
    """The publication of our name."""

    owned: bool
    """Our role may change it."""
    all_tables: bool
    schemas: tuple[str, ...]
    """Schemas that it publishes as a whole."""
    operations: frozenset[str]
    tables: tuple[PublishedTable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """An index of a captured table."""

    name: str
    columns: tuple[str, ...]
    """Its key columns; an expression is an empty string."""
    unique: bool
    """Unique, at once, over all rows: what a replica identity takes."""
    valid: bool
    primary: bool
    identity: bool
    """It is the table's replica identity."""
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """A column of a captured table."""

    type_name: str
    not_null: bool
    generated: bool = False
    """Computed by the server, and not in the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A captured table."""

    schema: str
    name: str
    kind: str
    """`pg_class.relkind`: r ordinary, p partitioned, f foreign, v view, m materialized view."""
    persistence: str
    """`pg_class.relpersistence`: p permanent, u unlogged, t temporary."""
    is_partition: bool
    inheritance: tuple[tuple[str, str], ...]
    """(child, parent), with their schemas, of each inheritance that it takes part in; being a partition is one too."""
    owned: bool
    """Our role may alter it."""
    readable: bool
    row_security: bool
    """Policies hide rows from our role."""
    identity: str
    """`pg_class.relreplident`: d default, n nothing, f full, i index."""
    limited_by: tuple[str, ...] = ()
    """Publications, ours among them, that list its columns or filter its rows: with another replica identity they may
    make the source's own UPDATE and DELETE fail."""
    columns: Mapping[str, ColumnFacts]
    indexes: tuple[IndexFacts, ...]
    rows: int
    """The planner's estimate, -1 if it has none."""
    bytes: int

    @property
    def primary_key(self) -> tuple[str, ...]:
        return next((index.columns for index in self.indexes if index.primary), ())

    @property
    def identity_index(self) -> IndexFacts | None:
        """The index that REPLICA IDENTITY USING INDEX named, if it still exists."""
        return next((index for index in self.indexes if index.identity and self.identity == "i"), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeOf:
    """What a derived relation makes of one base table."""

    schema: str
    table: str
    key: tuple[str, ...]
    """The table's primary key; empty if it has none."""
    columns: frozenset[str]
    """Those that the relation uses, and those by which its paths start."""
    starts: frozenset[str]
    """Those by which its paths start: the stream should carry their old values."""
    not_null: frozenset[str]
    """All of the table that are NOT NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """All that is asked of the source."""

    server: ServerFacts
    role: RoleFacts
    session: SessionFacts
    slot: SlotFacts | None
    idle_slots: tuple[str, ...]
    """Others of this database and our plugin that nobody reads."""
    publication: PublicationFacts | None
    made_of: Mapping[str, tuple[MadeOf, ...]]
    """By derived relation; one that can't be followed is not in it."""
    tables: Mapping[str, TableFacts]
    """The source's own by name, as far as a publication is to hold them; what does not exist is not in it."""

    @property
    def records_leads(self) -> bool:
        """Conversations have custom_attributes, where leads may be recorded."""
        conversations = self.tables.get("conversations")
        column = conversations.columns.get("custom_attributes") if conversations else None
        return column is not None and column.type_name == "jsonb"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """One way from rows of a base table to keys of a derived relation."""

    schema: str
    table: str
    columns: tuple[str, ...]
    """Where it starts."""
    says: str
    scanned: tuple[str, ...]
    """Tables that its look-up reads as a whole, because no index helps."""
    fault: str
    """Why the look-up can't be run; empty: it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewReading:
    """What reading the analytics view is like."""

    columns: Mapping[str, str]
    """Type by name, as format_type prints it."""
    surveyed_twice: int
    """Conversations with more than one survey answer: each may have as many rows."""
    one_read_ms: float | None
    """How long the newest conversation takes to be read; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedFacts:
    """A derived relation."""

    name: str
    problem: str = ""
    """Why it can't be followed; empty: it can."""
    paths: tuple[PathFacts, ...] = ()
    used: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Columns that it is made of, by base table."""
    clock: Mapping[str, str | None] = field(default_factory=dict)
    """Columns that change without any write, and the expression that computes each."""
    unstable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns whose order leaves ties, and the pieces of SQL."""
    scanned: tuple[str, ...] = ()
    """Tables that reading one key reads as a whole."""
    fault: str = ""
    """Why a key can't be read."""
    reading: ViewReading | None = None
    """Of the analytics view, if it can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StampFacts:
    """The base column behind the column that says when a row was written."""

    schema: str
    table: str
    column: str
    is_indexed: bool
    """An index begins with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolledFacts:
    """A relation as polling would find its changes."""

    name: str
    problem: str = ""
    """Why it can't be read; empty: it can, and the rest is known."""
    updated: str = ""
    """The column that says when a row was written; empty: there is none."""
    stamp: StampFacts | None = None
    """None: no base column stands behind it as it is."""
    is_appended: bool = False
    """Its changes are looked for by greater keys."""
    cost: float = 0.0
    """What the planner expects of a query for changes that finds none..."""
    took_ms: float = 0.0
    """...and how long it takes; without one, 0."""
    scanned: tuple[str, ...] = ()
    """Tables that it reads as a whole."""
    rows: int = 0
    """The planner's estimate."""
    key_ms: float = 0.0
    """How long it takes to compare one row in a rolling pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """A topic that exists."""

    partitions: int
    replicas: int
    """Of the partition that has the fewest."""
    config: Mapping[str, str] | None
    """None: our Kafka user may not read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaFacts:
    """All that is asked of Kafka."""

    brokers: int
    unreachable: tuple[str, ...]
    """Brokers that did not answer, as host:port."""
    request_max_bytes: int | None
    """The smallest `socket.request.max.bytes` of all brokers; None: unknown."""
    topics: Mapping[str, TopicFacts]
