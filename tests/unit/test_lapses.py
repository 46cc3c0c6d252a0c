"""A table whose identity lapsed is read again, and again when it is mended, and not for what is said of old times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from replicator.facts import TableFacts
from replicator.lapses import Lapses
from replicator.memory import Memory
from replicator.pgoutput import Relation
from replicator.progress import Batch
from replicator.relations import SHIPPED, BaseTable
from tests.unit.test_changes import columns
from tests.unit.test_findings import READY

TABLES = dict(enumerate(SHIPPED))
MESSAGES, ANSWERS = (n for n, table in TABLES.items() if table.name in ("messages", "csat_survey_responses"))
NAMES = ("id", "inbox_id", "conversation_id")
LAPSED = {**READY.tables, "messages": replace(READY.tables["messages"], identity="d")}


class Log:
    """Stands for the state topic and the agenda: what was written, read and forgotten."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.said: list[str] = []

    def under(self, prefix: str) -> dict[str, dict[str, Any]]:
        return {key: record for key, record in self.records.items() if key.startswith(prefix)}

    def write(self, key: str, content: dict[str, Any], batch: Batch) -> None:
        self.records[key] = content
        self.said.append(f"write {key}")

    def forget(self, key: str, batch: Batch) -> None:
        del self.records[key]
        self.said.append(f"forget {key}")

    def read_whole(self, relation: str, reason: str, batch: Batch) -> None:
        self.said.append(f"read {relation}")


def lapses_of(log: Log, tables: dict[int, BaseTable] = TABLES) -> Lapses:
    made_of = {"messages": ["view"], "csat_survey_responses": ["answers", "view"]}
    return Lapses(tables, cast(Memory, log), log.read_whole, lambda name: made_of.get(name, []))


@pytest.fixture
def log() -> Log:
    return Log()


def said(oid: int, identity: str, *held: str) -> Relation:
    return Relation(oid, "public", TABLES[oid].name, identity, tuple(columns(*NAMES, identity=held)))


def look(lapses: Lapses, facts: dict[str, TableFacts], lsn: int = 200) -> None:
    lapses.look(facts, lsn, Batch())


def test_an_identity_that_names_every_row_is_no_lapse(log: Log) -> None:
    lapses = lapses_of(log)
    for relation in (said(MESSAGES, "i", *NAMES), said(MESSAGES, "f"), said(ANSWERS, "i", "conversation_id", "id")):
        lapses.hear(relation, 100, Batch())
    lapses.hear(said(MESSAGES, "d", "id")._replace(oid=99), 100, Batch())  # nobody's table
    assert (log.said, lapses.tables) == ([], ())


def test_a_lapse_is_read_once_while_it_lasts_and_once_more_when_it_is_mended(log: Log) -> None:
    lapses = lapses_of(log)
    for _ in range(2):
        lapses.hear(said(MESSAGES, "d", "id"), 100, Batch())
        look(lapses, LAPSED)
    assert log.said == ["write identity/messages", "read messages", "read view"]
    assert lapses.tables == ("messages",)
    look(lapses, dict(READY.tables))
    assert log.said[3:] == ["read messages", "read view", "forget identity/messages"]
    assert lapses.tables == ()


def test_what_was_read_again_is_not_read_for_the_same_words_but_for_later_ones(log: Log) -> None:
    lapses = lapses_of(log)
    lapses.hear(said(MESSAGES, "n"), 100, Batch())
    look(lapses, dict(READY.tables), 200)
    del log.said[:]
    lapses.hear(said(MESSAGES, "d", "id"), 200, Batch())
    assert log.said == []
    lapses.hear(said(MESSAGES, "d", "id"), 201, Batch())
    assert log.said == ["write identity/messages"]


def test_a_lapse_outlives_the_run(log: Log) -> None:
    lapses_of(log).hear(said(MESSAGES, "d", "id"), 100, Batch())
    later = lapses_of(log)
    assert later.tables == ("messages",)
    look(later, dict(READY.tables))
    assert log.said[1:] == ["read messages", "read view", "forget identity/messages"]


def test_of_a_table_that_is_only_made_into_others_these_are_read(log: Log) -> None:
    lapses = lapses_of(log)
    lapses.hear(said(ANSWERS, "d", "id"), 100, Batch())
    look(lapses, dict(READY.tables))
    assert log.said == [
        "write identity/csat_survey_responses",
        "read answers",
        "read view",
        "forget identity/csat_survey_responses",
    ]


def test_what_is_accepted_since_is_read_a_last_time(log: Log) -> None:
    lapses_of(log).hear(said(MESSAGES, "d", "id"), 100, Batch())
    look(lapses_of(log, {}), LAPSED)
    assert log.said[1:] == ["read messages", "read view", "forget identity/messages"]
