"""The pure pieces of the benchmark's parts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from bench import end_to_end, guard, options, parts, scale
from bench.arrived import Arrived
from bench.backfill import Change, change_of
from bench.changes import Written
from bench.journal import Journal
from bench.measured import Part, Ratio
from bench.peers import debezium
from bench.scale import Case
from bench.view import read_all
from replicator.changes import RenderedRow
from replicator.derived import Read
from replicator.envelope import encode
from replicator.event import Cause, Head, Origin, Position, pack_head
from replicator.reader import KEYS_AT_ONCE

ORIGIN = Origin(topic_prefix="p", database="d", schema="public", table="messages").render()
OURS = Ratio(what="replicator / pg_recvlogical", value=0.5)


def event(table: str = "messages", op: str = "c") -> tuple[bytes, list[tuple[str, bytes]]]:
    head = Head(op, table, b"[1]", Position(1, 2, 3), 4, "v", b"", op == "r", "")  # type: ignore[arg-type]
    cause = Cause(xid=7, lsn=8, committed_ms=1234, seen_ms=1300)
    return encode(head, ORIGIN, cause, b"null", b'{"id":1}'), pack_head(head)


def theirs(op: str) -> bytes:
    payload = {"before": None, "after": {"id": 1}, "source": {"ts_ms": 1234}, "op": op, "ts_ms": 1300}
    return orjson.dumps({"schema": {"type": "struct"}, "payload": payload})


def test_changes_of_both_are_told_from_rows_that_were_read() -> None:
    context = [("__debezium.context.connectorName", b"x")]
    assert change_of(*event()) == change_of(theirs("c"), context) == Change(False, 1234)
    assert change_of(*event(op="r")) == change_of(theirs("r"), None) == Change(True, 0)


def test_what_is_no_row_of_the_two_tables_is_not_counted() -> None:
    assert change_of(*event("contacts", "r")) is None
    assert change_of(None, []) is None
    assert change_of(b"{}", [("op", b"m")]) is None


def test_one_thing_differs_at_a_time() -> None:
    cases = scale.cases(5_000_000)
    assert cases["rows"] == [Case(1, 10, 100_000), Case(1, 10, 1_000_000), Case(1, 10, 5_000_000)]
    assert [case.workers for case in cases["workers"]] == [1, 2, 4]
    assert [case.tenants for case in cases["tenants"]] == [1, 10, 300, 1_000]
    assert {case.before for group in ("workers", "tenants") for case in cases[group]} == {100_000}
    assert Case(1, 1_000, 5_000).says == "1 worker, 1,000 tenants, 5,000 rows before"


def test_rows_come_before_in_ascending_order() -> None:
    """They are added, and never taken away."""
    before = [case.before for group in scale.cases(500).values() for case in group]
    assert before == sorted(before)


@pytest.mark.parametrize(
    ("committed", "is_passed"), [({OURS.what: 0.74}, True), ({OURS.what: 0.76}, False), ({}, False)]
)
def test_a_ratio_a_third_worse_is_a_finding_and_so_is_one_that_is_compared_with_nothing(
    committed: dict[str, float], is_passed: bool
) -> None:
    part = Part(name=parts.GUARD, on="", measured=[], ratios=guard.judged([OURS], committed))
    assert guard.is_passed(part) == is_passed


def test_the_guard_compares_with_what_it_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "COMMITTED", tmp_path / "docs" / "guard.json")
    assert guard.committed() == {}
    guard.record(Part(name=parts.GUARD, on="", measured=[], ratios=[OURS]))
    assert guard.committed() == {OURS.what: 0.5}


def test_only_standard_sizes_come_to_the_page() -> None:
    assert options.are_standard(options.parse(["reader"], ["reader"]))
    assert not options.are_standard(options.parse(["reader", "--rows", "10"], ["reader"]))
    with pytest.raises(SystemExit):
        options.parse(["--rounds", "0"], [])


def test_debezium_reads_two_tables_and_its_sink_keeps_their_names() -> None:
    dsn = "postgresql://u:p@127.0.0.1:5/chatwoot"
    read = debezium.source(dsn, "prefix", "slot", "publication")
    assert (read["database.port"], read["table.include.list"]) == ("5", "public.conversations,public.messages")
    written = debezium.sink(dsn, debezium.topics_of("prefix"))
    assert written["topics"] == "prefix.public.conversations,prefix.public.messages"
    assert written["connection.url"].startswith("jdbc:postgresql://127.0.0.1:5/chatwoot?")


def test_whoever_is_measured_from_end_to_end_has_worked_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of all a JVM, whose first rows are its slowest."""
    done: list[tuple[str, int]] = []
    ids = iter(range(1, 1_000_000))

    def insert(_: str, rows: int, **__: object) -> Written:
        last = [next(ids) for _ in range(rows // 10)][-1]
        done.append(("written", last))
        return Written(last - rows // 10 + 1, last)

    def wait(_: object, dsn: str, written: Written, *__: object) -> Arrived:
        done.append((dsn, written.last))
        return Arrived(written.rows, written.rows, 0.0, 2.0)

    def pair(name: str) -> Any:
        applier = SimpleNamespace(service=None, dsn=name)
        return SimpleNamespace(name=name, applier=applier, pids={}, start=lambda: None, stop=lambda: None)

    both = [pair("ours"), pair("theirs")]
    monkeypatch.setattr("bench.path.stage", lambda *_: SimpleNamespace(source_dsn=""))
    monkeypatch.setattr("bench.pairs.set_up", lambda *_: (both, []))
    monkeypatch.setattr("bench.changes.insert", insert)
    monkeypatch.setattr("bench.arrived.wait", wait)
    monkeypatch.setattr("bench.arrived.commits", lambda *_: Arrived(1, 1, 1.0, 1.0))
    monkeypatch.setattr("psycopg.connect", lambda *_, **__: nullcontext())
    journal = Journal(tmp_path / "part.journal", {})
    ground: Any = SimpleNamespace(
        options=SimpleNamespace(rows=1_000), long_rounds=["round 1"], journal=journal, say=lambda _: None
    )
    end_to_end.measure(ground)
    assert done[0] == ("written", 20)
    assert done[1:4] == [("theirs", 20), ("written", 120), ("theirs", 120)]
    assert done[4:] == [("ours", 120), ("written", 220), ("ours", 220)]


@pytest.mark.parametrize("large", [set(), {3, 700}, set(range(990)), set(range(1_000))])
def test_the_benchmark_reads_each_row_of_the_view_once_however_large_it_is(large: set[int]) -> None:
    read = list[int]()

    def some(keys: Sequence[int]) -> Read:
        assert 0 < len(keys) <= KEYS_AT_ONCE
        crowded = large.intersection(keys) if len(keys) > 1 else set[int]()
        whole = [key for key in keys if key not in crowded]
        read.extend(whole)
        return Read([RenderedRow(b"", 1, b"{}", b"") for _ in whole], frozenset(crowded))

    assert read_all(range(1_000), some) == 1_000
    assert sorted(read) == list(range(1_000))
