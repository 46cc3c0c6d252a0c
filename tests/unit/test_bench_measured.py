"""What the benchmark makes of its measurements."""

from __future__ import annotations

import importlib

import pytest
from rich.console import Console

from bench.measured import Measured, Part, Ratio


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = Measured(what="w", unit="ms", values=tuple(float(n) for n in range(100, 0, -1)))
    assert [hundred.at(share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert Measured(what="w", unit="ms", values=(7.0,)).at(0.99) == 7


def test_an_aim_is_reached_or_missed_and_said() -> None:
    assert Ratio(what="r", value=300.0, aim=300).says == "aim 300: reached"
    assert Ratio(what="r", value=299.9, aim=300).says == "aim 300: missed"
    assert Ratio(what="r", value=1.0).says == ""


def test_a_part_is_shown_and_written_with_all_its_values() -> None:
    part = Part(
        name="view",
        on="nothing",
        measured=[Measured(what="a read", unit="ms", values=(3.0, 1.0, 2.0))],
        ratios=[Ratio(what="a / b", value=12.0)],
    )
    console = Console(width=80)
    with console.capture() as shown:
        console.print(part.table())
    assert "a read" in shown.get()
    assert "2.0" in shown.get()
    (found,) = part.to_json()["measured"]
    assert (found["values"], found["median"]) == ((3.0, 1.0, 2.0), 2.0)


@pytest.mark.parametrize("part", ["freshness", "path", "polling", "reader", "recovery", "signals", "view"])
def test_every_part_finds_what_it_uses_of_the_demo(part: str) -> None:
    """None of them runs in the tests: they take minutes."""
    assert importlib.import_module(f"bench.{part}")
