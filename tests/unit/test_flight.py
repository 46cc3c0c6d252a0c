"""How a batch is handed out to the threads that apply it."""

from __future__ import annotations

import pytest

from consumers.flight import together
from consumers.share import Share


@pytest.mark.parametrize(
    ("tenants", "most"), [(0, 0), (1, 1), (16, 1), (31, 1), (32, 2), (100, 6), (255, 15), (300, 16), (1000, 16)]
)
def test_tenants_go_together_only_where_every_thread_has_enough(tenants: int, most: int) -> None:
    shares = [Share(tenant=tenant, events=()) for tenant in range(tenants)]
    groups = list(together(shares))
    assert [share for group in groups for share in group] == shares
    assert max(map(len, groups), default=0) == most
    assert len(groups) >= min(tenants, 16)
