"""`replicator setup`: gives the source what streaming needs. Reads only, until a person applies the plan.

What is missing is decided in `preparation`. Every statement runs by itself, so that whatever was done stays done, and
a plan made again begins where the last one ended. A statement that others would have to wait for gives its place in
the queue up soon and is tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from time import sleep
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from replicator.config import Settings
from replicator.errors import SourceBusy, SourceRefused
from replicator.facts import SourceFacts
from replicator.inspection import read_source
from replicator.preparation import missing
from replicator.relations import STREAMED
from replicator.remedies import Step, table_name
from replicator.runtime import GrowingPause
from replicator.source import Source, source_errors
from replicator.table_rules import unfit

QUEUED_SECONDS: Final = 3.0
"""While a statement waits for an ACCESS EXCLUSIVE lock, every reader and writer of the table waits behind it."""
TRIES: Final = 6
PATIENT_SECONDS: Final = 12 * 3600
"""Enough to build an index over some hundred million rows on a slow disk."""


def plan(settings: Settings) -> list[Step]:
    """Only what is missing. Raises SourceRefused if a table to capture does not exist or is another than we know."""
    return _missing(read_source(settings), settings)


def apply(settings: Settings, steps: list[Step], on_step: Callable[[Step], None]) -> None:
    """Runs the plan; `on_step` hears of each step that is done.

    Raises SourceBusy if the source is no longer as it was when the plan was made, if another setup is under way, or if
    a lock can't be had; SourceRefused if a right is missing.
    """
    with Source(settings) as source:
        ((alone,),) = source.rows(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"{settings.publication} setup",)
        )
        if not alone:
            raise SourceBusy("another `replicator setup` is under way on this source")
        if _missing(read_source(settings), settings) != steps:
            raise SourceBusy("the source has changed since the plan was made; look at the new plan first")
        for step in steps:
            _run(source, settings, step)
            on_step(step)


def to_json(steps: list[Step]) -> list[dict[str, Any]]:
    return [asdict(step) for step in steps]


def render(steps: list[Step]) -> RenderableType:
    """The plan for a person: SQL to be copied, each with its reason, cost and the right that it takes."""
    if not steps:
        return Text("Nothing to do: the source has all that streaming needs.", style="green")
    parts = [
        Text.assemble(
            (f"{number}. {step.subject}\n", "bold"),
            (f"   {step.sql};\n", "cyan"),
            f"   why:   {step.why}\n   cost:  {step.cost}\n   needs: {step.needs}\n",
        )
        for number, step in enumerate(steps, 1)
    ]
    return Group(*parts)


def _missing(facts: SourceFacts, settings: Settings) -> list[Step]:
    faults = [
        f"{table_name(settings, relation.name)} {fault}"
        for relation in STREAMED
        if (fault := unfit(relation, facts.tables.get(relation.name)))
    ]
    if faults:
        raise SourceRefused("; ".join(faults))
    return missing(facts, settings)


def _run(source: Source, settings: Settings, step: Step) -> None:
    """An index built CONCURRENTLY waits for others' transactions, but nobody waits for it: it may take its time."""
    queued = 0.0 if step.patient else min(settings.lock_timeout_s, QUEUED_SECONDS)
    allowed = float(PATIENT_SECONDS) if step.patient else settings.statement_timeout_s
    source.rows(
        "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
        (f"{int(queued * 1000)}ms", f"{int(allowed * 1000)}ms"),
    )
    pause = GrowingPause(1.0, 15.0)
    for tries_left in reversed(range(TRIES)):
        try:
            with source_errors():
                source.connection.execute(step.sql.encode())
        except SourceBusy as error:
            if not tries_left:
                raise SourceBusy(
                    f"{step.subject} stays locked by others ({error}); try again at a calmer hour"
                ) from None
            sleep(pause.next())
        else:
            return
