"""Rules that can be taken find what they say; those that can't are refused together, each with its reason."""

from __future__ import annotations

import time
from typing import Any

import pytest

from consumers.conversation_texts import CONVERSATION_CHARACTERS, TEXT_CHARACTERS, Message
from consumers.errors import RulesRefused
from consumers.lead_rules import COMPILED, INSTRUCTIONS, RULES, Rule, RuleSet
from consumers.rules_file import shipped_rules


def rule(pattern: str = "preco", name: str = "r", **more: Any) -> Rule:
    return Rule(**({"name": name, "pattern": pattern, "signal": "lead", "weight": 10, "speaker": "any"} | more))


def reasons(*rules: Rule) -> dict[str, str]:
    with pytest.raises(RulesRefused) as refused:
        RuleSet(rules)
    return dict(refused.value.faults)


def names(rules: RuleSet, speaker: Any, text: str) -> list[str]:
    return [each.name for each in rules.hits(Message(1, speaker, text))]


def test_a_rule_hears_its_speaker_alone() -> None:
    rules = RuleSet(rule(name=who, speaker=who) for who in ("client", "any", "agent"))
    assert names(rules, "client", "que preco?") == ["any", "client"]
    assert names(rules, "agent", "o preco") == ["agent", "any"]
    assert names(rules, "agent", "nada") == []


def test_no_rules_hit_nothing() -> None:
    assert names(RuleSet([]), "client", "preco") == []


def test_a_rule_set_takes_any_text() -> None:
    assert names(RuleSet([rule("a.b")]), "client", "\ud800 a\0b") == ["r"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("preco(", "RE2: missing ): preco("),
        ("(?=preco)", "RE2: invalid perl operator: (?="),
        (r"(a)\1", r"the escape \1"),
        ("x{2000}", "RE2: invalid repetition size: {2000}"),
        ("([^.!?]{100}){10}", "RE2: pattern too large - compile failed"),
        ("a*", "matches the empty text"),
        ("", "1 to 1000 characters"),
        ("a" * 1001, "1 to 1000 characters"),
        ("matrícula", "write 'i'"),
        ("Preco", "write 'p'"),
        ("[a-zà]", "write 'a'"),
        ("matri\u0301cula", "leave it out"),
        ("quanto  custa", "two spaces"),
        ("a\tb", "is in no text"),
        (r"a\nb", r"the escape \n"),
        (r"\p{Lu}", r"the escape \p"),
        (r"\x41", r"the escape \x"),
        ("[[:upper:]]", "the class [:upper:]"),
        ("a\\", "RE2: trailing"),
    ],
)
def test_a_pattern_that_cannot_be_taken_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    assert reason in reasons(rule(pattern))["r"]


@pytest.mark.parametrize("pattern", [r"\S+ \W\D", "[[:alpha:]]+", "(?P<Que>preco)", "👍", r"r\$ ?\d+\.", "(?i)preco"])
def test_a_pattern_that_can_match_is_taken(pattern: str) -> None:
    RuleSet([rule(pattern)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", None),
        ("signal", "sale"),
        ("speaker", "bot"),
        ("weight", 0),
        ("weight", 101),
        ("weight", True),
        ("weight", 1.5),
        ("pattern", None),
    ],
)
def test_every_other_field_is_checked(field: str, value: object) -> None:
    (reason,) = reasons(rule(**{field: value})).values()
    assert field in reason


def test_all_bad_rules_are_named_at_once() -> None:
    found = reasons(rule("(", "one"), rule("good", "two"), rule("É", "three"), rule("a", "four"), rule("b", "four"))
    assert set(found) == {"one", "three", "four"}


def test_rules_that_are_too_large_together_are_refused() -> None:
    found = reasons(*(rule(rf"(\w{{30}}){{20}}{n}", f"{n:02}") for n in range(40)))
    assert "00" not in found
    assert str(INSTRUCTIONS) in found["39"]


def test_too_many_rules_are_refused() -> None:
    assert len(reasons(*(rule(f"x{n}", f"{n:04}") for n in range(RULES + 2)))) == 2


def test_no_pattern_stalls() -> None:
    """A backtracking engine would take longer than the universe is old."""
    began = time.process_time()
    rules = RuleSet([rule("(a+)+$", "1"), rule("(a|aa)+b", "2"), rule("(.*a){20}c", "3")])
    assert names(rules, "client", "a" * 100_000 + "!") == []
    assert time.process_time() - began < 10


def test_the_worst_rules_are_bounded_too() -> None:
    """Rules at the limit whose states never repeat, over the longest conversation."""
    rules = RuleSet(rule(f"a[^.!?{n}]{{300}}c{n}", str(n)) for n in range(5))
    text = "".join("ab"[bit == "1"] for bit in f"{3**2600:b}")[:TEXT_CHARACTERS]
    began = time.process_time()
    for _ in range(CONVERSATION_CHARACTERS // TEXT_CHARACTERS):
        names(rules, "client", text)
    assert time.process_time() - began < 60


def test_the_default_rules_are_taken() -> None:
    rules = shipped_rules()
    RuleSet(rules)
    assert 60 <= len(rules) <= 100
    assert all("<" not in each.pattern for each in rules)
    assert all(len({each.signal for each in rules if each.takes_back is back}) == 3 for back in (True, False))


def test_only_so_many_sets_are_compiled_at_once_and_each_is_there_when_it_is_asked_for() -> None:
    """Each takes megabytes, and a tenant may have rules of its own."""
    sets = [RuleSet([rule(f"preco {n}", speaker="client")]) for n in range(COMPILED)]
    compiled = [each._by_speaker[who] for each in sets for who in ("client", "agent")]
    assert sum(each._machine is not None for each in compiled) <= COMPILED
    for n, each in enumerate(sets):
        assert names(each, "client", f"o preco {n}") == ["r"]
    assert sum(each._machine is not None for each in compiled) <= COMPILED
