"""What a conversation says of a lead: five columns, and the rules and messages that they come from.

The last word counts. For each signal the rules that stand are kept: a message that speaks for the signal joins those
that do, or ends what took it back; one that takes it back ends what spoke for it. Of one message, taking back wins:
"não quero agendar uma visita" holds "quero agendar uma visita" too. The score is the sum of the weights of all rules
that stand at the end, each once, however often it was said.

Pure: the same messages and rules give the same result, in whatever order the rules come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from consumers.conversation_texts import Message
from consumers.lead_rules import SIGNALS, Rule, RuleSet

Label = Literal["Alto", "Médio", "Baixo", "Nenhum"]
SCORE: Final = 100
BANDS: Final[Mapping[str, tuple[int, int]]] = {
    "Alto": (70, SCORE),
    "Médio": (40, 69),
    "Baixo": (1, 39),
    "Nenhum": (0, 0),
}
"""The scores that a label stands for."""
EVIDENCE: Final = 100
"""Pieces of evidence of one conversation; the oldest are left out."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What the five columns hold, and why."""

    is_lead: bool
    """Something stands for any of the three signals: whoever comes for a visit, or enrols, is a lead."""
    visit_scheduled: bool
    crm_converted: bool
    score: int
    """0 to 100."""
    label: Label
    evidence: tuple[tuple[str, int], ...]
    """(rule, message id) of whatever changed the result, in the order of the messages, then by the rules' names."""


def evaluate(messages: Iterable[Message], rules: RuleSet) -> Signals:
    """Of one conversation's messages, oldest first."""
    standing: dict[str, dict[str, Rule]] = {signal: {} for signal in SIGNALS}
    evidence: list[tuple[str, int]] = []
    for message in messages:
        hits = rules.hits(message)
        if not hits:
            continue
        taken_back = {rule.signal for rule in hits if rule.takes_back}
        evidence.extend(
            (rule.name, message.id)
            for rule in hits
            if rule.takes_back == (rule.signal in taken_back) and _stands(rule, standing[rule.signal])
        )
    spoken_for = {signal for signal, rules in standing.items() if any(not rule.takes_back for rule in rules.values())}
    total = sum(rule.weight for rules in standing.values() for rule in rules.values())
    score = max(0, min(SCORE, total))
    return Signals(
        is_lead=bool(spoken_for),
        visit_scheduled="visit" in spoken_for,
        crm_converted="conversion" in spoken_for,
        score=score,
        label=label(score),
        evidence=tuple(evidence[-EVIDENCE:]),
    )


def label(score: float) -> Label:
    """The score in words, as the dashboards show it."""
    if score >= 70:
        return "Alto"
    if score >= 40:
        return "Médio"
    return "Baixo" if score > 0 else "Nenhum"


def _stands(rule: Rule, standing: dict[str, Rule]) -> bool:
    """Adds a rule to those of its signal, in the place of any that say the opposite; False if it stood already."""
    if rule.name in standing:
        return False
    # All that stand say the same, so one of them tells.
    if any(other.takes_back != rule.takes_back for other in standing.values()):
        standing.clear()
    standing[rule.name] = rule
    return True
