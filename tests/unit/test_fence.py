"""Waiting until a tenant has what its source had at a moment, with a target that answers as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consumers import fence
from consumers.errors import Refused
from consumers.fence import Fence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEHIND, THERE = NOW - timedelta(seconds=1), NOW


def fenced(monkeypatch: pytest.MonkeyPatch, answers: Iterator[tuple[datetime, bool]]) -> Fence:
    """Of a tenant of which the target says so, one answer after another: how fresh, whether parked."""
    monkeypatch.setattr(fence, "_LOOK_S", 0.0)
    source = SimpleNamespace(rows=lambda _: [(NOW,)])
    target = SimpleNamespace(execute=lambda _: SimpleNamespace(fetchone=lambda: next(answers)))
    return Fence(cast(Any, source), cast(Any, target), 7, 30.0, lambda _: None)


def test_a_tenant_that_stands_aside_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fenced(monkeypatch, iter([(BEHIND, True), (BEHIND, True), (BEHIND, False), (THERE, False)]))
    made.wait()
    assert made.at == NOW


def test_a_tenant_that_stays_parked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "_PARKED_S", 0.01)

    def parked() -> Iterator[tuple[datetime, bool]]:
        while True:
            yield BEHIND, True

    with pytest.raises(Refused, match="is parked"):
        fenced(monkeypatch, parked()).wait()
