"""`consumers setup`: finds out what the target lacks, and adds it.

Planning happens in one read-only transaction. Applying takes one transaction for each numbered file, and one for each
derived relation that the schemas topic names, each under an advisory lock and planned anew within it: it can be run
again, and by two people at once. Without Kafka the shipped relations are set up all the same. Never prints a password;
the applier's is hashed here, so that it does not reach the server's log.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from consumers import provision, schemas
from consumers.batch_etl import about_running
from consumers.catalogue import Catalogue
from consumers.comparison import compare
from consumers.config import Settings
from consumers.errors import LogUnavailable, Refused, TargetRefused
from consumers.migrations import Migration, load, tables
from consumers.plan import Finding, Item, Plan, Severity, Step, note, refusal
from consumers.reasons import first_line
from consumers.requests import Requests
from consumers.session import connect
from consumers.surroundings import about_access, about_roles
from replicator import BackfillRequest, TableSchema

_SETUP_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('inbox-replicator setup', 0))"
_LOCK_WAIT: Final = "120s"  # another setup may be building an index on an adopted table
_STATEMENT_LIMIT: Final = "1h"  # an index on an adopted table of some hundred million rows


def plan(settings: Settings) -> Plan:
    """What is missing; changes nothing. Raises TargetUnavailable."""
    return _plan(settings, _told(settings))


def apply(settings: Settings, on_step: Callable[[Step], None]) -> None:
    """Adds what is missing. Raises Refused before the first change, TargetRefused if a statement fails."""
    told = _told(settings)
    if refusals := _plan(settings, told).of(Severity.REFUSAL):
        raise Refused("\n".join(found.says for found in refusals))
    migrations = _migrations(settings)
    with connect(settings, settings.owner_dsn, "setup") as connection:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        for migration in migrations:
            _apply_one(connection, settings, on_step, partial(compare, migration=migration))
        for relation in provision.wanted(told.schemas, migrations):
            missing = partial(provision.items, relation=relation, migrations=migrations, applier=settings.applier)
            _apply_one(connection, settings, on_step, missing)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the log says of the source's relations."""

    schemas: Mapping[str, TableSchema]
    lacks: Finding | None


def _told(settings: Settings) -> _Told:
    shipped = "what the program brings along is set up, and no relation of your own"
    try:
        found = schemas.latest(settings)
    except LogUnavailable as error:
        return _Told({}, note(f"{error}: {shipped}"))
    return _Told(found, None if found else note(f"the replicator has named no relation yet: {shipped}"))


def _migrations(settings: Settings) -> tuple[Migration, ...]:
    return load(schema=settings.target_schema, applier=settings.applier)


def _plan(settings: Settings, told: _Told) -> Plan:
    migrations = _migrations(settings)
    relations = provision.wanted(told.schemas, migrations)
    with connect(settings, settings.owner_dsn, "setup") as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        catalogue = Catalogue(connection, settings.target_schema)
        items = [item for migration in migrations for item in compare(catalogue, migration)]
        for relation in relations:
            items += provision.items(catalogue, relation, migrations, settings.applier)
        findings = [item for item in items if isinstance(item, Finding)]
        if max(catalogue.applied, default=0) > migrations[-1].version:
            findings.append(refusal("the target was set up by a newer version of this program: install that one"))
        kinds = tables(migrations)
        kinds |= {each.schema.table: True for each in relations if each.is_own and each.schema.table not in kinds}
        steps = tuple(item for item in items if isinstance(item, Step))
        findings += about_roles(catalogue, settings.applier, kinds, pending=bool(steps))
        findings += about_access(catalogue, kinds)
        findings += about_running(connection, catalogue)
    return Plan(steps=steps, findings=tuple(dict.fromkeys([*findings, *filter(None, [told.lacks])])))


def _apply_one(
    connection: psycopg.Connection[Any],
    settings: Settings,
    on_step: Callable[[Step], None],
    missing: Callable[[Catalogue], Iterable[Item]],
) -> None:
    asked: list[Step] = []
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_WAIT])
        connection.execute(_SETUP_LOCK)
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{settings.lock_timeout_s}s"])
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [_STATEMENT_LIMIT])
        items = list(missing(Catalogue(connection, settings.target_schema)))
        if refusals := [item.says for item in items if isinstance(item, Finding) and item.severity is Severity.REFUSAL]:
            raise Refused("\n".join(refusals))
        for step in items:
            if isinstance(step, Step) and step.asks_for:
                asked.append(step)
            elif isinstance(step, Step):
                _carry_out(connection, step, settings)
                on_step(step)
    for step in asked:
        _ask(connection, step, settings)
        on_step(step)


def _ask(connection: psycopg.Connection[Any], step: Step, settings: Settings) -> None:
    """A backfill of one table for the inboxes that are mapped now: those to come are asked for when they are."""
    with connection.transaction():
        mapped = connection.execute("SELECT inbox_id FROM inbox_tenant_mapping WHERE is_active ORDER BY 1").fetchall()
    requests = Requests(settings)
    inboxes = tuple(inbox for (inbox,) in mapped)
    requests.send(BackfillRequest(id=f"setup-{uuid.uuid4()}", tables=(step.asks_for,), inboxes=inboxes))
    requests.close()


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
