"""`replicator setup`: gives the source what is needed. Reads only, until a person applies the plan.

What is missing is decided in `preparation` and `view_preparation`. Every step runs by itself, so that whatever was done
stays done, and a plan made again begins where the last one ended. A step that others would have to wait for gives its
place in the queue up soon and is tried again.
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
from replicator.preparation import missing, unfit
from replicator.reference_view import load
from replicator.relations import SHIPPED
from replicator.remedies import Difference, Step, table_name
from replicator.runtime import GrowingPause
from replicator.source import Source, source_errors
from replicator.view_inspection import read_views
from replicator.view_preparation import Existing, view_steps

QUEUED_SECONDS: Final = 3.0
"""While a statement waits for an ACCESS EXCLUSIVE lock, every reader and writer of the table waits behind it."""
TRIES: Final = 6
PATIENT_SECONDS: Final = 12 * 3600
"""Enough to build an index over some hundred million rows on a slow disk."""


def plan(settings: Settings, *, existing_view: Existing = "extended") -> list[Step]:
    """Only what is missing; of an analytics view that exists, what `existing_view` says. A source that is always polled
    needs the view alone.

    Raises SourceRefused if a table to capture does not exist or is another than we know.
    """
    facts = read_source(settings)
    of_the_stream = _missing(facts, settings) if settings.mode != "poll" else []
    return of_the_stream + _view_steps(facts, settings, existing_view)


def apply(
    settings: Settings, steps: list[Step], on_step: Callable[[Step], None], *, existing_view: Existing = "extended"
) -> None:
    """Runs the plan, but for what is to be done by hand; `on_step` hears of each step that is done.

    Raises SourceBusy if the source is no longer as it was when the plan was made, if another setup is under way, or if
    a lock can't be had; SourceRefused if a right is missing.
    """
    with Source(settings) as source:
        ((alone,),) = source.rows(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"{settings.publication} setup",)
        )
        if not alone:
            raise SourceBusy("another `replicator setup` is under way on this source")
        if plan(settings, existing_view=existing_view) != steps:
            raise SourceBusy("the source has changed since the plan was made; look at the new plan first")
        for step in steps:
            if step.by_hand:
                continue
            _run(source, settings, step)
            on_step(step)


def to_json(steps: list[Step]) -> list[dict[str, Any]]:
    return [asdict(step) for step in steps]


def render(steps: list[Step]) -> RenderableType:
    """The plan for a person: SQL to be copied, each with its reason, cost and the right that it takes."""
    if not steps:
        return Text("Nothing to do: the source has all that is needed.", style="green")
    parts = [
        Text.assemble(
            (f"{number}. {step.subject}\n", "bold"),
            ("   by hand; --apply leaves it out\n" if step.by_hand else "", "yellow"),
            (f"   {step.sql};\n", "cyan"),
            f"   why:   {step.why}\n   cost:  {step.cost}\n   needs: {step.needs}\n",
            *(f"   {_difference(each)}\n" for each in step.differences),
        )
        for number, step in enumerate(steps, 1)
    ]
    return Group(*parts)


def _difference(difference: Difference) -> str:
    """On one line; --json has all of it."""
    what = f"{difference.view}.{difference.column}" if difference.column else difference.view
    now, then = (_shortened(side) for side in (difference.now, difference.then))
    match difference.change:
        case "added" | "removed":
            return f"{what}: {difference.change} ({now or then})"
        case _:
            return f"{what}: {difference.change} {now} → {then}"


def _shortened(text: str, width: int = 160) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _view_steps(source: SourceFacts, settings: Settings, existing_view: Existing) -> list[Step]:
    if not settings.view:
        return []
    ours = load(settings.view, records_leads=source.records_leads)
    facts = read_views(settings, ours, replacing=existing_view == "replaced")
    return view_steps(facts, ours, settings, wanted_of_it=existing_view)


def _missing(facts: SourceFacts, settings: Settings) -> list[Step]:
    faults = [
        f"{table_name(settings, relation.name)} {fault}"
        for relation in SHIPPED
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
            source.connection.rollback()  # of a step that is a transaction of its own
            if not tries_left:
                raise SourceBusy(
                    f"{step.subject} stays locked by others ({error}); try again at a calmer hour"
                ) from None
            sleep(pause.next())
        else:
            return
