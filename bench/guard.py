"""Whether something became slow: three ratios, each against the machine's own limit, beside those that were committed.

Small and quick, so its ratios are compared with each other only, never put beside those of the whole benchmark. A ratio
that is a third worse than the committed one is a finding. What is committed was recorded by this very part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

from bench import apply, pairs, path, reader, view
from bench.apply import Applied, Copy
from bench.changes import WRITTEN
from bench.measured import Measured, Part, Ratio, ratio
from bench.path import Ground
from bench.reader import Bare, Streamed
from bench.view import Ways

COMMITTED: Final = Path(__file__).parents[1] / "docs" / "benchmarks" / "guard.json"
WORST: Final = 2 / 3
"""Of the committed ratio."""
ROWS: Final = 50_000
CONVERSATIONS: Final = 3_000
KEYS: Final = 100


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    rows, rounds = ground.options.rows or ROWS, ground.rounds
    stage = path.stage(ground, ground.options.conversations or CONVERSATIONS, ground.options.messages)
    ways = Ways(stage)
    try:
        for step in ground.journal.steps(["view"]):
            for what, values in ways.take_turns(ground.options.rounds, ground.say).items():
                for value in values:
                    step.add(what, "ms", value)
    finally:
        ways.close()
    ours, kinds = pairs.ours(ground, stage), {WRITTEN: apply.KINDS[WRITTEN]}
    ours.stream.take_slot()
    pairs.load(ours)  # and nothing else: the reader's rows would be in the log before those to be applied
    apply.race(ground, stage, [ours], [Applied(ours), Copy(ground)], rows, [f"apply, {n}" for n in rounds], kinds)
    reader.race(ground, stage, [Bare(ground), Streamed(ground, ours.stream)], rows, [f"reader, {n}" for n in rounds])
    measured = ground.journal.measured
    return Part(
        name="guard",
        on=f"{rows:,} rows each; a ratio below two thirds of the committed one is a finding",
        measured=measured,
        ratios=judged(_ratios(ours, measured), committed()),
        notes=[] if COMMITTED.exists() else [f"nothing to compare with: --record writes {COMMITTED.name}"],
    )


def _ratios(ours: pairs.Pair, measured: list[Measured]) -> list[Ratio]:
    inserts = apply.KINDS[WRITTEN]
    return [
        *ratio(measured, ours.stream.name, reader.BARE),
        *ratio(measured, apply.of(ours.applier.name, inserts), apply.of(apply.COPY, inserts)),
        *ratio(measured, view.by_keys_of(KEYS), view.ours_of(KEYS)),
    ]


def judged(found: list[Ratio], known: dict[str, float]) -> list[Ratio]:
    """With what each must reach, as far as it is known."""
    return [
        Ratio(what=each.what, value=each.value, aim=WORST * known[each.what] if each.what in known else None)
        for each in found
    ]


def committed() -> dict[str, float]:
    """By what is compared."""
    return orjson.loads(COMMITTED.read_bytes()) if COMMITTED.exists() else {}


def record(part: Part) -> None:
    """From now on this is what others are compared with."""
    COMMITTED.parent.mkdir(parents=True, exist_ok=True)
    found = {each.what: round(each.value, 4) for each in part.ratios}
    COMMITTED.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def is_passed(part: Part) -> bool:
    """Whether every ratio was compared, and none is a finding."""
    return all(each.aim is not None and each.is_reached for each in part.ratios)
