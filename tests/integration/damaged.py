"""Rows of a target damaged by hand, behind the workers' backs."""

from __future__ import annotations

from tests.integration.targets import Target

EXTRA = 900_000
"""A message that no source has."""
MADE = (
    "INSERT INTO messages (tenant_id, id, inbox_id, conversation_id, content, synced_at)"
    f" SELECT tenant_id, {EXTRA}, inbox_id, conversation_id, 'extra', now() FROM messages"
)


def damage(target: Target, tenant: int, inbox: int) -> dict[str, dict[str, list[int]]]:
    """Rows of one inbox deleted, changed and made; what must be found, and nothing else."""
    here, row = f"tenant_id = {tenant} AND inbox_id = {inbox}", f"tenant_id = {tenant} AND"
    messages = [i for (i,) in target.rows(f"SELECT id FROM messages WHERE {here} ORDER BY id LIMIT 3")]
    first, second = (i for (i,) in target.rows(f"SELECT id FROM conversations WHERE {here} ORDER BY id LIMIT 2"))
    for statement in (
        f"DELETE FROM messages WHERE {row} id = {messages[0]}",
        f"UPDATE messages SET content = 'damaged' WHERE {row} id = {messages[1]}",
        f"{MADE} WHERE {row} id = {messages[2]}",
        f"UPDATE conversations SET priority = 3, status = NULL WHERE {row} id = {first}",
        f"UPDATE conversations_analytics SET contact_name = 'damaged' WHERE {row} conversation_id = {first}",
        f"DELETE FROM conversations_analytics WHERE {row} conversation_id = {second}",
    ):
        target.execute(statement)
    return {
        "conversations": {"different": [first]},
        "messages": {"missing": [messages[0]], "extra": [EXTRA], "different": [messages[1]]},
        "conversations_analytics": {"missing": [second], "different": [first]},
    }


DAMAGED_COLUMNS = {
    "conversations": {"priority": 1, "status": 1},
    "messages": {"content": 1},
    "conversations_analytics": {"contact_name": 1},
}


def columns(found: dict[str, object]) -> dict[str, object]:
    """What a command says of columns, by table."""
    tables: list[dict[str, object]] = found["tables"]  # type: ignore[assignment]
    return {str(table["table"]): table["columns"] for table in tables if table["columns"]}
