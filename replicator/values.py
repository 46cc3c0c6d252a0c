"""How a PostgreSQL value stands in an event, without a codec per type.

NULL, booleans and integers are JSON's own; every other value is PostgreSQL's own text as a JSON string: numeric,
timestamps, uuid, arrays, enums, infinity, BC dates, NaN, and json and jsonb too (as Debezium has them: otherwise SQL
NULL and JSON null are one, and `\\u0000` breaks the document). The target's input functions parse what the source's
output functions printed, so nothing is lost.

Relies on the pinned session settings below: they decide what PostgreSQL prints, in the stream and in a query alike.
Pure.
"""

from collections.abc import Callable
from typing import Final

PINNED_SETTINGS: Final[dict[str, str]] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
    "lc_monetary": "C",
}
"""Session settings under which text output is lossless and the same on every connection."""

JsonValue = str | int | bool | None
Converter = Callable[[bytes], JsonValue]

BOOL, INT8, INT2, INT4 = 16, 20, 21, 23  # pg_type.dat: OIDs of built-in types never change

_TEXT: Final[Converter] = bytes.decode
_NATIVE: Final[dict[int, Converter]] = {
    BOOL: {b"t": True, b"f": False}.__getitem__,
    INT2: int,
    INT4: int,
    INT8: int,
}

_BITS: Final[dict[int, int]] = {INT2: 15, INT4: 31, INT8: 63}

INTEGERS: Final = frozenset(_BITS)
"""Types whose values are numbers in an event."""
FIXED_WIDTH: Final = INTEGERS | {BOOL, 700, 701, 1082, 1083, 1114, 1184, 1186, 2950}
"""Of no more than 16 bytes: float4, float8, date, time, timestamp, timestamptz, interval and uuid too."""


def converter(type_oid: int) -> Converter:
    """What turns PostgreSQL's text (UTF-8 bytes) of a value of this type into its JSON value.

    The OID must be the column's own (pg_attribute.atttypid): a domain over integer is text here, in the stream, which
    names the domain, and in a query, whose row description would name the base type.
    """
    return _NATIVE.get(type_oid, _TEXT)


def is_value_of(type_oid: int, value: object) -> bool:
    """Whether `value` could come out of this type's converter. Not a test of what the type itself would refuse."""
    if type_oid == BOOL:
        return isinstance(value, bool)
    if type_oid in _BITS:
        return type(value) is int and -(1 << _BITS[type_oid]) <= value < 1 << _BITS[type_oid]
    return isinstance(value, str) and "\0" not in value


def startup_options() -> str:
    """The pinned settings as libpq's `options`, for sessions that cannot run SET (a walsender)."""
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in PINNED_SETTINGS.items())
