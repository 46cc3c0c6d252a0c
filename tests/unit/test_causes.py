"""A row change leads to every key whose row it may change, and to none where it changes nothing that is used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.causes import WHOLE, Cause, Causes, Fingerprints, Reach, Way
from replicator.pgoutput import ABSENT, Column, RawRow, Relation
from replicator.readings import KEY

INT, TEXT = 23, 25
VIEW, CONTACTS = "view", "contacts"
NAMES = ("id", "inbox_id", "contact_id", "title", "notes")
REACH = Reach(
    key=("id",),
    inbox="inbox_id",
    ways=(
        Way(relation=VIEW, path=KEY, columns=("id",)),
        Way(relation=CONTACTS, path=KEY, columns=("contact_id",)),
        Way(relation=VIEW, path="by title", columns=("title",)),
    ),
    used={VIEW: frozenset({"id", "inbox_id", "title"}), CONTACTS: frozenset({"inbox_id", "contact_id"})},
)


def relation(identity: frozenset[str] = frozenset({"inbox_id", "id"}), names: tuple[str, ...] = NAMES) -> Relation:
    kinds = {"title": TEXT, "notes": TEXT}
    return Relation(
        9, "public", "conversations", "i", tuple(Column(n, kinds.get(n, INT), -1, n in identity) for n in names)
    )


@pytest.fixture
def causes() -> Causes:
    return Causes(relation(), REACH, Fingerprints(10))


def row(
    key: int = 1, inbox: int | None = 5, contact: int | None = 7, title: object = b"t", notes: object = b"n"
) -> RawRow:
    numbers = [None if each is None else b"%d" % each for each in (key, inbox, contact)]
    return [*numbers, title, notes]  # type: ignore[list-item]


def old(key: int = 1, inbox: int | None = 5) -> RawRow:
    return row(key, inbox, None, None, None)


def by_key(relation: str, key: int, *inboxes: int) -> Cause:
    return Cause(relation, KEY, (key,), inboxes)


def test_an_insert_dirties_all_that_it_leads_to(causes: Causes) -> None:
    assert causes.of_insert(row()) == [
        by_key(VIEW, 1, 5),
        by_key(CONTACTS, 7, 5),
        Cause(VIEW, "by title", ("t",), (5,)),
    ]


def test_null_is_no_key_but_a_start_of_look_ups(causes: Causes) -> None:
    assert causes.of_insert(row(inbox=None, contact=None, title=None)) == [
        by_key(VIEW, 1),
        Cause(VIEW, "by title", (None,), ()),
    ]
    causes.of_insert(row(2))
    assert Cause(VIEW, "by title", (None,), (5,)) in causes.of_update([], row(2, title=None))


def test_null_in_one_column_of_a_start_leaves_the_others_their_values() -> None:
    way = Way(relation=VIEW, path="by either", columns=("notes", "title"))
    causes = Causes(relation(), replace(REACH, ways=(way,)), Fingerprints(10))
    assert causes.of_insert(row(notes=None)) == [Cause(VIEW, "by either", (None, "t"), (5,))]


def test_an_update_of_nothing_that_is_used_dirties_nothing(causes: Causes) -> None:
    causes.of_insert(row())
    assert causes.of_update([], row(notes=b"other")) == []
    assert causes.of_update([], row(notes=ABSENT, title=ABSENT)) == []


def test_an_update_concerns_the_relations_that_use_what_changed(causes: Causes) -> None:
    causes.of_insert(row())
    assert causes.of_update([], row(contact=8)) == [by_key(CONTACTS, 7, 5), by_key(CONTACTS, 8, 5)]
    assert causes.of_update([], row(contact=8, title=b"u")) == [
        Cause(VIEW, "by title", ("t",), (5,)),
        by_key(VIEW, 1, 5),
        Cause(VIEW, "by title", ("u",), (5,)),
    ]


def test_a_row_that_is_not_remembered_counts_as_changed(causes: Causes) -> None:
    assert by_key(VIEW, 1, 5) in causes.of_update([], row())
    for other in range(2, 20):
        causes.of_insert(row(other))
    assert by_key(VIEW, 1, 5) in causes.of_update([], row())


def test_a_move_names_both_inboxes(causes: Causes) -> None:
    causes.of_insert(row())
    moved = causes.of_update(old(), row(inbox=6))
    assert by_key(VIEW, 1, 6, 5) in moved
    assert by_key(CONTACTS, 7, 6, 5) in moved


def test_another_key_dirties_the_old_one_too(causes: Causes) -> None:
    causes.of_insert(row())
    changed = causes.of_update(old(), row(2))
    assert by_key(VIEW, 1, 5) in changed
    assert by_key(VIEW, 2, 5) in changed
    assert causes.of_update([], row(2)) == []


def test_a_delete_is_traced_by_the_identity_and_by_memory(causes: Causes) -> None:
    assert causes.of_delete(old()) == [by_key(VIEW, 1, 5)], "the old contact is not known: the sweep finds it"
    causes.of_insert(row())
    assert causes.of_delete(old()) == [
        by_key(VIEW, 1, 5),
        by_key(CONTACTS, 7, 5),
        Cause(VIEW, "by title", ("t",), (5,)),
    ]


def test_full_identity_needs_no_memory() -> None:
    causes = Causes(relation(frozenset(NAMES)), REACH, Fingerprints(0))
    assert by_key(CONTACTS, 7, 5) in causes.of_update(row(), row(contact=8))
    assert by_key(CONTACTS, 8, 5) in causes.of_update(row(), row(contact=8))
    assert by_key(CONTACTS, 7, 5) in causes.of_delete(row())


def test_a_start_that_was_left_out_is_remembered_or_the_whole_relation_is_read(causes: Causes) -> None:
    assert Cause(VIEW, WHOLE, (), ()) in causes.of_update([], row(title=ABSENT))
    causes.of_insert(row(2))
    assert Cause(VIEW, "by title", ("t",), (6, 5)) in causes.of_update(old(2), row(2, inbox=6, title=ABSENT))


def test_where_a_row_started_is_not_remembered_from_when_the_identity_said_it() -> None:
    fingerprints = Fingerprints(10)
    Causes(relation(frozenset(NAMES)), REACH, fingerprints).of_insert(row())
    changed = Causes(relation(), REACH, fingerprints).of_update([], row(inbox=6, title=ABSENT))
    assert Cause(VIEW, WHOLE, (), ()) in changed


def test_what_is_remembered_of_columns_that_have_changed_their_names_is_not_compared() -> None:
    """Both hold the same types, and each was where the other is."""
    fingerprints, swapped = Fingerprints(10), ("id", "inbox_id", "contact_id", "notes", "title")
    reach = replace(REACH, used={**REACH.used, VIEW: REACH.used[VIEW] | {"notes"}})
    Causes(relation(), reach, fingerprints).of_insert(row())
    assert by_key(VIEW, 1, 5) in Causes(relation(names=swapped), reach, fingerprints).of_update([], row())


def test_a_value_left_out_twice_and_then_brought_counts_as_changed(causes: Causes) -> None:
    causes.of_update([], row(title=ABSENT))
    assert causes.of_update([], row(title=ABSENT, notes=b"x")) == []
    assert by_key(VIEW, 1, 5) in causes.of_update([], row())


def test_no_value_is_taken_for_one_that_was_left_out(causes: Causes) -> None:
    causes.of_update([], row(title=ABSENT))
    assert by_key(VIEW, 1, 5) in causes.of_update([], row(title=b""))


def test_rows_of_a_table_without_a_primary_key_always_count_as_changed() -> None:
    causes = Causes(relation(frozenset(NAMES)), replace(REACH, key=()), Fingerprints(10))
    causes.of_insert(row(1, title=b"t"))
    causes.of_insert(row(2, title=b"u"))
    assert by_key(VIEW, 1, 5) in causes.of_update(row(1, title=b"t"), row(1, title=b"u"))
    assert by_key(VIEW, 1, 5) in causes.of_update([], row(1, title=b"u"))


def test_every_change_concerns_a_relation_of_which_a_used_column_is_not_carried() -> None:
    reach = replace(REACH, used={VIEW: REACH.used[VIEW] | {"generated"}, CONTACTS: REACH.used[CONTACTS]})
    causes = Causes(relation(), reach, Fingerprints(10))
    assert causes.lacking == {VIEW: {"generated"}}
    causes.of_insert(row())
    for _ in range(2):
        assert set(causes.of_update([], row())) == {by_key(VIEW, 1, 5), Cause(VIEW, "by title", ("t",), (5,))}
    assert by_key(CONTACTS, 8, 5) in causes.of_update([], row(contact=8))
    assert by_key(CONTACTS, 8, 5) in causes.of_delete(old())


def test_every_change_has_a_relation_read_as_a_whole_whose_start_is_not_carried() -> None:
    causes = Causes(relation(names=NAMES[:3]), REACH, Fingerprints(10))
    whole = Cause(VIEW, WHOLE, (), ())
    assert causes.of_insert(row()[:3]) == [by_key(VIEW, 1, 5), by_key(CONTACTS, 7, 5), whole]
    assert causes.of_update([], row()[:3]) == [by_key(VIEW, 1, 5), whole]
    assert causes.of_delete(old()[:3]) == [by_key(VIEW, 1, 5), by_key(CONTACTS, 7, 5), whole]


def test_rows_are_not_remembered_where_the_primary_key_is_not_carried() -> None:
    causes = Causes(relation(frozenset({"inbox_id"})), replace(REACH, key=("number",)), Fingerprints(10))
    causes.of_insert(row(1))
    assert causes.lacking.keys() == {VIEW, CONTACTS}
    assert by_key(CONTACTS, 7, 5) in causes.of_update([], row(2))
