"""One connection to the target for a command: UTC, in the target's schema, nothing without a time-out.

Turns what goes wrong into this program's errors. The workers' own connections are not made here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from pydantic import SecretStr

from consumers.config import Settings
from consumers.errors import Action, Fault, TargetRefused, TargetUnavailable, classify
from consumers.reasons import first_line

_NOTICE_SILENCE: Final[dict[str, Any]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
"""A server that vanishes without a word ends the session in half a minute: its time-outs can't."""


@contextmanager
def connect(settings: Settings, dsn: SecretStr, purpose: str) -> Iterator[psycopg.Connection[Any]]:
    """A session for one purpose (shown in pg_stat_activity). Raises TargetUnavailable or TargetRefused."""
    try:
        with psycopg.connect(
            dsn.get_secret_value(),
            connect_timeout=settings.connect_timeout_s,
            application_name=f"inbox-replicator {purpose}",
            **_NOTICE_SILENCE,
        ) as connection:
            _prepare(connection, settings)
            yield connection
    except psycopg.Error as error:
        verdict = classify(error)
        kind = TargetUnavailable if verdict.fault is Fault.ENVIRONMENT else TargetRefused
        advice = "" if verdict.action is Action.WAIT else f" {verdict.advice}"
        state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
        raise kind(f"the target says: {first_line(error)}{state}.{advice}") from None


def _prepare(connection: psycopg.Connection[Any], settings: Settings) -> None:
    for name, value in (
        # pg_catalog comes first by itself; temporary tables can't get in front of ours.
        ("search_path", f'"{settings.target_schema}", pg_temp'),
        ("TimeZone", "UTC"),
        ("lock_timeout", f"{settings.lock_timeout_s}s"),
        ("statement_timeout", f"{settings.statement_timeout_s}s"),
    ):
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    connection.commit()
