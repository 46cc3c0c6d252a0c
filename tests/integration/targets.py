"""A target database with roles of its own: an owner who is no superuser, an applier, readers.

Roles belong to the whole server, so each test's have names that no other has, and are dropped with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumers import setup
from consumers.config import Settings, load
from consumers.plan import Plan
from demo.servers import PostgresServer

PASSWORD = "only for this test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database before or after setup."""

    superuser_dsn: str
    mark: str
    """Ends the name of every role of this test."""

    def role(self, what: str) -> str:
        return f"{what}_{self.mark}"

    def dsn(self, what: str) -> str:
        return make_conninfo(self.superuser_dsn, user=self.role(what), password=PASSWORD)

    def settings(self, **changes: Any) -> Settings:
        given = {
            "target_dsn": self.dsn("applier"),
            "setup_dsn": self.dsn("owner"),
            "kafka_bootstrap_servers": "127.0.0.1:1",
        }
        return load(**{**given, **changes})

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            "CONSUMERS_TARGET_DSN": self.dsn("applier"),
            "CONSUMERS_SETUP_DSN": self.dsn("owner"),
            "CONSUMERS_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            **changes,
        }

    def plan(self, **changes: Any) -> Plan:
        return setup.plan(self.settings(**changes))

    def apply(self, **changes: Any) -> list[str]:
        """What was done, as the plan words it."""
        done: list[str] = []
        setup.apply(self.settings(**changes), lambda step: done.append(step.does))
        return done

    @contextmanager
    def connected(self, what: str = "", tenant: int | None = None) -> Iterator[psycopg.Connection[Any]]:
        """As a role of this test (else as superuser), in autocommit; the tenant is set for the session."""
        dsn = self.dsn(what) if what else self.superuser_dsn
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute("SET statement_timeout = '20s'")
            if tenant is not None:
                connection.execute("SELECT set_config('app.current_tenant_id', %s, false)", [str(tenant)])
            yield connection

    def execute(self, statement: str, *parameters: object, what: str = "") -> None:
        with self.connected(what) as connection:
            connection.execute(statement.encode(), parameters or None)

    def rows(self, query: str, *parameters: object, what: str = "", tenant: int | None = None) -> list[tuple[Any, ...]]:
        with self.connected(what, tenant) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()

    def make_role(self, what: str, attributes: str = "LOGIN") -> None:
        with self.connected() as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} " + attributes + " PASSWORD {}").format(
                    sql.Identifier(self.role(what)), sql.Literal(PASSWORD)
                )
            )

    def make_reader(self, what: str = "reader") -> None:
        self.make_role(what)
        self.execute(f"GRANT replication_readers TO {self.role(what)}")


@contextmanager
def target_of(superuser_dsn: str) -> Iterator[Target]:
    """The database, owned by a role that may create roles and nothing else."""
    target = Target(superuser_dsn=superuser_dsn, mark=uuid.uuid4().hex[:10])
    target.make_role("owner", "LOGIN CREATEROLE")
    _give(target, to=target.role("owner"))
    yield target
    _give(target, to="CURRENT_USER")
    _drop_roles(target)


@contextmanager
def copy_of(template: Target, server: PostgresServer) -> Iterator[Target]:
    """A database like one that is set up, with the same owner and applier; roles that a test adds go with the copy."""
    name = f"target_{uuid.uuid4().hex[:12]}"
    original = str(conninfo_to_dict(template.superuser_dsn)["dbname"])
    target = replace(template, superuser_dsn=server.create_database(name, template=original))
    _give(target, to=target.role("owner"))
    # What is granted on a database itself is not copied.
    target.execute(f'GRANT CONNECT, TEMPORARY ON DATABASE "{name}" TO {target.role("applier")}', what="owner")
    yield target
    _drop_roles(target, spared=(target.role("owner"), target.role("applier")))
    server.drop_database(name)


def _give(target: Target, *, to: str) -> None:
    database = conninfo_to_dict(target.superuser_dsn)["dbname"]
    target.execute(f'ALTER DATABASE "{database}" OWNER TO {to}')


def _drop_roles(target: Target, spared: Sequence[str] = ()) -> None:
    """Those of this test."""
    with target.connected() as connection:
        mine = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [f"%\\_{target.mark}"])
        names = [name for (name,) in mine if name not in spared]
        # Grants hang together (the owner gave some of them), so all rights go before the first role.
        for name in names:
            connection.execute(f"DROP OWNED BY {name} CASCADE".encode())
        for name in sorted(names, key=lambda name: name == target.role("owner")):
            connection.execute(f"DROP ROLE {name}".encode())
