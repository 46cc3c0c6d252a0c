"""Rights on the database itself, which may be another role's than the tables: PostgreSQL gives them to everybody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumers.plan import Severity
from tests.integration.targets import Target, target_of


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as prepared:
        yield prepared


def test_the_applier_can_connect_and_stage_where_not_everybody_can(target: Target) -> None:
    (database,) = target.rows("SELECT current_database()")[0]
    target.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')
    granted = f"grant connect, temporary on {database} to {target.role('applier')}"
    assert granted in target.apply()
    target.execute("CREATE TEMPORARY TABLE staged (id int)", what="applier")
    assert target.plan().steps == ()
    target.execute(f'REVOKE TEMPORARY ON DATABASE "{database}" FROM {target.role("applier")}')
    assert target.apply() == [granted]
    assert target.plan().of(Severity.FINDING) == ()


def test_what_only_the_databases_owner_can_grant_is_said(target: Target) -> None:
    target.apply()
    (database,) = target.rows("SELECT current_database()")[0]
    target.make_role("other")
    target.execute(
        f'ALTER DATABASE "{database}" OWNER TO {target.role("other")};'
        f' REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC'
    )
    assert target.apply() == []
    (found,) = target.plan().of(Severity.FINDING)
    assert "GRANT CONNECT, TEMPORARY ON DATABASE" in found.says
    assert target.role("applier") in found.says
    target.execute(f'GRANT TEMPORARY ON DATABASE "{database}" TO {target.role("applier")}')
    assert target.plan().of(Severity.FINDING) == ()


def test_a_copied_target_lacks_nothing(ready_target: Target) -> None:
    """What the other tests begin with is what setup makes."""
    assert ready_target.plan().steps == ()
