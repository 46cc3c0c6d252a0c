"""A finding: one thing about this installation, how grave it is, why, and what mends it.

Pure data, shared by the rules; the rules themselves stand in the modules `…_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    """How grave."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing has to be done."""
    WARNING = "warning"
    """It works, or is waited out; something may go wrong later."""
    REFUSAL = "refusal"
    """`replicator run` does not start."""


SOURCE_OWNER: Final = "source's owner"
KAFKA_OWNER: Final = "Kafka's owner"
OPERATOR: Final = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One judgement. `remedy` is the SQL or the setting, empty where there is nothing to do."""

    name: str
    severity: Severity
    subject: str
    reason: str
    remedy: str = ""
    whose: str = SOURCE_OWNER


def ok(name: str, subject: str, reason: str, *, whose: str = SOURCE_OWNER) -> Finding:
    return Finding(name=name, severity=Severity.OK, subject=subject, reason=reason, whose=whose)


def note(name: str, subject: str, reason: str, remedy: str = "", *, whose: str = SOURCE_OWNER) -> Finding:
    return Finding(name=name, severity=Severity.NOTE, subject=subject, reason=reason, remedy=remedy, whose=whose)


def warning(name: str, subject: str, reason: str, remedy: str, *, whose: str = SOURCE_OWNER) -> Finding:
    return Finding(name=name, severity=Severity.WARNING, subject=subject, reason=reason, remedy=remedy, whose=whose)


def refusal(name: str, subject: str, reason: str, remedy: str, *, whose: str = SOURCE_OWNER) -> Finding:
    return Finding(name=name, severity=Severity.REFUSAL, subject=subject, reason=reason, remedy=remedy, whose=whose)
