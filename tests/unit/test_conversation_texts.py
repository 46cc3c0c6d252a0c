"""What client and agents wrote, and nothing else, in the form that lead rules are written for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.conversation_texts import (
    CONVERSATION_CHARACTERS,
    MESSAGES,
    TEXT_CHARACTERS,
    Message,
    normalise,
    texts,
)


def element(number: object = 1, text: object = "oi", **more: object) -> dict[str, Any]:
    return {"message_id": number, "text": text, "message_type": 0, "private": False, **more}


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Amanhã  às 18H\n", "amanha as 18h"),
        ("MATRI\u0301CULA", "matricula"),
        ("ﬁm de ano №1", "fim de ano no1"),
        ("❤️ 👩‍👧 ok", "❤ 👩👧 ok"),
        ("pre\u00adço\u200b", "preco"),
        ("Straße", "strasse"),
        ("\u0301 ", ""),
    ],
)
def test_a_text_is_one_line_in_lower_case_without_accents(written: str, normal: str) -> None:
    assert normalise(written) == normal


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x24F)))
def test_normalising_latin_text_again_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_what_came_in_is_the_clients_and_what_went_out_the_agents() -> None:
    elements = [
        element(1, "A", sender="contact"),
        element(2, "B", message_type=1, sender="agent"),
        element(3, "C", message_type=1, sender="bot"),
        element(4, "D", message_type=1, sender="system"),  # an agent who was deleted
    ]
    assert texts(elements) == [
        Message(1, "client", "a"),
        Message(2, "agent", "b"),
        Message(3, "agent", "c"),
        Message(4, "agent", "d"),
    ]


def test_without_a_direction_the_sender_tells() -> None:
    senders = ["contact", "agent", "bot", "system", None, ["contact"]]
    elements = [{"message_id": n, "text": "oi", "sender": sender} for n, sender in enumerate(senders)]
    assert [(each.id, each.speaker) for each in texts(elements)] == [(0, "client"), (1, "agent"), (2, "agent")]


@pytest.mark.parametrize(
    "unheard",
    [
        element(private=True),
        element(message_type=2),
        element(message_type=3),
        element(message_type="0"),
        element(text=None),
        element(text=" \n"),
        element(text={"text": "oi"}),
        element(number=None),
        element(number=True),
        element(number="1"),
        [],
        None,
        "oi",
    ],
)
def test_what_is_no_message_is_left_out(unheard: object) -> None:
    assert texts([unheard, element(2)]) == [Message(2, "client", "oi")]


@pytest.mark.parametrize("document", [None, {}, "[]", 7, True])
def test_what_is_no_list_has_no_messages(document: object) -> None:
    assert texts(document) == []


def test_a_long_text_is_cut() -> None:
    (message,) = texts([element(text="ﷺ" * 100_000)])
    assert len(message.text) <= TEXT_CHARACTERS


def test_the_newest_messages_are_kept() -> None:
    many = [element(n) for n in range(MESSAGES + 5)]
    assert [each.id for each in texts(many)] == list(range(5, MESSAGES + 5))
    long = [element(n, "a" * TEXT_CHARACTERS) for n in range(100)]
    kept = texts(long)
    assert kept[-1].id == 99
    assert sum(len(each.text) for each in kept) == CONVERSATION_CHARACTERS


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(["message_id", "text", "message_type", "sender", "private"])


@settings(deadline=None)
@given(VALUES | st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=5))
def test_no_value_fails(document: object) -> None:
    for message in texts(document):
        assert message.text == " ".join(message.text.split())
        assert message.speaker in ("client", "agent")


def test_a_nul_and_half_a_surrogate_pair_are_texts() -> None:
    assert [each.id for each in texts([element(1, "a\0b"), element(2, "\ud800")])] == [1, 2]
    assert texts(orjson.loads(b"[]")) == []
