"""The play: an initial load beside live traffic, a worker killed and started again, and at the end the comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from demo.board import Board
from demo.compare import Comparison, all_equal, compare
from demo.display import Display
from demo.figures import Delays, summed_up
from demo.leads import Leads, are_back, look, take_away
from demo.options import Options
from demo.probes import Probes
from demo.programs import Program
from demo.servers.guardian import GuardedFolder
from demo.source.traffic import Traffic
from demo.stage import Stage
from demo.watch import ProgramFell, Watch

START_SECONDS = 60.0
LOAD_SECONDS = 900.0
TAKE_OVER_SECONDS = 90.0
CATCH_UP_SECONDS = 120.0
COMPARE_SECONDS = 60.0
SIGNALS_SECONDS = 180.0
KILL_AT = 0.4  # of the live part
CALM_SECONDS = 3.0  # at least, after each turn of the play
TICK = 0.1
LOADING, LIVE, GONE = "initial load", "live, two workers", "live, worker 1 gone"


class GaveUp(Exception):
    """Something did not come about in the time that was given to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the play brought."""

    comparisons: list[Comparison]
    leads: list[Leads]
    """Of each tenant, after all signals were made anew."""
    faults: list[str]
    load_rows: int
    backfills: int
    """That read them."""
    load_read_seconds: float | None
    load_seconds: float | None
    """Until the last inbox was complete in the target; None: it never was."""
    stream_rows: int
    """Changes that the traffic made after the load..."""
    stream_seconds: float
    """...in so long."""
    delays: dict[str, Delays]
    """By phase."""
    peaks: dict[str, int]
    """Bytes of memory, by program."""
    remarks: dict[str, dict[str, int]]
    """What the programs warned of, and how often."""


class Play:
    """Owns the programs, the traffic and the probes, until `close`."""

    def __init__(self, stage: Stage, folder: GuardedFolder, options: Options, board: Board, display: Display) -> None:
        self._stage, self._options, self._board, self._display = stage, options, board, display
        inboxes = [inbox for owned in stage.tenants.values() for inbox in owned]
        self._traffic = Traffic(stage.source_dsn, inboxes=inboxes, rate=options.rate)
        self._probes = Probes(stage.source_dsn, stage.reader_dsn, stage.tenants)
        self._replicator = Program(folder, "replicator", ["replicator", "run"], stage.replicator)
        self._workers = [Program(folder, f"worker {n}", ["consumers", "run"], stage.consumers) for n in (1, 2)]
        self._watch = Watch(board, self._replicator, self._workers, self._probes, self._traffic, stage.target_dsn)
        self._writing = False
        self._faults: list[str] = []
        self._live = (0.0, 0)
        self._stream = (0.0, 0)

    @property
    def programs(self) -> list[Program]:
        return [self._replicator, *self._workers]

    def run(self) -> Outcome:
        """All of it; faults do not end it before the comparison."""
        try:
            self._load()
            self._kill_and_restart()
            self._finish()
        except (GaveUp, ProgramFell) as fault:
            self._faults.append(str(fault))
            self._display.event(str(fault).splitlines()[0])
        self._end_writing()
        comparisons = self._compare()
        leads = self._make_signals_anew()
        return Outcome(
            comparisons=comparisons,
            leads=leads,
            faults=self._faults,
            load_rows=self._watch.load.rows,
            backfills=self._watch.load.backfills,
            load_read_seconds=_between(self._watch.load.began, self._watch.load.read),
            load_seconds=_between(self._watch.load.began, self._watch.load.complete),
            stream_rows=self._stream[1],
            stream_seconds=self._stream[0],
            delays=self._delays(),
            peaks={program.name: program.peak for program in self.programs},
            remarks={program.name: dict(program.remarks) for program in self.programs if program.remarks},
        )

    def stop_programs(self) -> list[str]:
        """SIGTERM for those that still run; a sentence for each that did not end well."""
        fell = [sentence for program in self.programs if (sentence := program.fell)]
        for program in self.programs:
            program.ask_to_stop()
        return [*fell, *(sentence for program in self.programs if (sentence := program.stopped()))]

    def close(self) -> None:
        """Whatever is still going on ends."""
        self._end_writing()
        self._watch.close()
        self.stop_programs()

    def _load(self) -> None:
        self._watch.begin(LOADING)
        for program in self.programs:
            self._start(program)
        self._display.event("the replicator and two workers are started")
        self._until(lambda: all(map(self._healthy, self.programs)), "the programs are healthy", START_SECONDS)
        self._writing = True
        self._traffic.start()
        self._probes.start()
        self._display.event(f"live traffic begins: {self._options.rate:g} row changes per second")
        self._until(lambda: self._watch.load.complete is not None, "the initial load is complete", LOAD_SECONDS)
        seconds = _between(self._watch.load.began, self._watch.load.complete) or 0.0
        self._display.event(f"the initial load is complete: {self._watch.load.rows:,} rows in {seconds:.1f} s")
        done = time.monotonic()
        self._until(lambda: not self._probes.unreached_since(done), "the workers have caught up", LOAD_SECONDS)

    def _kill_and_restart(self) -> None:
        first = self._workers[0]
        self._live = time.monotonic(), self._traffic.counts.rows
        self._watch.begin(LIVE)
        self._during(KILL_AT * self._options.seconds)
        first.kill()
        killed = time.monotonic()
        self._watch.begin(GONE, since=self._probes.oldest_under_way)  # what was on its way waits for worker 2 too
        self._board.programs[first.name].state = "killed"
        self._display.event("worker 1 killed (SIGKILL)")
        self._until(
            lambda: not self._probes.unreached_since(killed),
            "worker 2 applies every inbox's changes",
            TAKE_OVER_SECONDS,
        )
        self._display.event(f"worker 2 has taken its partitions over, {time.monotonic() - killed:.1f} s after the kill")
        self._during(CALM_SECONDS)
        self._start(first)
        self._until(lambda: self._serves(first), "worker 1 has partitions again", START_SECONDS)
        self._display.event("worker 1 is back")
        self._watch.begin(LIVE)
        self._during(max(CALM_SECONDS, self._live[0] + self._options.seconds - time.monotonic()))

    def _finish(self) -> None:
        self._traffic.stop()
        began, before = self._live
        self._stream = time.monotonic() - began, self._traffic.counts.rows - before
        stopped = self._probes.finish_sending()
        self._watch.begin("waiting for the last changes")
        self._display.event(f"the traffic has stopped after {self._traffic.counts.rows:,} row changes")
        self._until(lambda: not self._open_ends(stopped), "everything is applied", CATCH_UP_SECONDS)
        self._display.event("everything is applied")

    def _open_ends(self, since: float) -> bool:
        """Whether something is still on its way: an inbox's last change, or rows that are to be read again."""
        reader = self._watch.statuses.get(self._replicator.name, {})
        again = bool(reader.get("backfills")) or reader.get("owed_keys", 0) > 0
        return bool(self._probes.unreached_since(since)) or not reader or again

    def _compare(self) -> list[Comparison]:
        """Again, for a while, if something differs: rows that a worker asked for once more may be on their way."""
        self._watch.begin("comparing")
        deadline = time.monotonic() + (0.0 if self._faults else COMPARE_SECONDS)
        while True:
            self._display.event("comparing source and target, row by row")
            results = compare(self._stage.source_dsn, self._stage.target_dsn)
            if all_equal(results):
                self._display.event("every row is equal")
                return results
            count = sum(result.missing + result.extra + result.different for result in results)
            self._display.event(f"{count:,} rows differ")
            if time.monotonic() > deadline:
                return results
            try:
                self._during(CALM_SECONDS)
            except ProgramFell as fault:
                self._faults.append(str(fault))
                return results

    def _make_signals_anew(self) -> list[Leads]:
        """Takes every conversation's lead signals away, waits until the workers have made them anew, and looks."""
        with psycopg.connect(self._stage.target_dsn, autocommit=True) as connection:
            if not self._faults:
                self._watch.begin("lead signals made anew")
                self._display.event("taking every conversation's lead signals away")
                take_away(connection)
                try:
                    self._until(lambda: are_back(connection), "the lead signals are made anew", SIGNALS_SECONDS)
                    self._display.event("the lead signals are made anew")
                except (GaveUp, ProgramFell) as fault:
                    self._faults.append(str(fault))
            return look(connection) if not self._faults else []

    def _start(self, program: Program) -> None:
        program.start()
        self._board.programs[program.name].state = "starting"

    def _healthy(self, program: Program) -> bool:
        return bool(self._watch.statuses.get(program.name, {}).get("healthy"))

    def _serves(self, worker: Program) -> bool:
        return self._healthy(worker) and bool(self._watch.statuses[worker.name].get("partitions"))

    def _end_writing(self) -> None:
        if self._writing:
            self._probes.close()
            self._traffic.stop()

    def _delays(self) -> dict[str, Delays]:
        phases = self._watch.phases
        arrivals = self._probes.arrivals
        found = {
            name: summed_up(arrival for arrival in arrivals if phases.at(arrival.sent) == name) for name in phases.names
        }
        return {name: delays for name, delays in found.items() if delays is not None}

    def _during(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tick()

    def _until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise GaveUp(f"gave up after {seconds:g} s of waiting: {what}")
            self._tick()

    def _tick(self) -> None:
        self._watch.look()
        self._display.tick()
        time.sleep(TICK)


def _between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else ended - began
