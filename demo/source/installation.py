"""Makes a fresh database look like Chatwoot's."""

from pathlib import Path

import psycopg

SCHEMA = Path(__file__).with_name("schema.sql")


def install(dsn: str) -> None:
    """Create Chatwoot's tables in the `public` schema of an empty database, all or nothing."""
    with psycopg.connect(dsn) as connection:
        connection.execute(SCHEMA.read_bytes())
