"""The target's replicated tables as its catalogue had them at the last look.

Their owner may alter them at any time: a column added, widened, dropped. Looked at again now and then, and before
anything is given up for an error that an older look may have caused. Shared by the worker's loop and its threads, which
take `relations` anew for each piece of work; a look replaces the mapping, never changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from psycopg import Connection

from consumers import target
from consumers.upsert import Relation

log = structlog.get_logger(__name__)


class Layout:
    """Empty until it is read."""

    def __init__(self) -> None:
        self.relations: Mapping[str, Relation] = {}

    def read(self, connection: Connection[Any]) -> bool:
        """Whether the tables were altered since the last look. Raises psycopg.Error or TargetRefused."""
        found = target.read_relations(connection)
        if found == self.relations:
            return False
        if self.relations:
            altered = sorted(name for name, relation in found.items() if relation != self.relations.get(name))
            log.info("target.altered", tables=altered)
            target.forget_plans(connection)
        self.relations = found
        return True
