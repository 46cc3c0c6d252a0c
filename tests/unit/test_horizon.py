"""How far polling may trust what it sees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.horizon import MOST_SAMPLES, Horizon, Sampled

MARGIN = 100


def noted(*samples: tuple[int, int], margin: int = MARGIN) -> Horizon:
    horizon = Horizon(margin)
    for at_us, next_xid in samples:
        horizon.note(Sampled(at_us, next_xid, {"messages": next_xid}))
    return horizon


def test_nothing_is_safe_before_a_sample_is() -> None:
    horizon = noted((1_000, 50))
    horizon.see(40)
    assert horizon.safe_us is None
    assert horizon.safe_key("messages") is None


def test_an_idle_source_is_safe_up_to_its_own_time_but_for_the_margin() -> None:
    horizon = noted((1_000, 50))
    horizon.see(50)
    assert horizon.safe_us == 900


def test_an_open_transaction_holds_the_bound_back() -> None:
    horizon = noted((1_000, 50), (2_000, 51), (3_000, 60))
    horizon.see(50)
    assert horizon.safe_us == 900
    horizon.see(60)
    assert horizon.safe_us == 2_900


def test_keys_are_safe_by_a_sample_that_is_older_by_the_margin() -> None:
    horizon = noted((1_000, 50), (1_050, 55), (1_200, 60))
    horizon.see(60)
    assert horizon.safe_key("messages") == 55
    assert horizon.safe_key("conversations") is None


def test_it_never_goes_back() -> None:
    horizon = noted((1_000, 50), (2_000, 60))
    horizon.see(60)
    horizon.see(55)
    assert horizon.safe_us == 1_900


def test_samples_are_bounded_while_a_transaction_stays_open() -> None:
    horizon = noted(*((at, 100 + at) for at in range(3 * MOST_SAMPLES)), margin=0)
    assert len(horizon._samples) <= MOST_SAMPLES
    horizon.see(100)
    assert horizon.safe_us == 0
    horizon.see(10 * MOST_SAMPLES)
    assert horizon.safe_us == 3 * MOST_SAMPLES - 1


def test_nothing_is_reached_before_the_first_sample() -> None:
    horizon = noted((1_000, 50), (2_000, 60))
    horizon.see(40)
    assert horizon.reached_us == 1_000
    horizon.see(50)
    assert horizon.reached_us == 900


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5), st.integers(0, 200)), max_size=60))
def test_what_is_stamped_up_to_the_bound_is_visible(steps: list[tuple[int, int, int]]) -> None:
    """Writers: they stamp a row by a clock that is behind by less than the margin, take an id, and commit later. Of
    snapshots: what runs beyond the last that has ended is not in them, so their xmin says nothing of it."""
    now, next_xid, ended = 1_000, 10, 9
    horizon = Horizon(MARGIN)
    open_until: dict[int, tuple[int, int]] = {}  # xid → (ends at, stamped)
    for pass_by, begin, lasts in steps:
        now += pass_by
        for _ in range(begin):
            open_until[next_xid] = (now + lasts, now - min(lasts, MARGIN - 1))
            next_xid += 1
        for xid in [xid for xid, (ends_at, _) in open_until.items() if ends_at <= now]:
            del open_until[xid]
            ended = max(ended, xid)
        horizon.note(Sampled(now, next_xid, {}))
        xmax = ended + 1
        horizon.see(min((xid for xid in open_until if xid < xmax), default=xmax))
        bound = horizon.safe_us
        assert bound is None or all(stamped > bound for _, stamped in open_until.values())
