"""The five signals of conversations, with their evidence."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.conversation_texts import Message, Speaker, texts
from consumers.lead_rules import Rule, RuleSet
from consumers.rules_file import shipped_rules
from consumers.signals import EVIDENCE, Signals, evaluate, label
from tests.lead_conversations import Conversation, conversations

DEFAULT = RuleSet(shipped_rules())
AGAIN = RuleSet(reversed(shipped_rules()))
CONVERSATIONS = conversations()


def said(*sentences: str) -> list[Message]:
    return [Message(n, "client", sentence) for n, sentence in enumerate(sentences, 1)]


def rules(**patterns: tuple[str, str, int]) -> RuleSet:
    return RuleSet(
        Rule(name, pattern, signal, weight, "client") for name, (pattern, signal, weight) in patterns.items()
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=[each.what for each in CONVERSATIONS])
def test_a_conversation_in_portuguese(conversation: Conversation) -> None:
    found = evaluate(texts(conversation.message_compiled), DEFAULT)
    assert found == Signals(
        is_lead="lead" in conversation.signals,
        visit_scheduled="visit" in conversation.signals,
        crm_converted="conversion" in conversation.signals,
        score=conversation.score,
        label=conversation.label,  # type: ignore[arg-type]
        evidence=tuple(conversation.evidence),
    )


def test_there_are_enough_conversations() -> None:
    assert len(CONVERSATIONS) >= 60


def test_nearly_every_default_rule_is_shown() -> None:
    shown = {name for conversation in CONVERSATIONS for name, _ in conversation.evidence}
    assert {rule.name for rule in shipped_rules()} - shown <= {"horarios", "quer-fazer-atividade", "tabela-de-precos"}


def test_the_last_word_counts() -> None:
    given = rules(comes=("vou", "visit", 50), stays=("nao vou", "visit", -10))
    assert evaluate(said("vou"), given).visit_scheduled
    assert not evaluate(said("vou", "nao vou"), given).visit_scheduled
    found = evaluate(said("vou", "nao vou", "vou", "vou"), given)
    assert found.visit_scheduled
    assert found.score == 50
    assert found.evidence == (("comes", 1), ("stays", 2), ("comes", 3))


def test_taking_back_one_signal_leaves_the_others() -> None:
    given = rules(price=("preco", "lead", 60), comes=("vou", "visit", 50), stays=("nao vou", "visit", -10))
    found = evaluate(said("preco", "vou", "nao vou"), given)
    assert (found.is_lead, found.visit_scheduled, found.score) == (True, False, 50)


def test_a_rule_counts_once_and_the_score_ends_at_100() -> None:
    given = rules(a=("a", "lead", 30), b=("b", "lead", 90))
    assert evaluate(said("a", "a", "a"), given).score == 30
    assert evaluate(said("a", "b"), given).score == 100


def test_nothing_said_is_no_lead() -> None:
    assert evaluate([], DEFAULT) == Signals(False, False, False, 0, "Nenhum", ())


def test_evidence_is_bounded_and_the_newest_is_kept() -> None:
    given = rules(comes=("vou", "visit", 50), stays=("nao vou", "visit", -10))
    found = evaluate(said(*["vou", "nao vou"] * EVIDENCE), given)
    assert len(found.evidence) == EVIDENCE
    assert found.evidence[-1] == ("stays", 2 * EVIDENCE)


@pytest.mark.parametrize(
    ("score", "words"), [(100, "Alto"), (70, "Alto"), (69, "Médio"), (40, "Médio"), (39, "Baixo"), (1, "Baixo")]
)
def test_the_label_follows_the_score(score: int, words: str) -> None:
    assert label(score) == words


SENTENCES = [element["text"] for conversation in CONVERSATIONS for element in conversation.message_compiled]
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "message_id": st.integers(),
            "text": st.sampled_from(SENTENCES) | st.text(),
            "message_type": st.integers(0, 3),
        }
    ),
    max_size=12,
)
WORDS = ["vou", "nao vou", "quero", "preco"]
RULES = st.lists(
    st.builds(
        Rule,
        name=st.text(min_size=1, max_size=3),
        pattern=st.sampled_from(WORDS),
        signal=st.sampled_from(["lead", "visit", "conversion"]),
        weight=st.integers(-100, 100).filter(bool),
        speaker=st.sampled_from(["client", "agent", "any"]),
    ),
    unique_by=lambda rule: rule.name,
    max_size=12,
)
MESSAGES = st.lists(
    st.builds(
        Message,
        st.integers(),
        st.sampled_from(get_args(Speaker)),
        st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(DOCUMENTS)
def test_any_conversation_has_consistent_signals(document: list[dict[str, Any]]) -> None:
    found = evaluate(texts(document), DEFAULT)
    assert 0 <= found.score <= 100
    assert found.label == label(found.score)
    assert found.is_lead or not (found.visit_scheduled or found.crm_converted)
    assert found.evidence or not found.is_lead
    assert {message for _, message in found.evidence} <= {each["message_id"] for each in document}
    assert found == evaluate(texts(document), AGAIN)


@settings(deadline=None)
@given(RULES, MESSAGES, st.randoms(use_true_random=False))
def test_the_order_of_the_rules_does_not_matter(given: list[Rule], messages: list[Message], chance: Any) -> None:
    mixed = list(given)
    chance.shuffle(mixed)
    found = evaluate(messages, RuleSet(given))
    assert found == evaluate(messages, RuleSet(mixed))
    assert 0 <= found.score <= 100
