"""What is known of the batch ETL that this program replaces: its tables, and what its rows mean by a column.

Facts, and one question: whether a run of it is under way. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg

from consumers.catalogue import Catalogue
from consumers.identifiers import quoted
from consumers.live import ANALYTICS
from consumers.plan import Finding, refusal

TABLES: Final = ("tenants", "inbox_tenant_mapping", "etl_control", ANALYTICS)
"""What it writes and `consumers setup` adopts, parents first."""
LOG: Final = "etl_control"

ZONE: LiteralString = "(SELECT s.reset_val FROM pg_settings AS s WHERE s.name = 'TimeZone')"
"""Its own times (etl_…, started_at) are by the clock that the database sets for the tables' owner, without saying so;
only the conversations' are UTC."""

SILENT: Final = frozenset(
    {
        *("agent_last_seen_at", "agent_has_seen", "waiting_since", "is_waiting", "last_activity_at"),
        *("contact_name", "contact_email", "contact_phone", "contact_identifier", "client_phone"),
        *("inbox_name", "inbox_channel_type", "inbox_timezone", "account_name", "team_name"),
        *("assignee_id", "assignee_name", "assignee_email", "is_assigned", "team_id", "has_team"),
        *("campaign_id", "is_from_campaign"),
        *("csat_response_id", "csat_rating", "csat_feedback", "csat_created_at", "csat_nps_category"),
        *("csat_sentiment_category", "has_written_feedback", "has_detailed_feedback", "has_csat"),
        *("message_compiled", "client_sender_id", "t_messages", "total_messages_public", "total_messages_private"),
        *("mc_first_message_at", "mc_last_message_at", "user_messages_count", "contact_messages_count"),
        *("private_notes_count", "first_message_text", "last_message_text", "first_message_sender_type"),
        *("last_message_sender_type", "conversation_duration_seconds", "avg_time_between_messages_seconds"),
        *("avg_message_length", "max_message_length", "has_user_messages", "has_contact_messages"),
        *("has_private_notes", "has_contact_reply", "is_short_conversation", "is_long_conversation"),
        *("user_message_ratio", "contact_message_ratio", "has_human_intervention", "is_bot_resolved"),
    }
)
"""Columns that Chatwoot changes without touching the conversation's updated_at, by which alone the ETL finds rows."""

PICKS: Final = frozenset(
    {
        *("client_sender_id", "client_phone", "first_message_text", "last_message_text"),
        *("first_message_sender_type", "last_message_sender_type"),
    }
)
"""Picked from the messages by their time alone: of two of the same moment either may be the one."""

OTHERWISE: Final = {
    "conversation_day_of_week": "e.conversation_day_of_week = (o.conversation_day_of_week + 6) % 7",
    "conversation_period": "true",
    "user_message_ratio": (
        "abs(e.user_message_ratio - o.user_messages_count::numeric / NULLIF(o.t_messages, 0)) <= 0.01"
    ),
    "contact_message_ratio": (
        "abs(e.contact_message_ratio - o.contact_messages_count::numeric / NULLIF(o.t_messages, 0)) <= 0.01"
    ),
}
"""Columns that it computes itself, and when its row `e` says by its definition what ours, `o`, says by the view's: its
week begins with Monday as 0, its ratios are of all messages, its periods of the day have other names and hours."""


def about_running(connection: psycopg.Connection[Any], catalogue: Catalogue) -> Iterator[Finding]:
    """Whether it is at work in tables that are not ours yet. A run takes half an hour at the most."""
    adopted = catalogue.relations.get(ANALYTICS)
    log = catalogue.relations.get(LOG)
    asked = {"id", "status", "started_at", "triggered_by"}
    if adopted is None or adopted.forced or log is None or not log.is_ours:
        return
    if not asked <= catalogue.columns.get(LOG, {}).keys():
        return
    running = connection.execute(
        f"SELECT id FROM {quoted(catalogue.schema)}.{LOG} WHERE status = 'running'"
        " AND triggered_by IS DISTINCT FROM 'worker' AND started_at"
        f" > LEAST(now() AT TIME ZONE 'UTC', now() AT TIME ZONE {ZONE}) - interval '1 hour' ORDER BY id".encode()
    ).fetchall()
    if running:
        runs = ", ".join(str(run) for (run,) in running)
        yield refusal(
            f"the batch ETL is at work ({LOG}.id {runs}): stop its timer and wait for its end; if that run died,"
            f" UPDATE {LOG} SET status = 'error' WHERE id IN ({runs})"
        )
