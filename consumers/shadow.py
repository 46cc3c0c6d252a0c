"""One tenant's rows as a stretch of the log has them, in tables of their own beside the live ones.

The shadow is the applier's session's own temporary schema: nobody else can read it, not even the applier, and it goes
with the session, however that ends. Its tables have the live ones' columns, take rows of one tenant only, and are
written by the very code that writes the live ones: in this session their names come before the live ones'. So does a
copy of the tenant's inboxes, which begin and end of a backfill are noted on.

Beside the rows it keeps what their tables can't say: what was deleted where, which tables were emptied, of which
inboxes a whole backfill was read, and keys about which it knows nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar, Final

from consumers import layout, target_session
from consumers.config import Settings
from consumers.forms import Schemas, Writing
from consumers.identifiers import literal, quoted
from consumers.lead_columns import LeadColumns
from consumers.ordering import Begin, Event, Step, Sweep, Truncate, steps
from consumers.relation import Relation
from consumers.target import Outcome, Session, Work
from replicator import Position

_NOTES: Final = (
    """CREATE TEMPORARY TABLE replay_deletes (relation text, id bigint, inbox bigint, epoch bigint, point bigint,
        ordinal bigint, UNIQUE NULLS NOT DISTINCT (relation, id, inbox))""",
    "CREATE TEMPORARY TABLE replay_spared (relation text, id bigint, PRIMARY KEY (relation, id))",
    "CREATE TEMPORARY TABLE replay_found (relation text, id bigint, kind text, PRIMARY KEY (relation, id, kind))",
)
_NOTE_DELETES: Final = (
    "INSERT INTO pg_temp.replay_deletes AS r SELECT DISTINCT ON (d.relation, d.id, d.inbox)"
    " d.relation, d.id, d.inbox, d.epoch, d.point, d.ordinal FROM pg_temp.staged_deletes AS d"
    " WHERE d.load = %(load)s AND d.step = %(step)s"
    " ORDER BY d.relation, d.id, d.inbox, d.epoch DESC, d.point DESC, d.ordinal DESC"
    " ON CONFLICT (relation, id, inbox) DO UPDATE SET epoch = EXCLUDED.epoch, point = EXCLUDED.point,"
    " ordinal = EXCLUDED.ordinal"
    " WHERE (r.epoch, r.point, r.ordinal) < (EXCLUDED.epoch, EXCLUDED.point, EXCLUDED.ordinal)"
)
_NOTE_SPARED: Final = (
    "INSERT INTO pg_temp.replay_spared SELECT %(relation)s, unnest(%(ids)s::bigint[]) ON CONFLICT DO NOTHING"
)


class Shadow(Session):
    """A session whose tables are the shadow's, and what the stretch says beside rows."""

    _holds_all: ClassVar[bool] = False
    """A stretch may begin behind the reference by which a row is the tenant's."""

    def __init__(self, settings: Settings, tenant: int, inboxes: Collection[int]) -> None:
        """Raises psycopg.Error or TargetRefused."""
        super().__init__(settings, {}, "replay")
        self.tenant = tenant
        self._schema = settings.target_schema
        self.compared: dict[str, set[str]] = defaultdict(set)
        """By table: columns that events carried, and the target has."""
        self.emptied: dict[str, Position] = {}
        """By table: the last truncate."""
        self.covered: dict[str, set[int]] = defaultdict(set)
        """By table: inboxes of which a backfill was read from its begin to its end."""
        self._begun: dict[int, str] = {}
        target_session.refuse_shared(settings, self.connection)
        relations = layout.read_relations(self.connection)
        target_session.refuse_unbound(self.connection, relations)
        for statement in (*_NOTES, *self._creation(relations.values())):
            self.connection.execute(statement.encode())
        self.connection.execute(
            "INSERT INTO pg_temp.inbox_tenant_mapping (inbox_id, tenant_id, is_active)"
            " SELECT inbox, %s, true FROM unnest(%s::bigint[]) AS inbox",
            [tenant, list(inboxes)],
        )
        self.use(relations)
        self.look_at_shadow()

    def look_at_shadow(self) -> None:
        """From here on a replicated table's name means the shadow's."""
        self._look_at("pg_temp", self._schema)

    def look_at_live(self) -> None:
        """From here on it means the live table."""
        self._look_at(self._schema, "pg_temp")

    def write(
        self, events: Sequence[Event], schemas: Schemas, leads: LeadColumns | None, without_inbox: Collection[str]
    ) -> None:
        """As the live tables are written, but without lock and watermark. Raises psycopg.Error or BadEvent."""
        work = Work(
            tenant=self.tenant,
            topic_id="",
            steps=steps(events, without_inbox),
            inboxes=frozenset(),
            leads=leads,
            marks={},
        )
        self.apply(work, schemas)

    def spare(self, table: str, ids: Iterable[int]) -> None:
        """The shadow is no witness for these rows."""
        self._execute(_NOTE_SPARED, relation=table, ids=list(ids))

    def analyze(self) -> None:
        """For plans that go over whole tables: nobody else does it for temporary ones."""
        names = (*(quoted(name) for name in self.relations), "replay_deletes", "replay_found", "replay_spared")
        self.connection.execute(f"ANALYZE {', '.join(f'pg_temp.{name}' for name in names)}".encode())

    def next_load(self) -> int:
        """A number under which deletes can be staged."""
        self._load += 1
        return self._load

    def _claim(self, work: Work) -> None:
        """Nobody else can write the shadow."""

    def _carry_out(self, tenant: int, number: int, step: Step, forms: list[Writing], outcome: Outcome) -> None:
        super()._carry_out(tenant, number, step, forms, outcome)
        for form in (each.form for each in forms):
            self.compared[form.relation.name].update(form.columns)
        self._execute(_NOTE_DELETES, load=self._load, step=number)
        match step:
            case Truncate():
                self.emptied[step.table] = max(step.position, self.emptied.get(step.table, step.position))
            case Begin():
                self._begun.update(dict.fromkeys(step.inboxes, step.backfill))
            case Sweep(marker=marker):
                whole = {inbox for inbox in step.inboxes if self._begun.get(inbox) == marker.id}
                for table in marker.tables:
                    self.covered[table] |= whole
                    self.spare(table, marker.spared.get(table, ()))

    def _creation(self, relations: Iterable[Relation]) -> Iterable[str]:
        live = quoted(self._schema)
        yield f"CREATE TEMPORARY TABLE inbox_tenant_mapping (LIKE {live}.inbox_tenant_mapping INCLUDING DEFAULTS)"
        for relation in relations:
            name, key = quoted(relation.name), quoted(relation.key)
            yield (
                f"CREATE TEMPORARY TABLE {name} (LIKE {live}.{name}"
                " INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY,"
                f" CHECK (tenant_id = {self.tenant}), UNIQUE (tenant_id, {key}))"
            )
            for column in {column for column, _ in relation.parents}:  # every statement goes by an index here
                yield f"CREATE INDEX ON pg_temp.{name} (tenant_id, {quoted(column)})"

    def _look_at(self, *schemas: str) -> None:
        path = ", ".join(name if name == "pg_temp" else quoted(name) for name in schemas)
        self.connection.execute("SELECT set_config('search_path', %s, false)", [path])


def rows_in(shadow: Shadow, relation: Relation) -> tuple[int, int]:
    """Whole rows of a table, and rows of which only a part is known."""
    ((whole, part),) = shadow.connection.execute(
        "SELECT count(*) FILTER (WHERE synced_at IS NOT NULL), count(*) FILTER (WHERE synced_at IS NULL"
        " AND source_epoch > 0 AND NOT EXISTS (SELECT FROM pg_temp.replay_deletes AS d"
        f" WHERE d.relation = {literal(relation.name)} AND d.id = s.{quoted(relation.key)}"
        " AND (d.epoch, d.point, d.ordinal) >= (s.source_epoch, s.source_point, s.source_ordinal)))"
        f" FROM pg_temp.{quoted(relation.name)} AS s".encode()
    ).fetchall()
    return whole, part
