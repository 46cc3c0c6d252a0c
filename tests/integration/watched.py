"""What the roles of all tenants see, looked at again and again in one snapshot together with the mapping."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Self

import psycopg

from demo.isolation import SEEN
from demo.servers import wait_until
from tests.integration.targets import Target


class Watch:
    """While it is entered a thread looks; what must never be seen stands in `wrong`.

    In each snapshot a tenant may see rows of the inboxes that the mapping gives it, active or not; of an inbox that is
    nobody's, one tenant at the most.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.looks = 0
        self.wrong: list[str] = []
        self.fault: BaseException | None = None

    def __enter__(self) -> Self:
        self._target.make_reader()
        self._thread.start()
        wait_until(lambda: self.looks > 0 or self.fault is not None, "the first look", 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _look_on(self) -> None:
        try:
            with self._target.connected() as connection:
                connection.execute("SET default_transaction_isolation = 'repeatable read'")
                while not self._ended.wait(0.03):
                    self._look(connection)
                    self.looks += 1
        except BaseException as error:
            self.fault = error

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        seen: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        with connection.transaction():
            owners = dict(connection.execute("SELECT inbox_id, tenant_id FROM inbox_tenant_mapping").fetchall())
            tenants = [tenant for (tenant,) in connection.execute("SELECT id FROM tenants").fetchall()]
            connection.execute(f"SET LOCAL ROLE {self._target.role('reader')}".encode())
            for tenant in tenants:
                connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
                for table, inbox in connection.execute(SEEN.encode()):
                    if inbox is not None:
                        seen[inbox][tenant].add(table)
        for inbox, by in seen.items():
            strangers = {t: sorted(tables) for t, tables in by.items() if t != owners.get(inbox, t)}
            if strangers or len(by) > 1:
                self.wrong.append(f"inbox {inbox}, owner {owners.get(inbox)}: {dict(by)}")
