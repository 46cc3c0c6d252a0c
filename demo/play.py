"""The play: an initial load beside live traffic, what the scenario brings in its middle, at the end the comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from demo.board import Board
from demo.compare import TABLES, Comparison, all_equal, compare
from demo.display import Display
from demo.figures import Delays, summed_up
from demo.leads import Leads, are_back, look, take_away
from demo.manner import Scenario
from demo.options import Options
from demo.probes import Probes
from demo.programs import Program
from demo.reading import POLLING, STREAMING, Reading, Switch, clock, missing_switches
from demo.recovery import Disproved, Hands, Tour
from demo.servers.guardian import GuardedFolder
from demo.slot import lose_slot
from demo.source.traffic import Traffic
from demo.stage import SLOT, Stage
from demo.watch import ProgramFell, Watch

START_SECONDS = 60.0
LOAD_SECONDS = 900.0
TAKE_OVER_SECONDS = 90.0
CATCH_UP_SECONDS = 120.0
COMPARE_SECONDS = 60.0
SIGNALS_SECONDS = 180.0
SWITCH_SECONDS = 120.0
VERIFY_SECONDS = 180.0
MIDDLE = 0.4  # of the live part: then the scenario strikes
CALM_SECONDS = 3.0  # at least, after each turn of the play
TICK = 0.1
LOADING, LIVE, GONE = "initial load", "live, two workers", "live, worker 1 gone"
STREAMED, LOST, BACK = "live, streamed", "live, slot lost, polled", "live, streamed again"


class GaveUp(Exception):
    """Something did not come about in the time that was given to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The initial load."""

    rows: int
    backfills: int
    """That read them."""
    read_seconds: float | None
    seconds: float | None
    """Until the last inbox was complete in the target; None: it never was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the play brought."""

    comparisons: list[Comparison]
    leads: list[Leads]
    """Of each tenant, after all signals were made anew."""
    faults: list[str]
    load: Loaded
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
    switches: list[Switch]
    """Modes that the replicator chose; the first is how it began."""
    polled: Reading | None
    """What a poller said of itself last."""
    ended: float | None
    """When the traffic had stopped, in seconds since 1970."""


class Play:
    """Owns the programs, the traffic and the probes, until `close`."""

    def __init__(self, stage: Stage, folder: GuardedFolder, options: Options, board: Board, display: Display) -> None:
        self._stage, self._options, self._board, self._display = stage, options, board, display
        self._folder = folder
        inboxes = [*(inbox for owned in stage.tenants.values() for inbox in owned), *stage.unclaimed]
        self._traffic = Traffic(stage.source_dsn, inboxes=inboxes, rate=options.rate)
        self._probes = Probes(stage.source_dsn, stage.reader_dsn, stage.tenants, stage.manner.probed)
        self._replicator = Program(folder, "replicator", ["replicator", "run"], stage.replicator)
        self._workers = [Program(folder, f"worker {n}", ["consumers", "run"], stage.consumers) for n in (1, 2)]
        self._watch = Watch(
            board, self._replicator, self._workers, self._probes, self._traffic, stage.target_dsn, display.event
        )
        self._writing = False
        self._faults: list[str] = []
        self._live = (0.0, 0)
        self._stream = (0.0, 0)
        self._loaded: Loaded | None = None
        self._ended: float | None = None

    @property
    def programs(self) -> list[Program]:
        return [self._replicator, *self._workers]

    def run(self) -> Outcome:
        """All of it; faults do not end it before the comparison."""
        try:
            self._load()
            self._live = time.monotonic(), self._traffic.counts.rows
            self._strike()
            self._during(max(CALM_SECONDS, self._live[0] + self._options.seconds - time.monotonic()))
            self._finish()
        except (GaveUp, ProgramFell, Disproved) as fault:
            self._faults.append(str(fault))
            self._display.event(str(fault).splitlines()[0])
        self._end_writing()
        self._faults += missing_switches(self._stage.manner.modes, self._watch.switches)
        comparisons = self._compare()
        leads = self._make_signals_anew()
        return Outcome(
            comparisons=comparisons,
            leads=leads,
            faults=self._faults,
            load=self._loaded or self._load_so_far(),
            stream_rows=self._stream[1],
            stream_seconds=self._stream[0],
            delays=self._delays(),
            peaks={program.name: program.peak for program in self.programs},
            remarks={program.name: dict(program.remarks) for program in self.programs if program.remarks},
            switches=self._watch.switches,
            polled=self._watch.polled,
            ended=self._ended,
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
        if polled := self._only_polled():
            self._display.event(f"the role may read the view alone: only {polled} is polled and compared")
        self._until(lambda: all(map(self._healthy, self.programs)), "the programs are healthy", START_SECONDS)
        self._writing = True
        self._traffic.start()
        self._until(lambda: self._traffic.counts.rows > 0, "the traffic writes", START_SECONDS)
        self._probes.start()
        self._display.event(f"live traffic begins: {self._options.rate:g} row changes per second")
        self._until(lambda: self._watch.load.complete is not None, "the initial load is complete", LOAD_SECONDS)
        self._loaded = self._load_so_far()
        seconds = self._loaded.seconds or 0.0
        self._display.event(f"the initial load is complete: {self._loaded.rows:,} rows in {seconds:.1f} s")
        done = time.monotonic()
        self._until(lambda: not self._probes.unreached_since(done), "the workers have caught up", LOAD_SECONDS)

    def _only_polled(self) -> str:
        """Empty if all tables are replicated."""
        compared = self._stage.manner.compared
        return "" if set(compared) == set(TABLES) else ", ".join(compared)

    def _load_so_far(self) -> Loaded:
        load = self._watch.load
        return Loaded(
            rows=load.rows,
            backfills=load.backfills,
            read_seconds=_between(load.began, load.read),
            seconds=_between(load.began, load.complete),
        )

    def _strike(self) -> None:
        match self._options.scenario:
            case Scenario.WORKER_KILLED:
                self._kill_and_restart()
            case Scenario.SLOT_LOST:
                self._lose_slot()
            case Scenario.RECOVERY:
                self._tour()

    def _kill_and_restart(self) -> None:
        first = self._workers[0]
        self._watch.begin(LIVE)
        self._during(MIDDLE * self._options.seconds)
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

    def _lose_slot(self) -> None:
        self._watch.begin(STREAMED)
        self._during(MIDDLE * self._options.seconds)
        lose_slot(self._stage.source_dsn, SLOT)
        lost = time.monotonic()
        self._display.event("the slot is lost: its walsender was ended, the slot dropped")
        self._watch.begin(LOST, since=self._probes.oldest_under_way)  # what was on its way is found by polling
        self._until(lambda: self._reads_by(POLLING), "the source is polled", SWITCH_SECONDS)
        self._display.event(f"the source is polled, {time.monotonic() - lost:.1f} s after the loss")
        self._until(lambda: not self._probes.unreached_since(lost), "polled changes arrive", SWITCH_SECONDS)
        self._display.event(f"every inbox's changes arrive again, {time.monotonic() - lost:.1f} s after the loss")
        self._until(lambda: self._reads_by(STREAMING), "the source is streamed again", SWITCH_SECONDS)
        back = time.monotonic()
        self._display.event(f"the source is streamed again, {back - lost:.1f} s after the loss")
        self._watch.begin(BACK, since=self._probes.oldest_under_way)
        self._until(lambda: not self._open_ends(back), "all is read again", LOAD_SECONDS)
        self._display.event(f"all is read again, {time.monotonic() - back:.1f} s after the switch")

    def _tour(self) -> None:
        hands = Hands(
            tell=self._display.event,
            begin=self._watch.begin,
            until=self._until,
            start=self._start,
            lose_slot=self._lose_slot,
            is_served=lambda: all(map(self._healthy, self._workers)),
        )
        Tour(self._stage, self._folder, self._workers, self._traffic, self._probes, hands).go()

    def _reads_by(self, mode: str) -> bool:
        reading = self._board.reading
        return reading is not None and reading.mode == mode and self._healthy(self._replicator)

    def _finish(self) -> None:
        self._traffic.stop()
        began, before = self._live
        self._stream = time.monotonic() - began, self._traffic.counts.rows - before
        stopped = self._probes.finish_sending()
        self._ended = time.time()
        self._watch.begin("waiting for the last changes")
        self._display.event(f"the traffic has stopped after {self._traffic.counts.rows:,} row changes")
        self._until(lambda: not self._open_ends(stopped), "everything is applied", CATCH_UP_SECONDS)
        self._display.event("everything is applied")
        self._wait_verified(self._ended)

    def _wait_verified(self, ended: float) -> None:
        """Of what no stamp shows only the rolling pass tells: while polling that is waited for, then its arrival."""
        if (reading := self._board.reading) is None or not reading.is_polling:
            return
        self._until(lambda: self._verified_through() > ended, "polling has verified all of it", VERIFY_SECONDS)
        self._display.event(f"everything is published up to {clock(self._verified_through())} UTC: polling has seen it")
        self._until(lambda: self._watch.target_through() > ended, "the target has all of it", CATCH_UP_SECONDS)
        self._display.event("the target has all of it")

    def _verified_through(self) -> float:
        """0: that is not known."""
        reading = self._board.reading
        return reading.verified or 0.0 if reading is not None else 0.0

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
            results = compare(self._stage.source_dsn, self._stage.target_dsn, tables=self._stage.manner.compared)
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
