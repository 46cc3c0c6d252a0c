"""Inboxes that belong to nobody: proposed where their account speaks with one voice, else never."""

from __future__ import annotations

from datetime import UTC, datetime

from consumers.mapping_admin import Unmapped
from consumers.suggestions import Known, Owner, Suggestion, propose

THEN = datetime(2026, 3, 1, tzinfo=UTC)
ONE, TWO, GONE = Owner(1, "Escola Um", False), Owner(2, None, False), Owner(3, "Gone", True)
SEEN = (Unmapped(inbox_id=64, events=7, first_seen=THEN, last_seen=THEN),)


def only(*known: Known, owners: dict[int, Owner]) -> Suggestion:
    (found,) = propose(SEEN, owners, known)
    return found


def test_an_inbox_goes_where_all_others_of_its_account_are() -> None:
    found = only(
        Known(61, "a", 10), Known(62, "b", 10), Known(63, "c", 11), Known(64, "Joe's inbox", 10),
        owners={61: ONE, 62: ONE, 63: TWO},
    )  # fmt: skip
    assert (found.tenant_id, found.account_id, found.events, found.first_seen) == (1, 10, 7, THEN)
    assert found.command == """consumers map add --inbox 64 --tenant 1 --inbox-name 'Joe'"'"'s inbox'"""


def test_an_account_of_two_tenants_is_ambiguous() -> None:
    found = only(Known(61, "a", 10), Known(62, "b", 10), Known(64, None, 10), owners={61: ONE, 62: TWO})
    assert (found.tenant_id, found.command) == (None, None)
    assert found.reason == "ambiguous: inboxes of account 10 belong to tenants 1 Escola Um, 2"


def test_nothing_is_guessed() -> None:
    assert only(Known(64, None, 10), owners={}).command is None
    assert only(Known(61, "a", None), Known(64, None, None), owners={61: ONE}).command is None
    assert only(Known(61, "a", 10), owners={61: ONE}).reason == "the source has it no more"
    assert "marked as deleted" in only(Known(61, "a", 10), Known(64, None, 10), owners={61: GONE}).reason


def test_without_the_source_inboxes_are_listed_without_a_proposal() -> None:
    (found,) = propose(SEEN, {61: ONE}, None)
    assert (found.command, found.events) == (None, 7)
    assert "CONSUMERS_SOURCE_DSN" in found.reason


def test_an_inbox_of_the_source_that_has_had_no_event_is_listed_too() -> None:
    assert [each.inbox_id for each in propose((), {61: ONE}, [Known(61, "a", 10), Known(65, "b", 10)])] == [65]
