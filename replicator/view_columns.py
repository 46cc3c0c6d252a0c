"""The columns of the analytics view that dashboards read, by the kind of their values.

Pure data. The reference view of sql/source has exactly these, and after them the five of leads; another definition may
have more.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = {
    "smallint": "number",
    "integer": "number",
    "bigint": "number",
    "numeric": "number",
    "real": "number",
    "double precision": "number",
    "boolean": "truth",
    "text": "text",
    "character varying": "text",
    "character": "text",
    "timestamp without time zone": "time",
    "date": "date",
    "jsonb": "document",
    "json": "document",
    "uuid": "uuid",
}
"""By a type's name, without its length."""


def kind_of(type_name: str) -> str:
    """The kind of a type as format_type prints it; one that is of no kind is its own."""
    return KINDS.get(type_name.partition("(")[0], type_name)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLUMNS: Final = {
    "number": _names(
        "conversation_id display_id account_id status priority assignee_id team_id campaign_id contact_id "
        "inbox_id client_sender_id t_messages total_messages_public total_messages_private csat_response_id "
        "csat_rating first_response_time_seconds first_response_time_minutes resolution_time_seconds "
        "waiting_time_seconds priority_score user_messages_count contact_messages_count private_notes_count "
        "conversation_duration_seconds avg_time_between_messages_seconds avg_message_length max_message_length "
        "user_message_ratio contact_message_ratio conversation_year conversation_month conversation_day "
        "conversation_day_of_week conversation_hour conversation_minute conversation_week_of_year "
        "conversation_quarter days_since_creation"
    ),
    "truth": _names(
        "has_written_feedback has_detailed_feedback has_csat is_assigned has_team is_resolved is_open is_pending "
        "is_snoozed has_contact is_waiting has_priority is_high_priority is_from_campaign is_fast_response "
        "is_slow_response is_fast_resolution is_waiting_long contact_has_seen agent_has_seen has_user_messages "
        "has_contact_messages has_private_notes has_contact_reply is_short_conversation is_long_conversation "
        "has_human_intervention is_bot_resolved is_weekday is_weekend is_business_hours is_night_time is_today "
        "is_yesterday is_this_week is_this_month is_this_year"
    ),
    "text": _names(
        "contact_name contact_email contact_phone contact_identifier inbox_name inbox_channel_type inbox_timezone "
        "assignee_name assignee_email team_name account_name client_phone csat_feedback csat_nps_category "
        "csat_sentiment_category priority_label status_label_pt first_message_text last_message_text "
        "first_message_sender_type last_message_sender_type conversation_day_name conversation_month_name "
        "conversation_period conversation_date_formatted conversation_datetime_formatted conversation_year_month "
        "conversation_year_week"
    ),
    "time": _names(
        "snoozed_until conversation_created_at conversation_updated_at last_activity_at first_reply_created_at "
        "waiting_since contact_last_seen_at agent_last_seen_at mc_first_message_at mc_last_message_at "
        "csat_created_at"
    ),
    "date": _names("conversation_date"),
    "document": _names("message_compiled"),
    "uuid": _names("conversation_uuid"),
}
"""By kind."""

LEAD_SIGNALS: Final = {
    "is_lead": "boolean",
    "visit_scheduled": "boolean",
    "crm_converted": "boolean",
    "ai_probability_label": "character varying(50)",
    "ai_probability_score": "numeric",
}
"""What a view may have beside them, where the target derives them otherwise; with the types that ours gives them."""
