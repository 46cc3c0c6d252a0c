"""What the peers write to: a database with the source's two tables, their keys and the indexes that ours have.

Neither tenants nor foreign keys nor row-level security: the peers know none of them.
"""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

from bench.peers.debezium import TABLES
from demo.servers import Servers

INDEXED: Final = {"conversations": ("inbox_id", "contact_id"), "messages": ("inbox_id", "conversation_id")}
_COLUMNS: Final = """
SELECT string_agg(format('%%I %%s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""


def make(servers: Servers, name: str) -> str:
    """Its address, as superuser."""
    dsn = servers.target.create_database(name)
    with (
        psycopg.connect(servers.source.dsn_of("chatwoot"), autocommit=True) as source,
        psycopg.connect(dsn, autocommit=True) as target,
    ):
        for table in TABLES:
            ((columns,),) = source.execute(_COLUMNS, [table]).fetchall()
            target.execute(f"CREATE TABLE {table} ({columns}, PRIMARY KEY (id))")
            for column in INDEXED[table]:
                index = sql.SQL("CREATE INDEX ON {} ({})")
                target.execute(index.format(sql.Identifier(table), sql.Identifier(column)))
    return dsn
