"""A tenant's lead rules: the shipped ones, with its own beside them or in their place.

Pure: rows of `lead_rules` in, a compiled set out. A rule that can't be taken is left out, with the reason; the shipped
ones are never left out for the sake of a tenant's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from consumers.errors import RulesRefused
from consumers.lead_columns import digest
from consumers.lead_rules import OWN_INSTRUCTIONS, Rule, RuleSet, instructions

Own = Mapping[str, Rule | None]
"""A tenant's own rules by name; None: the shipped one of this name is switched off."""

_COMPILED: Final = 64
"""Sets that are kept, so that tenants without rules of their own share one."""


@dataclass(frozen=True, slots=True)
class TenantRules:
    """What applies to one tenant."""

    rules: tuple[Rule, ...]
    """By name."""
    ready: RuleSet
    digest: str
    refused: Mapping[str, str]
    """Own rules that are left out: the reason by name."""


def tenant_rules(shipped: Iterable[Rule], own: Own) -> TenantRules:
    """Raises RulesRefused if the shipped rules can't be taken by themselves."""
    return _tenant_rules(tuple(shipped), tuple(sorted(own.items())))


def _too_large(own: Iterable[tuple[str, Rule | None]]) -> Iterator[tuple[str, str]]:
    """Own rules, by name, from where all before come to more than a worker has time for."""
    total = 0
    for name, rule in own:
        total += instructions(rule.pattern) if rule is not None and isinstance(rule.pattern, str) else 0
        if rule is not None and total > OWN_INSTRUCTIONS:
            yield name, f"a tenant's rules up to this one, by name, have {total} RE2 instructions of {OWN_INSTRUCTIONS}"


@lru_cache(_COMPILED)
def _tenant_rules(shipped: tuple[Rule, ...], own: tuple[tuple[str, Rule | None], ...]) -> TenantRules:
    """Every round refuses one rule at least, so it ends."""
    refused = dict(_too_large(own))
    while True:
        given = {name: rule for name, rule in own if name not in refused}
        merged = {rule.name: rule for rule in shipped} | given
        rules = tuple(rule for _, rule in sorted(merged.items()) if rule is not None)
        try:
            ready = RuleSet(rules)
        except RulesRefused as error:
            if not any(given.values()):
                raise
            named = {name: reason for name, reason in error.faults if given.get(name) is not None}
            reason = f"together with the others: {error.faults[0][1]}"
            refused |= named or {name: reason for name, rule in given.items() if rule is not None}
        else:
            return TenantRules(rules=rules, ready=ready, digest=digest(rules), refused=refused)
