"""A chunk's window is open for no longer than needed, and remembers no more than it may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator import backfill
from replicator.backfill import Backfiller, Work
from replicator.backfill_job import BackfillJob, FanOut
from replicator.calls import Calls, Ended
from replicator.config import load
from replicator.errors import SourceUnavailable
from replicator.progress import Snapshot
from replicator.readings import Errand
from replicator.relations import STREAMED_BY_NAME, Captured
from replicator.source import Sample, Source
from replicator.window import Window
from tests.unit.test_derivation import PEOPLE, derived

BORN = 100
SETTINGS = load(_env_file=None, source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")


@dataclass
class Stage:
    """Stands for the source, the loop and its work: keeps what happens, in order."""

    xmins: list[int]
    overflows: bool = False
    said: list[str] = field(default_factory=list)
    window: Window | None = None

    def run(self, call: Any) -> Any:
        return call()

    def sample(self) -> Sample:
        self.said.append(f"xmin {self.xmins[0]}")
        return Sample(snapshot=Snapshot(self.xmins.pop(0), BORN + 9, frozenset()), flushed_lsn=1, at_ms=1)

    def open_window(self, window: Window | None) -> None:
        self.said.append("open" if window is not None else "closed")
        self.window = window

    def emit(self, content: str) -> int:
        assert self.window is not None
        if not self.overflows:
            raise Ended
        self.window.overflown = True
        return 1


def backfilling(stage: object) -> Backfiller:
    return Backfiller(
        SETTINGS,
        Captured([PEOPLE]),
        cast(Calls, stage),
        cast(Work, stage),
        lambda _: pytest.fail("no row"),
        epoch=5,
        born=BORN,
    )


def read_chunk(stage: Stage) -> None:
    backfiller = backfilling(stage)
    backfiller._in_window(cast(Source, stage), STREAMED_BY_NAME["messages"], lambda _: pytest.fail("nothing is read"))


def test_what_is_older_than_the_slot_is_waited_for_before_the_window_opens() -> None:
    stage = Stage(xmins=[BORN - 2, BORN - 1, BORN])
    with pytest.raises(Ended):
        read_chunk(stage)
    assert stage.said == ["xmin 98", "xmin 99", "xmin 100", "open", "closed"]


def test_a_window_in_which_too_much_changes_is_given_up() -> None:
    stage = Stage(xmins=[BORN], overflows=True)
    with pytest.raises(TimeoutError, match="keys of messages changed"):
        read_chunk(stage)
    assert stage.said[-1] == "closed"


def read_people(stage: object, source: object, fan_out: FanOut | None = None) -> tuple[int, BackfillJob]:
    """One chunk of a derived relation."""
    job = BackfillJob(id="a", tables=("people",), inboxes=None, requested_ms=1, fan_out=fan_out)
    chunk = job.chunk()
    assert chunk is not None
    return backfilling(stage)._read_derived(cast(Source, source), job, chunk)


def test_a_fan_out_whose_path_is_gone_ends_with_its_relation_read_as_a_whole() -> None:
    """A definition may be another by the time that it is read, or while it is."""
    whole: list[str] = []
    stage = SimpleNamespace(
        run=lambda call: call(),
        derived=lambda _: derived("b"),
        read_whole=lambda relation, reason, batch: whole.append(relation),
    )
    rows, job = read_people(stage, None, FanOut(path="inboxes(id) 1234abcd", start=(1,), inboxes=(1,)))
    assert (rows, job.chunk(), whole) == (0, None, ["people"])


class Snapshots:
    """Stands for the source: its snapshots, one after the other."""

    connection: Any = None

    def __init__(self, *snapshots: Snapshot) -> None:
        self.left = list(snapshots)

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    def sample(self) -> Sample:
        return Sample(snapshot=self.left.pop(0), flushed_lsn=1, at_ms=1)


def test_keys_are_listed_in_a_snapshot_that_sees_all_that_was_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had a relation read as a whole may have made a key that only the list can tell of."""
    xid = BORN + 5
    source = Snapshots(
        Snapshot(BORN - 1, BORN + 9, frozenset({BORN - 1})),  # the slot is younger
        Snapshot(BORN, BORN + 9, frozenset({xid})),
        Snapshot(BORN + 9, BORN + 9, frozenset()),
    )
    monkeypatch.setattr(backfill, "keys_within", lambda *_: [(1,)])
    stage = SimpleNamespace(
        run=lambda call: call(),
        derived=lambda _: derived("a"),
        to_be_seen=lambda: (xid,),
        errand=lambda relation, keys: Errand(relation, []),
    )
    rows, _ = read_people(stage, source)
    assert (rows, source.left) == (1, [])


def test_keys_of_a_relation_that_is_gone_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backfill goes on when it returns, and others until then."""
    monkeypatch.setattr(backfill, "LOOK_S", 0.0)
    monkeypatch.setattr(backfill, "keys_within", lambda *_: [(1,), (2,)])
    can_read, asked = [True, False], list[Errand]()

    def errand(relation: str, keys: Any) -> Errand:
        asked.append(Errand(relation, keys))
        return asked[0]

    stage = SimpleNamespace(
        run=lambda call: call(),
        derived=lambda _: derived("a"),
        can_read=lambda _: can_read.pop(0),
        to_be_seen=lambda: (),
        errand=errand,
    )
    with pytest.raises(SourceUnavailable, match="people can't be read at the moment"):
        read_people(stage, Snapshots(Snapshot(BORN, BORN, frozenset())))
    assert not asked[0].is_wanted


def test_a_backfill_that_can_not_go_on_lets_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [BackfillJob(id=name, tables=("people",), inboxes=None, requested_ms=1) for name in ("a", "b")]
    stage = SimpleNamespace(
        run=lambda call: call(),
        take_owed=lambda _: None,
        next_job=lambda: jobs[0],
        put_behind=lambda job: jobs.append(jobs.pop(jobs.index(job))),
    )
    backfiller = backfilling(stage)
    backfiller._rows = 2 * backfill.LEAST_ROWS

    def refuse(_: object, job: BackfillJob) -> None:
        raise SourceUnavailable(f"{job.id} is too slow to be listed")

    monkeypatch.setattr(backfiller, "_read_next", refuse)
    for name in ("a", "a", "b", "a"):  # first with less at once
        with pytest.raises(SourceUnavailable, match=f"{name} is too slow"):
            backfiller._serve(cast(Source, None), cast(Any, None))
        backfiller._delayed("so it was")
