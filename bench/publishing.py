"""Puts what a part has measured on the page of the repository: its block in docs/benchmarks.md, its JSON and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from bench import page
from bench.measured import Part

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = "benchmarks.md"
FOLDER: Final = "benchmarks"


def publish(found: dict[str, Any], docs: Path = DOCS) -> None:
    """`found` is a part's result as it is kept. Raises ImportError where the extra `bench` is not installed."""
    from bench.plots import plots

    part = Part.from_json(found)
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{part.name}*"):
        if old.stem == part.name or old.name.startswith(f"{part.name}-"):
            old.unlink()
    drawn = list(plots(part))
    for _, name, svg in drawn:
        (folder / name).write_bytes(svg)
    written = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (folder / f"{part.name}.json").write_bytes(written)
    block = page.block(part, found, [(title, f"{FOLDER}/{name}") for title, name, _ in drawn])
    text = (docs / PAGE).read_text()
    (docs / PAGE).write_text(page.put(text, part.name, block))
