"""`message_compiled` of a conversation → what client and agents wrote, in the form that lead rules are written for.

Only the text fields count, never the JSON around them: an hour in `sent_at` is no hour that anybody wrote. What came in
(message_type 0) is the client's; what went out (1) is the agents', a bot's and a deleted user's words too. Nobody's are

* private notes: the client never saw them, and what agents say among themselves promises nothing;
* activity (2): "assigned to …" is the program's text, in the program's language;
* templates (3), greetings and surveys above all: they say the same to everybody ("agende sua visita!").

Bounded: a text is cut at TEXT_CHARACTERS, and the newest messages are taken until CONVERSATION_CHARACTERS or MESSAGES
are reached, since the last word counts (consumers/signals.py). Pure.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

Speaker = Literal["client", "agent"]

TEXT_CHARACTERS: Final = 4_000
"""Of one message. WhatsApp ends at 4 096; beyond are e-mails that quote those before."""
CONVERSATION_CHARACTERS: Final = 20_000
"""Of one conversation; 99 of 100 are shorter. It bounds the time that rules can take."""
MESSAGES: Final = 1_000
"""Of one conversation, the largest known has 375."""
SHORT: Final = 500
REMEMBERED: Final = 16_384
"""A conversation is evaluated anew at each of its messages: what was made of so many texts, of so many characters at
the most, is remembered (11 µs each; 60 MB at the worst)."""

_BY_TYPE: Final[dict[int, Speaker]] = {0: "client", 1: "agent"}
_BY_SENDER: Final[dict[str, Speaker]] = {"contact": "client", "agent": "agent", "bot": "agent"}
_MARKS: Final = re.compile(
    # Combining marks of the blocks that Latin letters are written with; an emoji's variation selectors and joiners;
    # the soft hyphen and other signs without width. A class, not unicodedata.combining: 20 times as fast.
    r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\xad\u200b-\u200d\u2060\ufeff]+"
)


class Message(NamedTuple):
    """What one person wrote: a plain tuple, made for every message of every changed conversation."""

    id: int
    speaker: Speaker
    text: str
    """As `normalise` leaves it."""


def normalise(text: str) -> str:
    """Without accents, in lower case, one line with single spaces: "Amanhã  às 18H" becomes "amanha as 18h".

    The length may change: "ﷺ" is 18 characters.
    """
    if not text.isascii():
        text = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    return " ".join(text.casefold().split())


def texts(message_compiled: object) -> list[Message]:
    """Of a parsed `message_compiled`, in its order. What is not a message as the view makes them is left out."""
    if not isinstance(message_compiled, list):
        return []
    found: list[Message] = []
    room = CONVERSATION_CHARACTERS
    for element in reversed(message_compiled):
        message = _message(element) if isinstance(element, dict) else None
        if message is None:
            continue
        room -= len(message.text)
        if room < 0 or len(found) == MESSAGES:
            break
        found.append(message)
    found.reverse()
    return found


def _message(element: dict[str, Any]) -> Message | None:
    number, text, speaker = element.get("message_id"), element.get("text"), _speaker(element)
    # type(), not isinstance: JSON's true is no id.
    if type(number) is not int or not isinstance(text, str) or speaker is None or element.get("private"):
        return None
    normal = _remembered(text) if len(text) <= SHORT else normalise(text[:TEXT_CHARACTERS])[:TEXT_CHARACTERS]
    return Message(number, speaker, normal) if normal else None


@lru_cache(REMEMBERED)
def _remembered(text: str) -> str:
    return normalise(text)[:TEXT_CHARACTERS]


def _speaker(element: dict[str, Any]) -> Speaker | None:
    """By the direction, which outlives the sender; by the sender where an older view does not tell the direction."""
    kind = element.get("message_type")
    if kind is not None:
        return _BY_TYPE.get(kind) if type(kind) is int else None
    sender = element.get("sender")
    return _BY_SENDER.get(sender) if isinstance(sender, str) else None
