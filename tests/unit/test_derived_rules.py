"""What `replicator check` says of derived relations, from facts alone."""

from __future__ import annotations

import pytest

from replicator.config import load
from replicator.derived_rules import judge_derived
from replicator.facts import DerivedFacts
from replicator.findings import Severity
from replicator.relations import ANALYTICS
from tests.unit.test_findings import READY

OWN = {"select": "SELECT id, inbox_id FROM conversations", "key": "id", "inbox": "inbox_id"}
SETTINGS = load(
    source_dsn="postgresql://nowhere", kafka_bootstrap_servers="nowhere:9092", derived={"ours": OWN}, _env_file=None
)


@pytest.mark.parametrize(
    ("relation", "setting"), [(ANALYTICS, "REPLICATOR_VIEW_PATHS"), ("ours", "REPLICATOR_DERIVED"), ("contacts", "")]
)
def test_a_path_that_is_missing_is_asked_for_where_it_can_be_given(relation: str, setting: str) -> None:
    (finding,) = judge_derived([DerivedFacts(name=relation, problem="no path from teams")], READY, SETTINGS)
    assert finding.severity is Severity.WARNING
    assert [each for each in ("REPLICATOR_VIEW_PATHS", "REPLICATOR_DERIVED") if each in finding.remedy] == [
        *([setting] if setting else [])
    ]
