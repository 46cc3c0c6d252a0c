"""The demo succeeds only if everything was compared and is equal, and nothing else went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from demo.compare import Comparison
from demo.leads import Leads
from demo.verdict import NEVER_EMPTY, judge

TENANTS = (10, 20)
USUAL = Leads(
    tenant=10,
    conversations=5,
    empty=0,
    leads=3,
    visits=1,
    conversions=1,
    high=1,
    example="conversation 1: pergunta-preco (message 1)",
    zone="America/Sao_Paulo",
    late_hours=0,
    changed=0,
)
LEADS = [USUAL, replace(USUAL, tenant=20)]


def compared(table: str = "messages", **changes: Any) -> list[Comparison]:
    """Both tenants with all rows equal, but for the changes to one table of tenant 20."""
    usual: dict[str, Any] = {"equal": 5, "missing": 0, "extra": 0, "different": 0}
    return [
        Comparison(tenant=tenant, table=name, **{**usual, **(changes if (tenant, name) == (20, table) else {})})
        for tenant in TENANTS
        for name in NEVER_EMPTY
    ]


def test_all_equal_is_success() -> None:
    verdict = judge(compared(), LEADS, TENANTS, [])
    assert (verdict.exit_code, verdict.reasons) == (0, ())


@pytest.mark.parametrize("kind", ["missing", "extra", "different"])
def test_one_wrong_row_is_failure_and_is_named(kind: str) -> None:
    verdict = judge(compared(**{kind: 1}), LEADS, TENANTS, [])
    assert (verdict.exit_code, verdict.reasons) == (1, (f"messages of tenant 20: 1 {kind}",))


@pytest.mark.parametrize("table", NEVER_EMPTY)
def test_a_comparison_that_did_not_see_every_tenant_is_failure(table: str) -> None:
    unseen = [each for each in compared() if (each.tenant, each.table) != (20, table)]
    for results in ([], unseen, compared(table, equal=0)):
        verdict = judge(results, LEADS, TENANTS, [])
        assert verdict.exit_code == 1
        assert f"no row of {table} of tenant 20 was found equal" in verdict.reasons


def test_what_is_not_replicated_need_not_be_seen() -> None:
    seen = [each for each in compared() if each.table == "conversations_analytics"]
    assert judge(seen, LEADS, TENANTS, [], ["conversations_analytics"]).exit_code == 0
    assert judge(seen[1:], LEADS, TENANTS, [], ["conversations_analytics"]).exit_code == 1
    assert judge(seen, LEADS, TENANTS, []).exit_code == 1


def test_a_fault_is_failure_even_if_all_rows_are_equal() -> None:
    verdict = judge(compared(), LEADS, TENANTS, ["worker 2 ended unexpectedly with exit code 1"])
    assert (verdict.exit_code, verdict.reasons) == (1, ("worker 2 ended unexpectedly with exit code 1",))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"empty": 1}, "lead signals of tenant 20: 1 are empty"),
        ({"late_hours": 2}, "lead signals of tenant 20: 2 conversations have not the local hour of America/Sao_Paulo"),
        ({"changed": None}, "lead signals of tenant 20: they were not all made anew"),
        ({"changed": 3}, "lead signals of tenant 20: 3 are others when made anew"),
        ({"visits": 0}, "tenant 20 has no leads and visits"),
        ({"tenant": 30}, "tenant 20 has no leads and visits"),
    ],
)
def test_signals_that_are_missing_or_not_repeatable_are_failure(changes: dict[str, Any], reason: str) -> None:
    verdict = judge(compared(), [USUAL, replace(LEADS[1], **changes)], TENANTS, [])
    assert (verdict.exit_code, verdict.reasons) == (1, (reason,))
