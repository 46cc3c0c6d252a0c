"""What a process took in a span is cut out of what was seen of it."""

from __future__ import annotations

import os
import time

import pytest

from bench.watch import Look, Watch, cpu_between, most_resident

SEEN = [Look(10.0, 1.0, 50), Look(11.0, 2.0, 90), Look(12.0, 2.0, 70), Look(14.0, 3.0, 60)]


@pytest.mark.parametrize(
    ("span", "spent"),
    [((10, 14), 2.0), ((10.5, 11.0), 0.5), ((11, 12), 0.0), ((12, 13), 0.5), ((0, 10), 0.0), ((13, 99), 0.5)],
)
def test_cpu_is_spent_evenly_between_two_looks(span: tuple[float, float], spent: float) -> None:
    assert cpu_between(SEEN, *span) == pytest.approx(spent)


def test_nobody_looked() -> None:
    assert (cpu_between([], 0, 9), most_resident([], 0, 9)) == (0, 0)


def test_memory_is_the_most_that_was_seen_in_the_span() -> None:
    assert [most_resident(SEEN, *span) for span in ((10, 14), (12, 14), (13.95, 13.96))] == [90, 70, 60]


def test_a_process_that_works_is_seen_to() -> None:
    began = time.time()
    with Watch({"us": os.getpid()}) as watch:
        while len(watch.looks["us"]) < 4:
            sum(range(10_000))
    assert watch.cpu(began, time.time()) > 0
    assert watch.resident(began, time.time()) > 1 << 20
