"""What is remembered of the state topic: small, and as it was written."""

from __future__ import annotations

from replicator.memory import Records


def test_a_record_is_as_the_next_run_will_read_it() -> None:
    records = Records()
    records["owed"] = {"start": (7,), "inboxes": [1]}
    records.keep("packed", b'{"lsn":5}')
    assert dict(records) == {"owed": {"start": [7], "inboxes": [1]}, "packed": {"lsn": 5}}
    assert "owed" in records
    assert records.get("nothing", {}) == {}
    assert records.pop("owed") == {"start": [7], "inboxes": [1]}
    assert list(records) == ["packed"]
