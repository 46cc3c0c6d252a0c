"""What is staged for a session's transactions does not pile up in its temporary tables."""

from __future__ import annotations

import pytest

from tests.integration.applied import Applied
from tests.integration.test_apply_rules import INBOX, TENANT, change


@pytest.fixture(autouse=True)
def _tenant(applied: Applied) -> None:
    applied.add_tenant(TENANT, [INBOX])


def staged(applied: Applied) -> tuple[int, int]:
    """Rows and their characters."""
    (found,) = applied.session.connection.execute(
        "SELECT count(*), coalesce(sum(length(doc::text)), 0)::bigint FROM pg_temp.staged_rows"
    ).fetchall()
    return found[0], found[1]


def test_small_rows_are_left_in_staging_by_the_thousands_at_most(applied: Applied) -> None:
    most = 0
    for batch in range(8):
        points = range(1 + batch * 1000, 1001 + batch * 1000)
        applied.apply(TENANT, [change("c", "messages", point, point) for point in points])
        most = max(most, staged(applied)[0])
    assert 1000 < most <= 6000, "emptied, but not for every transaction"


def test_large_rows_are_left_in_staging_by_the_megabytes_at_most(applied: Applied) -> None:
    megabyte, most = 1 << 20, 0
    for point in range(10_001, 10_041):
        applied.apply(TENANT, [change("u", "messages", 7, point, content="x" * megabyte)])
        most = max(most, staged(applied)[1])
    assert 2 * megabyte < most < 34 * megabyte


def test_plans_can_be_forgotten_again_and_again(applied: Applied) -> None:
    """The driver must forget its own list of prepared statements each time."""
    for point in range(1, 31):
        applied.apply(TENANT, [change("u", "messages", 7, 50_000 + point)])
        if point % 10 == 0:
            applied.session.use(applied.session.relations)
