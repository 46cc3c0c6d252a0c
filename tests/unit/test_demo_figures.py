"""The figures that the demo shows are what they are called."""

from __future__ import annotations

import pytest

from demo.figures import BARS, Arrival, Phases, Rate, Total, bars, percentile, summed_up


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.01, 1.0), (0.5, 50.0), (0.501, 51.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], share) == expected


def test_one_value_is_every_percentile() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0


def test_delays_are_summed_up_in_any_order() -> None:
    found = summed_up(Arrival(sent=0.0, took=took, tenant=1) for took in (0.3, 0.1, 0.2))
    assert found == (3, 0.2, 0.3, 0.3)
    assert summed_up([]) is None


def test_a_rate_is_taken_over_the_last_seconds_only() -> None:
    rate = Rate()
    assert rate.per_second == 0
    for second in range(10):
        rate.add(float(second), 1000 if second < 3 else 1000 + 50 * (second - 2))
    assert rate.per_second == 50


def test_a_rate_follows_a_counter_that_begins_again() -> None:
    rate = Rate()
    for at, count in ((0.0, 900), (1.0, 1000), (2.0, 10), (3.0, 30)):
        rate.add(at, count)
    assert rate.per_second == 20


def test_a_rate_passes_over_a_value_that_was_not_measured_anew() -> None:
    rate = Rate()
    for at, count in ((0.0, 0), (2.0, 100), (2.0, 100)):
        rate.add(at, count)
    assert rate.per_second == 50


def test_a_total_goes_on_over_restarts() -> None:
    total = Total()
    for count in (5, 9, 0, 4):
        total.add(count)
    assert total.value == 13


def test_a_moment_belongs_to_the_phase_that_had_begun() -> None:
    phases = Phases()
    for at, name in ((1.0, "load"), (5.0, "live"), (7.0, "gone"), (9.0, "live")):
        phases.begin(name, at)
    assert [phases.at(moment) for moment in (0.5, 1.0, 6.0, 8.0, 99.0)] == ["", "load", "live", "gone", "live"]
    assert phases.names == ["load", "live", "gone"]
    assert phases.now == "live"


def test_bars_grow_with_the_delay_and_have_an_end() -> None:
    drawn = bars([0.0, 0.05, 0.5, 5.0, 1000.0])
    assert drawn[0] == BARS[0]
    assert drawn[-1] == BARS[-1]
    assert sorted(drawn, key=BARS.index) == list(drawn)
