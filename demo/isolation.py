"""What each tenant's dashboard can see, looked at again and again beside everything else that happens.

One snapshot holds both: whose the inboxes are, and what the role of dashboards sees as each tenant. A tenant may see
rows of the inboxes that the mapping gives it, and no row of any other.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg

ROLE = "dashboard"
PAUSE = 0.05  # seconds between two looks
JOIN_SECONDS = 15.0
INBOX_OF = {
    "inboxes": "id",
    "conversations": "inbox_id",
    "messages": "inbox_id",
    "contact_inboxes": "inbox_id",
    "csat_survey_responses": "inbox_id",
    "conversations_analytics": "inbox_id",
}
SEEN = " UNION ".join(f"SELECT '{table}', {inbox}::bigint FROM {table}" for table, inbox in INBOX_OF.items())
SESSION = "-c default_transaction_isolation=repeatable\\ read -c statement_timeout=10s -c application_name=isolation"


class Isolation:
    """A thread that looks until `close`."""

    def __init__(self, target_dsn: str) -> None:
        """As superuser, who can become the dashboards' role."""
        self._target_dsn = target_dsn
        self._ended = threading.Event()
        self._died_of: Exception | None = None
        self._thread = threading.Thread(target=self._guarded, name="isolation", daemon=True)
        self.looks = 0
        self.wrong: list[str] = []
        """What must never be seen."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Raises what the thread died of."""
        self._ended.set()
        self._thread.join(JOIN_SECONDS)
        if self._died_of is not None:
            raise self._died_of

    def _guarded(self) -> None:
        try:
            with psycopg.connect(self._target_dsn, options=SESSION, autocommit=True, connect_timeout=5) as connection:
                while not self._ended.wait(PAUSE):
                    self._look(connection)
                    self.looks += 1
        except Exception as error:  # handed to whoever calls close()
            self._died_of = error

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            owners = dict(connection.execute("SELECT inbox_id, tenant_id FROM inbox_tenant_mapping").fetchall())
            tenants = [tenant for (tenant,) in connection.execute("SELECT id FROM tenants").fetchall()]
            connection.execute(f"SET LOCAL ROLE {ROLE}")
            for tenant in tenants:
                connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
                self.wrong += [
                    f"tenant {tenant} saw {table} of inbox {inbox}, which is tenant {owners.get(inbox, 'nobody')}'s"
                    for table, inbox in connection.execute(SEEN).fetchall()
                    if inbox is not None and owners.get(inbox) != tenant
                ]
