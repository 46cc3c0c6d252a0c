"""A hot standby as the source: it can't be streamed, so it is polled, and nothing is written to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from demo.servers import Servers, wait_until
from demo.servers.postgres import LocalPostgres
from demo.source.installation import install
from replicator.source import PollSample
from replicator.source import Source as PolledSource
from tests.integration.chatwoot import add_message, connect, fill
from tests.integration.polled import FAST, wait_view
from tests.integration.programs import RUN, make_topics, prepare_source, replicator_environment, settings_of, started
from tests.integration.replayed import Replayed
from tests.integration.standby import Standby


def _sampled(source: PolledSource) -> PollSample:
    with source.reading():
        return source.poll_sample()


def test_a_standby_is_polled(
    own_servers: Callable[..., Servers], kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    primary = own_servers(kafka=False, postgres=("source",)).source
    if not isinstance(primary, LocalPostgres):
        pytest.skip("a standby is made of a local process")
    dsn = primary.create_database("chatwoot")
    install(dsn)
    environment = replicator_environment(dsn, kafka_bootstrap, topic_prefix, heartbeat_s=0.5)
    prepare_source(environment)
    make_topics(environment)
    standby = Standby(primary)
    reads = environment | FAST | {"REPLICATOR_SOURCE_DSN": standby.on(dsn), "REPLICATOR_MODE": "auto"}
    with (
        closing(connect(dsn)) as source,
        closing(Replayed(kafka_bootstrap, topic_prefix)) as replayed,
        started(RUN, reads, tmp_path / "log") as replicator,
    ):
        fill(source, conversations=30, messages=2)
        replicator.wait_healthy()
        wait_view(replayed, source)
        add_message(source, 1, "live")
        source.execute("UPDATE conversations SET updated_at = now(), status = 1 WHERE id = 2")
        source.execute("DELETE FROM conversations WHERE id = 3")
        wait_view(replayed, source)
        with source.transaction(), PolledSource(settings_of(reads)) as polled:
            source.execute("UPDATE conversations SET status = 2 WHERE id = 4")
            ((xid,),) = source.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
            with closing(connect(dsn)) as other:
                other.execute("UPDATE conversations SET status = 2 WHERE id = 5")  # its commit flushes all
            wait_until(lambda: _sampled(polled).next_xid > xid, "the open transaction's WAL is replayed", 60)
            assert _sampled(polled).snapshot.xmin <= xid, "and it has not ended"
        (chosen,) = replicator.logged("mode.chosen")
        assert chosen["why"] == "the source is a standby"
        assert replicator.stop() == 0
    with started(RUN, reads, tmp_path / "again") as replicator:
        replicator.wait_healthy()
        assert not replicator.logged("epoch.begins"), "the same standby, the same history"
        assert replicator.stop() == 0
