"""Between a base event and the rows that are made of it: crashes lose nothing, and what nobody sees yet is not read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import pytest

from demo.servers import Servers, wait_until
from demo.source.installation import install
from demo.source.seed import seed
from tests.integration.chatwoot import Source, add_message, confirmed, connect
from tests.integration.derived_rows import expected, wait_until_derived
from tests.integration.programs import RUN, started
from tests.integration.replayed import Replayed
from tests.integration.test_settled import NOT_VISIBLE, hanging_commit

SOAK_KILLS = int(os.environ.get("SOAK_KILLS") or 20)


def kill_between(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, folder: Path, count: int, n: int
) -> None:
    """Kills as soon as a base event is in the log, or a little later: after so many more events."""
    print(f"seed {n}, {count} kills")
    random = Random(n)
    seed(source_dsn, conversations=60, messages_per_conversation=3)
    for attempt in range(count):
        with started(RUN, environment, folder / f"log{attempt}") as replicator:
            replicator.wait_healthy()
            message = add_message(source, 1 + attempt % 50, f"{attempt}")
            source.execute("UPDATE contacts SET name = name || '!' WHERE id = %s", (1 + attempt % 40,))
            source.execute("UPDATE inboxes SET name = name || '!' WHERE id = %s", (1 + attempt % 6,))
            source.execute("DELETE FROM csat_survey_responses WHERE id = %s", (1 + attempt,))
            replayed.wait_for("the base event", partial(replayed.events_of, "messages", message, "c"))
            wait_for_more(replayed, random.choice((0, 0, 1, 3, 10)))
            replicator.kill()
    with started(RUN, environment, folder / "last") as last:
        wait_until_derived(replayed, source)
        wait_until(lambda: not last.status().get("backfills", [1]), "nothing more to do", 30)
        assert last.stop() == 0


def wait_for_more(replayed: Replayed, events: int) -> None:
    until = len(replayed.events) + events
    replayed.wait_for("a little more", lambda: len(replayed.events) >= until)


def test_killed_between_a_base_event_and_its_derived_rows(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    kill_between(environment, source, source_dsn, replayed, tmp_path, count=3, n=1)


@pytest.mark.soak
@pytest.mark.timeout(180 + 30 * SOAK_KILLS)
def test_killed_many_times_between_a_base_event_and_its_derived_rows(
    environment: dict[str, str], source: Source, source_dsn: str, replayed: Replayed, tmp_path: Path
) -> None:
    given = os.environ.get("SOAK_SEED")
    n = int(given) if given else Random().randrange(1 << 31)
    kill_between(environment, source, source_dsn, replayed, tmp_path, count=SOAK_KILLS, n=n)


class TestUnsettled:
    """On a source whose commits hang in synchronous replication."""

    @pytest.fixture
    def source_dsn(self, own_servers: Callable[..., Servers]) -> str:
        settings = {"synchronous_standby_names": "nobody"}
        dsn: str = own_servers(kafka=False, postgres=("source",), settings=settings).source.dsn
        install(f"{dsn}?options=-csynchronous_commit%3Dlocal")
        seed(f"{dsn}?options=-csynchronous_commit%3Dlocal", conversations=30, messages_per_conversation=2)
        return dsn

    @pytest.fixture
    def source(self, source_dsn: str) -> Iterator[Source]:
        with closing(connect(source_dsn)) as connection:
            connection.execute("SET synchronous_commit = local")
            yield connection

    def test_a_commit_that_nobody_sees_yet_is_not_read_past(
        self,
        environment: dict[str, str],
        source_dsn: str,
        source: Source,
        replayed: Replayed,
        tmp_path: Path,
    ) -> None:
        slot = environment["REPLICATOR_SLOT"]
        with started(RUN, environment, tmp_path / "first") as first:
            replayed.wait_for_end()
            wait_until_derived(replayed, source)
            rename = b"UPDATE users SET name = 'Depois' WHERE id IN (SELECT assignee_id FROM conversations)"
            with hanging_commit(source_dsn, rename) as release:
                wait_until(lambda: NOT_VISIBLE in first.status().get("derived_waits_for", ""), "the read waits", 30)
                message = add_message(source, 1, "younger")
                replayed.wait_for("the base stream goes on", lambda: message in replayed.rows("messages"))
                names = {row["assignee_name"] for row in replayed.rows("conversations_analytics").values()}
                assert "Depois" not in names
                younger = replayed.events_of("messages", message, "c")[0].head.position.point
                heard = first.status()["at_ms"]
                wait_until(lambda: first.status().get("at_ms", 0) > heard + 4_000, "the slot had time to go on", 30)
                assert confirmed(source, slot) < younger, "the slot stands before what nobody sees"
                first.kill()
                with started(RUN, environment, tmp_path / "second") as second:
                    wait_until(lambda: NOT_VISIBLE in second.status().get("derived_waits_for", ""), "it waits", 30)
                    release()
                    wait_until_derived(replayed, source)
                    held_rows = expected(source, "conversations_analytics")
                    assert "Depois" in {row["assignee_name"] for row in held_rows.values()}
                    wait_until(lambda: confirmed(source, slot) > younger, "the slot goes on", 20)
                    assert second.stop() == 0
