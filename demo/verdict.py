"""Whether the demo has shown what it promises. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from demo.compare import Comparison

NEVER_EMPTY = ("messages", "contacts", "conversations_analytics")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The exit code with its reasons, sentences for people; none if all is well."""

    exit_code: int
    reasons: tuple[str, ...]


def judge(comparisons: Sequence[Comparison], tenants: Collection[int], faults: Sequence[str]) -> Verdict:
    """0 only if every row of every tenant was compared and is the same, and nothing else went wrong.

    A comparison of nothing with nothing proves nothing: each tenant must have equal rows of what none is without.
    """
    reasons = list(faults)
    reasons += [_amiss(result) for result in comparisons if not result.same]
    compared = {(result.tenant, result.table) for result in comparisons if result.equal}
    reasons += [
        f"no row of {table} of tenant {tenant} was found equal"
        for tenant in sorted(tenants)
        for table in NEVER_EMPTY
        if (tenant, table) not in compared
    ]
    return Verdict(1 if reasons else 0, tuple(reasons))


def _amiss(result: Comparison) -> str:
    counts = {"missing": result.missing, "extra": result.extra, "different": result.different}
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return f"{result.table} of tenant {result.tenant}: {told}"
