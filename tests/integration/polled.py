"""A poller as tests set it up: quick, with the rights of one who may only read, and what its state says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.integration.chatwoot import Source, differences, role
from tests.integration.derived_rows import VIEW, derived_differences, expected, shortly
from tests.integration.programs import RUN, Program, started
from tests.integration.replayed import Replayed

ANALYTICS = "conversations_analytics"
FAST = {
    "REPLICATOR_MODE": "poll",
    "REPLICATOR_POLL_INTERVAL_S": "0.2",
    "REPLICATOR_POLL_SHARE": "1",
    "REPLICATOR_POLL_CLOCK_MARGIN_S": "0.5",
    "REPLICATOR_DIGEST_KEYS_PER_SECOND": "100000",
}
BY_CANDIDATES = {"REPLICATOR_DIGEST_KEYS_PER_SECOND": "1"}
"""The rolling pass rests for a minute after a page of some keys: what is found meanwhile was stamped, or appended."""
TABLES = {"REPLICATOR_POLL_TABLES": "true"}

SEES_VIEW = ("GRANT USAGE ON SCHEMA public TO {role}", f"GRANT SELECT ON {VIEW} TO {{role}}")
SEES_ALL = ("GRANT USAGE ON SCHEMA public TO {role}", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")


@contextmanager
def reader(source: Source, dsn: str, environment: dict[str, str], *rights: str) -> Iterator[dict[str, str]]:
    """The settings of a quick poller with a role of these rights."""
    with role(source, dsn, *rights) as its_dsn:
        yield environment | FAST | {"REPLICATOR_SOURCE_DSN": its_dsn}


@contextmanager
def polling(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[Program]:
    with started([*RUN, *arguments], environment, log) as program:
        program.wait_healthy()
        yield program


Difference = tuple[str, int, Any, Any]


def view_differences(replayed: Replayed, source: Source) -> list[Difference]:
    """Where the log and the view are not alike: relation, key, the log's row and the source's."""
    return differences_of(ANALYTICS, replayed, source)


def differences_of(relation: str, replayed: Replayed, source: Source) -> list[Difference]:
    """Of one derived relation."""
    logged, held = replayed.rows(relation), expected(source, relation)
    keys = sorted({*logged, *held})
    return [(relation, key, logged.get(key), held.get(key)) for key in keys if logged.get(key) != held.get(key)]


def all_differences(replayed: Replayed, source: Source) -> list[Difference]:
    """Where the log and the source are not alike, in any relation."""
    return [*differences(replayed, source), *derived_differences(replayed, source)]


def wait_view(replayed: Replayed, source: Source, seconds: float = 60) -> None:
    """Until the log holds the rows of the view. Nobody may write to the source meanwhile."""
    wait_none(lambda: view_differences(replayed, source), replayed, seconds)


def wait_all(replayed: Replayed, source: Source, seconds: float = 60) -> None:
    """Until the log holds all that the source does. Nobody may write to the source meanwhile."""
    wait_none(lambda: all_differences(replayed, source), replayed, seconds)


def wait_none(differing: Callable[[], list[Difference]], replayed: Replayed, seconds: float = 60) -> None:
    """Until there is no difference."""
    try:
        replayed.wait_for("rows that were polled", lambda: not differing(), seconds)
    except TimeoutError:
        left = [shortly(each) for each in differing()]
        raise AssertionError(f"{len(left)} rows are not alike, for instance {left[:3]}") from None


def repaired(program: Program) -> dict[str, int]:
    """By relation: rows that only the rolling pass has found."""
    return {name: each["repaired"] for name, each in program.status()["verified"].items() if each["repaired"]}


def clock(source: Source) -> float:
    """The source's, in seconds since 1970."""
    ((now,),) = source.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchall()
    return float(now)


def verified_through(program: Program) -> float:
    """In seconds since 1970; 0: not known yet."""
    said = program.status().get("verified_through")
    return datetime.fromisoformat(said).timestamp() if said else 0.0


def show(program: Program) -> str:
    """For an assertion."""
    return json.dumps(program.status(), indent=1)
