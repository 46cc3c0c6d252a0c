"""What the lead signals of a conversation cost, with the shipped rules: a worker's own time, and the whole path's.

The worker's: conversations of 13 messages of some 190 bytes, 2.5 kB of text, made of the sentences of
tests/golden/lead_conversations.txt, so that nearly every message hits rules: in life fewer do. Each step alone and all
together, in one thread. The whole path's: backfills of the view, in turns with signals left alone and derived.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
import psycopg

from bench import path
from bench.measured import Measured, Part, Ratio
from bench.path import Ground
from consumers.conversation_texts import Message, texts
from consumers.lead_rules import RuleSet
from consumers.rules_file import shipped_rules
from consumers.signals import Signals, evaluate
from demo.stage import Stage
from tests.lead_conversations import conversations

CONVERSATIONS: Final = 5_000
MESSAGES: Final = 13
MESSAGE_BYTES: Final = 190
ROUNDS: Final = 5


PATH_CONVERSATIONS: Final = 10_000


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
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
    ground.say("the worker's own steps are measured")
    stage = path.stage(ground, ground.options.conversations or PATH_CONVERSATIONS, ground.options.messages)
    through = dict(_through(ground, stage))
    measured += [Measured(what=f"the view through, {what}", unit="rows/s", values=v) for what, v in through.items()]
    left, derived = measured[-2:]
    speeds = tuple(rate * size / len(documents) / 1e6 for rate in steps["all three"])
    return Part(
        name="signals",
        on=f"{len(rules)} rules, {size / len(documents):,.0f} bytes of text in {MESSAGES} messages",
        measured=[*measured, Measured(what="all three", unit="MB/s of text", values=speeds)],
        ratios=[Ratio(what="the view through, signals derived / left alone", value=derived.median / left.median)],
    )


def _through(ground: Ground, stage: Stage) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Speeds in rows/s, by what is done about signals."""
    ways = {"signals left alone": "external", "signals derived": "rules"}
    found: dict[str, list[float]] = {what: [] for what in ways}
    with path.running(ground, stage) as replicator, path.backfills(stage, ground.folder, replicator) as backfill:
        for number in range(1, ground.options.rounds + 1):
            for what, origin in ways.items():
                _decide(stage, origin)
                found[what].append(backfill())
                ground.say(
                    f"the view through, {what}, {number} of {ground.options.rounds}: {found[what][-1]:,.0f} rows/s"
                )
    return ((what, tuple(speeds)) for what, speeds in found.items())


def _decide(stage: Stage, origin: str) -> None:
    with psycopg.connect(stage.target_dsn, autocommit=True) as target:
        target.execute(
            "INSERT INTO tenant_settings (tenant_id, lead_signals) SELECT id, %s FROM tenants"
            " ON CONFLICT (tenant_id) DO UPDATE SET lead_signals = EXCLUDED.lead_signals",
            [origin],
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
