"""What was measured comes to its place on the page, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.measured import Curve, Measured, Part, Ratio
from bench.page import NOT_YET, block, put
from bench.parts import GUARD, PARTS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
PART = Part(
    name="reader",
    on="ten rows",
    measured=[
        Measured(what="ours", unit="rows/s", values=(30_000.0, 10_000.0, 20_000.0)),
        Measured(what="theirs", unit="rows/s", values=(100.0, 200.0, 400.0)),
    ],
    ratios=[Ratio(what="ours / theirs", value=100.0, aim=3)],
    notes=["a peer is left out: no Maven"],
)
FOUND: dict[str, Any] = {
    "command": "make bench PART=reader",
    "machine": {"cores": 2, "processor": "a chip", "memory_bytes": 8 * 10**9, "system": "Linux"},
    "versions": {"PostgreSQL": "18"},
}
CURVE = Curve(plot="memory", label="worker", x="s", y="MB", points=((0.0, 80.0), (1.0, 90.0)))


def test_a_block_says_what_was_measured_where_and_how() -> None:
    said = block(PART, FOUND, [("rows/s", "benchmarks/reader.svg")])
    assert "| ours | 20,000 | 10,000 | 30,000 | rows/s |" in said
    assert "| ours / theirs | 100 | aim 3: reached |" in said
    assert "\na peer is left out: no Maven\n" in said
    assert "\n![rows/s](benchmarks/reader.svg)\n" in said
    assert "<sub>`make bench PART=reader` on 2 cores (a chip), 8 GB, Linux; PostgreSQL 18</sub>" in said


def test_of_many_values_it_says_the_p99_too() -> None:
    many = Measured(what="writes", unit="ms", values=tuple(float(n) for n in range(1, 201)))
    said = block(Part(name="freshness", on="x", measured=[many], ratios=[]), FOUND, [])
    assert "| | median | p99 | least | most | |\n|---|---:|---:|---:|---:|---|\n" in said
    assert "| writes | 100 | 198 | 1 | 200 | ms |" in said


def test_a_block_replaces_the_last_one_of_its_part_alone() -> None:
    page = "# A\n<!-- measured: x -->\nold\n<!-- end -->\nprose\n<!-- measured: y -->\nkept\n<!-- end -->\n"
    assert put(page, "x", "new\nlines") == page.replace("old", "new\nlines")
    assert put(put(page, "y", "1"), "y", "2") == page.replace("kept", "2")
    with pytest.raises(ValueError, match="no place"):
        put(page, "z", "new")


@pytest.mark.parametrize("name", [name for name in PARTS if name != GUARD])
def test_the_page_has_a_place_for_every_part(name: str) -> None:
    assert put(PAGE.read_text(), name, NOT_YET).count(f"<!-- measured: {name} -->") == 1


def test_plots_of_the_same_figures_are_the_same_bytes() -> None:
    plots = pytest.importorskip("bench.plots", reason="the extra `bench` is not installed").plots
    ((title, name, drawn),) = plots(PART)
    assert (title, name) == ("rows/s", "reader.svg")
    assert [(title, name, drawn)] == list(plots(PART))
    assert b"<svg" in drawn
    assert b">theirs<" in drawn


def test_each_plot_has_its_curves() -> None:
    plots = pytest.importorskip("bench.plots", reason="the extra `bench` is not installed").plots
    part = Part(name="memory", on="", measured=PART.measured, ratios=[], curves=[CURVE])
    ((title, name, drawn),) = plots(part)
    assert (title, name) == ("memory", "memory-memory.svg")
    assert b">worker<" in drawn


def test_a_part_is_published_whole(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    from bench.publishing import publish

    (tmp_path / "benchmarks.md").write_text("<!-- measured: reader -->\nold\n<!-- end -->\n")
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for old in ("reader.json", "reader-an-old-plot.svg", "readers.json"):
        (folder / old).write_text("old")
    publish({**FOUND, **PART.to_json()}, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["reader.json", "reader.svg", "readers.json"]
    assert "benchmarks/reader.svg" in (tmp_path / "benchmarks.md").read_text()
