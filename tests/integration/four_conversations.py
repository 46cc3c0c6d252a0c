"""Four conversations made by hand, and what the analytics view says of them, column by column, written by hand too.

They are chosen so that each column has at least two values: an open one of a group chat in which everything happens, a
resolved one that only a bot and Chatwoot itself wrote in, a pending one of which all else is gone, and a long snoozed
one whose contact is gone.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from tests.integration.chatwoot import Source

GROUP, BOTS, BARE, LONG = 11, 12, 13, 14
LONG_MESSAGES = range(301, 322)

A_DAY: Final = datetime.fromisoformat("2025-01-01")


def insert(source: Source, table: str, **columns: Any) -> None:
    """A row; the times that nobody gave are a day in 2025."""
    values = {"created_at": A_DAY, "updated_at": A_DAY, **columns}
    marks = ", ".join(["%s"] * len(values))
    source.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})".encode(), list(values.values()))


def conversation(source: Source, number: int, **columns: Any) -> None:
    insert(
        source, "conversations", **{"id": number, "account_id": 1, "inbox_id": 5, "last_activity_at": A_DAY, **columns}
    )


def message(source: Source, number: int, conversation: int, at: str, **columns: Any) -> None:
    """A message of message_type 0 of nobody."""
    fixed = {"id": number, "conversation_id": conversation, "account_id": 1, "inbox_id": 5, "message_type": 0}
    insert(source, "messages", **{**fixed, "created_at": at, **columns})


def answer(source: Source, number: int, conversation: int, rating: int, **columns: Any) -> None:
    fixed = {"id": number, "conversation_id": conversation, "message_id": number, "account_id": 1, "contact_id": 51}
    insert(source, "csat_survey_responses", **{**fixed, "rating": rating, **columns})


def write(source: Source) -> None:
    """All four, with those concerned."""
    for account, name in ((1, "Escola Um"), (2, "Escola Dois"), (3, "Escola Que Se Foi")):
        insert(source, "accounts", id=account, name=name)
    source.execute("DELETE FROM accounts WHERE id = 3")
    whatsapp = {"channel_type": "Channel::Whatsapp", "timezone": "America/Sao_Paulo"}
    insert(source, "inboxes", id=5, channel_id=5, account_id=1, name="WhatsApp", **whatsapp)
    insert(source, "inboxes", id=6, channel_id=6, account_id=2, name="E-mail", channel_type="Channel::Email")
    insert(source, "users", id=21, uid="21", name="Agente Um", email="um@exemplo.invalid")
    insert(source, "users", id=22, uid="22", name="Agente Dois", email="dois@exemplo.invalid")
    insert(source, "teams", id=31, name="vendas", account_id=1)
    insert(source, "teams", id=32, name="suporte", account_id=2)
    ana = {"email": "ana@exemplo.invalid", "phone_number": "+550090000051", "identifier": "crm-51"}
    insert(source, "contacts", id=51, name="Ana Exemplo", account_id=1, **ana)
    insert(source, "contacts", id=52, name="Bia Exemplo", account_id=1, phone_number="+550090000052")
    insert(source, "contacts", id=53, name="Caio Exemplo", account_id=2)
    _write_group(source)
    _write_bots(source)
    bare = {"status": 2, "created_at": "2023-07-02 05:30:00", "updated_at": "2023-07-02 05:31:00"}
    conversation(source, BARE, account_id=3, inbox_id=7, uuid=UUID(int=13), **bare)
    _write_long(source)


def _write_group(source: Source) -> None:
    conversation(
        source,
        GROUP,
        uuid=UUID(int=11),
        status=0,
        priority=3,
        assignee_id=21,
        team_id=31,
        campaign_id=41,
        contact_id=51,
        created_at="2024-02-29 13:45:10.5",
        updated_at="2024-03-01 09:00:00",
        last_activity_at="2024-03-01 08:59:59.25",
        first_reply_created_at="2024-02-29 13:48:40.75",
        waiting_since="2024-03-01 08:00:00",
        contact_last_seen_at="2024-03-01 07:00:00",
        agent_last_seen_at="2024-03-01 08:30:00",
        custom_attributes=Jsonb(
            {"is_lead": True, "visit_scheduled": "true", "crm_converted": False, "ai_probability_score": 70}
        ),
    )
    agent = {"sender_type": "User", "sender_id": 21, "message_type": 1}
    bot = {"sender_type": "AgentBot", "sender_id": 1, "message_type": 1}
    # Not in the order of their ids, and two at the same moment.
    message(source, 205, GROUP, "2024-02-29 14:00:00", content="Avalie-nos", **bot)
    message(source, 204, GROUP, "2024-02-29 14:00:00", content="Obrigada", sender_type="Contact", sender_id=51)
    message(source, 203, GROUP, "2024-02-29 13:48:40.75", content="Olá, Ana!", **agent)
    message(source, 202, GROUP, "2024-02-29 13:45:10.5", content="Bom dia", sender_type="Contact", sender_id=52)
    message(source, 201, GROUP, "2024-02-29 13:46:00", content="liga depois", private=True, **agent)


def _write_bots(source: Source) -> None:
    conversation(
        source,
        BOTS,
        account_id=2,
        inbox_id=6,
        uuid=UUID(int=12),
        status=1,
        priority=0,
        assignee_id=22,
        team_id=32,
        contact_id=53,
        created_at="2022-01-01 23:59:59",
        updated_at="2022-01-02 23:59:58.5",
        first_reply_created_at="2022-01-02 01:10:00",
        custom_attributes=Jsonb(
            {"is_lead": "sim", "visit_scheduled": 1, "crm_converted": [True], "ai_probability_score": "100.1"}
        ),
    )
    message(source, 211, BOTS, "2022-01-01 23:59:59", content="Oi", sender_type="Captain::Assistant", message_type=1)
    message(source, 212, BOTS, "2022-01-02 00:00:00.9", content="Resolvida por automação", message_type=2)
    message(source, 213, BOTS, "2022-01-02 00:00:10", content=None, message_type=3)
    praise = "Muito bom: resolveram o meu problema em dois minutos."
    answer(source, 61, BOTS, 5, feedback_message=praise, created_at="2022-01-03 10:00:00")


def _write_long(source: Source) -> None:
    conversation(
        source,
        LONG,
        uuid=UUID(int=14),
        status=3,
        snoozed_until="2999-01-01 00:00:00",
        priority=1,
        contact_id=99,
        created_at="2023-10-10 20:15:00",
        updated_at="2023-10-11 00:00:00",
        custom_attributes=Jsonb(
            {
                "is_lead": "false",
                "visit_scheduled": False,
                "crm_converted": "true",
                "ai_probability_label": "Morno",
                "ai_probability_score": "12.50",
            }
        ),
    )
    for minute, number in enumerate(LONG_MESSAGES, 15):
        message(source, number, LONG, f"2023-10-10 20:{minute}:00", content="Oi", sender_type="Contact", sender_id=99)
    answer(source, 62, LONG, 3, feedback_message="  ", created_at="2023-10-12 08:00:00")


def _said(
    number: int, at: str, text: str | None, sender: str, kind: str | None, sender_id: int | None, type_: int
) -> dict[str, Any]:
    return {
        "message_id": number,
        "text": text,
        "sender": sender,
        "sender_type": kind,
        "sender_id": sender_id,
        "message_type": type_,
        "private": number == 201,
        "sent_at": at,
    }


GROUP_COMPILED: Final = [
    _said(202, "2024-02-29T13:45:10.5", "Bom dia", "contact", "Contact", 52, 0),
    _said(201, "2024-02-29T13:46:00", "liga depois", "agent", "User", 21, 1),
    _said(203, "2024-02-29T13:48:40.75", "Olá, Ana!", "agent", "User", 21, 1),
    _said(204, "2024-02-29T14:00:00", "Obrigada", "contact", "Contact", 51, 0),
    _said(205, "2024-02-29T14:00:00", "Avalie-nos", "bot", "AgentBot", 1, 1),
]
BOTS_COMPILED: Final = [
    _said(211, "2022-01-01T23:59:59", "Oi", "bot", "Captain::Assistant", None, 1),
    _said(212, "2022-01-02T00:00:00.9", "Resolvida por automação", "system", None, None, 2),
    _said(213, "2022-01-02T00:00:10", None, "system", None, None, 3),
]
LONG_COMPILED: Final = [
    _said(number, f"2023-10-10T20:{minute}:00", "Oi", "contact", "Contact", 99, 0)
    for minute, number in enumerate(LONG_MESSAGES, 15)
]

ts = datetime.fromisoformat
EXPECTED: Final[dict[str, tuple[Any, Any, Any, Any]]] = {
    # column: group, bots, bare, long
    "conversation_id": (11, 12, 13, 14),
    "display_id": (1, 1, 1, 2),
    "conversation_uuid": (UUID(int=11), UUID(int=12), UUID(int=13), UUID(int=14)),
    "account_id": (1, 2, 3, 1),
    "status": (0, 1, 2, 3),
    "priority": (3, 0, None, 1),
    "snoozed_until": (None, None, None, ts("2999-01-01")),
    "assignee_id": (21, 22, None, None),
    "team_id": (31, 32, None, None),
    "campaign_id": (41, None, None, None),
    "contact_id": (51, 53, None, 99),
    "inbox_id": (5, 6, 7, 5),
    "conversation_created_at": (
        *(
            ts("2024-02-29T13:45:10.500"),
            ts("2022-01-01T23:59:59"),
            ts("2023-07-02T05:30:00"),
            ts("2023-10-10T20:15:00"),
        ),
    ),
    "conversation_updated_at": (
        *(
            ts("2024-03-01T09:00:00"),
            ts("2022-01-02T23:59:58.500"),
            ts("2023-07-02T05:31:00"),
            ts("2023-10-11T00:00:00"),
        ),
    ),
    "last_activity_at": (ts("2024-03-01T08:59:59.250"), A_DAY, A_DAY, A_DAY),
    "first_reply_created_at": (ts("2024-02-29T13:48:40.750"), ts("2022-01-02T01:10:00"), None, None),
    "waiting_since": (ts("2024-03-01T08:00:00"), None, None, None),
    "contact_last_seen_at": (ts("2024-03-01T07:00:00"), None, None, None),
    "agent_last_seen_at": (ts("2024-03-01T08:30:00"), None, None, None),
    "contact_name": ("Ana Exemplo", "Caio Exemplo", None, None),
    "contact_email": ("ana@exemplo.invalid", None, None, None),
    "contact_phone": ("+550090000051", None, None, None),
    "contact_identifier": ("crm-51", None, None, None),
    "inbox_name": ("WhatsApp", "E-mail", None, "WhatsApp"),
    "inbox_channel_type": ("Channel::Whatsapp", "Channel::Email", None, "Channel::Whatsapp"),
    "inbox_timezone": ("America/Sao_Paulo", "UTC", None, "America/Sao_Paulo"),
    "assignee_name": ("Agente Um", "Agente Dois", None, None),
    "assignee_email": ("um@exemplo.invalid", "dois@exemplo.invalid", None, None),
    "team_name": ("vendas", "suporte", None, None),
    "account_name": ("Escola Um", "Escola Dois", None, "Escola Um"),
    "message_compiled": (GROUP_COMPILED, BOTS_COMPILED, [], LONG_COMPILED),
    "client_sender_id": (52, None, None, 99),
    "client_phone": ("+550090000052", None, None, None),
    "t_messages": (5, 3, 0, 21),
    "total_messages_public": (4, 3, 0, 21),
    "total_messages_private": (1, 0, 0, 0),
    "mc_first_message_at": (
        *(ts("2024-02-29T13:45:10.500"), ts("2022-01-01T23:59:59"), None, ts("2023-10-10T20:15:00")),
    ),
    "mc_last_message_at": (ts("2024-02-29T14:00:00"), ts("2022-01-02T00:00:10"), None, ts("2023-10-10T20:35:00")),
    "csat_response_id": (None, 61, None, 62),
    "csat_rating": (None, 5, None, 3),
    "csat_feedback": (None, "Muito bom: resolveram o meu problema em dois minutos.", None, "  "),
    "csat_created_at": (None, ts("2022-01-03T10:00:00"), None, ts("2023-10-12T08:00:00")),
    "csat_nps_category": (None, "Promoter", None, "Detractor"),
    "csat_sentiment_category": (None, "Positive", None, "Neutral"),
    "has_written_feedback": (False, True, False, False),
    "has_detailed_feedback": (False, True, False, False),
    "has_csat": (False, True, False, True),
    "first_response_time_seconds": (210, 4201, None, None),
    "first_response_time_minutes": (Decimal("3.50"), Decimal("70.02"), None, None),
    "resolution_time_seconds": (None, 86399, None, None),
    "is_assigned": (True, True, False, False),
    "has_team": (True, True, False, False),
    "is_resolved": (False, True, False, False),
    "is_open": (True, False, False, False),
    "is_pending": (False, False, True, False),
    "is_snoozed": (False, False, False, True),
    "has_contact": (True, True, False, True),
    "is_waiting": (True, False, False, False),
    "has_priority": (True, True, False, True),
    "is_high_priority": (True, False, False, False),
    "is_from_campaign": (True, False, False, False),
    "is_fast_response": (True, False, False, False),
    "is_slow_response": (False, True, False, False),
    "is_fast_resolution": (False, True, False, False),
    "is_waiting_long": (True, False, False, False),
    "contact_has_seen": (True, False, False, False),
    "agent_has_seen": (True, False, False, False),
    "priority_score": (4, 1, 0, 2),
    "priority_label": ("Urgent", "Low", "None", "Medium"),
    "status_label_pt": ("Aberta", "Resolvida", "Pendente", "Adiada"),
    "user_messages_count": (2, 0, 0, 0),
    "contact_messages_count": (2, 0, 0, 21),
    "private_notes_count": (1, 0, 0, 0),
    "first_message_text": ("Bom dia", "Oi", None, "Oi"),
    "last_message_text": ("Avalie-nos", None, None, "Oi"),
    "first_message_sender_type": ("Contact", "Captain::Assistant", None, "Contact"),
    "last_message_sender_type": ("AgentBot", None, None, "Contact"),
    "conversation_duration_seconds": (889, 11, None, 1200),
    "avg_time_between_messages_seconds": (Decimal("222.38"), Decimal("5.50"), None, Decimal("60.00")),
    "avg_message_length": (9, 13, None, 2),
    "max_message_length": (11, 23, None, 2),
    "has_user_messages": (True, False, False, False),
    "has_contact_messages": (True, False, False, True),
    "has_private_notes": (True, False, False, False),
    "has_contact_reply": (True, False, False, False),
    "is_short_conversation": (True, True, True, False),
    "is_long_conversation": (False, False, False, True),
    "user_message_ratio": (Decimal("0.5000"), None, None, Decimal("0.0000")),
    "contact_message_ratio": (Decimal("0.5000"), None, None, Decimal("1.0000")),
    "has_human_intervention": (True, False, False, False),
    "is_bot_resolved": (False, True, False, False),
    "conversation_date": (date(2024, 2, 29), date(2022, 1, 1), date(2023, 7, 2), date(2023, 10, 10)),
    "conversation_year": (2024, 2022, 2023, 2023),
    "conversation_month": (2, 1, 7, 10),
    "conversation_day": (29, 1, 2, 10),
    "conversation_day_of_week": (4, 6, 0, 2),
    "conversation_hour": (13, 23, 5, 20),
    "conversation_minute": (45, 59, 30, 15),
    "conversation_week_of_year": (9, 52, 26, 41),
    "conversation_quarter": (1, 1, 3, 4),
    "conversation_day_name": ("Thursday", "Saturday", "Sunday", "Tuesday"),
    "conversation_month_name": ("February", "January", "July", "October"),
    "conversation_period": ("Afternoon", "Night", "Night", "Evening"),
    "is_weekday": (True, False, False, True),
    "is_weekend": (False, True, True, False),
    "is_business_hours": (True, False, False, False),
    "is_night_time": (False, True, True, False),
    "conversation_date_formatted": ("29/02/2024", "01/01/2022", "02/07/2023", "10/10/2023"),
    "conversation_datetime_formatted": (
        *("29/02/2024 13:45", "01/01/2022 23:59", "02/07/2023 05:30", "10/10/2023 20:15"),
    ),
    "conversation_year_month": ("2024-02", "2022-01", "2023-07", "2023-10"),
    "conversation_year_week": ("2024-W09", "2021-W52", "2023-W26", "2023-W41"),
    "is_lead": (True, None, None, False),
    "visit_scheduled": (True, None, None, False),
    "crm_converted": (False, None, None, True),
    "ai_probability_label": ("Alto", None, None, "Morno"),
    "ai_probability_score": (Decimal(70), None, None, Decimal("12.50")),
}
"""By hand, but for the seven columns that say how long ago something was: those depend on the day of the test."""
