"""The whole path for one test: source, topics and target of its own, replicator and workers as real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console

from demo.compare import TABLES, compare, is_equal, render
from demo.servers import wait_until
from demo.stage import GROUP
from tests.integration.programs import Program, be_prepared, replicator_environment
from tests.integration.targets import Target

PARTITIONS = 6


class Whole:
    """What a test starts, kills and looks at."""

    def __init__(
        self, source_dsn: str, target: Target, kafka: str, prefix: str, folder: Path, stack: ExitStack
    ) -> None:
        self.source_dsn, self.target = source_dsn, target
        self._folder, self._stack = folder, stack
        self.replicator_environment = replicator_environment(source_dsn, kafka, prefix, partitions=PARTITIONS)
        self.worker_environment = target.environment(
            CONSUMERS_KAFKA_BOOTSTRAP_SERVERS=kafka,
            CONSUMERS_TOPIC_PREFIX=prefix,
            CONSUMERS_HTTP_PORT="0",
            CONSUMERS_KAFKA_OPTIONS=json.dumps(GROUP),
            CONSUMERS_STUB_PATIENCE_S="2",
        )
        self.programs: list[Program] = []

    def map(self, owned: Mapping[int, Sequence[int]]) -> None:
        """Gives inboxes to tenants, as a person would by SQL."""
        for tenant, inboxes in owned.items():
            self.target.execute(
                "INSERT INTO tenants (id, name, slug) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                tenant,
                f"Tenant {tenant}",
                f"tenant-{tenant}",
            )
            for inbox in inboxes:
                self.target.execute(
                    "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) VALUES (%s, %s)", inbox, tenant
                )

    def replicator(self, **settings: str) -> Program:
        return self._start(["replicator", "run"], self.replicator_environment | settings)

    def worker(self, **settings: str) -> Program:
        return self._start(["consumers", "run"], self.worker_environment | settings)

    def start(self, arguments: list[str]) -> Program:
        """A command of `consumers`, as a process."""
        return self._start(arguments, self.worker_environment)

    def show_logs(self) -> None:
        """The end of each program's log."""
        for program in self.programs:
            print(f"--- the end of {program.log}\n{program.tail()}")

    def source(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """One statement on the source, committed."""
        with psycopg.connect(self.source_dsn, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wait_backfilled(self, seconds: float = 60) -> None:
        wait_until(self.backfilled, "all inboxes backfilled", seconds)

    def wait_equal(self, seconds: float = 60, *, tables: Sequence[str] = TABLES) -> None:
        """Until every mapped inbox is backfilled and both sides hold the same rows."""
        try:
            wait_until(self.backfilled, "all inboxes backfilled", seconds)
            wait_until(lambda: self.is_equal(tables), "source and target the same", seconds)
        except BaseException:
            Console().print(render(compare(self.source_dsn, self.target.superuser_dsn, tables=tables)))
            print(self.target.rows("SELECT * FROM inbox_tenant_mapping ORDER BY inbox_id"))
            print(self.target.rows("SELECT * FROM replication_parked"))
            raise

    def is_equal(self, tables: Sequence[str] = TABLES) -> bool:
        return is_equal(self.source_dsn, self.target.superuser_dsn, tables=tables)

    def stubs(self, table: str) -> list[tuple[int, int]]:
        """(tenant, id) of rows that stand only for their children."""
        return [
            (tenant, row)
            for tenant, row in self.target.rows(f"SELECT tenant_id, id FROM {table} WHERE synced_at IS NULL")
        ]

    def backfilled(self) -> bool:
        return not self.target.rows("SELECT 1 FROM inbox_tenant_mapping WHERE is_active AND backfilled_at IS NULL")

    def _start(self, arguments: list[str], environment: Mapping[str, str]) -> Program:
        program = Program(arguments, environment, self._folder / f"{len(self.programs) + 1}-{arguments[0]}.log")
        self._stack.callback(program.end)
        self.programs.append(program)
        return program


@contextmanager
def whole(source_dsn: str, target: Target, kafka: str, prefix: str, folder: Path) -> Iterator[Whole]:
    """The source prepared, over a target after setup; everything that was started is gone afterwards."""
    with ExitStack() as stack:
        made = Whole(source_dsn, target, kafka, prefix, folder, stack)
        be_prepared(made.replicator_environment)
        yield made
