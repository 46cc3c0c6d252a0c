"""The lead rules that come with the package, for tenants that have none of their own: `lead_rules.toml`.

Reads a file, never a database. The file is data for people: a line for each rule, grouped by signal and speaker, with
names for what patterns share.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from consumers.lead_rules import Rule

FILE: Final = Path(__file__).resolve().with_name("lead_rules.toml")
_PART: Final = re.compile(r"<(\w+)>")


def default_rules(file: Path = FILE) -> tuple[Rule, ...]:
    """In the file's order. What is wrong with a rule, RuleSet says."""
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    parts = tables.pop("parts")
    return tuple(
        Rule(
            name=name,
            pattern=_PART.sub(lambda part: parts[part[1]], given["pattern"]),
            signal=signal,
            weight=given["weight"],
            speaker=speaker,
        )
        for signal, speakers in tables.items()
        for speaker, rules in speakers.items()
        for name, given in rules.items()
    )
