"""`replicator run --verify`: the proof that the stream misses nothing, and that it would say so."""

from __future__ import annotations

import json
from pathlib import Path

from demo.servers import wait_until
from demo.source.seed import seed
from demo.source.traffic import Traffic
from tests.integration.chatwoot import Source
from tests.integration.derived_rows import wait_until_derived
from tests.integration.polled import polling, repaired, show
from tests.integration.programs import Program
from tests.integration.replayed import Replayed

QUICK = {"REPLICATOR_DIGEST_KEYS_PER_SECOND": "100000"}
NOTES = {"notes": {"select": "SELECT id, inbox_id, body FROM notes", "key": "id", "inbox": "inbox_id"}}


def passes(program: Program) -> int:
    """That every relation has had."""
    verified = program.status().get("verified", {})
    return min((each["passes"] for each in verified.values()), default=0) if len(verified) >= 3 else 0


def wait_passes(program: Program, more: int) -> None:
    before = passes(program)
    wait_until(lambda: passes(program) >= before + more, "some more passes", 120)


def test_under_traffic_nothing_is_repaired(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    """Wide changes are followed in the background, and are no fault of the stream."""
    seeded = seed(source_dsn, conversations=200, messages_per_conversation=3)
    inboxes = [inbox for own in seeded.inboxes.values() for inbox in own]
    settings = environment | QUICK | {"REPLICATOR_FAN_OUT_KEYS": "5", "REPLICATOR_FAN_OUT_KEYS_PER_SECOND": "20"}
    with polling(settings, tmp_path / "log", "--verify") as replicator:
        wait_passes(replicator, 1)
        with Traffic(source_dsn, inboxes=inboxes, rate=150, writers=2):
            source.execute("UPDATE inboxes SET name = name || '!'")
            source.execute("UPDATE accounts SET name = name || '!'")
            wait_passes(replicator, 2)
        wait_until_derived(replayed, source)
        wait_passes(replicator, 1)
        assert repaired(replicator) == {}, show(replicator)
        assert replicator.stop() == 0


def test_what_the_stream_can_not_see_is_found_repaired_and_counted(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    """A relation made of a table that is not in the publication, and that `setup` was not run for."""
    source.execute("CREATE TABLE notes (id bigint PRIMARY KEY, inbox_id bigint, body text)")
    source.execute("INSERT INTO notes SELECT g, 1 + g % 6, 'note ' || g FROM generate_series(1, 50) g")
    settings = environment | QUICK | {"REPLICATOR_DERIVED": json.dumps(NOTES)}
    with polling(settings, tmp_path / "log", "--verify") as replicator:
        replayed.wait_for("the notes", lambda: len(replayed.rows("notes")) == 50)
        wait_passes(replicator, 1)
        source.execute("UPDATE notes SET body = 'hidden' WHERE id = 7")
        source.execute("DELETE FROM notes WHERE id = 8")
        source.execute("UPDATE notes SET inbox_id = 1 + inbox_id % 6 WHERE id = 9")
        replayed.wait_for("they are repaired", lambda: replayed.rows("notes").get(7, {}).get("body") == "hidden")
        replayed.wait_for("also what is gone", lambda: len(replayed.rows("notes")) == 49)
        replayed.wait_for("and what has moved", lambda: replayed.events_of("notes", 9, "d"))
        wait_until(lambda: repaired(replicator) == {"notes": 3}, "it is counted", 60)
        assert replicator.stop() == 0
