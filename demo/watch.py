"""Looks at the programs, the probes and the target a few times a second, and puts what it sees on the board."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg

from demo.board import Board
from demo.figures import Phases, Rate, Total, summed_up
from demo.probes import Probes
from demo.programs import Program
from demo.reading import Reading, Switch, switch_of, told
from demo.source.traffic import Traffic

LOOK_SECONDS = 0.5
SESSION = "-c statement_timeout=10s -c application_name=demo"


class ProgramFell(Exception):
    """A program ended though nobody wanted it to."""


class Load:
    """What the log of the replicator and the target's mapping say of the initial load."""

    def __init__(self) -> None:
        self.began: float | None = None
        """Seconds since 1970, as the other times here."""
        self.read: float | None = None
        self.complete: float | None = None
        self._rows: dict[str, int] = {}
        self._expected: dict[str, int] = {}
        self._finished: set[str] = set()

    @property
    def rows(self) -> int:
        return sum(self._rows.values())

    @property
    def expected(self) -> int:
        return sum(max(self._rows[job], self._expected.get(job, 0)) for job in self._rows)

    @property
    def backfills(self) -> int:
        return len(self._rows)

    @property
    def under_way(self) -> bool:
        return not self._rows or bool(self._rows.keys() - self._finished)

    def job(self, record: Mapping[str, Any]) -> None:
        """A backfill under way, as the replicator's status tells of it."""
        if record["id"] not in self._finished:
            self._rows[record["id"]] = record["rows"]
            self._expected[record["id"]] = record["expected"] or 0

    def line(self, fields: Mapping[str, Any]) -> None:
        """A line of the replicator's log."""
        match fields.get("event"):
            case "epoch.begins":  # what was under way is void
                for job in self._rows.keys() - self._finished:
                    del self._rows[job]
            case "backfill.began":
                self._rows.setdefault(fields["id"], 0)
                self.began = self.began or _moment(fields)
            case "backfill.finished":
                self._rows[fields["id"]] = fields["rows"]
                self._finished.add(fields["id"])
                self.read = _moment(fields)


def _moment(fields: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(fields["timestamp"]).timestamp()


class Watch:
    """Belongs to the thread that plays."""

    def __init__(
        self,
        board: Board,
        replicator: Program,
        workers: Sequence[Program],
        probes: Probes,
        traffic: Traffic,
        target_dsn: str,
        tell: Callable[[str], None],
    ) -> None:
        """`tell`: what the replicator's log says of how it reads."""
        self.load = Load()
        self.phases = Phases()
        self.statuses: dict[str, dict[str, Any]] = {}
        """What each program last said of itself; empty if it does not answer."""
        self.switches: list[Switch] = []
        """Modes that the replicator chose; the first is how it began."""
        self.polled: Reading | None = None
        """The latest status of a poller."""
        self._tell = tell
        self._board, self._replicator, self._workers = board, replicator, list(workers)
        self._probes, self._traffic = probes, traffic
        self._target = psycopg.connect(target_dsn, autocommit=True, options=SESSION, connect_timeout=5)
        self._rates = {program.name: Rate() for program in self._programs}
        self._totals = {program.name: Total() for program in self._programs}
        self._next = 0.0

    @property
    def _programs(self) -> list[Program]:
        return [self._replicator, *self._workers]

    def close(self) -> None:
        self._target.close()

    def begin(self, phase: str, since: float | None = None) -> None:
        """A new part of the play; it counts from `since`, if that is given."""
        self.phases.begin(phase, since or time.monotonic())
        self._board.phase = phase
        for line in self._board.tenants.values():
            line.delays = None

    def applied(self) -> int:
        """Rows that the workers have applied, over all their lives."""
        return sum(self._totals[worker.name].value for worker in self._workers)

    def changes(self) -> int:
        """Row changes that the replicator has found, over all its lives."""
        return self._totals[self._replicator.name].value

    def target_through(self) -> float:
        """Everything that was committed before is in the target, as the workers say; 0: they don't."""
        row = self._target.execute(
            "SELECT extract(epoch FROM min(source_at))::float8 FROM replication_progress"
            " HAVING count(*) = count(source_at)"
        ).fetchone()
        return row[0] or 0.0 if row is not None else 0.0

    def look(self) -> None:
        """One look at everything, if it is time. Raises ProgramFell, and what probes or target died of."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        for program in self._programs:
            if fell := program.fell:
                raise ProgramFell(f"{fell}; the end of its log:\n{program.tail()}")
            self._look_at(program)
        self._probes.check()
        self._look_at_tenants()
        self._look_at_load()
        self._board.traffic = self._traffic.counts.rows

    def _look_at(self, program: Program) -> None:
        news, status = program.news(), program.status()
        self.statuses[program.name] = status
        line, rate, total = self._board.programs[program.name], self._rates[program.name], self._totals[program.name]
        line.memory = program.memory()
        if not program.alive:
            rate.forget()
        elif status:
            line.state = "running" if status.get("healthy") else "waits"
            if program is self._replicator:
                self._take_reader(news, status, rate, total)
                line.rows = total.value + self.load.rows
            else:
                total.add(int(status.get("applied_rows", 0)))
                rate.add(time.monotonic(), total.value)
                line.rows = total.value
        line.rate = rate.per_second

    def _take_reader(self, news: list[dict[str, Any]], status: dict[str, Any], rate: Rate, total: Total) -> None:
        for record in status.get("backfills", []):
            self.load.job(record)
        for fields in news:
            self.load.line(fields)
            if (switch := switch_of(fields)) is not None:
                self.switches.append(switch)
            if sentence := told(fields):
                self._tell(sentence)
        reading = self._board.reading = Reading.of(status)
        if reading is not None and reading.is_polling:
            self.polled = reading
            total.add(reading.candidates + reading.repaired)
        else:
            total.add(status.get("row_changes", 0))
        if "at_ms" in status:
            rate.add(status["at_ms"] / 1000, total.value + self.load.rows)

    def _look_at_tenants(self) -> None:
        arrivals = [arrival for arrival in self._probes.arrivals if self.phases.at(arrival.sent) == self.phases.now]
        for tenant, line in self._board.tenants.items():
            line.lag = self._probes.lag(tenant)
            if line.lag is not None:
                line.history.append(line.lag)
            line.delays = summed_up(arrival for arrival in arrivals if arrival.tenant == tenant)

    def _look_at_load(self) -> None:
        load = self._board.load
        load.rows, load.expected = self.load.rows, self.load.expected
        if self.load.complete is not None:
            return
        row = self._target.execute(
            "SELECT count(backfilled_at), extract(epoch FROM max(backfilled_at))::float8 FROM inbox_tenant_mapping"
        ).fetchone()
        assert row is not None
        load.inboxes_done, latest = row
        if load.inboxes_done == load.inboxes and not self.load.under_way:
            self.load.complete = latest
