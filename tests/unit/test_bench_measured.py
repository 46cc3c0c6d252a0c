"""What the benchmark makes of its measurements."""

from __future__ import annotations

import importlib
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from bench.measured import Curve, Measured, Part, Ratio, ratio, shown

BENCH = Path(__file__).parents[2] / "bench"


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = Measured(what="w", unit="ms", values=tuple(float(n) for n in range(100, 0, -1)))
    assert [hundred.at(share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert Measured(what="w", unit="ms", values=(7.0,)).at(0.99) == 7


def test_an_aim_is_reached_or_missed_and_said() -> None:
    assert Ratio(what="r", value=300.0, aim=300).says == "aim 300: reached"
    assert Ratio(what="r", value=299.9, aim=300).says == "aim 300: missed"
    assert Ratio(what="r", value=1.0).says == ""
    assert Ratio(what="r", value=0.26, aim=0.25, at_most=True).says == "aim ≤ 0.25: missed"


def test_a_ratio_is_of_medians_and_left_out_with_either_of_them() -> None:
    measured = [
        Measured(what="ours", unit="rows/s", values=(9.0, 1.0, 6.0)),
        Measured(what="theirs", unit="rows/s", values=(3.0,)),
    ]
    assert ratio(measured, "ours", "theirs", 2) == [Ratio(what="ours / theirs", value=2.0, aim=2)]
    assert ratio(measured, "ours", "nobody's") == ratio(measured, "nobody's", "ours") == []


def test_figures_that_do_not_count_are_not_shown() -> None:
    assert [shown(value) for value in (0.04567, 1.0, 34.56, 99.96, 12345.6)] == ["0.0457", "1", "34.6", "100", "12,346"]


def test_a_part_is_shown_and_written_with_all_its_values() -> None:
    part = Part(
        name="view",
        on="nothing",
        measured=[Measured(what="a read", unit="ms", values=(3.0, 1.0, 2.0))],
        ratios=[Ratio(what="a / b", value=12.0)],
        curves=[Curve(plot="p", label="l", x="s", y="MB", points=((0.0, 1.0), (1.0, 2.5)))],
        notes=["b is left out"],
    )
    console = Console(width=80)
    with console.capture() as shown:
        console.print(part.table())
    assert "a read" in shown.get()
    assert "12" in shown.get()
    assert Part.from_json(orjson.loads(orjson.dumps(part.to_json()))) == part
    (found,) = part.to_json()["measured"]
    assert (found["values"], found["median"]) == ((3.0, 1.0, 2.0), 2.0)


@pytest.mark.parametrize(
    "part", sorted(path.stem for path in BENCH.glob("*.py") if path.stem not in ("__main__", "plots"))
)
def test_every_part_finds_what_it_uses_of_the_demo(part: str) -> None:
    """None of them runs in the tests: they take minutes."""
    assert importlib.import_module(f"bench.{part}")
