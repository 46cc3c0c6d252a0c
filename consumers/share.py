"""One tenant's part of a batch: what whoever applies it is given, and what has become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from consumers.lead_columns import LeadColumns
from consumers.ordering import Event
from consumers.parking import Reason
from consumers.target import Outcome
from consumers.watermark import Mark, Place
from replicator import KeysRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One tenant's part of a batch."""

    tenant: int
    events: Sequence[Event]
    leads: LeadColumns | None = None
    """How its lead columns are made."""


@dataclass(slots=True)
class Result:
    """What became of one tenant's events."""

    tenant: int
    marks: dict[Place, Mark] = field(default_factory=dict)
    """New watermarks that are committed."""
    upserts: int = 0
    deletes: int = 0
    incomplete: list[KeysRequest] = field(default_factory=list)
    bodiless: Counter[str] = field(default_factory=Counter)
    stubs: int = 0
    skipped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tableless: Counter[str] = field(default_factory=Counter)
    buried: Counter[str] = field(default_factory=Counter)
    """By table: events that became dead letters."""
    stuck: dict[int, int] = field(default_factory=dict)
    """By partition: the offset of the first event that is not applied."""
    reason: Reason | None = None
    overtaken: bool = False
    abandoned: bool = False

    def add(self, outcome: Outcome) -> None:
        self.upserts += outcome.upserts
        self.deletes += outcome.deletes
        self.incomplete.extend(outcome.incomplete)
        self.bodiless.update(outcome.bodiless)
        self.stubs += outcome.stubs
        self.skipped.update(outcome.skipped)
        self.tableless.update(outcome.tableless)
