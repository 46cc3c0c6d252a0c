"""The parts of the benchmark, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bench import (
    apply,
    backfill,
    end_to_end,
    freshness,
    guard,
    latency,
    memory,
    polling,
    reader,
    recovery,
    scale,
    signals,
    view,
)
from bench.measured import Part
from bench.path import Ground

GUARD: Final = "guard"
"""Judges, and is no part of the page."""
PARTS: Final[Mapping[str, Callable[[Ground], Part]]] = {
    "reader": reader.measure,
    "apply": apply.measure,
    "end-to-end": end_to_end.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "backfill": backfill.measure,
    "scale": scale.measure,
    "view": view.measure,
    "freshness": freshness.measure,
    "signals": signals.measure,
    "polling": polling.measure,
    "recovery": recovery.measure,
    GUARD: guard.measure,
}
