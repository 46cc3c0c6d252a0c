"""The rows of one step → lines of COPY's text format for the staging table, and the forms that they have.

(https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS). What cannot be sent, or read, is found
here, before a transaction begins. Pure, but for the time that lead signals take.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from consumers.errors import BadEvent
from consumers.lead_columns import LeadColumns
from consumers.ordering import Rows, Upsert
from consumers.relation import Form, Relation, form, parents_first
from replicator import TableSchema, row_of

Schemas = Callable[[str, str], TableSchema]
"""(table, version) → its columns."""

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
    relations: Mapping[str, Relation],
    schemas: Schemas,
    leads: LeadColumns | None,
    packed: list[bytes],
) -> list[Form]:
    """Adds the lines to `packed`, whose forms are numbered, parents before children. Raises BadEvent.

    `place`: the first two columns. `leads`: how the tenant's lead columns are made; None: they stay as they are.
    """
    forms: dict[tuple[str, str, bytes, bool, bool, bool], int] = {}
    found: list[Form] = []
    naming: list[list[re.Pattern[bytes]]] = []
    for table in parents_first(relations):
        led = leads if relations[table].has_leads else None
        spent = 0.0
        for row in step.upserts.get(table, ()):
            lead = None
            if led is not None and row.body:
                began = time.perf_counter()
                lead = _lead(table, row, led, in_time=spent < LEADS_S)
                spent += time.perf_counter() - began
            kind = (table, row.schema, row.absent, row.is_lost, not row.body, lead is not None)
            index = forms.get(kind)
            if index is None:
                index = forms[kind] = len(found)
                found.append(_form(relations[table], row, schemas, with_leads=lead is not None))
                naming.append([_naming(column) for column, _ in found[-1].parents])
            epoch, point, ordinal = row.position
            whole = b"f" if row.absent or row.is_lost else b"t"
            doc = _row(table, row) if row.body else orjson.dumps({relations[table].inbox or "": row.inbox})
            parents = b",".join([named[1] if (named := names.search(doc)) else _NO_PARENT for names in naming[index]])
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
                    _escaped(parents),
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


def _naming(column: str) -> re.Pattern[bytes]:
    """Finds a column's value in a row: a number, alone or in a string, or null. What else there is the server refuses.

    A quote inside a string is escaped: what stands between two that are not, before a colon, is a column's name.
    """
    name = re.escape(orjson.dumps(column))  # looked at backwards too, and not only so: its first letters are found fast
    return re.compile(rb'%b(?<!\\%b)\s*:\s*"?([^",}\s]*)' % (name, name))


def _lead(table: str, row: Upsert, leads: LeadColumns, *, in_time: bool) -> bytes | None:
    try:
        columns = orjson.loads(_row(table, row))
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


def _form(relation: Relation, row: Upsert, schemas: Schemas, *, with_leads: bool) -> Form:
    schema = schemas(relation.name, row.schema)
    absent = _absent(relation, row)
    if not row.body:
        absent = [name for name, _ in schema.columns if name != relation.inbox]
    return form(relation, schema, absent, is_lost=row.is_lost, with_leads=with_leads)


def _absent(relation: Relation, row: Upsert) -> list[str]:
    try:
        absent: Any = orjson.loads(row.absent) if row.absent else []
    except ValueError:
        absent = None
    if not isinstance(absent, list) or not all(isinstance(name, str) for name in absent):
        raise BadEvent(f"an event of {relation.name} names its absent columns wrongly")
    return absent
