"""`consumers compare`: equal under traffic; planted differences found, nothing else, and repaired from the source."""

from __future__ import annotations

from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.commands import answer, consumers, unlike
from tests.integration.damaged import DAMAGED_COLUMNS, columns, damage
from tests.integration.whole import Whole

TENANT, OTHER = 1, 2


def test_lag_is_no_difference_and_planted_ones_are_found_and_repaired(path: Whole) -> None:
    history = seed(path.source_dsn, tenants=2, inboxes_per_tenant=2, conversations=50, messages_per_conversation=3)
    path.map(history.inboxes)
    path.replicator()
    path.worker()
    path.wait_equal()
    busy, quiet = history.inboxes[TENANT]
    source = {"CONSUMERS_SOURCE_DSN": path.source_dsn}
    with Traffic(path.source_dsn, inboxes=[busy, *history.inboxes[OTHER]], seed=5, rate=40) as traffic:
        wait_until(lambda: traffic.counts.transactions > 40, "traffic", 30)
        found = answer(path, "compare", "--tenant", TENANT, **source)
        assert found["is_equal"]
        assert all(table["equal"] for table in found["tables"]), "every table has rows"
        damaged = damage(path.target, TENANT, quiet)
        found = answer(path, "compare", "--tenant", TENANT, "--inbox", quiet, "--repair", expect=1, **source)
        assert (unlike(found), columns(found)) == (damaged, DAMAGED_COLUMNS)
        assert not found["applied"]
        one = ("--tenant", TENANT, "--inbox", quiet, "--table", "messages", "--repair", "--apply")
        assert unlike(answer(path, "compare", *one, expect=1, **source)) == {"messages": damaged["messages"]}
        answer(path, "compare", "--tenant", TENANT, "--repair", "--apply", expect=1, **source)
    path.wait_equal()


def test_what_can_not_be_compared_is_refused_in_a_sentence(path: Whole) -> None:
    path.map({TENANT: [1]})
    assert "CONSUMERS_SOURCE_DSN: is missing" in consumers(path, "compare", "--tenant", TENANT, expect=2).stderr
    source = {"CONSUMERS_SOURCE_DSN": path.source_dsn}
    assert "there is no tenant 9" in consumers(path, "compare", "--tenant", 9, expect=1, **source).stderr
    away = {"CONSUMERS_SOURCE_DSN": "postgresql://u@127.0.0.1:1/none"}
    assert "the source says: " in consumers(path, "compare", "--tenant", TENANT, expect=1, **away).stderr
    assert "--apply goes with --repair" in consumers(path, "compare", "--tenant", TENANT, "--apply", expect=2).stderr
    strange = ("compare", "--tenant", TENANT, "--table", "users")
    assert "--table users" in consumers(path, *strange, expect=2, **source).stderr
