"""What a part of the benchmark has measured, as a table for people and as JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One thing, measured several times in one run."""

    what: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def at(self, share: float) -> float:
        """The least value that this share of all does not exceed: 0.5 is the median, 1 the most."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times one median is another, and what is aimed at."""

    what: str
    value: float
    aim: float | None = None

    @property
    def says(self) -> str:
        if self.aim is None:
            return ""
        return f"aim {self.aim:g}: {'reached' if self.value >= self.aim else 'missed'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """All that one part has measured."""

    name: str
    on: str
    """The data, in words."""
    measured: Sequence[Measured]
    ratios: Sequence[Ratio]

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        for each, measured in zip(found["measured"], self.measured, strict=True):
            each["median"] = measured.median
        return found

    def table(self) -> Table:
        table = Table("", title=f"{self.name}: {self.on}", title_justify="left")
        for heading in ("p50", "p99", "least", "most"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for each in self.measured:
            figures = (each.median, each.at(0.99), min(each.values), max(each.values))
            table.add_row(each.what, *(f"{value:,.1f}" for value in figures), each.unit)
        table.add_section()
        for ratio in self.ratios:
            table.add_row(ratio.what, f"{ratio.value:,.1f}", "", "", "", ratio.says)
        return table
