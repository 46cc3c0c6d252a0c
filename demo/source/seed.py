"""Fills a fresh stand-in for Chatwoot with invented history, in bulk, by SQL that runs inside the server.

Every tenant is one account with its own inboxes, agents, teams and contacts. The proportions are those of a real
installation: half of the messages come from customers, some 37 % from agents, the rest from bots, the system and
templates; few conversations are long and most are short; a few e-mails are so long that PostgreSQL stores them out of
line. What is broken in real installations is broken here too: messages whose conversation is gone, conversations
whose contact is missing or NULL, contact_inboxes without an inbox. The same seed gives the same rows.
"""

from dataclasses import dataclass
from pathlib import Path

import psycopg

SQL = Path(__file__).with_name("seed.sql")
TABLES = ("accounts", "inboxes", "users", "teams", "contacts", "contact_inboxes", "conversations", "messages")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """What was written: the inboxes of each account, and the rows of each table."""

    inboxes: dict[int, tuple[int, ...]]
    rows: dict[str, int]


def seed(
    dsn: str,
    *,
    tenants: int = 3,
    inboxes_per_tenant: int = 2,
    conversations: int = 20_000,
    messages_per_conversation: int = 12,
    seed: int = 1,
) -> Seeded:
    """Write the history in one transaction; `conversations` in all, spread unevenly over the tenants.

    Account k (from 1) owns the inboxes (k - 1) * inboxes_per_tenant + 1 and following.
    """
    choices = {
        "tenants": tenants,
        "inboxes_per_tenant": inboxes_per_tenant,
        "conversations": conversations,
        "messages_per_conversation": messages_per_conversation,
        "seed": seed,
    }
    with psycopg.connect(dsn) as connection:
        for name, value in choices.items():
            connection.execute("SELECT set_config(%s, %s, true)", [f"seed.{name}", str(value)])
        connection.execute(SQL.read_bytes())
        rows = {table: _count(connection, table) for table in (*TABLES, "csat_survey_responses")}
        owners = connection.execute("SELECT account_id, id FROM inboxes ORDER BY id").fetchall()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")
    inboxes = {account: tuple(inbox for owner, inbox in owners if owner == account) for account, _ in owners}
    return Seeded(inboxes=inboxes, rows=rows)


def _count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])
