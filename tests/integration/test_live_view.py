"""The reading view over the whole path: setup takes the source's own expressions once the replicator has said them."""

from __future__ import annotations

from demo.source.seed import seed
from tests.integration.whole import Whole


def test_setup_takes_over_what_the_sources_view_computes_from_the_clock(
    path: Whole, kafka_bootstrap: str, topic_prefix: str
) -> None:
    """The source tells the days by a column that the shipped expressions do not use."""
    kafka = {"kafka_bootstrap_servers": kafka_bootstrap, "topic_prefix": topic_prefix}
    path.map(seed(path.source_dsn, conversations=60, messages_per_conversation=3).inboxes)
    path.replicator()
    path.worker()
    path.wait_equal()
    assert path.target.apply(**kafka) == ["replace view conversations_analytics_live"]
    defined = "SELECT pg_get_viewdef('conversations_analytics_live'::regclass)"
    assert "(r.conversation_date = (timezone('UTC'::text, now()))::date) AS is_today" in path.target.rows(defined)[0][0]
    plan = path.target.plan(**kafka)
    assert (plan.steps, plan.findings) == ((), ())
    assert path.is_equal()
