"""The initial load into Kafka, beside Debezium's snapshot and a COPY … TO, and how late the stream is meanwhile.

The history is in the source when a contender begins; then messages are written at a steady rate until it is through.
Ours is not paced: in use `REPLICATOR_BACKFILL_ROWS_PER_SECOND` spares the source. A change's delay is from its commit,
as the event itself says, to the broker's taking it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson
import psycopg

from bench import appended, changes, path, steady, streams
from bench.changes import Written
from bench.journal import Step
from bench.measured import Measured, Part, Ratio, ratio
from bench.path import Ground, NotMeasured
from bench.peers import connect
from bench.peers.debezium import TABLES
from bench.streams import DEBEZIUM, OURS, Stream
from demo.servers import ServersUnavailable
from demo.stage import Stage
from replicator import topics
from replicator.config import load

ROWS: Final = 500_000
CONVERSATIONS: Final = 1_000
"""That are written to meanwhile."""
RATE: Final = 100
TENANTS, INBOXES = 3, 12
COPY: Final = "COPY … TO"
UNPACED: Final = "1000000000"
STREAM_AIM_MS: Final = 500
LOOK_SHARE: Final = 0.1
STILL_SECONDS: Final = 3.0


class Change(NamedTuple):
    """What an event says of its row."""

    is_read: bool
    committed_ms: int


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    stage = path.stage(ground, 100, 2)
    rows = ground.options.rows or ROWS
    changes.insert(stage.source_dsn, rows, tenants=TENANTS, inboxes=INBOXES)
    busy = changes.insert(stage.source_dsn, CONVERSATIONS * (1 + changes.MESSAGES), tenants=TENANTS, inboxes=INBOXES)
    notes, jars = [], None
    try:
        jars = connect.installed(ground.folder)
    except ServersUnavailable as error:
        notes.append(f"{DEBEZIUM} is left out: {error}")
    for step in ground.journal.steps(ground.rounds):
        suffix = step.name.replace(" ", "_")
        _copy(ground, stage, step)
        _load(ground, stage, _ours(ground, stage, f"ours_{suffix}"), busy, step)
        if jars is not None:
            peer = streams.Debezium(ground, jars, f"debezium_{suffix}", snapshot="initial")
            peer.take_slot()
            _load(ground, stage, peer, busy, step)
    measured = ground.journal.measured
    return Part(
        name="backfill",
        on=f"{rows:,} rows read into Kafka, {RATE} row changes/s meanwhile",
        measured=measured,
        ratios=[
            *ratio(measured, OURS, DEBEZIUM, 3),
            *ratio(measured, OURS, COPY),
            *(
                Ratio(what=f"{each.what}, ms", value=each.median, aim=STREAM_AIM_MS, at_most=True)
                for each in measured
                if each.what == _delay_of(OURS, "p99")
            ),
        ],
        notes=notes,
    )


def _ours(ground: Ground, stage: Stage, prefix: str) -> Stream:
    """With a slot and topics of its own, made beforehand so that the broker stamps what comes."""
    own = {
        "REPLICATOR_SLOT": prefix,
        "REPLICATOR_TOPIC_PREFIX": prefix,
        "REPLICATOR_BACKFILL_ROWS_PER_SECOND": UNPACED,
        "REPLICATOR_HEARTBEAT_S": "600",  # the topic is to fall silent
    }
    stream = streams.Ours(ground, stage, **own)
    settings = load(
        source_dsn=stage.replicator["REPLICATOR_SOURCE_DSN"],
        kafka_bootstrap_servers=ground.servers.kafka.bootstrap,
        topic_prefix=prefix,
    )
    topics.ensure(topics.kafka_base(settings), settings)
    appended.stamp_appends(ground.servers.kafka.bootstrap, *stream.topics)
    return stream


def _load(ground: Ground, stage: Stage, stream: Stream, busy: Written, step: Step) -> None:
    """From its start until the log falls silent. Raises NotMeasured."""
    kafka, expected = ground.servers.kafka.bootstrap, _rows(stage.source_dsn)

    def grown() -> int:
        return appended.grown({}, appended.ends(kafka, stream.topics))

    stream.service.start()
    with steady.Writer(stage.source_dsn, busy, rate=RATE, tenants=TENANTS, inboxes=INBOXES):
        path.wait(
            stream.service, lambda: stream.is_ready() and grown() >= expected, "the whole history", share=LOOK_SHARE
        )
    path.wait(stream.service, _is_still(grown), "silence")
    path.stop(stream.service)
    read: list[int] = []
    changed: list[tuple[int, int]] = []
    for message in appended.messages(kafka, {}, stream.topics):
        if (change := change_of(message.value(), message.headers())) is not None:
            at = appended.appended_ms(message)
            if change.is_read:
                read.append(at)
            else:
                changed.append((change.committed_ms, at))
    if len(read) < expected:
        raise NotMeasured(f"{stream.name}: {len(read):,} rows of {expected:,} were read")
    first, last = min(read), max(read)
    late = Measured(what="", unit="ms", values=tuple(at - begun for begun, at in changed if first <= begun <= last))
    speed = 1000 * len(read) / (last - first)
    step.add(stream.name, "rows/s", speed)
    for share, point in (("p50", 0.5), ("p99", 0.99)):
        step.add(_delay_of(stream.name, share), "ms", late.at(point))
    ground.say(f"{step.name}: {stream.name}, {speed:,.0f} rows/s, changes {late.at(0.99):,.0f} ms late (p99)")


def change_of(body: bytes | None, headers: Any) -> Change | None:
    """A row of the two tables as an event of ours or of Debezium's has it, with or without a schema; else None."""
    head = dict(headers or ())
    if body is None or ("op" in head and head.get("table") not in streams.TABLES):  # one of ours, of another table
        return None
    if b'"op":"r"' in body:  # parsing half a million of them would take longer than reading them
        return Change(True, 0)
    event = orjson.loads(body)
    return Change(False, event.get("payload", event)["source"]["ts_ms"])


def _is_still(grown: Callable[[], int]) -> Callable[[], bool]:
    """Whether nothing came for a while."""
    seen, since = grown(), time.monotonic()

    def is_still() -> bool:
        nonlocal seen, since
        if (now := grown()) != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > STILL_SECONDS

    return is_still


def _copy(ground: Ground, stage: Stage, step: Step) -> None:
    """Both tables, to nowhere."""
    began = time.perf_counter()
    with psycopg.connect(stage.source_dsn) as source:
        for table in TABLES:
            with source.cursor().copy(f"COPY {table} TO STDOUT") as copy:
                for _ in copy:
                    pass
    speed = _rows(stage.source_dsn) / (time.perf_counter() - began)
    step.add(COPY, "rows/s", speed)
    ground.say(f"{step.name}: {COPY}, {speed:,.0f} rows/s")


def _rows(dsn: str) -> int:
    counts = " + ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
    with psycopg.connect(dsn) as source:
        return int(path.one(source, f"SELECT {counts}"))


def _delay_of(name: str, share: str) -> str:
    return f"{name}, a change meanwhile, {share}"
