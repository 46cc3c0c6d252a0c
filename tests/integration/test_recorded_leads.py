"""What the view says of leads is what conversations.custom_attributes record; another kind is NULL, never an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from replicator import setup
from replicator.config import Settings, load
from replicator.view_columns import LEAD_SIGNALS
from tests.integration import four_conversations as four
from tests.integration.chatwoot import Source, connect

VIEW = "vw_conversations_analytics_final"
FIVE = list(LEAD_SIGNALS)
TRUTHS = [
    *((True, True), ("true", True), (False, False), ("false", False)),
    *((value, None) for value in ("sim", "TRUE", "", " true", 1, 0, None, [True], {"true": True})),
]
SCORES = [
    *((0, 0), (100, 100), (33.3, "33.3"), ("7", 7), ("87.50", "87.50"), ("100.0", "100.0"), ("00", 0)),
    *((value, None) for value in (-1, 101, 100.5, "100.1", 1e300, 10**400, "1e2", "NaN", "Infinity", "٣", " 5", "")),
    *((value, None) for value in ("5\n", True, None, [5], {"5": 5}, "alto", "1" * 100_000, "1." + "1" * 100_000)),
]


@pytest.fixture
def settings(source_dsn: str) -> Settings:
    """Identities as they are: these tests are about the view."""
    return load(
        source_dsn=source_dsn, kafka_bootstrap_servers="127.0.0.1:1", accept_default_identity=True, _env_file=None
    )


@pytest.fixture
def source(source_dsn: str) -> Iterator[Source]:
    with connect(source_dsn) as connection:
        yield connection


def _five(source: Source) -> list[tuple[Any, ...]]:
    return source.execute(f"SELECT {', '.join(FIVE)} FROM {VIEW} ORDER BY conversation_id".encode()).fetchall()


@pytest.mark.parametrize("by", ["reference", "extension"])
def test_what_is_recorded_comes_through_and_other_kinds_are_null(settings: Settings, source: Source, by: str) -> None:
    if by == "extension":
        # DISTINCT: a view that could be written through would be left to a person.
        query = "SELECT DISTINCT id AS conversation_id, inbox_id FROM conversations"
        source.execute(f"CREATE VIEW {VIEW} AS {query}".encode())
    setup.apply(settings, setup.plan(settings), print)
    four.insert(source, "accounts", id=1, name="a")
    recorded: list[Any] = [{name: given} for name in FIVE[:3] for given, _ in TRUTHS]
    expected: list[tuple[Any, ...]] = [
        tuple(truth if each == name else None for each in FIVE) for name in FIVE[:3] for _, truth in TRUTHS
    ]
    for given, score in SCORES:
        recorded.append({"ai_probability_score": given})
        expected.append((None, None, None, _label(score), score))
    labels = (("Quente", "Quente"), ("  Alto ", "Alto"), ("é" * 50, "é" * 50), ("é" * 51, None), (" ", None))
    for given, label in labels:
        recorded.append({"ai_probability_label": given})
        expected.append((None, None, None, label, None))
    for given in (70, None, True, ["Alto"]):
        recorded.append({"ai_probability_label": given, "ai_probability_score": 39.99})
        expected.append((None, None, None, "Baixo", "39.99"))
    recorded += [[1, 2], "text", 5, None, {}]
    expected += [(None,) * 5] * 5
    for number, attributes in enumerate(recorded, 1):
        four.conversation(source, number, custom_attributes=Jsonb(attributes))
    four.conversation(source, len(recorded) + 1, custom_attributes=None)
    found = [(*row[:4], None if row[4] is None else str(row[4])) for row in _five(source)]
    assert found == [(*row[:4], None if row[4] is None else str(row[4])) for row in [*expected, (None,) * 5]]


def _label(score: Any) -> str | None:
    """Of those above, none of which is a middling one."""
    if score is None:
        return None
    if not float(score):
        return "Nenhum"
    return "Alto" if float(score) >= 70 else "Baixo"


def test_labels_meet_at_their_scores(settings: Settings, source: Source) -> None:
    setup.apply(settings, setup.plan(settings), print)
    four.insert(source, "accounts", id=1, name="a")
    for number, score in enumerate((70, 69.99, 40, 39.99, 0.01, 0), 1):
        four.conversation(source, number, custom_attributes=Jsonb({"ai_probability_score": score}))
    assert [row[3] for row in _five(source)] == ["Alto", "Médio", "Médio", "Baixo", "Baixo", "Nenhum"]
