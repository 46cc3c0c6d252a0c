"""The demo succeeds only if everything was compared and is equal, and nothing else went wrong."""

from __future__ import annotations

from typing import Any

import pytest

from demo.compare import Comparison
from demo.verdict import judge

TENANTS = (10, 20)


def compared(**changes: Any) -> list[Comparison]:
    """Both tenants with all rows equal, but for the changes to the messages of tenant 20."""
    usual: dict[str, Any] = {"tenant": 10, "table": "messages", "equal": 5, "missing": 0, "extra": 0, "different": 0}
    return [Comparison(**usual), Comparison(**{**usual, "tenant": 20, **changes})]


def test_all_equal_is_success() -> None:
    verdict = judge(compared(), TENANTS, [])
    assert (verdict.exit_code, verdict.reasons) == (0, ())


@pytest.mark.parametrize("kind", ["missing", "extra", "different"])
def test_one_wrong_row_is_failure_and_is_named(kind: str) -> None:
    verdict = judge(compared(**{kind: 1}), TENANTS, [])
    assert (verdict.exit_code, verdict.reasons) == (1, (f"messages of tenant 20: 1 {kind}",))


@pytest.mark.parametrize("results", [[], compared()[:1], compared(equal=0), compared(table="inboxes")])
def test_a_comparison_that_did_not_see_every_tenant_is_failure(results: list[Comparison]) -> None:
    verdict = judge(results, TENANTS, [])
    assert verdict.exit_code == 1
    assert "no message of tenant 20 was found equal" in verdict.reasons


def test_a_fault_is_failure_even_if_all_rows_are_equal() -> None:
    verdict = judge(compared(), TENANTS, ["worker 2 ended unexpectedly with exit code 1"])
    assert (verdict.exit_code, verdict.reasons) == (1, ("worker 2 ended unexpectedly with exit code 1",))
