"""Judges how the source will be read: by its stream, or by polling until what is in the way is mended.

Pure: facts and settings in, findings out. What decides is the table of `modes`; a run asks it the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from replicator.config import Settings
from replicator.facts import SourceFacts
from replicator.findings import OPERATOR, Finding, Severity, note, ok
from replicator.modes import BY_WHY, Facts, Why, why_poll


def why_polled(facts: SourceFacts, settings: Settings, *, can_poll: bool) -> Why:
    """Why a run would poll; NONE: it would stream, or refuse to."""
    if settings.mode == "stream":
        return Why.NONE
    asked = Facts(
        setting=settings.mode,
        in_recovery=facts.server.in_recovery,
        may_replicate=facts.role.superuser or facts.role.replication,
        wal_level=facts.server.wal_level,
        budget_is_spent=False,
        slot_is_lost=facts.slot is not None and facts.slot.invalidated is not None,
        can_poll=lambda: can_poll,
    )
    return why_poll(asked)


def judge_mode(why: Why, settings: Settings) -> Finding:
    """How a run would read the source."""
    subject = f"REPLICATOR_MODE={settings.mode}"
    if why is Why.NONE:
        return ok("mode", subject, "the source is to be streamed", whose=OPERATOR)
    rule = BY_WHY[why]
    if why is Why.SETTING:
        return ok("mode", subject, "the source is polled; nothing is asked of its stream", whose=OPERATOR)
    return note("mode", subject, f"{rule.sentence}: the source is polled until {rule.back}", whose=OPERATOR)


def postponed(findings: Iterable[Finding]) -> list[Finding]:
    """What keeps the source from being read one way does not refuse a run that is to read it the other way."""
    return [
        replace(each, severity=Severity.WARNING) if each.severity is Severity.REFUSAL else each for each in findings
    ]
