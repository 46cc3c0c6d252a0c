"""The rows of one step → lines of COPY's text format for the staging table, and the forms that they have.

(https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS). What cannot be sent, or read, is found
here, before a transaction begins. Does no I/O, and measures the time that lead signals take.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

import orjson

from consumers.errors import BadEvent
from consumers.forms import Forms, Schemas, Writing
from consumers.lead_columns import LeadColumns
from consumers.ordering import Rows, Upsert
from replicator import row_of

_ESCAPES: Final = ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"), (b"\t", b"\\t"))
"""What stands for itself nowhere in COPY's text format."""
_NULL: Final = b"\\N"
_NO_PARENT: Final = b"null"
_PIECE_BYTES: Final = 1 << 20
LEADS_S: Final = 2.0
"""For the lead signals of one step: a tenant's rules must not hold up the others'. What is left is made later, by the
recomputation."""


def pack(
    step: Rows,
    place: bytes,
    forms: Forms,
    schemas: Schemas,
    leads: LeadColumns | None,
    packed: list[bytes],
) -> list[Writing]:
    """Adds the lines to `packed`, whose forms are numbered, parents before children. Raises BadEvent.

    `place`: the first two columns. `leads`: how the tenant's lead columns are made; None: they stay as they are.
    """
    numbers: dict[tuple[str, str, bytes, bool, bool, bool], int] = {}
    found: list[Writing] = []
    for table in forms.order:
        led = leads if table in forms.led else None
        spent = 0.0
        for row in step.upserts.get(table, ()):
            lead = None
            doc = _row(table, row) if row.body else orjson.dumps({forms.relations[table].inbox or "": row.inbox})
            if led is not None and row.body:
                began = time.perf_counter()
                lead = _lead(table, doc, led, in_time=spent < LEADS_S)
                spent += time.perf_counter() - began
            kind = (table, row.schema, row.absent, row.is_lost, not row.body, lead is not None)
            index = numbers.get(kind)
            if index is None:
                index = numbers[kind] = len(found)
                found.append(forms.writing(table, row, schemas, with_leads=lead is not None))
            epoch, point, ordinal = row.position
            whole = b"f" if row.absent or row.is_lost else b"t"
            parents = [named[1] if (named := ids.search(doc)) else _NO_PARENT for ids in found[index].parents]
            packed.append(
                b"%b\t%d\t%d\t%d\t%d\t%d\t%b\t{%b}\t%b\t%b\n"
                % (
                    place,
                    index,
                    row.id,
                    epoch,
                    point,
                    ordinal,
                    whole,
                    _escaped(b",".join(parents)),
                    _escaped(doc),
                    _escaped(lead) if lead else _NULL,
                )
            )
    return found


def _escaped(text: bytes) -> bytes:
    for special, escaped in _ESCAPES:
        text = text.replace(special, escaped)
    return text


def _row(table: str, row: Upsert) -> bytes:
    try:
        return row_of(row.body)
    except ValueError:
        raise BadEvent(f"an event of {table} has no row") from None


def _lead(table: str, doc: bytes, leads: LeadColumns, *, in_time: bool) -> bytes | None:
    try:
        columns = orjson.loads(doc)
    except ValueError:
        raise BadEvent(f"an event of {table} has no row") from None
    return leads.of(columns, in_time=in_time)


def readable(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in pieces of about a mebibyte. Raises BadEvent for what PostgreSQL would refuse with a word on all."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if b"\0" in line:
            raise BadEvent("an event's body has a NUL byte")
        try:
            line.decode()  # one by one: an emoji makes four bytes of every character
        except UnicodeDecodeError:
            raise BadEvent("an event's body is not UTF-8") from None
        piece.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    yield b"".join(piece)
