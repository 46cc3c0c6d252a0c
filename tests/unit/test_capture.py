"""From messages of the stream to events, and what a chunk between its watermarks learns of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from replicator.capture import Capture
from replicator.causes import Fingerprints, Reach, Way
from replicator.changes import Table
from replicator.course import Course
from replicator.derivation import Derivation
from replicator.errors import ProtocolError
from replicator.lapses import Lapses
from replicator.outlet import Outlet
from replicator.pgoutput import ABSENT, Begin, Commit, Delete, Insert, LogicalMessage, Relation, Truncate, Update
from replicator.progress import Batch, Progress
from replicator.readings import KEY
from replicator.relations import STREAMED_BY_NAME
from replicator.source import MESSAGE_PREFIX
from replicator.window import HIGH, LOW, Window
from tests.unit.test_changes import ORIGIN, TYPE_NAMES, columns

NAMES = ("id", "inbox_id", "content")
IDENTITY = ("inbox_id", "id")
MESSAGES = Relation(7, "public", "messages", "i", tuple(columns(*NAMES, identity=IDENTITY)))


@dataclass
class Recorder:
    """Stands for Outlet, the catalogue, the agenda and the lapses."""

    said: list[tuple[Any, ...]] = field(default_factory=list)
    owed: list[tuple[bytes, int]] = field(default_factory=list)
    heard: list[tuple[int, int]] = field(default_factory=list)

    def change(self, table: Table, routed: Any, commit_lsn: int, index: int, cause: Any, batch: Batch) -> None:
        self.said.append((routed.op, routed.key, routed.inbox, commit_lsn, index))

    def truncate(self, table: Table, commit_lsn: int, index: int, cause: Any, batch: Batch) -> None:
        self.said.append(("t", b"", None, commit_lsn, index))

    def row(self, table: Table, row: Any, high_lsn: int, cause: Any, batch: Batch) -> None:
        self.said.append(("r", row.key, row.inbox, high_lsn))

    def absence(self, table: Table, key: bytes, inbox: int, high_lsn: int, cause: Any, batch: Batch) -> None:
        self.said.append(("gone", key, inbox, high_lsn))

    def type_names(self, types: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
        return {each: TYPE_NAMES[each] for each in types}

    def owe(self, table: str, key: bytes, inbox: int, batch: Batch) -> None:
        self.owed.append((key, inbox))

    def hear(self, relation: Relation, commit_lsn: int, batch: Batch) -> None:
        self.heard.append((relation.oid, commit_lsn))


@dataclass
class Traced:
    """Stands for the Derivation: what was touched, in which transaction."""

    reaches: dict[tuple[str, str], Reach] = field(default_factory=dict)
    fingerprints: Fingerprints = field(default_factory=lambda: Fingerprints(10))
    said: list[Any] = field(default_factory=list)

    def begin_transaction(self) -> None:
        self.said.append("begin")

    def end_transaction(self, lsn: int) -> None:
        self.said.append("end")

    def touch(self, causes: list[Any], lsn: int) -> None:
        self.said += [(cause.relation, cause.start, lsn) for cause in causes]

    def truncated(self, table: tuple[str, str]) -> None:
        self.said.append(table)


def capturing(log: Recorder, progress: Progress, traced: Traced | None = None) -> Capture:
    derivation = cast(Derivation, traced or Traced())
    return Capture(
        {7: "messages"},
        log,
        cast(Outlet, log),
        progress,
        lambda _: ORIGIN,
        lambda _: None,
        log.owe,
        derivation,
        cast(Lapses, log),
        Course(None, 0),
    )


@pytest.fixture
def log() -> Recorder:
    return Recorder()


@pytest.fixture
def progress() -> Progress:
    return Progress(0)


@pytest.fixture
def capture(log: Recorder, progress: Progress) -> Capture:
    """Inside a transaction, after the columns of messages."""
    capture = capturing(log, progress)
    capture.handle(Begin(100, 0, 5))
    capture.handle(MESSAGES)
    return capture


def row(key: int, *, inbox: bytes = b"3", whole: bool = True) -> list[Any]:
    return [b"%d" % key, inbox, b"hi" if whole else ABSENT]


def watermark(window: Window, boundary: str, lsn: int) -> LogicalMessage:
    return LogicalMessage(False, lsn, MESSAGE_PREFIX, window.message(boundary).encode())


def reading(capture: Capture, *keys: int) -> Window:
    """A chunk that is open and has read these keys."""
    window = Window(table_name="messages")
    capture.window = window
    capture.handle(watermark(window, LOW, 110))
    window.table = Table(STREAMED_BY_NAME["messages"], MESSAGES.columns, TYPE_NAMES, ORIGIN)
    window.rows = [window.table.render(row(key)) for key in keys]
    return window


def test_every_row_change_has_its_number_also_those_of_tables_that_are_not_captured(
    capture: Capture, log: Recorder
) -> None:
    capture.handle(Relation(8, "public", "elsewhere", "d", MESSAGES.columns))
    capture.handle(Relation(9, "other_schema", "messages", "d", MESSAGES.columns))
    for oid in (7, 8, 9):
        capture.handle(Insert(oid, row(1)))
    capture.handle(Delete(7, "K", [b"1", b"3", None]))
    assert log.said == [("c", b"[1]", 3, 100, 0), ("d", b"[1]", 3, 100, 3)]


def test_what_is_said_of_a_table_is_heard_with_its_transaction(capture: Capture, log: Recorder) -> None:
    capture.handle(Relation(8, "public", "users", "d", MESSAGES.columns))
    assert log.heard == [(7, 100), (8, 100)]


def test_a_table_is_the_same_under_another_name(capture: Capture, log: Recorder) -> None:
    """It was renamed when the stream passed here, and renamed back since."""
    capture.handle(Relation(7, "elsewhere", "old_messages", "i", MESSAGES.columns))
    capture.handle(Insert(7, row(1)))
    assert log.said == [("c", b"[1]", 3, 100, 0)]


def test_a_commit_is_what_progress_waits_for(capture: Capture, progress: Progress) -> None:
    assert not capture.between_transactions
    capture.handle(Commit(100, 120))
    assert capture.between_transactions
    assert progress.unsettled == (5,)


def test_a_row_before_its_columns_or_outside_a_transaction_is_refused(log: Recorder, progress: Progress) -> None:
    capture = capturing(log, progress)
    with pytest.raises(ProtocolError, match="before its Relation message"):
        capture.handle(Insert(7, row(1)))
    capture.handle(MESSAGES)
    with pytest.raises(ProtocolError, match="outside a transaction"):
        capture.handle(Insert(7, row(1)))


def test_a_chunk_gives_way_to_what_changed_between_its_watermarks(capture: Capture, log: Recorder) -> None:
    window = Window(table_name="messages")
    capture.window = window
    capture.handle(Insert(7, row(1)))  # before the low watermark: the chunk sees it
    window = reading(capture, 1, 2, 3)
    capture.handle(Update(7, "", [], row(2)))
    capture.handle(Update(7, "", [], row(3, whole=False)))
    capture.handle(watermark(window, HIGH, 130))
    assert [each for each in log.said if each[0] == "r"] == [("r", b"[1]", 3, 130)]
    assert log.owed == [(b"[3]", 3)], "its newer version in the stream lacks a column"
    assert window.published.is_set()


def test_a_chunk_waits_for_what_was_delivered_before_it(capture: Capture) -> None:
    capture.handle(Commit(100, 120))
    assert reading(capture).unsettled == (5,)


def test_a_row_that_moves_without_its_text_is_owed_where_it_goes(capture: Capture, log: Recorder) -> None:
    capture.handle(Update(7, "K", [b"1", b"2", None], row(1, whole=False)))
    assert [each[:3] for each in log.said] == [("d", b"[1]", 2), ("u", b"[1]", 3)]
    assert log.owed == [(b"[1]", 3)]


def test_a_truncated_table_empties_the_chunk(capture: Capture, log: Recorder) -> None:
    window = reading(capture, 1, 2)
    capture.handle(Truncate((7,)))
    capture.handle(watermark(window, HIGH, 130))
    assert log.said == [("t", b"", None, 100, 0)]


def test_what_was_truncated_before_the_low_watermark_empties_no_chunk(capture: Capture, log: Recorder) -> None:
    """The chunk is read after it; emptied, it would leave its rows to the sweep."""
    capture.window = Window(table_name="messages")
    capture.handle(Truncate((7,)))
    window = capture.window
    capture.handle(watermark(window, LOW, 110))
    window.table = Table(STREAMED_BY_NAME["messages"], MESSAGES.columns, TYPE_NAMES, ORIGIN)
    window.rows = [window.table.render(row(1))]
    capture.handle(watermark(window, HIGH, 130))
    assert [each for each in log.said if each[0] == "r"] == [("r", b"[1]", 3, 130)]


def test_messages_that_are_not_ours_mean_nothing(capture: Capture, log: Recorder) -> None:
    """Anybody on the source may emit one, under our prefix too, and of any bytes."""
    window = reading(capture, 1)
    for prefix, content in (
        ("somebody", window.message(HIGH).encode()),
        (MESSAGE_PREFIX, b"\xff\xfe"),
        (MESSAGE_PREFIX, b"high:of another run"),
    ):
        capture.handle(LogicalMessage(True, 120, prefix, content))
    assert not window.published.is_set()
    assert log.said == []


REACH = Reach(
    key=("id",),
    inbox="",
    ways=(Way(relation="people", path=KEY, columns=("id",)),),
    used={"people": frozenset({"content"})},
)


def test_changes_of_a_table_that_others_are_made_of_are_traced(log: Recorder, progress: Progress) -> None:
    traced = Traced(reaches={("public", "users"): REACH})
    capture = capturing(log, progress, traced)
    capture.handle(Begin(100, 0, 5))
    capture.handle(Relation(8, "public", "users", "i", MESSAGES.columns))
    capture.handle(Insert(8, row(1)))
    capture.handle(Update(8, "", [], row(1)))
    capture.handle(Delete(8, "K", [b"1", b"3", None]))
    capture.handle(Truncate((8,)))
    capture.handle(Commit(100, 120))
    assert traced.said == ["begin", ("people", (1,), 100), ("people", (1,), 100), ("public", "users"), "end"]
    assert log.said == []


def test_a_column_that_the_stream_lacks_blinds_no_other_relation(log: Recorder, progress: Progress) -> None:
    both = replace(REACH, ways=(*REACH.ways, replace(REACH.ways[0], relation="names")))
    reach = replace(both, used={"people": frozenset({"content", "inbox_id"}), "names": frozenset({"inbox_id"})})
    traced = Traced(reaches={("public", "users"): reach})
    capture = capturing(log, progress, traced)
    capture.handle(Begin(100, 0, 5))
    capture.handle(Relation(8, "public", "users", "i", MESSAGES.columns[:2]))
    capture.handle(Insert(8, row(1)[:2]))
    assert traced.said == ["begin", ("people", (1,), 100), ("names", (1,), 100)]
    for _ in range(2):
        capture.handle(Update(8, "", [], row(1)[:2]))
    assert traced.said[3:] == [("people", (1,), 100)] * 2
    traced.reaches = {("public", "users"): replace(reach, used={"names": reach.used["names"]}, ways=both.ways[1:])}
    capture.trace_again()
    capture.handle(Update(8, "", [], row(1, inbox=b"4")[:2]))
    assert traced.said[5:] == [("names", (1,), 100)]
