"""Whatever the source's schema and columns are called, their rows are read."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from tests.integration.chatwoot import Source, add_message, fill, wait_until_alike
from tests.integration.programs import RUN, make_topics, prepare_source, replicator_environment, started
from tests.integration.replayed import Replayed

SCHEMA = 'chat "100%s" (b)'
TASTES = {
    "select": 'SELECT c.id, c.inbox_id, c.id % 2 AS half, n.text FROM conversations c JOIN notes n ON n."c%s" = c."at%"'
    " WHERE n.text NOT LIKE '%gone%'",
    "key": "id",
    "inbox": "inbox_id",
}
"""A path to it looks up keys from a column with such a name, of a type with such a name."""


def test_percent_signs_and_quotes(
    source: Source, source_dsn: str, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    environment = replicator_environment(
        source_dsn, kafka_bootstrap, topic_prefix, source_schema=SCHEMA, derived=json.dumps({"tastes": TASTES})
    )
    source.execute(b'ALTER SCHEMA public RENAME TO "chat ""100%s"" (b)"')
    source.execute(b'SET search_path TO "chat ""100%s"" (b)"')
    source.execute(b'ALTER TABLE messages ADD COLUMN "discount_%" integer DEFAULT 5')
    source.execute(b'CREATE DOMAIN "%d" AS integer')
    source.execute(b'ALTER TABLE conversations ADD COLUMN "at%" integer, ADD COLUMN "a""b %s" text')
    source.execute(b'CREATE TABLE notes (id integer PRIMARY KEY, "c%s" "%d", text text)')
    fill(source, conversations=6, messages=1)
    source.execute(b'UPDATE conversations SET "at%" = id')
    source.execute(b"INSERT INTO notes SELECT id, id, 'old' FROM conversations")
    prepare_source(environment)
    make_topics(environment)
    with (
        closing(Replayed(kafka_bootstrap, topic_prefix)) as replayed,
        started(RUN, environment, tmp_path / "log") as replicator,
    ):
        replayed.wait_for_end()
        wait_until_alike(replayed, source)
        assert replayed.rows("messages")[1]["discount_%"] == 5
        assert [row["text"] for row in replayed.rows("tastes").values()] == ["old"] * 6
        add_message(source, 1, "after")
        source.execute(b"UPDATE notes SET text = 'new' WHERE id = 2")
        replayed.wait_for("the look-up's row", lambda: replayed.rows("tastes")[2]["text"] == "new")
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0
