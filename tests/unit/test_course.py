"""The last commit that was read is come by again, or the source was taken back."""

from __future__ import annotations

import pytest

from replicator.course import Course
from replicator.errors import SourceWentBack
from replicator.pgoutput import Begin

KNOWN = Begin(commit_lsn=500, committed_us=7, xid=70)
EARLIER, LATER = Begin(400, 6, 60), Begin(600, 8, 80)
ANOTHER = Begin(500, 9, 70)


def test_what_was_read_before_is_found_again_and_the_course_goes_on() -> None:
    course = Course(KNOWN, slot_at=300)
    for begin in (EARLIER, KNOWN, LATER):
        course.follow(begin)
    assert course.last == LATER


def test_until_the_known_commit_is_found_it_stays_what_the_next_run_looks_for() -> None:
    course = Course(KNOWN, slot_at=300)
    course.follow(EARLIER)
    assert course.last == KNOWN


@pytest.mark.parametrize("found", [LATER, ANOTHER])
def test_another_commit_at_its_place_or_beyond_is_another_history(found: Begin) -> None:
    course = Course(KNOWN, slot_at=500)
    with pytest.raises(SourceWentBack, match="0/1F4"):
        course.follow(found)
    assert course.last == KNOWN


@pytest.mark.parametrize(("known", "slot_at"), [(KNOWN, 501), (None, 0)])
def test_what_does_not_come_again_is_not_waited_for(known: Begin | None, slot_at: int) -> None:
    course = Course(known, slot_at)
    course.follow(LATER)
    assert course.last == LATER


def test_a_stream_that_gets_beyond_the_place_without_any_commit_has_missed_it_too() -> None:
    course = Course(KNOWN, KNOWN.commit_lsn)
    course.reach(KNOWN.commit_lsn)
    with pytest.raises(SourceWentBack):
        course.reach(KNOWN.commit_lsn + 1)
    course.follow(KNOWN)
    course.reach(KNOWN.commit_lsn + 1)
