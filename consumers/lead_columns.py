"""A row of the analytics view → what the target's seven columns of lead signals hold for it.

Five say what the dashboards show; `lead_evidence` says why, as a list of {"rule", "message_id"}; `lead_rules_digest`
by which rules, so that rows of older ones can be found. What a tenant's setting says of where the five come from is
decided here. Pure: an event's body in, one JSON object out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from consumers.conversation_texts import texts
from consumers.lead_rules import Rule, RuleSet
from consumers.signals import evaluate
from consumers.upsert import LEAD_COLUMNS, LEAD_SIGNALS, MESSAGES

Origin = Literal["source", "rules", "external"]
"""Where a tenant's signals come from. None instead: the source's where it has any, else by the rules."""

FROM_SOURCE: Final = "source"
"""In the place of a digest: these are the source's own."""
_ENGINE: Final = "1"
"""To be raised when the same rules and messages come to give another result."""
_UNKNOWN: Final[dict[str, object]] = dict.fromkeys(LEAD_SIGNALS)
_LATER: Final = orjson.dumps(dict.fromkeys(LEAD_COLUMNS))
"""Without a digest: a row that rules have still to be asked about."""


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
        unknown, and to be made later.
        """
        if self.origin == "external":
            return None
        if self.origin != "rules":
            given = {name: after[name] for name in LEAD_SIGNALS if name in after}
            if self.origin == "source" or any(value is not None for value in given.values()):
                notes = {"lead_evidence": None, "lead_rules_digest": FROM_SOURCE}
                return orjson.dumps({**_UNKNOWN, **given, **notes}) if given else None
        if MESSAGES not in after:
            return None
        return self.derived(after[MESSAGES]) if in_time else _LATER

    def derived(self, document: str | None) -> bytes:
        """What the rules make of one `message_compiled`."""
        try:
            found = evaluate(texts(orjson.loads(document or b"null")), self.rules)
        except orjson.JSONDecodeError:  # nested a thousand deep: jsonb takes it
            return orjson.dumps({**_UNKNOWN, "lead_evidence": None, "lead_rules_digest": self.digest})
        evidence = [{"rule": rule, "message_id": message} for rule, message in found.evidence]
        return orjson.dumps(
            {
                "is_lead": found.is_lead,
                "visit_scheduled": found.visit_scheduled,
                "crm_converted": found.crm_converted,
                "ai_probability_label": found.label,
                "ai_probability_score": found.score,
                "lead_evidence": evidence,
                "lead_rules_digest": self.digest,
            }
        )


def digest(rules: Iterable[Rule]) -> str:
    """The same for the same rules in whatever order."""
    listed = sorted((rule.name, rule.signal, rule.speaker, rule.weight, rule.pattern) for rule in rules)
    return hashlib.sha256(orjson.dumps([_ENGINE, listed])).hexdigest()[:16]
