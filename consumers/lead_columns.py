"""A row of the analytics view → what the target's seven columns of lead signals hold for it.

Five say what the dashboards show; `lead_evidence` says why, as a list of {"rule", "message_id"}; `lead_rules_digest`
by which rules, so that rows of older ones can be found. What a tenant's setting says of where the five come from is
decided here. Pure: an event's body in, one JSON object out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from consumers.conversation_texts import texts
from consumers.lead_rules import Rule, RuleSet
from consumers.relation import LEAD_SIGNALS, MESSAGES
from consumers.signals import BANDS, Signals, evaluate, label

Origin = Literal["source", "rules", "external"]
"""Where a tenant's signals come from. None instead: each is the source's where it says something, else the rules'."""

FROM_SOURCE: Final = "source"
"""In the place of a digest: these are the source's own."""
GIVEN: Final = dict(zip(LEAD_SIGNALS, "lvcps", strict=True))
"""After a digest and an x: the letters of signals that are the source's own, where rules have made the others."""
LAST: Final = "xz"
"""What follows a digest comes before this."""
_ENGINE: Final = "1"
"""To be raised when the same rules and messages come to give another result."""
_UNKNOWN: Final[dict[str, object]] = dict.fromkeys(LEAD_SIGNALS)


@dataclass(frozen=True, slots=True)
class LeadColumns:
    """One tenant's way to its lead signals; any number of threads may share it."""

    origin: Origin | None
    rules: RuleSet
    digest: str
    """Of the rules."""

    def of(self, after: Mapping[str, Any], *, in_time: bool = True) -> bytes | None:
        """The columns of a row, as a JSON object; None: they stay as they are.

        `after`: the row of a change event, whose documents are JSON texts. Not `in_time`: what rules would say is
        unknown, and to be made later, for want of a digest.
        """
        if self.origin == "external":
            return None
        if self.origin == "source" or (self.origin is None and MESSAGES not in after):
            found = {name: after[name] for name in LEAD_SIGNALS if name in after}
            is_said = self.origin == "source" or any(value is not None for value in found.values())
            return _of_source(found) if found and is_said else None
        if MESSAGES not in after:
            return None
        given: dict[str, object] = {}
        if self.origin is None:
            given = {name: after[name] for name in LEAD_SIGNALS if after.get(name) is not None}
        if len(given) == len(LEAD_SIGNALS):
            return _of_source(given)
        if not in_time:
            mark = _mark("", given) or None
            return orjson.dumps({**_UNKNOWN, **given, "lead_evidence": None, "lead_rules_digest": mark})
        return self.derived(after[MESSAGES], given)

    def anew(self, document: str | None, mark: str | None, signals: Mapping[str, object]) -> bytes:
        """The columns of a row that stands with this `lead_rules_digest` and these signals."""
        letters = (mark or "").partition("x")[2] if self.origin is None else ""
        return self.derived(document, {name: signals[name] for name, letter in GIVEN.items() if letter in letters})

    def derived(self, document: str | None, given: Mapping[str, object]) -> bytes:
        """What the rules make of one `message_compiled`, where the source has not `given` it."""
        mark = _mark(self.digest, given)
        try:
            found = evaluate(texts(orjson.loads(document or b"null")), self.rules)
        except orjson.JSONDecodeError:  # nested a thousand deep: jsonb takes it
            return orjson.dumps({**_UNKNOWN, **given, "lead_evidence": None, "lead_rules_digest": mark})
        made: dict[str, object] = {
            "is_lead": found.is_lead,
            "visit_scheduled": found.visit_scheduled,
            "crm_converted": found.crm_converted,
            "ai_probability_label": found.label,
            "ai_probability_score": found.score,
        }
        evidence = [{"rule": rule, "message_id": message} for rule, message in found.evidence]
        notes = {"lead_evidence": evidence, "lead_rules_digest": mark}
        return orjson.dumps({**made, **_implied(given, found), **given, **notes})


def _of_source(found: Mapping[str, object]) -> bytes:
    return orjson.dumps({**_UNKNOWN, **found, "lead_evidence": None, "lead_rules_digest": FROM_SOURCE})


def _mark(digest: str, given: Collection[str]) -> str:
    letters = "".join(letter for name, letter in GIVEN.items() if name in given)
    return f"{digest}x{letters}" if letters else digest


def _implied(given: Mapping[str, object], found: Signals) -> dict[str, object]:
    """What follows from the source's own, whatever the rules say: no label contradicts its score."""
    implied: dict[str, object] = {}
    if any(str(given.get(name)).lower() == "true" for name in ("visit_scheduled", "crm_converted")):
        implied["is_lead"] = True
    if "ai_probability_score" in given:
        with suppress(ValueError):
            implied["ai_probability_label"] = label(float(str(given["ai_probability_score"])))
    elif (band := BANDS.get(str(given.get("ai_probability_label")))) is not None:
        implied["ai_probability_score"] = max(band[0], min(band[1], found.score))
    return implied


def digest(rules: Iterable[Rule]) -> str:
    """The same for the same rules in whatever order."""
    listed = sorted((rule.name, rule.signal, rule.speaker, rule.weight, rule.pattern) for rule in rules)
    return hashlib.sha256(orjson.dumps([_ENGINE, listed])).hexdigest()[:16]
