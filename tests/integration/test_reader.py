"""The replicator alone, on a real source and a real Kafka: what it publishes is what the source holds."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import psycopg
from confluent_kafka import Producer
from rich.console import Console

from demo.servers import wait_until
from replicator import BackfillRequest, KeysRequest, topics
from replicator.control import send
from replicator.event import Topics
from replicator.memory import read_memory
from replicator.status import gather, render
from tests.integration.chatwoot import Source, add_message, fill, wait_until_alike
from tests.integration.programs import RUN, settings_of, started
from tests.integration.replayed import Replayed


def test_the_initial_load_and_the_stream_give_the_source(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=300, messages=4)
    with started(RUN, environment | {"REPLICATOR_BACKFILL_CHUNK_ROWS": "50"}, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        add_message(source, 1, "live")
        source.execute("UPDATE messages SET content = 'edited' WHERE id % 7 = 0")
        source.execute("DELETE FROM messages WHERE id % 11 = 0")
        source.execute("UPDATE messages SET inbox_id = 1 + inbox_id % 6 WHERE id % 13 = 0")
        source.execute("UPDATE contact_inboxes SET inbox_id = nullif((id + 3) % 7, 0) WHERE id % 3 = 0")
        source.execute("UPDATE conversations SET id = id + 1000 WHERE id % 17 = 0")
        replayed.wait_for_end()
        wait_until_alike(replayed, source)
        source.execute("TRUNCATE messages")
        add_message(source, 1, "after everything")
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0


def test_an_idle_source_is_confirmed_so_that_it_keeps_no_wal(
    environment: dict[str, str], source: Source, tmp_path: Path
) -> None:
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        source.execute("CREATE TABLE elsewhere AS SELECT g FROM generate_series(1, 20000) g")
        ((written,),) = source.execute("SELECT pg_current_wal_lsn()").fetchall()

        def confirmed() -> bool:
            rows = source.execute(
                "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s",
                (written, environment["REPLICATOR_SLOT"]),
            ).fetchall()
            return bool(rows and rows[0][0])

        wait_until(confirmed, "the slot confirmed beyond what concerns us not", 20)
        assert replicator.stop() == 0


def test_columns_added_dropped_and_renamed_while_running_never_shift_a_value(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=6, messages=1)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        source.execute("ALTER TABLE messages ADD COLUMN mood text DEFAULT 'calm'")
        added = add_message(source, 1, "added")
        source.execute("ALTER TABLE messages DROP COLUMN sentiment")
        dropped = add_message(source, 1, "dropped")
        source.execute("ALTER TABLE messages RENAME COLUMN mood TO temper")
        renamed = add_message(source, 1, "renamed")
        replayed.wait_for("all rows", lambda: renamed in replayed.rows("messages"))
        # Not the folded rows: the backfill may have read a row again, under the columns of a later moment.
        streamed = {event.body["after"]["id"]: event.body["after"] for event in replayed.events if event.head.op == "c"}
        assert streamed[added]["mood"] == "calm"
        assert "sentiment" in streamed[added]
        assert streamed[dropped]["mood"] == "calm"
        assert "sentiment" not in streamed[dropped]
        assert streamed[renamed]["temper"] == "calm"
        assert "mood" not in streamed[renamed]
        assert [streamed[key]["content"] for key in (added, dropped, renamed)] == ["added", "dropped", "renamed"]
        # Every version that a row names was announced.
        announced = {line["version"] for line in replicator.logged("schema.announced")}
        assert {event.head.schema for event in replayed.events if event.head.schema} <= announced


def test_the_holder_of_the_slot_is_named_and_waited_for(
    environment: dict[str, str], source: Source, tmp_path: Path
) -> None:
    with started(RUN, environment, tmp_path / "first") as first:
        first.wait_healthy()
        with started(RUN, environment, tmp_path / "second") as second:
            wait_until(lambda: second.logged("run.ended"), "the second is refused", 30)
            ((pid,),) = source.execute(
                "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (environment["REPLICATOR_SLOT"],)
            ).fetchall()
            reason = second.logged("run.ended")[0]["reason"]
            assert f"the replication slot is held by PID {pid} ({environment['REPLICATOR_SLOT']}, " in reason
            assert first.stop() == 0
            second.wait_healthy()
            assert second.stop() == 0


def test_a_slot_is_not_made_while_a_transaction_hangs_and_the_wait_is_bounded(
    environment: dict[str, str], source_dsn: str, tmp_path: Path
) -> None:
    """Who looks, or wants it too, meanwhile is told so."""
    environment |= {"REPLICATOR_LOCK_TIMEOUT_S": "15"}
    settings = settings_of(environment)
    with psycopg.connect(source_dsn) as hanging:
        hanging.execute("CREATE TABLE hangs (a int)")
        with started(RUN, environment, tmp_path / "log") as replicator:
            wait_until(lambda: gather(settings, topics.kafka_base(settings)).get("slot"), "the slot is being made", 15)
            found = gather(settings, topics.kafka_base(settings))
            assert found["slot"]["confirmed_lsn"] is None
            shown = StringIO()
            Console(file=shown).print(render(found))
            assert "being made by PID" in shown.getvalue()
            with started(RUN, environment, tmp_path / "second") as second:
                wait_until(lambda: second.logged("run.ended"), "the second is told", 15)
                assert "is being made by PID" in second.logged("run.ended")[0]["reason"]
                assert second.stop() == 0
            wait_until(lambda: replicator.logged("run.ended"), "the run ended", 30)
            assert "stay open on the source" in replicator.logged("run.ended")[0]["reason"]
            hanging.rollback()
            replicator.wait_healthy()
            assert replicator.stop() == 0


POISON = [
    b"",
    b"[]",
    b'{"kind":"weather"}',
    b'{"kind":"keys","table":"messages","inbox":2,"keys":["12"]}',
    b'{"kind":"keys","table":"messages","inbox":2,"keys":[[1,2]]}',
    b'{"kind":"keys","table":"messages","inbox":2,"keys":[["1"],[true],[null],["s3cr3t"],[18446744073709551615]]}',
    b'{"kind":"keys","table":"nothing","inbox":2,"keys":[[1]]}',
    b'{"kind":"backfill","id":"of-nothing","tables":null,"inboxes":[],"keys":null,"known":""}',
    b'{"kind":"backfill","id":"of-digits","tables":null,"inboxes":"12","keys":null,"known":""}',
]


def test_a_request_that_means_nothing_is_refused_and_those_around_it_are_served(
    environment: dict[str, str], source: Source, replayed: Replayed, kafka_bootstrap: str, tmp_path: Path
) -> None:
    fill(source, conversations=6, messages=1)
    kafka, names = {"bootstrap.servers": kafka_bootstrap}, Topics(environment["REPLICATOR_TOPIC_PREFIX"])
    with started(RUN, environment, tmp_path / "log") as replicator:
        replayed.wait_for_end()
        ended = replicator.logged("run.ended")  # others' transactions on the server may have kept the slot waiting
        producer = Producer(kafka)
        for record in POISON:
            producer.produce(names.control, record)
        assert producer.flush(10) == 0
        send(kafka, names, KeysRequest(table="messages", inbox=2, keys=((1,), (4_711,))))
        send(kafka, names, BackfillRequest(id="good", tables=("inboxes",), inboxes=(3,)))
        replayed.wait_for_end("good")
        read_again = [event.head for event in replayed.events if event.head.is_read and event.head.table == "messages"]
        absent = [head.key for head in read_again if head.op == "d"]
        assert absent == [b"[4711]"], "a key that the table can't have is not gone from it"
        assert [head.key for head in read_again].count(b"[1]") == 2
        assert len(replicator.logged("control.refused")) == 5
        assert "backfills" in replicator.status()
        remembered = read_memory(kafka, names, 10).records
        assert "backfills" not in remembered["status"], "they have records of their own, and there may be many"
        assert sum(line["keys"] for line in replicator.logged("keys.refused")) == 1 + 5 + 1
        assert len(replicator.logged("backfill.refused")) == 1
        assert "s3cr3t" not in replicator.log.read_text()
        assert replicator.logged("run.ended") == ended
        wait_until_alike(replayed, source)
        assert replicator.stop() == 0


def test_a_large_transaction_needs_constant_memory(
    environment: dict[str, str], source: Source, replayed: Replayed, tmp_path: Path
) -> None:
    fill(source, conversations=6, messages=0)
    with started(RUN, environment, tmp_path / "log") as replicator:
        replicator.wait_healthy()
        # 200 MB of events in one transaction; the queue to Kafka holds 16 MB.
        source.execute(
            "INSERT INTO messages"
            " (account_id, inbox_id, conversation_id, message_type, content, created_at, updated_at)"
            " SELECT 1, 1 + g % 6, 1, 0, repeat('text ', 1200), now(), now() FROM generate_series(1, 30000) g"
        )
        wait_until(lambda: replicator.status().get("row_changes", 0) >= 30_000, "all rows", 90)
        # All of them are of one conversation: its row in the analytics view has 180 MB.
        wait_until(lambda: replicator.status().get("oversized"), "the conversation's row is published", 60)
        peak_kb = next(
            int(line.split()[1])
            for line in Path(f"/proc/{replicator.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        assert peak_kb < 160_000
