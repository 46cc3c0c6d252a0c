"""`consumers setup`: finds out what the target lacks, and adds it.

Planning happens in one read-only transaction. Applying takes one transaction for each numbered file, each under an
advisory lock and planned anew within it: it can be run again, and by two people at once. Never prints a password; the
applier's is hashed here, so that it does not reach the server's log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from consumers.catalogue import Catalogue
from consumers.comparison import compare
from consumers.config import Settings
from consumers.errors import Refused, TargetRefused
from consumers.migrations import Migration, load, tables
from consumers.plan import Finding, Plan, Severity, Step, refusal
from consumers.session import connect, first_line
from consumers.surroundings import about_access, about_roles

_SETUP_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('inbox-replicator setup', 0))"
_LOCK_WAIT: Final = "120s"  # another setup may be building an index on an adopted table
_STATEMENT_LIMIT: Final = "1h"  # an index on an adopted table of some hundred million rows


def plan(settings: Settings) -> Plan:
    """What is missing; changes nothing. Raises TargetUnavailable."""
    with connect(settings, settings.owner_dsn, "setup") as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _plan(Catalogue(connection, settings.target_schema), _migrations(settings), settings)


def apply(settings: Settings, on_step: Callable[[Step], None]) -> None:
    """Adds what is missing. Raises Refused before the first change, TargetRefused if a statement fails."""
    if refusals := plan(settings).of(Severity.REFUSAL):
        raise Refused("\n".join(found.says for found in refusals))
    with connect(settings, settings.owner_dsn, "setup") as connection:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        for migration in _migrations(settings):
            with connection.transaction():
                _apply_one(connection, migration, settings, on_step)


def _migrations(settings: Settings) -> tuple[Migration, ...]:
    return load(schema=settings.target_schema, applier=settings.applier)


def _plan(catalogue: Catalogue, migrations: tuple[Migration, ...], settings: Settings) -> Plan:
    items = [item for migration in migrations for item in compare(catalogue, migration)]
    steps = tuple(item for item in items if isinstance(item, Step))
    findings = [item for item in items if isinstance(item, Finding)]
    if max(catalogue.applied, default=0) > migrations[-1].version:
        findings.append(refusal("the target was set up by a newer version of this program: install that one"))
    kinds = tables(migrations)
    findings += about_roles(catalogue, settings.applier, kinds, pending=bool(steps))
    findings += about_access(catalogue, kinds)
    return Plan(steps=steps, findings=tuple(dict.fromkeys(findings)))


def _apply_one(
    connection: psycopg.Connection[Any], migration: Migration, settings: Settings, on_step: Callable[[Step], None]
) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_WAIT])
    connection.execute(_SETUP_LOCK)
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{settings.lock_timeout_s}s"])
    connection.execute("SELECT set_config('statement_timeout', %s, true)", [_STATEMENT_LIMIT])
    catalogue = Catalogue(connection, settings.target_schema)
    items = list(compare(catalogue, migration))
    if refusals := [item.says for item in items if isinstance(item, Finding) and item.severity is Severity.REFUSAL]:
        raise Refused("\n".join(refusals))
    for step in items:
        if isinstance(step, Step):
            _carry_out(connection, step, settings)
            on_step(step)


def _carry_out(connection: psycopg.Connection[Any], step: Step, settings: Settings) -> None:
    try:
        with connection.transaction():
            connection.execute(step.sql.encode())
            if step.makes_role == settings.applier:
                _give_password(connection, settings)
    except psycopg.Error as error:
        if step.makes_role and isinstance(error, (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation)):
            return
        raise TargetRefused(f"could not {step.does}: {first_line(error)} (SQLSTATE {error.sqlstate})") from None


def _give_password(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """The applier's password, if its DSN has one, as a SCRAM verifier: the server never sees the password."""
    parameters = conninfo_to_dict(settings.target_dsn.get_secret_value())
    password = parameters.get("password")
    if not password:
        return
    encoding = connection.info.encoding
    verifier = connection.pgconn.encrypt_password(
        str(password).encode(encoding), settings.applier.encode(encoding), b"scram-sha-256"
    )
    connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(settings.applier), sql.Literal(verifier.decode()))
    )
