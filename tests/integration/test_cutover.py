"""The tour of docs/cutover.md: its own commands, in its order, against a database as the batch ETL keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import batch_etl
from tests.integration.batch_etl import ANALYTICS, LOCAL, ROLES
from tests.integration.targets import Target, target_of
from tests.integration.test_adoption import done, rows, seen

PAGE = Path(__file__).parents[2] / "docs" / "cutover.md"
COMMAND = re.compile(r"^    CONSUMERS_TARGET_SCHEMA=(\w+) consumers (.+)$", re.MULTILINE)
RUN = "run"
KEPT = f"SELECT conversation_id, {', '.join(LOCAL[5:])} FROM {ANALYTICS} ORDER BY 1"


@pytest.fixture
def etl(target_dsn: str) -> Iterator[Target]:
    with target_of(target_dsn) as target:
        batch_etl.make(target)
        batch_etl.fill(target)
        yield target


def work(target: Target, schema: str) -> None:
    """What workers bring about until the backfill has ended: every row came from the source just now."""
    target.execute(
        f"SET search_path = {schema}; UPDATE {ANALYTICS} SET synced_at = now(), source_epoch = 1;"
        " UPDATE inbox_tenant_mapping SET backfilled_at = now();"
        " INSERT INTO conversations (tenant_id, id, synced_at)"
        f" SELECT tenant_id, conversation_id, now() FROM {ANALYTICS}"
    )


@pytest.mark.timeout(300)
def test_the_tour(etl: Target) -> None:
    before, visible, kept = rows(etl), seen(etl, *ROLES), etl.rows(KEPT)
    told: list[tuple[str, str, str]] = []
    for schema, arguments in COMMAND.findall(PAGE.read_text(encoding="utf-8")):
        if arguments == RUN:
            work(etl, schema)
            told.append((schema, arguments, ""))
        else:
            said = done(etl, *arguments.split(), CONSUMERS_TARGET_SCHEMA=schema)
            told.append((schema, arguments, said))
        if schema == "replica":
            assert rows(etl) == before, "the ETL's own tables are as they were"
    assert [arguments.split()[0] for _, arguments, _ in told] == [
        *("adopt", "setup", "run", "adopt"),
        *("setup", "run", "rules", "adopt"),
    ]
    assert "every difference is explained" in told[3][2]
    assert etl.rows("SELECT lead_signals FROM tenant_settings ORDER BY tenant_id")[0] == (None,)
    assert seen(etl, *ROLES) == visible, "nobody sees more or less than at first"
    assert etl.rows(KEPT) == kept
    etl.execute(f"UPDATE {ANALYTICS} SET t_messages = 1", what="owner")
