"""How fast the stream gets from a slot into Kafka, beside the walsender's own limit.

Each contender reads the same WAL from a slot of its own, made before the rows were written, in turn. `pg_recvlogical`
throws away what it reads: no reader can be faster than what the server sends.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from confluent_kafka import Message

from bench import appended, changes, path
from bench.measured import Measured, Part, Ratio
from bench.path import NotMeasured, Say
from demo.programs import Program
from demo.servers import Servers
from demo.servers.guardian import GuardedFolder
from demo.stage import Stage
from replicator import Topics

ROWS: Final = 500_000
TENANTS, INBOXES = 3, 12
DRAIN_SECONDS: Final = 600.0
TABLES: Final = (b"conversations", b"messages")


def measure(servers: Servers, folder: GuardedFolder, options: argparse.Namespace, say: Say) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(servers, folder, 100, 2, say)
    ours = [_Ours(servers, folder, stage, number) for number in range(options.rounds)]
    bare = [f"bare_{number}" for number in range(options.rounds)]
    for each in ours:
        each.take_slot()
    with psycopg.connect(stage.source_dsn, autocommit=True) as source:
        for slot in bare:
            source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        rows = changes.insert(stage.source_dsn, options.rows or ROWS, tenants=TENANTS, inboxes=INBOXES)
        end = path.one(source, "SELECT pg_current_wal_flush_lsn()::text")
    say(f"{rows:,} row changes are in the WAL")
    rates: dict[str, list[float]] = {"pg_recvlogical": [], "replicator": []}
    cpu: dict[str, list[float]] = {"pg_recvlogical": [], "replicator": []}
    for number in range(options.rounds):
        seconds, spent = _receive(servers, folder, bare[number], end)
        rates["pg_recvlogical"].append(rows / seconds)
        cpu["pg_recvlogical"].append(1e6 * spent / rows)
        say(f"pg_recvlogical: {rows / seconds:,.0f} rows/s")
        found, spent = ours[number].drain(end, rows)
        rates["replicator"].append(found.rows / found.seconds)
        cpu["replicator"].append(1e6 * spent / rows)
        say(f"replicator: {found.rows / found.seconds:,.0f} rows/s, {spent:.1f} s of CPU")
    measured = [Measured(what=who, unit="rows/s", values=tuple(values)) for who, values in rates.items()]
    measured += [Measured(what=f"{who}, CPU", unit="µs/row", values=tuple(values)) for who, values in cpu.items()]
    return Part(
        name="reader",
        on=f"{rows:,} row changes, slot → Kafka acknowledged",
        measured=measured,
        ratios=[Ratio(what="replicator / pg_recvlogical", value=measured[1].median / measured[0].median, aim=0.6)],
    )


class _Ours:
    """One run's replicator, with a slot and topics of its own."""

    def __init__(self, servers: Servers, folder: GuardedFolder, stage: Stage, number: int) -> None:
        self._prefix = f"reader{number}"
        self._kafka, self._dsn, self._slot = servers.kafka.bootstrap, stage.source_dsn, self._prefix
        settings = {
            **stage.replicator,
            "REPLICATOR_TOPIC_PREFIX": self._prefix,
            "REPLICATOR_SLOT": self._slot,
            "REPLICATOR_VIEW": "",
        }
        self._program = Program(folder, self._prefix, ["replicator", "run"], settings)

    def take_slot(self) -> None:
        """Reads what there is so far, and leaves the slot where the rows will begin."""
        self._program.start()
        path.wait(self._program, self._is_loaded, "the initial load")
        self._stop()
        appended.stamp_appends(self._kafka, Topics(self._prefix).changes)

    def drain(self, end: str, rows: int) -> tuple[appended.Appended, float]:
        """What came to the topic, and the program's seconds of CPU, its start included."""
        topic = Topics(self._prefix).changes
        before = appended.ends(self._kafka, [topic])
        self._program.start()
        process = psutil.Process(self._program.pid)
        with psycopg.connect(self._dsn, autocommit=True) as source:
            path.wait(self._program, lambda: self._is_confirmed(source, end), "all is confirmed")
        spent = process.cpu_times()
        self._stop()
        found = appended.count(self._kafka, before, [topic], _is_streamed_row)
        if found.rows != rows:
            raise NotMeasured(f"{found.rows:,} of {rows:,} rows came to {topic}")
        return found, spent.user + spent.system

    def _is_loaded(self) -> bool:
        self._program.news()
        status = self._program.status()
        return bool(status.get("healthy")) and "backfills" in status and not status["backfills"]

    def _is_confirmed(self, source: psycopg.Connection[Any], end: str) -> bool:
        reached = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        return bool(path.one(source, reached, end, self._slot))

    def _stop(self) -> None:
        self._program.ask_to_stop()
        if fault := self._program.stopped():
            raise NotMeasured(fault)


def _is_streamed_row(message: Message) -> bool:
    head = dict(message.headers() or ())
    return head.get("table") in TABLES and head.get("op") in (b"c", b"u") and "snapshot" not in head


def _receive(servers: Servers, folder: GuardedFolder, slot: str, end: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    bin_dir = servers.source.bin_dir
    command: list[str | Path] = [
        (bin_dir or Path("/usr/bin")) / "pg_recvlogical",
        "--dbname",
        servers.source.dsn_of("chatwoot"),
        "--slot",
        slot,
        "--start",
        "--endpos",
        end,
        "--file",
        "/dev/null",
        "--option",
        "proto_version=1",
        "--option",
        "publication_names=inbox_replicator",
        "--option",
        "messages=true",
    ]
    began = time.monotonic()
    child = folder.spawn(command, log=folder.path / "pg_recvlogical.log")
    process, spent = psutil.Process(child.pid), 0.0
    while child.poll() is None:
        try:
            times = process.cpu_times()
            spent = times.user + times.system
        except psutil.Error:
            break
        time.sleep(0.02)
    if child.wait(DRAIN_SECONDS) != 0:
        raise NotMeasured((folder.path / "pg_recvlogical.log").read_text()[-500:])
    return time.monotonic() - began, spent
