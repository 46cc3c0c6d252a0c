"""A read-only session on the source, for commands that look at it: everything pinned, nothing without a time-out.

The source comes first: one connection, short statements, and after each as long a rest as it took.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from consumers.config import PREFIX, Settings
from consumers.errors import Action, Refused, SettingsError, classify
from consumers.identifiers import quoted
from consumers.reasons import first_line
from replicator import PINNED_SETTINGS

_LONGEST_REST_S: Final = 2.0
_SESSION: Final = {
    **PINNED_SETTINGS,
    "default_transaction_read_only": "on",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "30s",
    # A row of the analytics view is read by its key: planning it for parallel workers, or compiling it, takes longer.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


class Source:
    """Statements on the source, each for itself."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Raises Refused with what the source says."""
        began = time.monotonic()
        try:
            found = self._connection.execute(statement.encode(), parameters or None, prepare=True).fetchall()
        except psycopg.Error as error:
            raise _refused(error) from None
        time.sleep(min(time.monotonic() - began, _LONGEST_REST_S))
        return found


@contextmanager
def open_source(settings: Settings) -> Iterator[Source]:
    """Raises SettingsError without CONSUMERS_SOURCE_DSN, Refused with what the source says."""
    if settings.source_dsn is None:
        raise SettingsError(
            f"{PREFIX}SOURCE_DSN: is missing; a role of the source that may SELECT what is replicated (postgresql://…)"
        )
    try:
        connection = _connected(settings, settings.source_dsn.get_secret_value())
    except psycopg.Error as error:
        raise _refused(error) from None
    with connection:
        yield Source(connection)


def _connected(settings: Settings, dsn: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(
        dsn,
        autocommit=True,
        connect_timeout=settings.connect_timeout_s,
        application_name="inbox-replicator compare",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,  # milliseconds
    )
    wanted = {
        **_SESSION,
        "statement_timeout": f"{settings.statement_timeout_s}s",
        "search_path": quoted(settings.source_schema),
    }
    for name, value in wanted.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    return connection


def _refused(error: psycopg.Error) -> Refused:
    """The source's own words, without the detail, which may quote a row."""
    advice = "" if classify(error).action is Action.WAIT else " Look at CONSUMERS_SOURCE_DSN and its role's rights."
    return Refused(f"the source says: {first_line(error)}.{advice}")
