"""The values of a setup plan: the statements that would be carried out, and what a person should know first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """What a finding means for the exit code and for --apply."""

    REFUSAL = "refusal"
    """Nothing is applied while it stands."""
    FINDING = "finding"
    """Applying is safe, but something is left for a person."""
    NOTE = "note"
    """To be known before applying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One statement that would be carried out, and the number of the file that it comes from, or 0."""

    version: int
    does: str
    sql: str
    """Empty: it is not the target that is asked."""
    asks_for: str = ""
    """The table whose rows the replicator is asked for, once everything before is committed."""
    makes_role: str = ""
    """The role that it creates: roles are the whole server's, so a setup of another database may be faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that setup will not change by itself."""

    severity: Severity
    says: str


Item = Step | Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps in the order in which they are carried out."""

    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity is severity)


def refusal(says: str) -> Finding:
    return Finding(severity=Severity.REFUSAL, says=says)


def finding(says: str) -> Finding:
    return Finding(severity=Severity.FINDING, says=says)


def note(says: str) -> Finding:
    return Finding(severity=Severity.NOTE, says=says)
