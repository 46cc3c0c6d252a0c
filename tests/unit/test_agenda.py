"""What is still to be read is neither lost nor asked for twice."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson
import pytest
from structlog.testing import capture_logs

from replicator import agenda as agenda_module
from replicator.agenda import Agenda
from replicator.backfill_job import BackfillJob, FanOut, of_epoch
from replicator.derivation import Derivation
from replicator.event import BackfillMarker, Marker, Position, Run
from replicator.memory import Memory
from replicator.outlet import Outlet
from replicator.progress import Batch
from replicator.relations import CONTACTS, SURVEY_ANSWERS, Captured
from replicator.request import MOST_INBOXES, BackfillRequest, KeysRequest

RUN = Run(5, 1_000)
KEY = b"[1]"
LATER = math.inf
"""Than everything."""


@dataclass
class Recorder:
    """Stands for Memory and Outlet: keeps what it is given, in order. The broker never answers."""

    records: dict[str, Any] = field(default_factory=dict)
    said: list[tuple[str, object, Batch]] = field(default_factory=list)
    run: Run = RUN

    def write(self, key: str, content: dict[str, Any], batch: Batch) -> None:
        self.records[key] = orjson.loads(orjson.dumps(content))
        self.said.append(("write", key, batch))

    def forget(self, key: str, batch: Batch) -> None:
        self.records.pop(key, None)
        self.said.append(("forget", key, batch))

    def under(self, prefix: str) -> dict[str, Any]:
        return {key: content for key, content in self.records.items() if key.startswith(prefix)}

    def marker(self, marker: Marker, point: int, batch: Batch) -> None:
        self.said.append(("marker", (marker, point), batch))


@dataclass
class Readable:
    """Stands for the Derivation: all relations but those that are named can be read, or are there."""

    lost: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    asked: list[tuple[str, object, int]] = field(default_factory=list)

    def can_read(self, table: str) -> bool:
        return table not in self.lost | self.gone

    def exists(self, table: str) -> bool:
        return table not in self.gone

    def next_position(self) -> Position:
        return Position(*RUN, 8)

    def spared(self, relation: str) -> tuple[int, ...]:
        return (99,) if relation == "contacts" else ()

    def ask(self, relation: str, keys: Any, inbox: int) -> None:
        self.asked.append((relation, tuple(keys), inbox))


@pytest.fixture
def log() -> Recorder:
    return Recorder()


@pytest.fixture
def agenda(log: Recorder) -> Agenda:
    return started(log)


def started(log: Recorder) -> Agenda:
    """A run's agenda, from what an earlier one left in the log."""
    captured = Captured([CONTACTS, SURVEY_ANSWERS])
    derivation = cast(Derivation, Readable())
    return Agenda(captured, cast(Memory, log), cast(Outlet, log), lambda _: None, lambda _: None, derivation)


def request(
    name: str = "a", tables: tuple[str, ...] | None = None, inboxes: tuple[int, ...] | None = (7,)
) -> BackfillRequest:
    return BackfillRequest(id=name, tables=tables, inboxes=inboxes)


def test_a_debt_is_durable_with_the_batch_of_its_cause(agenda: Agenda, log: Recorder) -> None:
    batch = Batch()
    agenda.owe("messages", KEY, 7, batch)
    assert [(what, key) for what, key, _ in log.said] == [("write", "owed/messages/[1]")]
    assert log.said[0][2] is batch
    assert started(log).take_owed(10) == ("messages", [(KEY, 7)])


def test_a_debt_is_paid_once(agenda: Agenda, log: Recorder) -> None:
    agenda.owe("messages", KEY, 7, Batch())
    assert agenda.take_owed(10) == ("messages", [(KEY, 7)])
    assert agenda.take_owed(10) is None
    agenda.settle_owed("messages", [KEY])
    assert log.records == {}
    assert started(log).owed == 0


def test_a_debt_is_remembered_until_it_is_settled(agenda: Agenda, log: Recorder) -> None:
    agenda.owe("messages", KEY, 7, Batch())
    agenda.take_owed(10)
    assert started(log).owed == 1


def test_a_newer_debt_outlives_the_settling_of_the_older(agenda: Agenda, log: Recorder) -> None:
    agenda.owe("messages", KEY, 7, Batch())
    agenda.take_owed(10)
    agenda.owe("messages", KEY, 8, Batch())
    agenda.settle_owed("messages", [KEY])
    assert started(log).take_owed(10) == ("messages", [(KEY, 8)])


def test_what_is_put_back_does_not_hide_a_newer_inbox(agenda: Agenda) -> None:
    agenda.owe("messages", KEY, 7, Batch())
    agenda.owe("messages", b"[2]", 7, Batch())
    taken = agenda.take_owed(10)
    assert taken is not None
    agenda.owe("messages", KEY, 8, Batch())
    agenda.put_back_owed(*taken)
    assert agenda.take_owed(10) == ("messages", [(KEY, 8), (b"[2]", 7)])


def test_keys_are_taken_of_one_table_and_not_more_than_asked(agenda: Agenda) -> None:
    for table, key in (("messages", b"[1]"), ("conversations", b"[9]"), ("messages", b"[2]"), ("messages", b"[3]")):
        agenda.owe(table, key, 7, Batch())
    assert agenda.take_owed(2) == ("messages", [(b"[1]", 7), (b"[2]", 7)])
    assert agenda.owed == 2


def test_too_many_debts_of_a_table_become_a_backfill_of_it(
    agenda: Agenda, log: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agenda_module, "MOST_OWED", 3)
    batch = Batch()
    agenda.owe("conversations", b"[9]", 7, batch)
    for key in range(5):
        agenda.owe("messages", b"[%d]" % key, 7, batch)
    (job,) = agenda.jobs.values()
    assert (job.tables, job.inboxes, job.start) == (("messages",), None, None)
    assert agenda.owed == 1, "what is owed later is in the backfill, as long as that waits"
    kept = [what for what, *_ in log.said].index("forget")
    assert ("write", f"backfill/{job.id}", batch) in log.said[:kept], "remembered before the keys are forgotten"
    again = started(log)
    assert (list(again.jobs), again.owed) == ([job.id], 1)
    agenda.begin(replace(job, start=Position(5, 900, 0)))
    agenda.owe("messages", b"[8]", 7, batch)
    assert agenda.owed == 2


def test_keys_that_a_consumer_asks_for_are_owed_but_leave_no_record(agenda: Agenda, log: Recorder) -> None:
    agenda.request(KeysRequest(table="messages", inbox=7, keys=((1,), (2,))), Batch())
    agenda.request(KeysRequest(table="nonsense", inbox=7, keys=((1,),)), Batch())
    assert agenda.take_owed(10) == ("messages", [(b"[1]", 7), (b"[2]", 7)])
    agenda.settle_owed("messages", [b"[1]", b"[2]"])
    assert log.said == []


def test_keys_that_are_asked_for_are_bounded(agenda: Agenda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda_module, "MOST_KEYS", 3)
    agenda.request(KeysRequest(table="messages", inbox=7, keys=tuple((key,) for key in range(10))), Batch())
    assert agenda.owed == 3


def test_a_key_that_the_table_cannot_have_is_not_owed(agenda: Agenda) -> None:
    """`read_keys` would send PostgreSQL two parameters for one placeholder."""
    agenda.request(KeysRequest(table="messages", inbox=7, keys=((1, 2), (), (3,))), Batch())
    assert agenda.take_owed(10) == ("messages", [(b"[3]", 7)])


def test_a_refused_key_is_counted_but_never_printed(agenda: Agenda) -> None:
    with capture_logs() as lines:
        agenda.request(KeysRequest(table="messages", inbox=7, keys=(("s3cr3t", 2), (1,))), Batch())
        agenda.request(KeysRequest(table="s3cr3t", inbox=7, keys=((1,),)), Batch())
    assert [(line["event"], line["log_level"], line["keys"]) for line in lines] == [("keys.refused", "warning", 1)] * 2
    assert "s3cr3t" not in str(lines)


TOO_MANY = tuple(range(MOST_INBOXES + 1))


@pytest.mark.parametrize(
    "empty",
    [
        request(inboxes=()),
        request(tables=("nonsense",)),
        request(tables=()),
        request(name=""),
        request(inboxes=TOO_MANY),
    ],
    ids=["no inbox", "no known table", "no table", "no id", "too many inboxes"],
)
def test_a_backfill_of_nothing_or_too_much_is_refused(agenda: Agenda, log: Recorder, empty: BackfillRequest) -> None:
    with capture_logs() as lines:
        agenda.request(empty, Batch())
    assert [line["event"] for line in lines] == ["backfill.refused"]
    assert (agenda.jobs, log.said) == ({}, [])


def test_a_request_is_durable_with_the_given_batch(agenda: Agenda, log: Recorder) -> None:
    batch = Batch()
    agenda.request(request(), batch)
    assert [(what, key) for what, key, _ in log.said] == [("write", "backfill/a")]
    assert log.said[0][2] is batch
    assert list(started(log).jobs) == ["a"]


@pytest.mark.parametrize(
    "again",
    [
        request("a", inboxes=(9,)),
        BackfillRequest(id="b", tables=None, inboxes=(9,), known="a"),
        request("b", tables=("nonsense",)),
        request("b", inboxes=(7,)),
        request("b", tables=("messages",), inboxes=(7,)),
    ],
    ids=["same id", "asker waits for one", "no known table", "same scope", "part of a waiting scope"],
)
def test_nothing_is_begun_twice(agenda: Agenda, again: BackfillRequest) -> None:
    agenda.request(request("a", inboxes=(7, 8)), Batch())
    agenda.request(again, Batch())
    assert list(agenda.jobs) == ["a"]


@pytest.mark.parametrize("other", [request("b", inboxes=None), request("b", inboxes=(8, 9))])
def test_a_scope_that_no_waiting_backfill_covers_is_begun(agenda: Agenda, other: BackfillRequest) -> None:
    agenda.request(request("a", inboxes=(7, 8)), Batch())
    agenda.request(other, Batch())
    assert list(agenda.jobs) == ["a", "b"]


def test_a_backfill_under_way_covers_nothing(agenda: Agenda) -> None:
    """What it has already read may have changed since the asker lost it."""
    agenda.request(request("a", inboxes=None), Batch())
    agenda.begin(replace(agenda.jobs["a"], start=Position(5, 900, 0)))
    agenda.request(request("b", inboxes=None), Batch())
    assert list(agenda.jobs) == ["a", "b"]


def test_backfills_are_bounded(agenda: Agenda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda_module, "MOST_JOBS", 1)
    agenda.request(request("a", inboxes=(7,)), Batch())
    agenda.request(request("b", inboxes=(8,)), Batch())
    assert list(agenda.jobs) == ["a"]


def test_the_oldest_backfill_is_next_also_after_a_restart(log: Recorder) -> None:
    for name, requested_ms in (("young", 2), ("old", 1)):
        job = BackfillJob(id=name, tables=("messages",), inboxes=None, requested_ms=requested_ms)
        log.records[f"backfill/{name}"] = job.to_record()
    job_next = started(log).next_job()
    assert job_next is not None
    assert job_next.id == "old"


def test_a_backfills_whole_life_stands_in_the_log(agenda: Agenda, log: Recorder) -> None:
    agenda.request(request("a", tables=("messages", "contacts")), Batch())
    job, begun = agenda.begin(replace(agenda.jobs["a"], start=Position(5, 900, 0)))
    assert started(log).jobs["a"].start is None, "a crash here begins it again: its marker may not be everywhere"
    remembered = agenda.advance(job)
    advanced = agenda.advance(job.advanced(10, (1, 2)))
    assert started(log).jobs["a"].after == (1, 2)
    ended = agenda.end(agenda.jobs["a"])
    assert "a" in started(log).jobs, "a crash here ends it again: its marker may not be everywhere"
    finished = agenda.finish(agenda.jobs["a"])
    assert agenda.next_job() is None
    assert log.records == {"finished": {"ids": ["a"]}}, "whoever waits for it is told"
    marker = BackfillMarker(
        id="a",
        boundary="begin",
        tables=("messages", "contacts"),
        derived=("contacts",),
        is_complete=False,
        inboxes=(7,),
        start=Position(5, 900, 0),
        start_read=Position(*RUN, 8),
        spared={},
    )
    assert log.said[1:] == [
        ("marker", (marker, 900), begun),
        ("write", "backfill/a", remembered),
        ("write", "backfill/a", advanced),
        ("marker", (replace(marker, boundary="end", spared={"contacts": (99,)}), 900), ended),
        ("forget", "backfill/a", finished),
        ("write", "finished", finished),
    ]


def test_a_backfill_that_waits_has_no_marker(agenda: Agenda) -> None:
    agenda.request(request(), Batch())
    with pytest.raises(ValueError, match="not begun"):
        agenda.end(agenda.jobs["a"])


def test_a_later_run_ends_a_backfill_where_an_earlier_one_began_it(agenda: Agenda, log: Recorder) -> None:
    """Reads of another generation would else be taken for older than its begin."""
    agenda.request(request("a", tables=("contacts",)), Batch())
    begun, _ = agenda.begin(replace(agenda.jobs["a"], start=Position(5, 900, 0)))
    agenda.advance(begun)
    assert started(log).jobs["a"].start_read == begun.start_read == Position(*RUN, 8)


def test_a_request_for_everything_reads_what_there_is(agenda: Agenda) -> None:
    """What is gone is read as a whole when it returns; what can't be read for a while is waited for."""
    cast(Readable, agenda._derivation).gone = {"contacts"}
    cast(Readable, agenda._derivation).lost = {"csat_survey_responses"}
    agenda.request(request("a"), Batch())
    assert agenda.jobs["a"].is_complete
    assert agenda.jobs["a"].tables == (
        *("inboxes", "conversations", "contact_inboxes", "messages", "csat_survey_responses"),
    )


def test_a_backfill_of_what_can_not_be_read_lets_others_pass(agenda: Agenda) -> None:
    agenda.request(request("a", tables=("contacts",)), Batch())
    agenda.request(request("b", tables=("messages",)), Batch())
    cast(Readable, agenda._derivation).lost = {"contacts"}
    assert (agenda.next_job() or agenda.jobs["a"]).id == "b"


def test_a_backfill_that_fails_lets_others_pass(agenda: Agenda) -> None:
    for name in ("a", "b"):
        agenda.request(request(name, inboxes=(len(agenda.jobs),)), Batch())
    agenda.put_behind(agenda.jobs["a"])
    assert (agenda.next_job() or agenda.jobs["a"]).id == "b"
    agenda.put_behind(replace(agenda.jobs["a"], id="finished meanwhile"))
    assert list(agenda.jobs) == ["b", "a"]


def test_a_fan_out_that_fails_lets_others_pass_and_is_tried_again(agenda: Agenda) -> None:
    agenda.fan_out("contacts", FanOut(path="inboxes(id) 1", start=(7,), inboxes=(7,)), Batch())
    (fan_out,) = agenda.jobs.values()
    agenda.put_behind(fan_out)
    assert agenda.next_job() == fan_out, "there is nothing else"
    agenda.request(request("a"), Batch())
    agenda.fan_out("contacts", FanOut(path="inboxes(id) 1", start=(8,), inboxes=(8,)), Batch())
    other = agenda.next_job()
    assert other is not None
    assert other.fan_out is not None
    agenda.put_behind(other)
    assert (agenda.next_job() or fan_out).id == "a", "both have failed"
    agenda.advance(agenda.jobs["a"])
    assert agenda.next_job() == fan_out


def test_a_backfill_goes_on_with_what_can_be_read_and_comes_back(agenda: Agenda, log: Recorder) -> None:
    agenda.request(request("a", tables=("contacts", "csat_survey_responses"), inboxes=(7, 8)), Batch())
    cast(Readable, agenda._derivation).lost = {"contacts"}
    job = agenda.next_job()
    assert job is not None
    begun, _ = agenda.begin(replace(job, start=Position(5, 900, 0)))
    agenda.advance(begun.advanced(1, None).advanced(1, None))
    assert begun.tables == ("csat_survey_responses", "contacts")
    assert agenda.next_job() is None
    assert agenda.held_up() == "contacts, which can't be read at the moment"
    cast(Readable, agenda._derivation).lost = set()
    job = started(log).next_job()
    assert job is not None
    chunk = job.chunk()
    assert chunk is not None
    assert (chunk.table, chunk.inbox, chunk.after) == ("contacts", 7, None)
    agenda.end(begun)
    markers = [said[0] for kind, said, _ in log.said if kind == "marker" and isinstance(said, tuple)]
    assert [marker.tables for marker in markers] == [("contacts", "csat_survey_responses")] * 2
    assert agenda.held_up() == ""


def test_a_backfill_that_came_to_follow_changes_as_it_began_still_does(agenda: Agenda, log: Recorder) -> None:
    agenda.request(request("setup-1", inboxes=None), Batch())
    taken = agenda.next_job()
    assert taken is not None
    agenda.read_whole("contacts", "a change could not be traced", Batch())
    begun, _ = agenda.begin(replace(taken, start=Position(5, 900, 0)))
    agenda.advance(begun)
    assert agenda.jobs["setup-1"].catches_up
    assert started(log).jobs["setup-1"].catches_up


def test_changes_that_are_left_to_a_waiting_backfill_are_behind_until_its_end(agenda: Agenda, log: Recorder) -> None:
    """One that reads everything for another reason: nobody else waits for it."""
    agenda.request(request("setup-1", inboxes=None), Batch())
    assert not agenda.is_behind(LATER)
    agenda.read_whole("contacts", "a change could not be traced", Batch())
    assert list(agenda.jobs) == ["setup-1"]
    assert agenda.is_behind(LATER)
    assert started(log).is_behind(LATER)


def test_a_fan_out_goes_first_has_no_markers_and_is_not_asked_for_twice(agenda: Agenda, log: Recorder) -> None:
    agenda.request(request("a"), Batch())
    fan_out = FanOut(path="inboxes(id) 1", start=(7,), inboxes=(7,))
    agenda.fan_out("contacts", fan_out, Batch())
    agenda.fan_out("contacts", fan_out, Batch())
    job = agenda.next_job()
    assert job is not None
    assert (job.fan_out, job.tables) == (fan_out, ("contacts",))
    assert len(agenda.jobs) == 2
    assert agenda.is_behind(LATER)
    begun, _ = agenda.begin(replace(job, start=Position(5, 900, 0)))
    agenda.end(begun)
    agenda.finish(begun)
    assert [kind for kind, *_ in log.said if kind == "marker"] == []
    assert not agenda.is_behind(LATER)


def test_all_is_behind_until_a_new_epoch_has_been_read(log: Recorder) -> None:
    """A stream that is new knows nothing of what was there before, or went before."""
    job = BackfillJob(id=of_epoch(RUN.epoch), tables=("messages",), inboxes=None, requested_ms=0, is_complete=True)
    log.records[f"backfill/{job.id}"] = job.to_record()
    agenda = started(log)
    agenda.request(request("a"), Batch())
    cast(Readable, agenda._derivation).lost = {"messages"}
    assert agenda.is_behind(LATER), "be it readable now or not"
    begun, _ = agenda.begin(replace(job, start=Position(5, 900, 0)))
    assert agenda.is_behind(LATER)
    agenda.finish(begun)
    assert not agenda.is_behind(LATER), "what consumers ask for is nothing that was committed lately"


def test_all_is_behind_while_the_stream_owes_a_key(agenda: Agenda, log: Recorder) -> None:
    agenda.request(KeysRequest(table="messages", keys=((9,),), inbox=1), Batch())
    assert not agenda.is_behind(LATER)
    agenda.owe("messages", KEY, 1, Batch())
    assert agenda.is_behind(LATER)
    assert started(log).is_behind(LATER), "in the next run too"
    assert agenda.take_owed(10) is not None
    assert agenda.is_behind(LATER), "it is not published yet"
    agenda.settle_owed("messages", [KEY, b"[9]"])
    assert not agenda.is_behind(LATER)


def test_what_is_owed_since_is_no_part_of_what_was_brought_before(agenda: Agenda, log: Recorder) -> None:
    """Else where keys are owed all the time nobody would ever be told anything."""
    agenda.owe("messages", b"[2]", 1, Batch())
    between = time.monotonic()
    agenda.owe("messages", KEY, 1, Batch())
    agenda.owe("messages", b"[2]", 1, Batch())
    assert agenda.is_behind(between), "owed twice, and not published yet"
    assert agenda.take_owed(10) is not None
    agenda.settle_owed("messages", [b"[2]"])
    assert not agenda.is_behind(between)
    assert agenda.is_behind(LATER)
    assert started(log).is_behind(between), "an earlier run knew when"


def test_a_relation_is_read_as_a_whole_once(agenda: Agenda) -> None:
    agenda.read_whole("contacts", "its definition is another", Batch())
    agenda.read_whole("contacts", "its definition is another", Batch())
    agenda.read_whole("csat_survey_responses", "its definition is another", Batch())
    assert [job.tables for job in agenda.jobs.values()] == [("contacts",), ("csat_survey_responses",)]


def test_keys_of_a_derived_relation_are_dirtied(agenda: Agenda) -> None:
    agenda.request(KeysRequest(table="contacts", inbox=7, keys=((1,), (2,))), Batch())
    assert cast(Readable, agenda._derivation).asked == [("contacts", ((1,), (2,)), 7)]
    assert agenda.owed == 0


@pytest.mark.parametrize(
    "waiting",
    [
        BackfillJob(
            id="f", tables=("contacts",), inboxes=None, requested_ms=1, fan_out=FanOut(path="p", start=(1,), inboxes=())
        ),
        BackfillJob(id="k", tables=("contacts",), inboxes=None, requested_ms=1, keys=(1, 9)),
        BackfillJob(id="asked-1", tables=("contacts",), inboxes=None, requested_ms=1),
    ],
    ids=["a fan-out", "a range of keys", "what somebody may give up"],
)
def test_a_relation_that_must_be_read_whole_is_not_left_to_a_part_of_it(agenda: Agenda, waiting: BackfillJob) -> None:
    agenda.jobs[waiting.id] = waiting
    agenda.read_whole("contacts", "a change could not be traced", Batch())
    assert len(agenda.jobs) == 2


def test_a_job_goes_on_without_tables_that_are_not_captured_any_more() -> None:
    """Their end would be told to consumers, who would sweep them empty."""
    job = BackfillJob(id="a", tables=("x", "y", "z"), inboxes=None, requested_ms=1, at_table=1, after=(5,))
    assert job.limited_to(("x", "y", "z")) is job
    without_first = job.limited_to(("y", "z"))
    assert (without_first.tables, without_first.at_table, without_first.after) == (("y", "z"), 0, (5,))
    without_this = job.limited_to(("x", "z"))
    assert (without_this.tables, without_this.at_table, without_this.after) == (("x", "z"), 1, None)
