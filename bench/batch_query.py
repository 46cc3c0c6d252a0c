"""The analytics view as the batch ETL reads it: whole rows, by their change time or by a list of keys."""

from __future__ import annotations

import time
from typing import Any, Final

import psycopg

from bench.path import NotMeasured
from demo.compare import VIEW

SESSION: Final = "-c jit=off -c TimeZone=UTC -c application_name=bench"


class BatchQuery:
    """One session on the source; values are fetched as text and thrown away."""

    def __init__(self, dsn: str) -> None:
        self._session = psycopg.connect(dsn, options=SESSION, autocommit=True)

    def close(self) -> None:
        self._session.close()

    def conversations(self) -> list[int]:
        """The ids of all that have an inbox."""
        found = self._session.execute("SELECT id FROM conversations WHERE inbox_id IS NOT NULL ORDER BY id").fetchall()
        return [number for (number,) in found]

    def by_keys(self, keys: list[int]) -> float:
        """Milliseconds."""
        return self._read("conversation_id = ANY (%s)", keys, len(keys))

    def by_time(self, changed: int) -> float:
        """Milliseconds for what was written after this many conversations ago."""
        row = self._session.execute(
            "SELECT updated_at FROM conversations ORDER BY updated_at DESC OFFSET %s LIMIT 1", [changed]
        ).fetchone()
        if row is None:
            raise NotMeasured(f"the source has no {changed} conversations")
        return self._read("conversation_updated_at > %s", row[0], None)

    def _read(self, condition: str, given: Any, expected: int | None) -> float:
        began = time.perf_counter()
        rows = self._session.execute(f"SELECT * FROM {VIEW} WHERE {condition}".encode(), [given]).fetchall()
        return timed(began, len(rows), expected)


def timed(began: float, rows: int, expected: int | None) -> float:
    """Milliseconds; a read that did not find its rows measures nothing. Two survey answers make two rows."""
    took = time.perf_counter() - began
    if rows < (expected or 1):
        raise NotMeasured(f"{rows} rows were read, {expected or 'some'} expected")
    return 1000 * took
