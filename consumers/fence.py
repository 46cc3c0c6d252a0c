"""Waiting until a tenant has everything that the source had committed at one moment: so lag is never a difference.

The moment is the source's own time, after whatever was read there. Heartbeats say up to which of its times all is
published, `replication_freshness` up to which all is applied, in every partition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from psycopg import Connection

from consumers.errors import Refused
from consumers.source_session import Source

_LOOK_S: Final = 0.1
_TELL_S: Final = 5.0
_PARKED_S: Final = 10.0
"""A tenant that had to stand aside for somebody's lock is back by then; one that is still parked needs a person."""


class Fence:
    """For one tenant, to which the target's session is bound."""

    def __init__(
        self, source: Source, connection: Connection[Any], tenant: int, wait_s: float, say: Callable[[str], None]
    ) -> None:
        self._source, self._connection, self._tenant = source, connection, tenant
        self._wait_s, self._say = wait_s, say
        self.at: datetime | None = None
        """The last that was waited for."""

    def wait(self) -> None:
        """What was committed before now is applied. Raises Refused if it is not within the time."""
        ((moment,),) = self._source.rows("SELECT clock_timestamp()")
        began = told = followed = time.monotonic()
        while True:
            found = self._connection.execute("SELECT fresh_at, is_parked FROM replication_freshness").fetchone()
            fresh_at, is_parked = found or (None, False)
            if fresh_at is not None and fresh_at >= moment:
                self.at = moment
                return
            now = time.monotonic()
            if not is_parked:
                followed = now
            elif now >= followed + _PARKED_S:
                raise Refused(f"tenant {self._tenant} is parked: `consumers status` says why; then compare again")
            if now >= began + self._wait_s:
                raise Refused(
                    f"tenant {self._tenant} has not what the source committed {self._wait_s:g} s ago; it has what was"
                    f" committed before {fresh_at or 'anything'}: do replicator and worker run? --wait waits longer"
                )
            if now >= told + _TELL_S:
                told = now
                self._say(f"waiting for what the source had committed at {moment:%H:%M:%S}; applied is {fresh_at}")
            time.sleep(_LOOK_S)
