"""Contacts have no inbox of their own: what refers to them says whose they are, and nothing live is ever lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumers.requests import Stubs
from demo.servers import Servers
from tests.integration.sorted_out import Applied, Message, applied
from tests.integration.targets import Target

A, B, BESIDE_A, OF_ANOTHER = 1, 2, 7, 4
"""Inboxes of one tenant in two partitions, one in A's own, and one of another tenant."""
TABLES = ("conversations", "contact_inboxes", "contacts")


@pytest.fixture
def log(servers: Servers, prepared: Target) -> Iterator[Applied]:
    with applied(servers, prepared, {1: (A, B, BESIDE_A), 2: (OF_ANOTHER,)}) as made:
        yield made


def link(log: Applied, row: int, inbox: int, contact: int = 5) -> Message:
    return log.streamed("c", "contact_inboxes", row, inbox, inbox_id=inbox, contact_id=contact)


def conversation(log: Applied, row: int, inbox: int, contact: int | None = 5, op: str = "c") -> Message:
    return log.streamed(op, "conversations", row, inbox, inbox_id=inbox, contact_id=contact)


def contact(log: Applied, inbox: int, n: int, name: str = "Ana") -> Message:
    return log.read("contacts", 5, inbox, n, name=name)


def at_two_inboxes(log: Applied) -> None:
    log.apply(link(log, 1, A), link(log, 2, B), contact(log, A, 1), contact(log, B, 1))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


def test_a_row_fills_the_stub_that_its_reference_made(log: Applied) -> None:
    log.apply(conversation(log, 1, A))
    assert log.stubs("contacts") == [(1, 5)]
    log.apply(contact(log, A, 1))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([(1, 5, "Ana")], [])


def test_a_row_too_large_for_the_topic_is_a_stub_until_a_later_one_fills_it(log: Applied) -> None:
    at_two_inboxes(log)
    log.apply(log.too_large("contacts", 5, A, 2))
    assert log.stubs("contacts") == [(1, 5)]
    (request,) = Stubs(0.0).overdue(log.control, log.relations["contacts"], 1, [A])
    assert request.keys == ((5,),), "it may fit by now"
    log.apply(contact(log, B, 3, "Eva"))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([(1, 5, "Eva")], [])


def test_absence_at_one_inbox_leaves_what_another_holds(log: Applied) -> None:
    at_two_inboxes(log)
    log.each(log.streamed("d", "contact_inboxes", 1, A), log.absent("contacts", 5, A, 2))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


def test_absence_at_one_inbox_never_wipes(log: Applied) -> None:
    """The reference may be older than the absence, in a partition that is read later."""
    at_two_inboxes(log)
    log.apply(log.absent("contacts", 5, A, 2))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([(1, 5, "Ana")], [])


@pytest.mark.parametrize("at_once", [True, False])
def test_a_row_that_was_read_before_its_last_reference_went_goes_too(log: Applied, at_once: bool) -> None:
    """Nothing else would ever tell: who deletes a conversation does not say whose it was."""
    events = [conversation(log, 1, A), log.streamed("d", "conversations", 1, A), contact(log, A, 1)]
    log.apply(*events) if at_once else log.each(*events)
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([], [])
    log.each(conversation(log, 2, A), contact(log, A, 2))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")], "what refers to it later has it read again"


def test_a_contact_that_only_a_dead_letter_refers_to_goes_and_is_asked_for_once_that_is_healed(log: Applied) -> None:
    """Who knows of the contact is not in the tables: were it kept, nothing would tell when it is to go."""
    unfit = log.streamed("c", "conversations", 1, A, inbox_id=A, contact_id=5, status="no number")
    log.each(unfit, contact(log, A, 1))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([], [])
    log.apply(conversation(log, 1, A))
    assert log.stubs("contacts") == [(1, 5)]
    (request,) = Stubs(0.0).overdue(log.control, log.relations["contacts"], 1, [A])
    assert request.keys == ((5,),)
    log.apply(contact(log, A, 2))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


@pytest.mark.parametrize("table", ["conversations", "contact_inboxes"])
def test_where_an_adopted_table_lacks_its_foreign_key_what_it_refers_to_stays(log: Applied, table: str) -> None:
    """It is not known as a child: that nothing refers to the contact can't be told."""
    log.target.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_contact")
    log.look_again()
    refers = {"conversations": conversation, "contact_inboxes": link}[table]
    log.each(refers(log, 1, A), contact(log, A, 1))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


def test_an_older_absence_does_not_touch_a_newer_row(log: Applied) -> None:
    log.each(link(log, 1, A), contact(log, A, 2), log.absent("contacts", 5, B, 2), *log.nowhere("contacts", 5, 2))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([(1, 5, "Ana")], [])


def test_a_contact_of_one_tenant_that_leaves_one_inbox_then_both(log: Applied) -> None:
    at_two_inboxes(log)
    log.apply(log.streamed("d", "contact_inboxes", 1, A))
    log.apply(log.absent("contacts", 5, A, 2), contact(log, B, 2, "Ana B"))
    assert log.rows("contacts", "name") == [(1, 5, "Ana B")]
    log.apply(log.streamed("d", "contact_inboxes", 2, B))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([], [])
    log.apply(*log.nowhere("contacts", 5, 3))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([], [])


def test_a_contact_of_two_tenants_leaves_one_and_stays_with_the_other(log: Applied) -> None:
    log.apply(link(log, 1, A), link(log, 2, OF_ANOTHER), contact(log, A, 1), contact(log, OF_ANOTHER, 1))
    assert log.rows("contacts", "name") == [(1, 5, "Ana"), (2, 5, "Ana")]
    log.apply(log.streamed("d", "contact_inboxes", 1, A), log.absent("contacts", 5, A, 2))
    assert log.rows("contacts", "name") == [(2, 5, "Ana")]
    log.apply(log.streamed("d", "contact_inboxes", 2, OF_ANOTHER), *log.nowhere("contacts", 5, 3))
    assert log.rows("contacts", "name") == []


def test_a_filled_contact_goes_with_its_last_reference(log: Applied) -> None:
    log.apply(conversation(log, 1, A), link(log, 2, A), contact(log, A, 1))
    log.apply(log.streamed("d", "contact_inboxes", 2, A))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]
    log.apply(conversation(log, 1, A, contact=6, op="u"))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([], [(1, 6)])


def test_absence_everywhere_deletes_what_nothing_holds(log: Applied) -> None:
    log.apply(contact(log, A, 1), contact(log, OF_ANOTHER, 1))
    log.apply(*log.nowhere("contacts", 5, 2))
    assert log.target.rows("SELECT 1 FROM contacts") == []


def test_absence_everywhere_wipes_what_a_conversation_holds_and_then_goes_with_it(log: Applied) -> None:
    log.apply(conversation(log, 1, A), contact(log, A, 1))
    late = contact(log, B, 1)
    log.apply(*(each for each in log.nowhere("contacts", 5, 2) if each.partition != late.partition))
    assert log.stubs("contacts") == [(1, 5)]
    assert log.target.rows("SELECT name FROM contacts") == [(None,)]
    log.apply(late)
    assert log.stubs("contacts") == [(1, 5)], "an older row must not fill what is known to be absent"
    log.apply(log.streamed("d", "conversations", 1, A))
    assert log.target.rows("SELECT 1 FROM contacts") == []


def test_absence_everywhere_is_heard_for_a_row_of_the_same_batch(log: Applied) -> None:
    log.apply(contact(log, A, 1), *log.nowhere("contacts", 5, 2))
    assert log.target.rows("SELECT 1 FROM contacts") == []


def test_in_one_batch_absence_at_an_inbox_does_not_undo_a_row(log: Applied) -> None:
    """As one after the other: B still holds the contact."""
    at_two_inboxes(log)
    log.apply(contact(log, A, 2, "Ana 2"), log.absent("contacts", 5, A, 3))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([(1, 5, "Ana 2")], [])


def test_in_one_batch_a_row_does_not_outlive_its_absence(log: Applied) -> None:
    log.apply(contact(log, A, 2), log.absent("contacts", 5, A, 3))
    assert log.target.rows("SELECT 1 FROM contacts") == []


def backfill(log: Applied, inbox: int, n: int, inboxes: tuple[int, ...] | None = None) -> None:
    """One that finds nothing, of the inboxes in one partition."""
    log.apply(log.marker("begin", inbox, n, TABLES, inboxes))
    log.apply(log.marker("end", inbox, n, TABLES, inboxes))


def test_a_sweep_of_one_partition_leaves_contacts_of_another(log: Applied) -> None:
    """B's rows are in another partition, whose end comes at another time."""
    log.apply(link(log, 2, B), contact(log, B, 1))
    backfill(log, A, 10)
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


def test_a_sweep_of_given_inboxes_leaves_contacts_of_others_in_the_same_partition(log: Applied) -> None:
    log.apply(link(log, 2, BESIDE_A), contact(log, BESIDE_A, 1))
    backfill(log, A, 10, inboxes=(A,))
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


def test_a_sweep_deletes_an_old_contact_with_its_ghost_of_a_reference(log: Applied) -> None:
    log.apply(link(log, 1, A), contact(log, A, 1))
    backfill(log, A, 10, inboxes=(A,))
    assert log.target.rows("SELECT 1 FROM contact_inboxes") == []
    assert log.target.rows("SELECT 1 FROM contacts") == []


def test_a_sweep_keeps_what_was_read_again(log: Applied) -> None:
    log.apply(link(log, 1, A), contact(log, A, 1))
    log.apply(log.marker("begin", A, 10, TABLES))
    log.apply(link(log, 1, A), contact(log, A, 11, "read again"))
    log.apply(log.marker("end", A, 10, TABLES))
    assert log.rows("contacts", "name") == [(1, 5, "read again")]


@pytest.mark.parametrize("first", [A, B])
def test_a_contact_that_is_gone_though_two_partitions_refer_to_it_is_left_to_neither(log: Applied, first: int) -> None:
    """A's conversation still names it, B's link is a ghost: whichever is swept first."""
    log.apply(conversation(log, 1, A), link(log, 2, B), contact(log, A, 1), contact(log, B, 1))
    for inbox in (first, A + B - first):
        log.apply(log.marker("begin", inbox, 10, TABLES))
        log.apply(*([conversation(log, 1, A, op="u")] if inbox == A else []), log.marker("end", inbox, 10, TABLES))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([], [(1, 5)])
    assert log.target.rows("SELECT 1 FROM contact_inboxes") == []


def swept_while_a_reference_goes(log: Applied) -> None:
    """When the backfill looked for A's contacts the source had its conversation no more. The stream tells it later, and
    not whose it was; B's link is as alive as ever, and no backfill reads it."""
    log.apply(conversation(log, 1, A), link(log, 2, B), contact(log, A, 1), contact(log, B, 1))
    log.apply(log.marker("begin", A, 10, TABLES, (A,)))
    log.apply(conversation(log, 1, A, op="u"), log.marker("end", A, 10, TABLES, (A,)))
    log.apply(log.streamed("d", "conversations", 1, A))
    assert log.stubs("contacts") == [(1, 5)]


def test_a_contact_that_a_sweep_took_for_gone_is_asked_for_and_comes_back(log: Applied) -> None:
    swept_while_a_reference_goes(log)
    (request,) = Stubs(0.0).overdue(log.control, log.relations["contacts"], 1, [A])
    assert (request.table, request.inbox, request.keys) == ("contacts", A, ((5,),))
    log.apply(log.absent("contacts", 5, A, 12), contact(log, B, 12))
    assert (log.rows("contacts", "name"), log.stubs("contacts")) == ([(1, 5, "Ana")], [])


def test_a_contact_that_a_sweep_took_for_gone_is_asked_for_no_more_once_it_is_known_to_be(log: Applied) -> None:
    swept_while_a_reference_goes(log)
    log.apply(*log.nowhere("contacts", 5, 12))
    assert log.stubs("contacts") == [(1, 5)]
    assert list(Stubs(0.0).overdue(log.control, log.relations["contacts"], 1, [A])) == []


def test_a_replay_does_not_take_for_gone_what_a_partition_that_it_reads_later_holds(log: Applied) -> None:
    """The conversation is older than the stretch, and gone when A alone is read again."""
    log.apply(conversation(log, 1, A))
    at_a = [contact(log, A, 1), log.streamed("d", "conversations", 1, A)]
    at_a += [log.marker(boundary, A, 10, TABLES, (A,)) for boundary in ("begin", "end")]
    at_b = [link(log, 2, B), contact(log, B, 1)]
    log.each(*at_b, *at_a)
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]
    assert log.replayed(1, *at_a, *at_b) == {}
    at_b += [log.marker(boundary, B, 11, TABLES, (B,)) for boundary in ("begin", "end")]
    gone = {"contacts": {"extra": (5,)}, "contact_inboxes": {"extra": (2,)}}
    assert log.replayed(1, *at_a, *at_b) == gone, "B was read again too"


def test_a_ghost_of_a_reference_says_nothing_of_a_contact_that_another_partition_holds(log: Applied) -> None:
    at_two_inboxes(log)
    backfill(log, A, 10)
    assert log.rows("contacts", "name") == [(1, 5, "Ana")]


def test_a_sweep_wipes_an_old_contact_that_a_live_conversation_refers_to(log: Applied) -> None:
    log.apply(conversation(log, 1, A), contact(log, A, 1))
    log.apply(log.marker("begin", A, 10, ("contacts",)))
    log.apply(log.marker("end", A, 10, ("contacts",)))
    assert log.stubs("contacts") == [(1, 5)]
    assert log.rows("conversations", "contact_id") == [(1, 1, 5)]


def test_a_stub_is_asked_for_at_an_inbox_of_its_tenant_until_it_is_known_to_be_absent(log: Applied) -> None:
    relation = log.relations["contacts"]
    log.apply(conversation(log, 1, A))
    (request,) = Stubs(0.0).overdue(log.control, relation, 1, [A, B])
    assert (request.table, request.inbox, request.keys) == ("contacts", A, ((5,),))
    log.apply(*log.nowhere("contacts", 5, 2))
    assert log.stubs("contacts") == [(1, 5)]
    assert list(Stubs(0.0).overdue(log.control, relation, 1, [A, B])) == []
