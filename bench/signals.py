"""`python -m bench.signals`: what the lead signals of a conversation cost a worker, with the default rules.

Conversations of 13 messages of some 190 bytes, 2.5 kB of text, made of the sentences of
tests/golden/lead_conversations.txt, so that nearly every message hits rules: in life fewer do. Each step alone and all
together, in one thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

import orjson
from rich.console import Console

from bench.measured import Measured, Part
from consumers.conversation_texts import Message, texts
from consumers.lead_rules import RuleSet
from consumers.rules_file import shipped_rules
from consumers.signals import Signals, evaluate
from tests.lead_conversations import conversations

CONVERSATIONS: Final = 5_000
MESSAGES: Final = 13
MESSAGE_BYTES: Final = 190
ROUNDS: Final = 5


def measure() -> Part:
    """All of it; a few seconds."""
    rules = shipped_rules()
    ready = RuleSet(rules)
    documents = _documents()
    parsed = [orjson.loads(document) for document in documents]
    read = [texts(each) for each in parsed]
    size = sum(len(message.text.encode()) for messages in read for message in messages)

    def evaluated(messages: list[Message]) -> Signals:
        return evaluate(messages, ready)

    def whole(document: bytes) -> Signals:
        return evaluate(texts(orjson.loads(document)), ready)

    steps = {
        "parse the JSON": _rates(orjson.loads, documents),
        "take and normalise the texts": _rates(texts, parsed),
        "evaluate the rules": _rates(evaluated, read),
        "all three": _rates(whole, documents),
    }
    measured = [Measured(what=what, unit="conversations/s", values=values) for what, values in steps.items()]
    speeds = tuple(rate * size / len(documents) / 1e6 for rate in steps["all three"])
    return Part(
        name="signals",
        on=f"{len(rules)} rules, {size / len(documents):,.0f} bytes of text in {MESSAGES} messages",
        measured=[*measured, Measured(what="all three", unit="MB/s of text", values=speeds)],
        ratios=[],
    )


def _documents() -> list[bytes]:
    chance = random.Random(5)
    said = [each for conversation in conversations() for each in conversation.message_compiled]
    return [orjson.dumps([_message(chance, said, n) for n in range(MESSAGES)]) for _ in range(CONVERSATIONS)]


def _message(chance: random.Random, said: list[dict[str, Any]], number: int) -> dict[str, Any]:
    text = ""
    while len(text.encode()) < MESSAGE_BYTES - 15:  # half a sentence less, as the last one goes beyond
        text += f" {chance.choice(said)['text']}"
    who = {"sender": "contact", "message_type": 0} if number % 2 == 0 else {"sender": "agent", "message_type": 1}
    more = {"sender_type": "User", "sender_id": 7, "private": False, "sent_at": "2026-03-10T18:52:07.123456"}
    return {"message_id": 1_000_000 + number, "text": text, **who, **more}


def _rates(step: Callable[[Any], Any], given: list[Any]) -> tuple[float, ...]:
    found: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for each in given:
            step(each)
        found.append(len(given) / (time.perf_counter() - began))
    return tuple(found)


if __name__ == "__main__":
    Console().print(measure().table())
