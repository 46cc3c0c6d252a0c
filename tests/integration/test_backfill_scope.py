"""A backfill leaves out no row of its scope, and says of every key that was asked for where it is not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from replicator import BackfillRequest, KeysRequest, Topics
from replicator.control import send
from tests.integration.chatwoot import Source, fill, rows
from tests.integration.programs import RUN, started
from tests.integration.replayed import Replayed


def test_rows_with_null_in_a_column_that_they_are_read_by(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    fill(source, conversations=12, messages=1)
    source.execute("ALTER TABLE messages REPLICA IDENTITY FULL")
    source.execute("ALTER TABLE messages ALTER COLUMN conversation_id DROP NOT NULL")
    source.execute("UPDATE messages SET conversation_id = NULL WHERE inbox_id = 2")
    source.execute(
        "INSERT INTO messages SELECT (jsonb_populate_record(m, jsonb_build_object('id', 1000 + g))).*"
        " FROM messages m, generate_series(1, 5) g WHERE m.id = 1"
    )
    environment |= {"REPLICATOR_BACKFILL_CHUNK_ROWS": "2"}
    with started(RUN, environment, tmp_path / "log") as replicator:
        replayed.wait_for_end()
        request = BackfillRequest(id="again", tables=("messages",), inboxes=(2,))
        send({"bootstrap.servers": kafka_bootstrap}, Topics(topic_prefix), request)
        with closing(Replayed(kafka_bootstrap, topic_prefix, since="again")) as newcomer:
            newcomer.wait_for_end("again")
            held = {key: row for key, row in rows(source, "messages").items() if row["inbox_id"] == 2}
            assert len(held) > 2
            assert newcomer.rows("messages") == held
        assert replicator.stop() == 0


def test_a_row_that_belongs_to_no_inbox_is_gone_from_the_one_that_asks(
    environment: dict[str, str],
    source: Source,
    replayed: Replayed,
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    fill(source, conversations=7, messages=1)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replayed.wait_for_end()
        request = KeysRequest(table="contact_inboxes", inbox=3, keys=((7,),))
        send({"bootstrap.servers": kafka_bootstrap}, Topics(topic_prefix), request)
        replayed.wait_for("the absence", lambda: replayed.events_of("contact_inboxes", 7, "d"), seconds=20)
        (absence,) = replayed.events_of("contact_inboxes", 7, "d")
        assert (absence.inbox, absence.head.is_read) == (3, True)
        assert replicator.stop() == 0
