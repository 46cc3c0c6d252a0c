"""One column for every kind of PostgreSQL value, and the values that are known to get lost on the way.

`define` gives messages these columns, on either server; row n of `fill` holds the n-th value of each, by turns.
"""

from __future__ import annotations

from typing import Any

import psycopg

TYPES = """
    CREATE TYPE mood AS ENUM ('sad', 'O''K', 'très "bien"');
    CREATE DOMAIN whole AS integer CHECK (value > -10);
    CREATE DOMAIN words AS text;
    CREATE DOMAIN document AS json;
    CREATE DOMAIN binary_document AS jsonb;
    CREATE DOMAIN wholes AS integer[];
    CREATE TYPE pair AS (n integer, t text, d json, l text[]);
    CREATE DOMAIN checked_pair AS pair;
    CREATE TYPE spans AS RANGE (subtype = float8)
"""
WORDS = (
    *("''", "' '", "'NULL'", "'null'", r"'back\slash \n \u0041 \\'", "E'tab\\t line\\nfeed\\r\\b\\f'", "'\"quoted\"'"),
    *("'O''Brien'", "'{a,b}'", "'(1,2)'", "'\U0001f600 \u00e9\u2028\u200d'", "E'\\x01\\x1f\\x7f'", "'%s %% %(a)s'"),
    '\'{"a": "\\u0000"}\'',
)
FLOATS = ("'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0.1", "1e-37", "3.4028235e38")
MOMENTS = ("'infinity'", "'-infinity'", "'0044-03-15 BC'", "'1970-01-01'", "'9999-12-31 23:59:59.999999'")
DOCUMENTS = (
    *("""'{"a": 1, "a": 2}'""", """'  {"b" :\n[ 1,2 ] ,"a":null}  '""", "'null'", "'\"text\"'", "'1.10'", "'[]'"),
    """'"{\\"twice\\": \\"encoded\\"}"'""",
)
KINDS: dict[str, tuple[str, ...]] = {
    "smallint": ("-32768", "32767"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807", "9007199254740993"),
    "numeric": ("'NaN'", "'Infinity'", "'-Infinity'", "1.10", "0.000", f"{'9' * 60}.{'1' * 40}", "-1e-30"),
    "numeric(12,4)": ("'NaN'", "1.5"),
    "real": FLOATS,
    "double precision": (*FLOATS, "1.7976931348623157e308", "5e-324", "0.30000000000000004"),
    "money": ("-92233720368547758.08", "1234567.89"),
    "boolean": ("true", "false"),
    "text": (*WORDS, "repeat('long \" \\ é ', 100000)"),
    "character varying(20)": ("''", "'  spaces  '", "'éééééééééééééééééééé'"),
    "character(5)": ("''", "'a'", "' b'"),
    '"char"': ("'a'", "''", "'\\'"),
    "name": ("'a name'", "''"),
    "bytea": ("''", r"'\x00ff5c27'", "'plain'"),
    "date": ("'infinity'", "'-infinity'", "'0044-03-15 BC'", "'5874897-12-31'"),
    "timestamp": MOMENTS,
    "timestamp with time zone": (*MOMENTS, "'2024-02-29 23:59:59.123456-03'", "'0044-03-15 12:00:00+00 BC'"),
    "time": ("'24:00:00'", "'00:00:00.000001'"),
    "time with time zone": ("'23:59:59.5-03:30'",),
    "interval": ("'-1 year 2 mons -3 days 04:05:06.789'", "'0'", "'178000000 years'", "'-00:00:00.000001'"),
    "json": (*DOCUMENTS, """'{"nul": "\\u0000", "pair": "\\ud83d\\ude00"}'"""),
    "jsonb": DOCUMENTS,
    "xml": ("'<a b=\"1\"> é &amp; </a>'", "'two <b/> nodes'"),
    "uuid": ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",),
    "bit(5)": ("B'10101'",),
    "bit varying": ("B''", "B'0001'"),
    "inet": ("'192.168.0.1/24'", "'::1'", "'10.0.0.0'"),
    "cidr": ("'10.0.0.0/8'", "'2001:db8::/32'"),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "macaddr8": ("'08:00:2b:01:02:03:04:05'",),
    "point": ("'(1.5,-0)'", "'(Infinity,NaN)'"),
    "polygon": ("'((0,0),(1,1),(2,0))'",),
    "circle": ("'<(0,0),1>'",),
    "path": ("'[(0,0),(1,1)]'",),
    "tsvector": ("'a:1A \"quoted word\":2 ''it''''s'''",),
    "tsquery": ("'!a & (b | ''c d'')'",),
    "oid": ("4294967295",),
    "pg_lsn": ("'16/B374D848'",),
    "xid8": ("'18446744073709551615'",),
    "integer[]": ("'{}'", "'{1,NULL,3}'", "'{{1,2},{3,NULL}}'", "'[0:1]={1,2}'"),
    "text[]": ("'{}'", """'{"","NULL",NULL,"a,b","\\"q\\\\","{x}"}'""", """ARRAY[['a', NULL], ['"', E'\\n']]"""),
    "json[]": ("""ARRAY['{"a": 1, "a": 2}', 'null']::json[]""", "ARRAY[NULL]::json[]"),
    "bytea[]": (r"ARRAY['\x00'::bytea, NULL]",),
    "timestamp[]": ("ARRAY['infinity', '0044-03-15 BC']::timestamp[]",),
    "int4range": ("'empty'", "'(,5)'", "'[1,)'", "NULL"),
    "tstzrange": ("'[\"0044-03-15 00:00:00+00 BC\",infinity]'",),
    "numrange[]": ("ARRAY[numrange(1.10, NULL), 'empty']",),
    "int8multirange": ("'{}'", "'{[1,3),[5,9007199254740993)}'"),
    "spans": ("'[NaN,NaN]'", "'(-Infinity,0.1)'"),
    "mood": ("'sad'", "'O''K'", "'très \"bien\"'"),
    "mood[]": ("ARRAY['sad', NULL, 'très \"bien\"']::mood[]",),
    "whole": ("-9", "2147483647"),
    "whole[]": ("'{1,NULL}'",),
    "words": WORDS,
    "document": DOCUMENTS,
    "binary_document": DOCUMENTS,
    "wholes": ("'{}'", "'{{1},{NULL}}'"),
    "pair": ("""ROW(1, 'a,"b"\\', '{"a": 1, "a": 2}', ARRAY['x', NULL])""", "ROW(NULL, '', NULL, NULL)", "NULL"),
    "pair[]": ("""ARRAY[ROW(NULL, '"', 'null', '{}')::pair, NULL]""",),
    "checked_pair": ("ROW(1, 't', '[]', '{}')",),
}
ROWS = max(map(len, KINDS.values())) + 1


COLUMNS = {f"kind_{n}": kind for n, kind in enumerate(KINDS)}
"""Type by column."""


def define(connection: psycopg.Connection[Any]) -> None:
    """The types, and a column of messages for each kind."""
    connection.execute(TYPES)
    added = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in COLUMNS.items())
    connection.execute(f"ALTER TABLE messages {added}".encode())


def has_xml(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server was built with libxml; without it the type is there, but none of its values."""
    found = connection.execute("SELECT setting ~ 'with-libxml' FROM pg_config() WHERE name = 'CONFIGURE'").fetchone()
    return found == (True,)


def values(n: int, *, xml: bool) -> dict[str, str]:
    """Column → SQL of its value in row n. The last row is all NULL."""
    return {
        name: "NULL" if n == ROWS - 1 or (kind == "xml" and not xml) else f"({found[n % len(found)]})::{kind}"
        for (name, kind), found in zip(COLUMNS.items(), KINDS.values(), strict=True)
    }


def texts(connection: psycopg.Connection[Any]) -> dict[tuple[int, str], str | None]:
    """(message, kind) → the text that the server prints. Messages without a value of any kind are not there."""
    pairs = ", ".join(f"('{name}', {name}::text)" for name in COLUMNS)
    query = f"SELECT m.id, k.name, k.value FROM messages m CROSS JOIN LATERAL (VALUES {pairs}) AS k (name, value)"
    return {(row, COLUMNS[name]): text for row, name, text in connection.execute(query.encode())}
