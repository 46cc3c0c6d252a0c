"""The source polled, by a role that may only SELECT: the log holds what the source holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.chatwoot import Source, add_message, fill, role
from tests.integration.derived_rows import QUERIES, VIEW, expected
from tests.integration.programs import RUN, Program, started
from tests.integration.replayed import Replayed

BY_VIEW = ("conversations_analytics",)
FAST = {
    "REPLICATOR_MODE": "poll",
    "REPLICATOR_POLL_INTERVAL_S": "0.2",
    "REPLICATOR_POLL_SHARE": "1",
    "REPLICATOR_POLL_CLOCK_MARGIN_S": "2.5",
    "REPLICATOR_DIGEST_KEYS_PER_SECOND": "100000",
}


@pytest.fixture
def polled(environment: dict[str, str], source: Source, source_dsn: str) -> Iterator[dict[str, str]]:
    """The settings of a poller that may read the view, and nothing else."""
    rights = ("GRANT USAGE ON SCHEMA public TO {role}", f"GRANT SELECT ON {VIEW} TO {{role}}")
    with role(source, source_dsn, *rights) as dsn:
        yield environment | FAST | {"REPLICATOR_SOURCE_DSN": dsn}


def wait_alike(replayed: Replayed, source: Source, relations: tuple[str, ...] = BY_VIEW) -> None:
    def differing() -> list[object]:
        return [
            (relation, key)
            for relation in relations
            for logged, held in [(replayed.rows(relation), expected(source, relation, QUERIES.get(relation)))]
            for key in sorted({*logged, *held})
            if logged.get(key) != held.get(key)
        ]

    try:
        replayed.wait_for("polled rows", lambda: not differing(), 60)
    except TimeoutError:
        raise AssertionError(f"not alike: {differing()[:5]}") from None


@contextmanager
def polling(environment: dict[str, str], log: Path) -> Iterator[Program]:
    with started(RUN, environment, log) as program:
        program.wait_healthy()
        yield program


def test_the_view_alone_is_enough(polled: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path) -> None:
    """What is stamped, and what no stamp tells of: rows gone, moved, renamed, edited."""
    fill(source, conversations=60, messages=2)
    with polling(polled, tmp_path / "log") as replicator:
        wait_alike(replayed, source)
        add_message(source, 1, "live")
        source.execute("UPDATE conversations SET updated_at = now(), status = 1 WHERE id = 2")
        wait_alike(replayed, source)
        source.execute("UPDATE contacts SET name = 'renamed' WHERE id % 5 = 0")
        source.execute("UPDATE messages SET content = 'edited' WHERE conversation_id = 7")
        source.execute("DELETE FROM conversations WHERE id = 9")
        source.execute("UPDATE conversations SET inbox_id = 1 + inbox_id % 6 WHERE id = 11")
        wait_alike(replayed, source)
        assert replicator.status()["mode"] == "polling"
        assert replicator.stop() == 0


def test_the_first_run_of_all_makes_its_topics_before_it_chooses(polled: dict[str, str], tmp_path: Path) -> None:
    with polling(polled | {"REPLICATOR_MODE": "auto"}, tmp_path / "log") as replicator:
        assert replicator.status()["mode_because"] == "the role may not replicate"
        assert replicator.logged("run.ended") == []
