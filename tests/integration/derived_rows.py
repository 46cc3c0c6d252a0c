"""What derived relations should hold, by SQL of the tests' own, and whether the log says so."""

from __future__ import annotations

from typing import Any, Final

from replicator.outlet import TOO_LARGE
from replicator.values import JsonValue
from tests.integration.chatwoot import Source, rows_of
from tests.integration.replayed import Replayed

CLOCK = (
    *("waiting_time_seconds", "is_snoozed", "is_waiting_long", "days_since_creation", "is_today", "is_yesterday"),
    *("is_this_week", "is_this_month", "is_this_year"),
)
VIEW = "vw_conversations_analytics_final"
QUERIES = {
    "contacts": (
        "SELECT * FROM contacts c WHERE EXISTS"
        " (SELECT FROM contact_inboxes i WHERE i.contact_id = c.id AND i.inbox_id IS NOT NULL)"
        " OR EXISTS (SELECT FROM conversations v WHERE v.contact_id = c.id)"
    ),
    "csat_survey_responses": (
        "SELECT r.*, c.inbox_id FROM csat_survey_responses r JOIN conversations c ON c.id = r.conversation_id"
    ),
    "conversations_analytics": (
        f"SELECT DISTINCT ON (conversation_id) * FROM {VIEW} ORDER BY conversation_id, csat_response_id DESC NULLS LAST"
    ),
}
KEYS = {"conversations_analytics": "conversation_id"}


def expected(source: Source, relation: str, query: str | None = None) -> dict[int, dict[str, JsonValue]]:
    """Key → row, without columns that the clock changes."""
    found = rows_of(source, query or QUERIES[relation], KEYS.get(relation, "id"))
    return {key: {name: value for name, value in row.items() if name not in CLOCK} for key, row in found.items()}


def derived_differences(replayed: Replayed, source: Source) -> list[tuple[str, int, Any, Any]]:
    """Where the log and the source are not alike: relation, key, the log's row and the source's."""
    found = []
    for relation in QUERIES:
        logged, held = replayed.rows(relation), expected(source, relation)
        found += [
            (relation, key, logged.get(key), held.get(key))
            for key in sorted({*logged, *held})
            if logged.get(key) != held.get(key)
        ]
    return found


def wait_until_derived(replayed: Replayed, source: Source, seconds: float = 60.0) -> None:
    """Until the log, folded, holds the rows of every derived relation. Nobody may write to the source meanwhile."""
    try:
        replayed.wait_for("derived rows", lambda: not derived_differences(replayed, source), seconds)
    except TimeoutError:
        left = [shortly(each) for each in derived_differences(replayed, source)]
        raise AssertionError(f"{len(left)} rows are not alike, for instance {left[:5]}") from None


ENLARGED: Final = (
    "UPDATE messages SET content = repeat(text, CASE WHEN conversation_id = 1 THEN 8 ELSE 1 END) FROM"
    " (SELECT string_agg(md5(g::text), '') AS text FROM generate_series(1, 7000) AS g) AS of_224_000_letters"
    " WHERE messages.id IN (SELECT min(id) FROM messages GROUP BY conversation_id)"
)
"""Rows of the analytics view hold it at least once: forty are more than a reading has room for, and one is too large
for the topic of `ROOM`."""
ROOM: Final = {"REPLICATOR_MAX_MESSAGE_BYTES": str(1 << 20)}


def wait_for_all_but_the_largest(replayed: Replayed, source: Source) -> None:
    """Until the log holds the view's enlarged rows, the first without a body. Nobody may write meanwhile."""
    view, largest = "conversations_analytics", 1
    held = expected(source, view)
    del held[largest]

    def holds() -> bool:
        said = replayed.events_of(view, largest, "r")
        return bool(said) and said[-1].head.error == TOO_LARGE and replayed.rows(view) == held

    replayed.wait_for("all rows but the largest", holds)


def shortly(difference: tuple[str, int, Any, Any]) -> tuple[str, int, Any, Any]:
    """The columns alone that are not alike."""
    relation, key, logged, held = difference
    if logged is None or held is None:
        return relation, key, logged and "there", held and "there"
    changed = {name for name in {*logged, *held} if logged.get(name) != held.get(name)}
    return relation, key, {n: logged.get(n) for n in changed}, {n: held.get(n) for n in changed}
