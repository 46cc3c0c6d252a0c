"""What the demo plays on: a source with a history, a target with its roles and tenants, and the programs' settings.

Made as docs/operations.md tells an operator to make it: a replicator that may only read (and no more than its manner
needs), an owner of the target who is
no superuser, an applier that row-level security binds, a reader for dashboards; and every step by the product's own
commands.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
from psycopg import sql

from demo.manner import CAPTURED, Manner, Scenario, manner_of
from demo.options import Options
from demo.programs import command
from demo.servers import PostgresServer, Servers
from demo.servers.guardian import GuardedFolder
from demo.source.installation import install
from demo.source.seed import seed

PREFIX = "demo"
SLOT = "demo"
# A worker that was killed says no goodbye: so long its partitions wait (the least that brokers allow by default).
GROUP = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}
COMMANDS_AT_ONCE = 2
ELSEWHERE = "America/New_York"
"""Where the last tenant lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Addresses and settings."""

    source_dsn: str
    """As Chatwoot, who owns its tables."""
    target_dsn: str
    """As superuser, for the comparison."""
    reader_dsn: str
    """As a dashboard, bound by row-level security."""
    replicator: Mapping[str, str]
    consumers: Mapping[str, str]
    owner: Mapping[str, str]
    """Beside `consumers`, for `setup` and `map`: no worker has it."""
    tenants: Mapping[int, tuple[int, ...]]
    """The inboxes of each tenant."""
    unclaimed: tuple[int, ...]
    """Inboxes of the source that are nobody's."""
    psql: str
    """How a user starts it."""
    manner: Manner


def prepare(servers: Servers, folder: GuardedFolder, options: Options, say: Callable[[str], None]) -> Stage:
    """Both sides at the same time; returns when they are ready."""
    tenants, manner = tenants_of(options), manner_of(options.mode, options.scenario)
    target = _Target(servers, folder)
    with ThreadPoolExecutor(COMMANDS_AT_ONCE) as pool:
        mapped = pool.submit(target.make, tenants, pool)
        try:
            source_dsn = _history(servers.source, options, say)
            settings = _open_source(servers, folder, source_dsn, manner)
            for done in mapped.result():
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    with psycopg.connect(servers.target.dsn_of(target.database), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tenant_settings (tenant_id, time_zone) VALUES (%s, %s)", [max(tenants), ELSEWHERE]
        )
    say(f"the target has its tables, roles and {len(tenants)} tenants with {options.inboxes} inboxes each")
    return Stage(
        source_dsn=source_dsn,
        target_dsn=servers.target.dsn_of(target.database),
        reader_dsn=target.dsn("dashboard"),
        replicator=settings,
        consumers=target.settings,
        owner=target.owner,
        tenants=tenants,
        unclaimed=unclaimed_of(options),
        psql=_psql(servers.source),
        manner=manner,
    )


def tenants_of(options: Options) -> dict[int, tuple[int, ...]]:
    """Tenant 10k is the seed's account k, whose inboxes follow one another."""
    each = options.inboxes
    return {10 * k: tuple(range((k - 1) * each + 1, k * each + 1)) for k in range(1, options.tenants + 1)}


def unclaimed_of(options: Options) -> tuple[int, ...]:
    """Those of one account more, where a tenant is yet to be added."""
    if options.scenario is not Scenario.RECOVERY:
        return ()
    return tuple(range(options.tenants * options.inboxes + 1, (options.tenants + 1) * options.inboxes + 1))


def _history(server: PostgresServer, options: Options, say: Callable[[str], None]) -> str:
    dsn = server.create_database("chatwoot")
    install(dsn)
    seeded = seed(
        dsn,
        tenants=options.tenants + bool(unclaimed_of(options)),
        inboxes_per_tenant=options.inboxes,
        conversations=options.conversations,
        messages_per_conversation=options.messages,
    )
    rows = sum(seeded.rows[table] for table in CAPTURED)
    say(f"the source has {rows:,} rows of {options.conversations:,} conversations")
    return dsn


def _open_source(servers: Servers, folder: GuardedFolder, dsn: str, manner: Manner) -> dict[str, str]:
    """Let the replicator in; its settings."""
    password = secrets.token_hex(16)
    settings = {
        **manner.settings,
        "REPLICATOR_SOURCE_DSN": _address(servers.source, "chatwoot", "replicator", password),
        "REPLICATOR_KAFKA_BOOTSTRAP_SERVERS": servers.kafka.bootstrap,
        "REPLICATOR_TOPIC_PREFIX": PREFIX,
        "REPLICATOR_SLOT": SLOT,
        "REPLICATOR_HTTP_PORT": "0",
    }
    command(folder, ["replicator", "setup", "--apply"], {**settings, "REPLICATOR_SOURCE_DSN": dsn})
    with psycopg.connect(dsn, autocommit=True) as connection:
        _make_role(connection, "replicator", manner.attributes, password)
        connection.execute("GRANT USAGE ON SCHEMA public TO replicator")
        connection.execute(f"GRANT SELECT ON {', '.join(manner.readable)} TO replicator")
    return settings


class _Target:
    """The analytics database on its way to being ready."""

    database = "analytics"

    def __init__(self, servers: Servers, folder: GuardedFolder) -> None:
        self._server, self._folder = servers.target, folder
        self._passwords = {role: secrets.token_hex(16) for role in ("analytics", "applier", "dashboard")}
        self.owner = {"CONSUMERS_SETUP_DSN": self.dsn("analytics")}
        self.settings = {
            "CONSUMERS_TARGET_DSN": self.dsn("applier"),
            "CONSUMERS_KAFKA_BOOTSTRAP_SERVERS": servers.kafka.bootstrap,
            "CONSUMERS_KAFKA_OPTIONS": json.dumps(GROUP),
            "CONSUMERS_TOPIC_PREFIX": PREFIX,
            "CONSUMERS_HTTP_PORT": "0",
        }

    def dsn(self, role: str) -> str:
        return _address(self._server, self.database, role, self._passwords[role])

    def make(self, tenants: Mapping[int, tuple[int, ...]], pool: ThreadPoolExecutor) -> list[Future[None]]:
        """Roles, then the product's own setup, then a mapping for each inbox, which go on when this returns."""
        superuser = self._server.create_database(self.database)
        with psycopg.connect(superuser, autocommit=True) as connection:
            _make_role(connection, "analytics", "LOGIN CREATEROLE", self._passwords["analytics"])
            connection.execute(f"ALTER DATABASE {self.database} OWNER TO analytics")
        command(self._folder, ["consumers", "setup", "--apply"], {**self.settings, **self.owner})
        with psycopg.connect(superuser, autocommit=True) as connection:
            _make_role(connection, "dashboard", "LOGIN", self._passwords["dashboard"])
            connection.execute("GRANT replication_readers TO dashboard")
        return [pool.submit(self._map, tenant, inbox) for tenant, owned in tenants.items() for inbox in owned]

    def _map(self, tenant: int, inbox: int) -> None:
        which = ["--inbox", str(inbox), "--tenant", str(tenant), "--tenant-name", f"School {tenant}"]
        command(self._folder, ["consumers", "map", "add", *which, "--apply"], {**self.settings, **self.owner})


def _make_role(connection: psycopg.Connection, name: str, attributes: str, password: str) -> None:
    connection.execute(
        sql.SQL("CREATE ROLE {} " + attributes + " PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))
    )


def _address(server: PostgresServer, database: str, role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@{server.host}:{server.port}/{database}"


def _psql(server: PostgresServer) -> str:
    """The user's own, or the one that came with the server."""
    if shutil.which("psql") is None and server.bin_dir is not None:
        return str(server.bin_dir / "psql")
    return "psql"
