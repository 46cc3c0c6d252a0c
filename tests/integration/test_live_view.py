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
    _tell_of_leads(path)
    plan = path.target.plan(**kafka)
    assert (plan.steps, plan.findings) == ((), ())
    assert path.is_equal()


def _tell_of_leads(path: Whole) -> None:
    """What the source records of a lead is shown; of all others the target finds it out itself."""
    conversation = "(SELECT max(id) FROM conversations)"
    path.source(
        'UPDATE conversations SET custom_attributes = \'{"crm_converted": true, "ai_probability_score": 40}\''
        f" WHERE id = {conversation}"
    )
    path.wait_equal()
    told = (
        "SELECT crm_converted, ai_probability_label, ai_probability_score, is_lead FROM conversations_analytics_live"
        " WHERE lead_rules_digest {} '%x%'"
    )
    ((*said, is_lead),) = path.target.rows(told.format("LIKE"))
    assert said == [True, "Médio", 40]
    assert is_lead is not None, "of this the source says nothing"
    derived = path.target.rows(told.format("NOT LIKE"))
    assert len(derived) > 30
    assert all(score is not None and is_lead is not None for _, _, score, is_lead in derived)
