"""Whether the demo has shown what it promises. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from demo.compare import TABLES, Comparison
from demo.leads import Leads

NEVER_EMPTY = ("messages", "contacts", "conversations_analytics")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The exit code with its reasons, sentences for people; none if all is well."""

    exit_code: int
    reasons: tuple[str, ...]


def judge(
    comparisons: Sequence[Comparison],
    leads: Sequence[Leads],
    tenants: Collection[int],
    faults: Sequence[str],
    tables: Collection[str] = TABLES,
) -> Verdict:
    """`tables`: those that are replicated, and so were to be compared.

    0 only if every row of every tenant was compared and is the same, and nothing else went wrong.

    A comparison of nothing with nothing proves nothing: each tenant must have equal rows of what none is without, and
    leads of every kind.
    """
    reasons = list(faults)
    reasons += [_amiss(result) for result in comparisons if not result.same]
    compared = {(result.tenant, result.table) for result in comparisons if result.equal}
    reasons += [
        f"no row of {table} of tenant {tenant} was found equal"
        for tenant in sorted(tenants)
        for table in NEVER_EMPTY
        if table in tables and (tenant, table) not in compared
    ]
    reasons += [f"lead signals of tenant {each.tenant}: {amiss}" for each in leads for amiss in _wrong(each)]
    seen = {each.tenant for each in leads if each.leads and each.visits and each.example}
    if not faults:
        reasons += [f"tenant {tenant} has no leads and visits" for tenant in sorted(set(tenants) - seen)]
    return Verdict(1 if reasons else 0, tuple(reasons))


def _wrong(leads: Leads) -> Iterator[str]:
    if leads.empty:
        yield f"{leads.empty:,} are empty"
    if leads.late_hours:
        yield f"{leads.late_hours:,} conversations have not the local hour of {leads.zone}"
    if leads.changed is None:
        yield "they were not all made anew"
    elif leads.changed:
        yield f"{leads.changed:,} are others when made anew"


def _amiss(result: Comparison) -> str:
    counts = {"missing": result.missing, "extra": result.extra, "different": result.different}
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return f"{result.table} of tenant {result.tenant}: {told}"
