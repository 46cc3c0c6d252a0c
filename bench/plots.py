"""What was measured as pictures: SVG, the same bytes for the same figures."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.measured import Curve, Measured, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE: Final = 20.0
"""Values that are so many times apart are drawn on a logarithmic scale."""
INCHES: Final = 7.5
LINE_INCHES: Final = 0.32
STYLE: Final[Any] = {
    "svg.hashsalt": "inbox-replicator",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
}


def plots(part: Part) -> Iterator[tuple[str, str, bytes]]:
    """(title, file name, SVG): its curves, one picture for each plot, or else what has its first unit."""
    by_plot: dict[str, list[Curve]] = {}
    for curve in part.curves:
        by_plot.setdefault(curve.plot, []).append(curve)
    for title, curves in by_plot.items():
        yield title, f"{part.name}-{_slug(title)}.svg", _lines(title, curves)
    if not by_plot:
        unit = part.measured[0].unit
        yield unit, f"{part.name}.svg", _points([each for each in part.measured if each.unit == unit])


def _points(measured: Sequence[Measured]) -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(INCHES, 0.8 + LINE_INCHES * len(measured)), layout="constrained")
        axes = figure.subplots()
        medians = [each.median for each in measured]
        spread = [[each.median - min(each.values) for each in measured], [max(m.values) - m.median for m in measured]]
        axes.errorbar(medians, [each.what for each in measured], xerr=spread, fmt="o", capsize=3)
        axes.invert_yaxis()
        axes.set_xlabel(f"{measured[0].unit}: median, least and most")
        _scale(axes, "x", medians)
        return _svg(figure)


def _lines(title: str, curves: Sequence[Curve]) -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(INCHES, 4.0), layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            xs, ys = zip(*curve.points, strict=True)
            axes.plot(xs, ys, label=curve.label, marker="o" if len(xs) < 20 else None, linewidth=1.2)
        axes.set(title=title, xlabel=curves[0].x, ylabel=curves[0].y)
        _scale(axes, "x", [x for curve in curves for x, _ in curve.points])
        _scale(axes, "y", [y for curve in curves for _, y in curve.points])
        axes.legend()
        return _svg(figure)


def _scale(axes: Axes, which: str, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set(**{f"{which}scale": "log"})
    else:
        axes.set(**{f"{which}lim": (0, None)})


def _svg(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _slug(title: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
