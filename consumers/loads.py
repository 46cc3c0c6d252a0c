"""Rows and deletes in a session's staging tables, by load: one load is what one transaction is to read.

Those of several transactions can go in one message, before the first of them begins: each statement of a transaction
names its load, and reads no other. Nothing in the tables outlives the session, and what a transaction has left there is
of no more use. Never begins a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import orjson
from psycopg import Connection

from consumers import upsert
from consumers.forms import Forms, Schemas, Writing
from consumers.lead_columns import LeadColumns
from consumers.ordering import Rows, Step
from consumers.staging import pack, readable

_MOST_STAGED: Final = 5_000
_MOST_STAGED_BYTES: Final = 32 << 20
"""After so many rows, or bytes of them, the staging tables are emptied: deletes that were left are read over by every
statement (1 ms more for 5000, 15 ms for 20000), and each emptying writes to the catalogue and takes milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one transaction is to read, as it will be sent."""

    number: int
    forms: list[list[Writing]]
    """Of each step by number."""
    rows: list[bytes]
    """In pieces."""
    deletes: list[bytes]
    count: int
    """Rows and deletes."""


class Loads:
    """Of one session. Not for two threads at once."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._numbers = count(1)
        self._staged = self._staged_bytes = 0
        for statement in upsert.STAGING:
            connection.execute(statement.encode())

    @property
    def are_full(self) -> bool:
        """Whether it is time to `empty`."""
        return self._staged > _MOST_STAGED or self._staged_bytes > _MOST_STAGED_BYTES

    def empty(self) -> None:
        """No load is there any more."""
        self._connection.execute("TRUNCATE pg_temp.staged_rows, pg_temp.staged_deletes, pg_temp.orphans")
        self._staged = self._staged_bytes = 0

    def next_number(self) -> int:
        """Of a load that is staged by other means."""
        return next(self._numbers)

    def add(self, rows: int) -> None:
        """So many more were staged by other means."""
        self._staged += rows

    def pack(self, steps: Sequence[Step], forms: Forms, schemas: Schemas, leads: LeadColumns | None) -> Load:
        """Raises BadEvent."""
        load = self.next_number()
        found: list[list[Writing]] = []
        rows: list[bytes] = []
        deletes: list[bytes] = []
        for number, step in enumerate(steps):
            found.append([])
            if isinstance(step, Rows):
                found[-1] = pack(step, b"%d\t%d" % (load, number), forms, schemas, leads, rows)
                deletes.extend(
                    orjson.dumps(
                        {"l": load, "s": number, "r": table, "i": row, "n": inbox, "e": epoch, "p": point, "o": ordinal}
                    )
                    for table, gone in step.deletes.items()
                    if table in forms.relations
                    for row, inbox, (epoch, point, ordinal) in gone
                )
        pieces = list(readable(rows)) if rows else []
        return Load(number=load, forms=found, rows=pieces, deletes=deletes, count=len(rows) + len(deletes))

    def send(self, *loads: Load) -> None:
        """Raises psycopg.Error; then none is there."""
        rows = [piece for load in loads for piece in load.rows]
        deletes = [packed for load in loads for packed in load.deletes]
        self._staged += sum(load.count for load in loads)  # before: what fails half-way leaves dead rows behind
        self._staged_bytes += sum(map(len, rows)) + sum(map(len, deletes))
        if rows:
            with self._connection.cursor() as cursor, cursor.copy(upsert.STAGE_ROWS) as copy:
                for piece in rows:
                    copy.write(piece)
        if deletes:
            packed = b"".join((b"[", b",".join(deletes), b"]")).decode()
            self._connection.execute(upsert.STAGE_DELETES.encode(), {"rows": packed})
