"""What a new epoch is told of those before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from replicator.event import Run, Topics
from replicator.memory import Memory, Records
from replicator.progress import Batch
from replicator.takeover import _begin_epoch, ever_published


def memory(epoch: int, records: Records) -> Memory:
    unsent: Any = SimpleNamespace(send=lambda *_: None)
    return Memory(unsent, Topics("t"), Run(epoch, 1), records)


def begin(memory: Memory, *tables: str) -> None:
    present: Any = SimpleNamespace(
        system_id="", timeline=1, slot="", published={}, mode="polling", generation=1, slot_confirmed=0
    )
    _begin_epoch(memory, present, tables, 0, Batch())


def test_what_was_ever_published_is_known_to_every_later_epoch() -> None:
    """Be it since the epoch began; else partitions would be called complete where it stands still."""
    records = Records()
    assert ever_published(memory(1, records)) == set()
    begin(memory(1, records), "view")
    records["derived/messages"] = {"digest": "of a table that is polled from now on"}
    assert ever_published(memory(1, records)) == {"view", "messages"}
    begin(memory(2, records), "view")
    assert "derived/messages" not in records
    assert ever_published(memory(2, records)) == {"view", "messages"}
