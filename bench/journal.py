"""What a part has measured so far, step by step, in a file: who was interrupted goes on where he was.

A step is kept when it is complete. What was measured with other sizes, or of other code, is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from bench.measured import Curve, Measured

NEWLINE: Final = orjson.OPT_APPEND_NEWLINE


@dataclass(slots=True, kw_only=True)
class Step:
    """One turn of all contenders."""

    name: str
    values: list[tuple[str, str, float]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, unit: str, value: float) -> None:
        self.values.append((what, unit, value))

    def draw(self, curve: Curve) -> None:
        self.curves.append(curve.to_json())

    def remark(self, line: str) -> None:
        """Said once, however often it is remarked."""
        self.notes.append(line)


class Journal:
    """Of one part."""

    def __init__(self, path: Path, circumstances: Mapping[str, Any]) -> None:
        self._path = path
        self._done: dict[str, Step] = {}
        lines = path.read_bytes().splitlines() if path.exists() else []
        if lines and orjson.loads(lines[0]) == circumstances:
            steps = [Step(**orjson.loads(line)) for line in lines[1:]]
            self._done = {step.name: step for step in steps}
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orjson.dumps(circumstances, option=NEWLINE))

    def steps(self, names: Iterable[str]) -> Iterator[Step]:
        """Those that are still to be measured; each is kept when the next one is asked for."""
        for name in names:
            if name not in self._done:
                step = Step(name=name)
                yield step
                self._done[name] = step
                with self._path.open("ab") as file:
                    file.write(orjson.dumps(step, option=NEWLINE))

    @property
    def measured(self) -> list[Measured]:
        """The values of all steps, by what was measured."""
        found: dict[tuple[str, str], list[float]] = {}
        for step in self._done.values():
            for what, unit, value in step.values:
                found.setdefault((what, unit), []).append(value)
        return [Measured(what=what, unit=unit, values=tuple(values)) for (what, unit), values in found.items()]

    @property
    def curves(self) -> list[Curve]:
        return [Curve.from_json(curve) for step in self._done.values() for curve in step.curves]

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(line for step in self._done.values() for line in step.notes))

    def end(self) -> None:
        """What is kept from here on is the part's result."""
        self._path.unlink(missing_ok=True)
