"""What a part of the benchmark has measured, as a table for people and as JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

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
    """How many times one median is another, and what is aimed at: that much, or (`at_most`) no more."""

    what: str
    value: float
    aim: float | None = None
    at_most: bool = False

    @property
    def is_reached(self) -> bool:
        return self.aim is None or (self.value <= self.aim if self.at_most else self.value >= self.aim)

    @property
    def says(self) -> str:
        if self.aim is None:
            return ""
        return f"aim {'≤ ' if self.at_most else ''}{self.aim:g}: {'reached' if self.is_reached else 'missed'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line of a plot."""

    plot: str
    """Its title; curves of one plot have the same axes."""
    label: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**found, "points": tuple((x, y) for x, y in found["points"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """All that one part has measured."""

    name: str
    on: str
    """The data, in words."""
    measured: Sequence[Measured]
    ratios: Sequence[Ratio]
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    """What a reader has to know of it: who was left out, and why."""

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            name=found["name"],
            on=found["on"],
            measured=[Measured(what=m["what"], unit=m["unit"], values=tuple(m["values"])) for m in found["measured"]],
            ratios=[Ratio(**ratio) for ratio in found["ratios"]],
            curves=[Curve.from_json(curve) for curve in found["curves"]],
            notes=found["notes"],
        )

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
            table.add_row(each.what, *map(shown, figures), each.unit)
        table.add_section()
        for ratio in self.ratios:
            table.add_row(ratio.what, shown(ratio.value), "", "", "", ratio.says)
        return table


def shown(value: float) -> str:
    """Three figures that count, and no more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(
    measured: Sequence[Measured], upper: str, lower: str, aim: float | None = None, *, at_most: bool = False
) -> list[Ratio]:
    """Of two medians, by what was measured; nothing where one of them was left out."""
    median = {each.what: each.median for each in measured}
    if upper not in median or not median.get(lower):
        return []
    return [Ratio(what=f"{upper} / {lower}", value=median[upper] / median[lower], aim=aim, at_most=at_most)]
