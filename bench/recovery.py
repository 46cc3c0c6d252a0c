"""What the life of one tenant costs: its log replayed, its inboxes given to another, and it added anew, until equal.

All that the source has is this tenant's, and nobody writes meanwhile. The clock starts before the command, or the
INSERT, and stops when the comparison begins that finds every row equal: the demo's own witness, not the product's.
Each step is carried out as an operator would do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

import psycopg

from bench import path
from bench.measured import Measured, Part
from bench.path import Ground, NotMeasured
from demo.compare import all_equal, compare
from demo.programs import Program, command
from demo.stage import Stage

CONVERSATIONS: Final = 10_000
OTHER: Final = 20
"""The tenant that gets the inboxes."""
DAMAGED: Final = 100
"""One message of so many is deleted before a replay."""
COMMAND_SECONDS: Final = 1200.0
PATIENT: Final = {"CONSUMERS_LOCK_TIMEOUT_S": "60"}
"""A move waits for the batch, or the sweep, that a worker is writing for the tenant."""
AGAIN_SECONDS: Final = 120.0
"""For rows that are still on their way when all backfills are complete."""
TELL_SECONDS: Final = 5.0
MESSAGES: Final = "messages"


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    conversations = ground.options.conversations or CONVERSATIONS
    stage = path.stage(ground, conversations, ground.options.messages, tenants=1)
    took: dict[str, list[float]] = {}
    with path.running(ground, stage) as replicator, closing(_Tenant(ground, stage, replicator)) as tenant:
        rows = tenant.rows()
        steps = (
            ("its log replayed from the start, and merged", tenant.replay),
            (f"its {len(tenant.inboxes)} inboxes moved to another tenant", tenant.move),
            ("added by INSERT of its inboxes", tenant.add),
        )
        for what, step in steps:
            for number in range(1, ground.options.rounds + 1):
                took.setdefault(what, []).append(step())
                ground.say(f"{what}, {number} of {ground.options.rounds}: {took[what][-1]:.1f} s until equal")
    return Part(
        name="recovery",
        on=f"one tenant of {conversations:,} conversations and {rows:,} messages; until every row is equal",
        measured=[Measured(what=what, unit="s", values=tuple(values)) for what, values in took.items()],
        ratios=[],
    )


class _Tenant:
    """Who has all inboxes of the source, whatever its number is at the moment. Each step returns its seconds."""

    def __init__(self, ground: Ground, stage: Stage, replicator: Program) -> None:
        self._stage, self._replicator = stage, replicator
        self._folder, self._say = ground.folder, ground.say
        self._target = psycopg.connect(stage.target_dsn, autocommit=True)
        ((self._number, self.inboxes),) = stage.tenants.items()
        self._other = OTHER
        self._target.execute("INSERT INTO tenants (id, name, slug) VALUES (%s, 'Other', 'other')", [OTHER])

    def close(self) -> None:
        self._target.close()

    def rows(self) -> int:
        """Its messages, once every table is found equal."""
        self._until_equal(time.monotonic())
        return int(path.one(self._target, "SELECT count(*) FROM messages"))

    def replay(self) -> float:
        """What was deleted by hand comes back."""
        lost = self._target.execute("DELETE FROM messages WHERE id %% %s = 0", [DAMAGED]).rowcount
        self._say(f"{lost:,} messages are deleted by hand")
        began = time.monotonic()
        self._run("replay", "--tenant", self._number, "--from", "start", "--apply")
        return self._until_equal(began)

    def move(self) -> float:
        began = time.monotonic()
        for inbox in self.inboxes:
            self._run("map", "move", "--inbox", inbox, "--to", self._other, "--apply")
        self._say(f"the rows of {len(self.inboxes)} inboxes are moved, {time.monotonic() - began:.1f} s")
        self._number, self._other = self._other, self._number
        return self._until_equal(began)

    def add(self) -> float:
        """After nothing is left of it."""
        for inbox in self.inboxes:
            self._run("map", "deactivate", "--inbox", inbox, "--purge", "--apply")
        self._target.execute("DELETE FROM inbox_tenant_mapping")
        if path.one(self._target, "SELECT count(*) FROM messages"):
            raise NotMeasured("a purge has left messages behind")
        self._say("the tenant is gone, with its rows")
        began = time.monotonic()
        self._target.execute(
            "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) SELECT unnest(%s::integer[]), %s",
            [list(self.inboxes), self._number],
        )
        return self._until_equal(began)

    def _run(self, *words: object) -> None:
        settings = {**self._stage.consumers, **self._stage.owner, **PATIENT}
        command(self._folder, ["consumers", *map(str, words)], settings, COMMAND_SECONDS)

    def _until_equal(self, began: float) -> float:
        path.wait(self._replicator, self._progress(), "the end of the backfills")
        deadline = time.monotonic() + AGAIN_SECONDS
        while True:
            looked = time.monotonic()
            if self._is_equal():
                return looked - began
            if looked > deadline:
                raise NotMeasured(f"rows differ, {looked - began:.0f} s after the beginning")

    def _is_equal(self) -> bool:
        """The tenant has every row, and nobody else has one."""
        results = compare(self._stage.source_dsn, self._stage.target_dsn)
        holders = {result.tenant for result in results if result.table == MESSAGES and result.equal}
        return all_equal(results) and holders == {self._number}

    def _progress(self) -> Callable[[], bool]:
        """Whether all inboxes are complete; says now and then how far they are."""
        told = time.monotonic()

        def is_complete() -> bool:
            nonlocal told
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._replicator.news()
                if jobs := self._replicator.status().get("backfills", []):
                    read, expected = (sum(job[what] or 0 for job in jobs) for what in ("rows", "expected"))
                    self._say(f"backfill: {read:,} of {max(read, expected):,} rows read")
            return path.is_loaded(self._target)

        return is_complete
