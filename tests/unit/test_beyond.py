"""Fresh rows are read once under each stamp, though the mark is held back."""

from __future__ import annotations

from replicator.beyond import Beyond, Stamped


def test_a_row_is_read_again_only_under_another_stamp() -> None:
    beyond = Beyond()
    found = [Stamped(10, 1), Stamped(11, 2), Stamped(11, 2)]
    assert beyond.unread(found) == [1, 2]
    beyond.note(found)
    assert beyond.unread(found) == []
    assert beyond.unread([Stamped(12, 1), Stamped(11, 2)]) == [1]


def test_what_the_mark_has_passed_is_forgotten() -> None:
    beyond = Beyond(most=2)
    beyond.note([Stamped(10, 1), Stamped(20, 2)])
    assert beyond.is_full
    beyond.pass_by(10)
    assert not beyond.is_full
    assert beyond.unread([Stamped(10, 1), Stamped(20, 2)]) == [1]
