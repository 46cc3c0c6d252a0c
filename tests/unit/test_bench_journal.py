"""Whoever was interrupted while measuring goes on where he was."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.journal import Journal
from bench.measured import Curve, Measured

SIZES = {"sizes": {"rows": 5}}
CURVE = Curve(plot="p", label="l", x="s", y="MB", points=((0.0, 1.0),))


class Interrupted(Exception):
    pass


def measure(path: Path, rounds: int, *, until: int | None = None, sizes: dict[str, object] = SIZES) -> list[str]:
    """The steps that were begun."""
    journal, begun = Journal(path, sizes), []
    for step in journal.steps(f"round {number}" for number in range(rounds)):
        begun.append(step.name)
        step.add("ours", "rows/s", float(len(begun)))
        if len(begun) == until:
            raise Interrupted(begun)
    return begun


def test_only_steps_that_were_not_completed_are_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "part.journal"
    with pytest.raises(Interrupted):
        measure(path, 3, until=2)
    assert measure(path, 3) == ["round 1", "round 2"]
    assert measure(path, 3) == []
    assert Journal(path, SIZES).measured == [Measured(what="ours", unit="rows/s", values=(1.0, 1.0, 2.0))]


def test_what_was_measured_in_other_circumstances_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "part.journal"
    measure(path, 2)
    assert measure(path, 2, sizes={"sizes": {"rows": 6}}) == ["round 0", "round 1"]
    Journal(path, SIZES).end()
    assert not path.exists()


def test_curves_and_remarks_are_kept_with_their_step(tmp_path: Path) -> None:
    path = tmp_path / "part.journal"
    for step in Journal(path, SIZES).steps(("a", "b")):
        step.draw(CURVE)
        step.remark("left out")
    again = Journal(path, SIZES)
    assert again.curves == [CURVE, CURVE]
    assert again.notes == ["left out"]
