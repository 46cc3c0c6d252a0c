"""What `replicator check` says of the analytics view itself, from facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.facts import ViewReading
from replicator.findings import Finding, Severity
from replicator.view_columns import COLUMNS, LEAD_SIGNALS
from replicator.view_rules import judge_view
from tests.unit.test_findings import SERVER, SETTINGS

TYPES = {
    "number": "bigint",
    "truth": "boolean",
    "text": "character varying(255)",
    "time": "timestamp without time zone",
    "date": "date",
    "document": "jsonb",
    "uuid": "uuid",
}
WHOLE = {column: TYPES[kind] for kind, columns in COLUMNS.items() for column in columns}
READY = ViewReading(columns={**WHOLE, **LEAD_SIGNALS}, surveyed_twice=0, one_read_ms=3.0)


def _found(view: ViewReading, time_zone: str = "UTC", *, records_leads: bool = True) -> list[Finding]:
    return list(judge_view(view, replace(SERVER, time_zone=time_zone), SETTINGS, records_leads=records_leads))


@pytest.mark.parametrize("records_leads", [True, False])
def test_nothing_is_promised_that_setup_does_not_add(records_leads: bool) -> None:
    told = _found(replace(READY, columns=WHOLE), records_leads=records_leads)
    (found,) = [each for each in told if "no is_lead" in each.reason]
    assert ("replicator setup adds" in found.reason) is records_leads


def test_a_view_with_all_columns_is_well() -> None:
    assert len(WHOLE) == 118
    whole, cost = _found(READY)
    assert (whole.severity, cost.severity) == (Severity.OK, Severity.NOTE)
    assert "118 columns" in whole.reason
    assert "3.0 ms" in cost.reason


@pytest.mark.parametrize(
    ("view", "zone", "severity", "says"),
    [
        (
            replace(READY, columns={n: t for n, t in READY.columns.items() if n != "is_open"}),
            "UTC",
            "warning",
            "is_open",
        ),
        (replace(READY, columns={**READY.columns, "status": "text"}), "UTC", "warning", "status (text)"),
        (replace(READY, columns=WHOLE), "UTC", "note", "has no is_lead, visit_scheduled"),
        (
            replace(READY, columns={n: t for n, t in READY.columns.items() if n != "crm_converted"}),
            "UTC",
            "note",
            "has no crm_converted: where it says nothing of a lead",
        ),
        (replace(READY, columns={**READY.columns, "is_lead": "text"}), "UTC", "warning", "is_lead (text)"),
        (
            replace(READY, columns={**READY.columns, "ai_probability_score": "character varying(9)"}),
            "UTC",
            "warning",
            "ai_probability_score (character varying(9))",
        ),
        (replace(READY, surveyed_twice=1_200), "UTC", "note", "1,200 conversations were surveyed more than once"),
        (READY, "America/Sao_Paulo", "note", "TimeZone America/Sao_Paulo"),
        (replace(READY, one_read_ms=900.0), "UTC", "warning", "900.0 ms"),
    ],
)
def test_what_is_otherwise_is_said(view: ViewReading, zone: str, severity: str, says: str) -> None:
    usual = _found(READY)
    (found,) = [each for each in _found(view, zone) if each not in usual]
    assert found.severity == severity
    assert says in found.reason
    assert bool(found.remedy) is (severity == "warning")


def test_an_empty_source_has_no_cost() -> None:
    (whole,) = _found(replace(READY, one_read_ms=None))
    assert whole.severity is Severity.OK
