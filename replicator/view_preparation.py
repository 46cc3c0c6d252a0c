"""What the source lacks of the analytics view, as steps of `setup`: made where there is none, else given the columns of
leads that it lacks, or replaced where a person asked for it.

Pure: facts in, steps out. Nothing is ever dropped. CREATE OR REPLACE VIEW keeps the view's rights and whatever depends
on it, and takes all of the change or nothing; what it cannot do, and what our role may not, is left to a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from replicator.config import Settings
from replicator.reference_view import LEADS, NOTHING_RECORDED, ReferenceView
from replicator.remedies import Difference, Step, create_views, grant_select, quoted, rename_view, script, table_name
from replicator.view_columns import LEAD_SIGNALS
from replicator.view_difference import differences, is_same, may_replace
from replicator.view_extension import extended, lacking
from replicator.view_facts import AnalyticsViewFacts, ViewFacts

Ours = Sequence[ReferenceView]
Existing = Literal["extended", "kept", "replaced"]
"""What a person wants of a view that is there: the columns of leads that it lacks, nothing, our definition."""
_COST: Final = "none now; the columns that a view reads can't be dropped or given another type while it is there"
_BRIEF_LOCK: Final = "an ACCESS EXCLUSIVE lock on the view for a moment; given up and tried again if others hold it"


def view_steps(facts: AnalyticsViewFacts, ours: Ours, settings: Settings, *, wanted_of_it: Existing) -> list[Step]:
    """Everything about the view that a person's `--apply` would run, and what is left to be done by hand.

    `ours` ends in the view that is read.
    """
    existing, understood = facts.existing, facts.reference or {}
    replacing = wanted_of_it == "replaced"
    if settings.view in existing and not replacing:
        extending = _extending(facts, ours, settings) if wanted_of_it == "extended" else []
        return extending + _granting(facts, settings)
    others = [view for view in ours if view.name in understood and _differs(view, facts, understood)]
    if stuck := [
        view for view in others if not (replacing and may_replace(existing[view.name], understood[view.name]))
    ]:
        return [_left_as_is(facts, settings, stuck, others, replacing=replacing)]
    wanted = [view for view in ours if view.name not in existing or view in others]
    return [_making(facts, settings, wanted, others)] if wanted else _granting(facts, settings)


def _differs(view: ReferenceView, facts: AnalyticsViewFacts, understood: Mapping[str, ViewFacts]) -> bool:
    there = facts.existing.get(view.name)
    return there is not None and not is_same(there, understood[view.name])


def _making(facts: AnalyticsViewFacts, settings: Settings, wanted: list[ReferenceView], others: Ours) -> Step:
    """All that is missing or another, in one transaction."""
    name = table_name(settings, settings.view)
    replaced = {view.name: facts.existing[view.name] for view in others}
    sql = create_views(settings, wanted, replaced)
    lacking = _lacking(facts, settings, others)
    if lacking and not _readable(facts, settings):
        sql = script(sql, grant_select(settings, settings.view, facts.role)).removesuffix(";")
    rights = [f"CREATE on schema {quoted(settings.source_schema)}", "SELECT on the tables that it reads"]
    rights += [f"the owner of {table_name(settings, view.name)}" for view in others]
    return Step(
        subject=name,
        sql=sql,
        why=_reason(facts, settings, others),
        cost=_BRIEF_LOCK if others else _COST,
        needs=", ".join(rights) + (f"; {lacking}" if lacking else ""),
        by_hand=bool(lacking),
        differences=_differences(facts, settings, others),
    )


def _reason(facts: AnalyticsViewFacts, settings: Settings, others: Ours) -> str:
    if settings.view not in facts.existing:
        return "there is no such view: what dashboards read is made by this one"
    if not others:
        return "views that it reads are missing"
    return "replaces the definition that is there by ours, as --replace-view says"


def _extending(facts: AnalyticsViewFacts, ours: Ours, settings: Settings) -> list[Step]:
    """The columns of leads in place, by whoever owns the view."""
    view = facts.existing[settings.view]
    (leads,) = (each for each in ours if each.name == LEADS)
    added = lacking(view) if leads.query != NOTHING_RECORDED else ()
    if not added:
        return []
    name, read = table_name(settings, view.name), table_name(settings, "conversations")
    new = ReferenceView(name=view.name, query=extended(view, leads))
    sql = create_views(settings, [new], {view.name: view})
    faults = _faults_of_role(facts, settings, [view])
    if not view.owner_reads_conversations:
        # The view would fail for everybody as soon as it reads what its owner may not.
        faults.append(f"the view's owner {view.owner} can't read {read}")
        sql = script(grant_select(settings, "conversations", view.owner), sql).removesuffix(";")
    if not view.readable:
        faults.append(f"our role {facts.role} can't read {name}")
    if view.takes_writes:
        faults.append(f"that nobody writes through {name}: it takes no writes then")
    faults += _broken_functions(view)
    if view.reads_as_invoker:
        faults.append(f"whoever reads the view needs SELECT on {read}, because it reads with its reader's rights")
    rights = f"CREATE on schema {quoted(settings.source_schema)}, the owner of {name}"
    return [
        Step(
            subject=name,
            sql=sql,
            why=f"has no {', '.join(added)}: adds what conversations.custom_attributes say; --keep-view leaves it so",
            cost=f"{_BRIEF_LOCK}; SELECT * of it has more columns, and no view loses a column again",
            needs="; ".join([rights, *faults]),
            by_hand=bool(faults),
            differences=tuple(
                Difference(view=view.name, column=column, change="added", then=LEAD_SIGNALS[column]) for column in added
            ),
        )
    ]


def _left_as_is(
    facts: AnalyticsViewFacts, settings: Settings, stuck: list[ReferenceView], others: Ours, *, replacing: bool
) -> Step:
    """What no statement of ours may or can replace. Under another name it stays, with all that depends on it."""
    names = ", ".join(table_name(settings, view.name) for view in stuck)
    if replacing:
        why = (
            f"{names} can't become ours in place: PostgreSQL keeps a view's columns, their types and their order, and "
            "adds new ones at the end alone. Renamed, it stays for all who depend on it; then run setup again"
        )
    else:
        why = f"{names} is another than ours, and in its way: setup --replace-view replaces it; or rename it"
    renamed = script(*(rename_view(settings, view.name, facts.existing[view.name].kind) for view in stuck))
    return Step(
        subject=table_name(settings, settings.view),
        sql=renamed.removesuffix(";"),
        why=why,
        cost="whoever reads it by its name finds nothing there until setup has made ours",
        needs=f"the owner of {names}",
        by_hand=True,
        differences=_differences(facts, settings, others),
    )


def _granting(facts: AnalyticsViewFacts, settings: Settings) -> list[Step]:
    """Who lacks the right can't give it to itself."""
    if _readable(facts, settings):
        return []
    name = table_name(settings, settings.view)
    return [
        Step(
            subject=name,
            sql=grant_select(settings, settings.view, facts.role),
            why=f"our role {facts.role} can't read it",
            cost="none",
            needs=f"the owner of {name}",
            by_hand=True,
        )
    ]


def _readable(facts: AnalyticsViewFacts, settings: Settings) -> bool:
    return settings.view in facts.existing and facts.existing[settings.view].readable


def _lacking(facts: AnalyticsViewFacts, settings: Settings, others: Ours) -> str:
    """Why our role can't do it; empty: it can."""
    faults = [f"{table_name(settings, table)} does not exist" for table in facts.absent]
    faults += [f"our role {facts.role} can't read {table_name(settings, table)}" for table in facts.unreadable]
    replaced = [facts.existing[view.name] for view in others]
    faults += _faults_of_role(facts, settings, replaced)
    return "; ".join(faults + [fault for view in replaced for fault in _broken_functions(view)])


def _faults_of_role(facts: AnalyticsViewFacts, settings: Settings, replaced: Iterable[ViewFacts]) -> list[str]:
    faults = []
    if not facts.may_create:
        faults.append(f"our role {facts.role} may not create views in {quoted(settings.source_schema)}")
    faults += [
        f"our role {facts.role} does not own {table_name(settings, view.name)}" for view in replaced if not view.owned
    ]
    return faults


def _broken_functions(view: ViewFacts) -> list[str]:
    """What fails for its callers when the view has more columns."""
    return [f"to alter {', '.join(view.returned_by)} with it, whose rows have its columns"] if view.returned_by else []


def _differences(facts: AnalyticsViewFacts, settings: Settings, others: Ours) -> tuple[Difference, ...]:
    """Of the view that is read; then of those of its parts that are another."""
    if facts.reference is None:
        return ()
    ours = {(settings.source_schema, name): view for name, view in facts.reference.items()}
    names = [settings.view] if settings.view in facts.existing else []
    names += [view.name for view in others if view.name != settings.view]
    return tuple(
        difference
        for name in names
        for difference in differences(facts.existing[name], facts.nested, facts.reference[name], ours)
    )
