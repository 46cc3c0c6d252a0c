"""A target that events are applied to directly, without a log: what a worker's thread does with one tenant's share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from psycopg import Connection

from consumers.batch import ends_of, new_marks
from consumers.layout import read_relations
from consumers.ordering import Event, steps
from consumers.relation import Relation
from consumers.target import Outcome, Session, Work
from consumers.watermark import Mark, Place
from tests.histories import schema_of
from tests.integration.targets import Target, target_of

TOPIC_ID = "topic"


class Applied:
    """A target after setup, and one session of the applier to it."""

    def __init__(
        self, target: Target, reading: Connection[Any], relations: dict[str, Relation], session: Session
    ) -> None:
        self.target, self.relations, self.session = target, relations, session
        self.marks: dict[Place, Mark] = {}
        self._reading = reading

    def add_tenant(self, tenant: int, inboxes: Iterable[int] = ()) -> None:
        self.target.execute("INSERT INTO tenants (id, name, slug) VALUES (%s, 'T', %s)", tenant, f"t{tenant}")
        for inbox in inboxes:
            self.target.execute("INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", inbox, tenant)

    def forget_tenants(self) -> None:
        """With all that is theirs."""
        self.target.execute("DELETE FROM tenants")
        self.marks.clear()

    def work(self, tenant: int, events: Sequence[Event], inboxes: Iterable[int] = ()) -> Work:
        return Work(
            tenant=tenant,
            topic_id=TOPIC_ID,
            steps=steps(events),
            inboxes=frozenset(inboxes),
            marks=new_marks(tenant, events, ends_of(events), self.marks),
        )

    def apply(self, tenant: int, events: Sequence[Event], inboxes: Iterable[int] = ()) -> Outcome:
        """In one transaction; the watermarks are remembered."""
        work = self.work(tenant, events, inboxes)
        outcome = self.session.apply(work, schema_of)
        self.marks.update({place: mark for place, (_, mark, _) in work.marks.items()})
        return outcome

    def rows(self, tenant: int, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """As the tenant."""
        self._reading.execute("SELECT set_config('app.current_tenant_id', %s, false)", [str(tenant)])
        return self._reading.execute(query.encode(), parameters or None).fetchall()


@contextmanager
def applied_to(superuser_dsn: str) -> Iterator[Applied]:
    with target_of(superuser_dsn) as target:
        target.apply()
        with target.connected("applier") as reading:
            relations = read_relations(reading)
            with closing(Session(target.settings(), relations)) as session:
                yield Applied(target, reading, relations, session)
