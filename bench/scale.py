"""What a row costs a worker where there are more workers, more tenants, or more rows in the target already.

One of the three differs at a time. The workers of a case have their partitions before its rows are written, as fast as
the source can; conversations that follow one another are of different tenants, so that a batch concerns as many as
there are. A rate is counted from the first commit in the target to the last one; CPU is that of all workers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import psycopg

from bench import appliers, arrived, changes, path, streams
from bench.changes import MESSAGES, WRITTEN
from bench.measured import Part, ratio
from bench.path import Ground
from bench.watch import Watch
from demo.stage import Stage

ROWS: Final = 100_000
ACCOUNTS: Final = 1
FIRST_INBOX: Final = 5
"""The stage's own tenant has those before it."""
FIRST_TENANT: Final = 1001
FIRST_OLD: Final = 1_000_000_000
"""Ids from here on are of rows that were in the target before, and are in no source."""
OLD_AT_ONCE: Final = 10_000
AIM: Final = 1.5


class Case(NamedTuple):
    workers: int
    tenants: int
    before: int
    """Rows that are in the target already, at the least."""

    @property
    def says(self) -> str:
        workers = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        tenants = f"{self.tenants:,} tenant{'s' if self.tenants > 1 else ''}"
        return f"{workers}, {tenants}, {self.before:,} rows before"


def cases(most_before: int) -> dict[str, list[Case]]:
    """By what grows, from the smallest to the largest; each case stands once where all of them are run in turn."""
    least = most_before // 50
    return {
        "tenants": [Case(1, tenants, least) for tenants in (1, 10, 300, 1_000)],
        "workers": [Case(workers, 10, least) for workers in (1, 2, 4)],
        "rows": [Case(1, 10, before) for before in (least, most_before // 5, most_before)],
    }


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(ground, 100, 2, tenants=ACCOUNTS)
    rows, wanted = ground.options.rows or ROWS, cases(ground.options.before)
    most = max(case.tenants for group in wanted.values() for case in group)
    workers = [appliers.Ours(ground, stage, number) for number in range(1, 1 + wanted["workers"][-1].workers)]
    _add_tenants(stage, most)
    stream = streams.Ours(ground, stage)
    stream.take_slot()
    for service, is_ready in ((stream.service, stream.is_ready), (workers[0].service, workers[0].is_ready)):
        service.start()
        path.wait(service, is_ready, "every inbox complete")
    ground.say(f"{most:,} tenants are complete")
    for fault in path.ended(workers[0].service):
        ground.say(fault)
    by_name = {case.says: case for group in wanted.values() for case in group}
    for step in ground.journal.steps(by_name):
        case = by_name[step.name]
        _fill(stage.target_dsn, case.before)
        at_work = workers[: case.workers]
        speed, cpu = _apply(stage, at_work, rows, case.tenants)
        for fault in path.ended(*(worker.service for worker in at_work)):  # all rows were there before
            step.remark(f"{case.says}: {fault}")
        step.add(case.says, "rows/s", speed)
        step.add(_cpu_of(case), "µs/row", cpu)
        ground.say(f"{case.says}: {speed:,.0f} rows/s, {cpu:.1f} µs of CPU a row")
    path.stop(stream.service)
    measured = ground.journal.measured
    ends = [(group[0], group[-1]) for group in wanted.values()]
    return Part(
        name="scale",
        on=f"{rows:,} rows, source → target",
        measured=measured,
        ratios=[
            each
            for least, largest in ends
            for each in ratio(measured, _cpu_of(largest), _cpu_of(least), AIM, at_most=True)
        ]
        + [each for least, largest in ends for each in ratio(measured, largest.says, least.says)],
        notes=ground.journal.notes,
    )


def _add_tenants(stage: Stage, tenants: int) -> None:
    """Each with an inbox of its own, as docs/operations.md adds them by SQL."""
    inboxes = "generate_series(%(first)s, %(first)s + %(tenants)s - 1) AS i"
    given = {"first": FIRST_INBOX, "tenants": tenants, "tenant": FIRST_TENANT}
    with psycopg.connect(stage.source_dsn) as source:
        source.execute(
            "INSERT INTO inboxes (id, channel_id, account_id, name, created_at, updated_at)"
            f" SELECT i, i, 1, 'Inbox ' || i, now(), now() FROM {inboxes}",
            given,
        )
    with psycopg.connect(stage.target_dsn) as target:
        owner = "i - %(first)s + %(tenant)s"
        target.execute(f"INSERT INTO tenants (id, name) SELECT {owner}, 'School ' || i FROM {inboxes}", given)
        target.execute(
            f"INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) SELECT i, {owner} FROM {inboxes}", given
        )


def _fill(dsn: str, rows: int) -> None:
    """Rows of ten tenants, until the target has so many; past triggers, and past foreign keys that would hold."""
    conversations = rows // (1 + MESSAGES)
    with psycopg.connect(dsn, autocommit=True) as target:
        begun = target.execute("SELECT count(*) FROM conversations WHERE id >= %s", [FIRST_OLD]).fetchall()[0][0]
        target.execute("SET session_replication_role = replica")
        for first in range(begun, conversations, OLD_AT_ONCE):
            given = {"first": FIRST_OLD + first, "last": FIRST_OLD + min(first + OLD_AT_ONCE, conversations) - 1}
            target.execute(_OLD_CONVERSATIONS, given)
            target.execute(_OLD_MESSAGES, given)
        if begun < conversations:
            target.execute("VACUUM ANALYZE conversations, messages")


_OLD_CONVERSATIONS: Final = f"""
INSERT INTO conversations (tenant_id, id, inbox_id, status, created_at, updated_at, synced_at)
SELECT {FIRST_TENANT} + n %% 10, n, {FIRST_INBOX} + n %% 10, 3, now(), now(), now()
FROM generate_series(%(first)s::integer, %(last)s) AS n
"""
_OLD_MESSAGES: Final = f"""
INSERT INTO messages (tenant_id, id, inbox_id, conversation_id, status, content, created_at, updated_at, synced_at)
SELECT {FIRST_TENANT} + n %% 10, {FIRST_OLD} + (n - {FIRST_OLD}) * {MESSAGES} + i, {FIRST_INBOX} + n %% 10, n, 3,
    repeat(md5(n || '/' || i) || ' ', 4), now(), now(), now()
FROM generate_series(%(first)s::integer, %(last)s) AS n, generate_series(0, {MESSAGES} - 1) AS i
"""


def _apply(stage: Stage, workers: Sequence[appliers.Ours], rows: int, inboxes: int) -> tuple[float, float]:
    """Rows per second, and microseconds of CPU a row. Raises NotMeasured."""
    for worker in workers:
        worker.service.start()
    for worker in workers:
        path.wait(worker.service, worker.is_ready, f"partitions of {worker.service.name}")
    with Watch({worker.service.name: worker.service.pid for worker in workers}) as watch:
        written = changes.insert(stage.source_dsn, rows, tenants=ACCOUNTS, inboxes=inboxes, first_inbox=FIRST_INBOX)
        found = arrived.wait(workers[0].service, workers[0].dsn, written, WRITTEN)
    return found.rows_per_second, 1e6 * watch.cpu(found.first, found.last) / found.later


def _cpu_of(case: Case) -> str:
    return f"{case.says}, CPU"
