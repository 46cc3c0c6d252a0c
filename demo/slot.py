"""The loss of a replication slot, as an operator may bring it about: its reader is thrown out, the slot dropped."""

from __future__ import annotations

import time

import psycopg
from psycopg import errors

SECONDS = 20.0
PAUSE = 0.02  # seconds; the reader comes back within some tenths


def lose_slot(dsn: str, slot: str) -> None:
    """As superuser. Raises TimeoutError if the reader is quicker, again and again."""
    deadline = time.monotonic() + SECONDS
    with psycopg.connect(dsn, autocommit=True, application_name="operator") as connection:
        while time.monotonic() < deadline:
            held = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s"
            connection.execute(held, [slot])
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            except errors.ObjectInUse:  # the walsender has not ended yet
                time.sleep(PAUSE)
            else:
                return
    raise TimeoutError(f"the slot {slot} could not be dropped within {SECONDS:g} s")
