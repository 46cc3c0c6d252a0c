"""A chunk gives way to what the stream changed between its watermarks."""

from __future__ import annotations

import pytest

from replicator import window as window_module
from replicator.changes import RenderedRow
from replicator.window import HIGH, LOW, Window


def row(key: int) -> RenderedRow:
    return RenderedRow(b"[%d]" % key, 7, b"{}", b"")


def window() -> Window:
    return Window(table_name="messages", rows=[row(1), row(2), row(3)], missing=[(b"[8]", 7), (b"[9]", 7)])


def test_untouched_rows_and_absences_survive() -> None:
    untouched = window()
    assert untouched.survivors() == [row(1), row(2), row(3)]
    assert untouched.survivors_missing() == [(b"[8]", 7), (b"[9]", 7)]
    assert untouched.to_read_again() == []


def test_changed_keys_leave_the_chunk_be_they_rows_or_absences() -> None:
    changed = window()
    changed.mark(b"[2]", partial=False)
    changed.mark(b"[9]", partial=False)
    assert changed.survivors() == [row(1), row(3)]
    assert changed.survivors_missing() == [(b"[8]", 7)]


@pytest.mark.parametrize(
    ("changes", "again"),
    [([True], True), ([True, True], True), ([False], False), ([False, True], False), ([True, False], False)],
)
def test_a_row_is_read_again_only_if_the_stream_never_had_it_whole(changes: list[bool], again: bool) -> None:
    changed = window()
    for partial in changes:
        changed.mark(b"[2]", partial)
    assert changed.survivors() == [row(1), row(3)]
    assert changed.to_read_again() == ([row(2)] if again else [])


def test_nothing_survives_a_truncate() -> None:
    emptied = window()
    emptied.mark_truncated()
    assert emptied.survivors() == []
    assert emptied.survivors_missing() == []


def test_one_that_would_remember_too_much_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "MOST_CHANGED", 2)
    full = window()
    full.opened.set()
    for key in range(4, 7):
        assert full.is_open()
        full.mark(b"[%d]" % key, partial=True)
    assert full.overflown
    assert not full.is_open()
    assert full.changed == {}
    assert (full.survivors(), full.survivors_missing(), full.to_read_again()) == ([], [], [])


def test_it_is_open_between_its_watermarks() -> None:
    opening = window()
    assert not opening.is_open()
    opening.opened.set()
    assert opening.is_open()
    opening.published.set()
    assert not opening.is_open()


def test_watermarks_are_told_from_each_other_and_from_those_of_other_windows() -> None:
    """A message left over from a run that died must open nothing."""
    one, other = window(), window()
    assert len({one.message(LOW), one.message(HIGH), other.message(LOW), other.message(HIGH)}) == 4
