"""Lead rules as a file for people: the shipped ones (`lead_rules.toml`), and what a tenant has beside them.

TOML: a table for each signal and speaker, a line for each rule, `[parts]` with names for what patterns share, and
`off`, a list of shipped rules that a tenant does without. Whether a rule can be taken, RuleSet says. Reads
the shipped file, and no other.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consumers.errors import Refused
from consumers.lead_rules import Rule

SHIPPED: Final = Path(__file__).resolve().with_name("lead_rules.toml")
_PART: Final = re.compile(r"<(\w+)>")
_FIELDS: Final = frozenset({"weight", "pattern"})


@dataclass(frozen=True, slots=True)
class RulesFile:
    rules: tuple[Rule, ...]
    """In the file's order."""
    off: tuple[str, ...]
    """Names of shipped rules."""


def shipped_rules() -> tuple[Rule, ...]:
    """What every tenant begins with."""
    return parse(SHIPPED.read_text(encoding="utf-8")).rules


def parse(text: str) -> RulesFile:
    """Raises Refused for what is no such file."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"this is no TOML: {error}") from None
    parts, off = tables.pop("parts", {}), tables.pop("off", [])
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise Refused("[parts] holds names of pieces of patterns, such as day = '(hoje|amanha)'")
    if not isinstance(off, list) or not all(isinstance(name, str) for name in off):
        raise Refused("`off` is a list of names of shipped rules")
    rules = tuple(_rules(tables, parts))
    if twice := {rule.name for rule in rules if sum(rule.name == other.name for other in rules) > 1}:
        raise Refused(f"several rules are named {', '.join(sorted(twice))}")
    if both := {rule.name for rule in rules} & set(off):
        raise Refused(f"{', '.join(sorted(both))} can't be given and be off")
    return RulesFile(rules, tuple(off))


def _rules(tables: dict[str, Any], parts: dict[str, str]) -> Iterator[Rule]:
    for signal, speakers in tables.items():
        for speaker, rules in speakers.items() if isinstance(speakers, dict) else [("", None)]:
            if not isinstance(rules, dict):
                raise Refused(
                    f"{signal!r} is no table of rules: they stand below [signal.speaker], such as [lead.client]"
                )
            for name, given in rules.items():
                if not isinstance(given, dict) or given.keys() != _FIELDS:
                    raise Refused(f"rule {name!r}: a rule is {{ weight = 20, pattern = '…' }}")
                yield Rule(name, _whole(name, given["pattern"], parts), signal, given["weight"], speaker)


def _whole(name: str, pattern: Any, parts: dict[str, str]) -> Any:
    """The pattern with every part in its place."""
    if not isinstance(pattern, str):
        return pattern
    if unknown := sorted(set(_PART.findall(pattern)) - parts.keys()):
        raise Refused(f"rule {name!r}: [parts] has no {', '.join(unknown)}")
    return _PART.sub(lambda part: parts[part[1]], pattern)
