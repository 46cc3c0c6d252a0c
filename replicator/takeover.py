"""The beginning of a run: take the slot, find out whether the history goes on, and say so to everybody first.

Order matters. The slot is held before the generation is drawn, so that no two runs can have the same. The state topic
hears of the run before any partition does, and every partition before the first event: what is written under a new
epoch makes all that is older a zombie's, so the next run must know of it, however this one ends. A new epoch's backfill
is remembered before the epoch is, so that a crash in between begins another one instead of losing the backfill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from replicator.backfill_job import BackfillJob, of_epoch
from replicator.config import Settings
from replicator.derivation import derived_ever
from replicator.errors import SourceBusy, SourceRefused
from replicator.event import GenerationMarker, Run, Topics
from replicator.history import Past, Present, Published, next_epoch, why_new_epoch
from replicator.lsn import format_lsn
from replicator.memory import Memory, Remembered, read_memory
from replicator.modes import Mode, Standing, quick_epochs
from replicator.outlet import Outlet
from replicator.pgoutput import Begin
from replicator.progress import Batch
from replicator.publisher import Publisher
from replicator.replication import Replication, SlotActive
from replicator.source import Source, SourceIdentity

log = structlog.get_logger(__name__)

KAFKA_SECONDS = 30.0
"""How long Kafka may take to give or take what a run begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """What a run holds."""

    identity: SourceIdentity
    published: Published
    outlet: Outlet
    memory: Memory
    remembered_until: int
    """Where the state topic ended when it was read."""
    confirmed: int
    """Where the slot stands."""
    born: int
    """Reads wait until a snapshot's xmin has reached this 64-bit transaction id."""
    last_commit: Begin | None
    """Of those that were read in this epoch."""


def take_over(
    settings: Settings,
    kafka: Mapping[str, Any],
    source: Source,
    replication: Replication,
    publisher: Publisher,
    tables: tuple[str, ...],
    watched: Collection[str],
    standing: Standing,
) -> Tenure:
    """`tables`: what a new epoch reads, in order. `watched`: the tables of which something is made (`Source.name_of`).

    Raises what `ACTIONS` knows; nothing is published before the slot is held.
    """
    identity = replication.identity()
    confirmed, is_new = _take_slot(source, replication)
    generation = source.emit("generation")
    # A commit that hung in synchronous replication while the slot was born is in neither stream nor snapshot.
    born = source.sample().snapshot.xmax
    remembered = read_memory(kafka, Topics(settings.topic_prefix), KAFKA_SECONDS)
    present = Present(
        system_id=identity.system_id,
        timeline=identity.timeline,
        slot=settings.slot,
        slot_is_new=is_new,
        published=source.published(),
        slot_confirmed=confirmed,
        generation=generation,
        mode=standing.mode,
    )
    beginning = _Beginning(settings, publisher, remembered, present, identity, tables, watched, standing)
    return beginning.begin(born, source, lambda: _still_held(source, replication))


def take_over_polling(
    settings: Settings,
    kafka: Mapping[str, Any],
    source: Source,
    publisher: Publisher,
    tables: tuple[str, ...],
    standing: Standing,
) -> Tenure:
    """As above, where the source is polled: once the pollers' lock is held. Raises SourceBusy if another holds it."""
    source.lock_polling()
    _let_slot_go(source)
    identity = source.identity()
    remembered = read_memory(kafka, Topics(settings.topic_prefix), KAFKA_SECONDS)
    known = remembered.records
    last = max(known.get("generation", {}).get("generation", 0), known.get("confirmed", {}).get("lsn", 0))
    present = Present(
        system_id=identity.system_id or known.get("epoch", {}).get("system_id", ""),
        timeline=identity.timeline,
        slot=settings.slot,
        slot_is_new=False,
        published={},
        slot_confirmed=0,
        # A standby takes no message: its own WAL can't be told from an earlier one by this.
        generation=last + 1 if source.in_recovery() else source.emit("generation"),
        mode=standing.mode,
    )
    beginning = _Beginning(settings, publisher, remembered, present, identity, tables, (), standing)
    return beginning.begin(0, source, source.refuse_unlocked)


def _let_slot_go(source: Source) -> None:
    """Nobody reads it while the source is polled, so it would keep WAL for ever. Raises SourceBusy if somebody does."""
    slot = source.slot()
    if slot is None:
        return
    if slot.active_pid is not None:
        raise SourceBusy(f"the replication slot is held by {_holder(source, slot.active_pid)}")
    try:
        source.drop_slot()
    except SourceRefused as error:
        name_left_behind(source, str(error))


def name_left_behind(source: Source, reason: str) -> None:
    """Our slot, which we may not drop."""
    remedy = f"SELECT pg_drop_replication_slot('{source.slot_name}');"
    log.warning("slot.left_behind", slot=source.slot_name, reason=reason, remedy=remedy)


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a run begins with, whatever it reads by."""

    settings: Settings
    publisher: Publisher
    remembered: Remembered
    present: Present
    identity: SourceIdentity
    tables: tuple[str, ...]
    watched: Collection[str]
    standing: Standing

    def begin(self, born: int, source: Source, still_held: Callable[[], None]) -> Tenure:
        """Says it to the state topic, then to every partition."""
        records, newest, end = self.remembered.records, self.remembered.newest, self.remembered.end
        present, topics = self.present, Topics(self.settings.topic_prefix)
        reason = why_new_epoch(_past(self.remembered), present, self.watched)
        run = Run(next_epoch(newest.epoch, int(time.time())) if reason else newest.epoch, present.generation)
        outlet = Outlet(self.publisher, topics, run, self.settings.partitions)
        memory = Memory(self.publisher, topics, run, records)
        batch = Batch()
        still_held()
        memory.write("generation", {"generation": present.generation}, batch)
        memory.write_again(self.remembered.overruled - {"generation"}, batch)
        memory.write("mode", self.standing.to_record(), batch)
        _name_former_slots(self.settings.slot, source, memory, batch)
        if reason:
            log.info("epoch.begins", epoch=run.epoch, reason=reason)
            _begin_epoch(memory, present, self.tables, born, batch)
        self.publisher.wait_for(batch, KAFKA_SECONDS)
        outlet.marker(GenerationMarker(), present.generation, batch)
        self.publisher.wait_for(batch, KAFKA_SECONDS)
        log.info(
            "run.begins",
            mode=present.mode,
            epoch=run.epoch,
            generation=format_lsn(present.generation),
            slot_at=format_lsn(present.slot_confirmed),
        )
        return Tenure(
            identity=self.identity,
            published=present.published,
            outlet=outlet,
            memory=memory,
            remembered_until=end,
            confirmed=present.slot_confirmed,
            born=records["epoch"]["born"],
            last_commit=Begin(*records["course"]["last_commit"]) if "course" in records else None,
        )


def _take_slot(source: Source, replication: Replication) -> tuple[int, bool]:
    """Where the slot stands, and whether it is new."""
    slot = source.slot()
    if slot is not None and slot.wal_status == "lost":
        log.warning("slot.lost")
        source.drop_slot()
        slot = None
    if slot is None:
        confirmed = source.create_slot()
        log.info("slot.created", slot_at=format_lsn(confirmed))
    elif slot.confirmed_lsn is None:
        raise SourceBusy(f"the replication slot is being made by {_holder(source, slot.active_pid)}")
    else:
        confirmed = slot.confirmed_lsn
    try:
        replication.start()
    except SlotActive as error:
        raise SourceBusy(f"the replication slot is held by {_holder(source, error.pid)}") from None
    if (held := source.slot()) is not None and held.confirmed_lsn is not None:
        confirmed = held.confirmed_lsn  # who held it before may have moved it since
    return confirmed, slot is None


def _holder(source: Source, pid: int | None) -> str:
    return source.holder(pid) if pid is not None else "another session"


def _still_held(source: Source, replication: Replication) -> None:
    """Who was frozen until the slot was another's must not begin what its successor does not know of."""
    slot = source.slot()
    if slot is not None and slot.active_pid == replication.pid:
        return
    if slot is not None and slot.active_pid is None:
        replication.read_to_end()  # nobody took it: the server has let go of it, and says why
    raise SourceBusy("the replication slot was lost while the run began")


def _name_former_slots(slot: str, source: Source, memory: Memory, batch: Batch) -> None:
    """Slots that were read under another setting: whoever forgets to drop one has its WAL kept for ever."""
    known = memory.records
    used = {*known.get("slots", {}).get("names", []), known.get("epoch", {}).get("slot", slot)} - {slot}
    found = source.slots(sorted(used))
    for name, active in found.items():
        if not active:
            remedy = f"SELECT pg_drop_replication_slot('{name}');"
            log.warning("slot.left_behind", slot=name, reason="nobody reads it, and it keeps WAL", remedy=remedy)
    memory.write("slots", {"names": [slot, *found]}, batch)


def _past(remembered: Remembered) -> Past | None:
    records = remembered.records
    epoch, generation, confirmed = records.get("epoch"), records.get("generation"), records.get("confirmed")
    course = records.get("course")
    if epoch is None or generation is None or confirmed is None:
        return None
    return Past(
        epoch=epoch["epoch"],
        begun=remembered.newest.epoch,
        system_id=epoch["system_id"],
        timeline=epoch["timeline"],
        slot=epoch["slot"],
        published=epoch["published"],
        generation=generation["generation"],
        confirmed=confirmed["lsn"],
        mode=epoch.get("mode", Mode.STREAM),
        hidden=len(remembered.hidden - {"status"}),
        last_commit=course["last_commit"][0] if course is not None else 0,
        went_back=course is not None and course["went_back"],
    )


def ever_published(memory: Memory) -> frozenset[str]:
    """Relations that were read when an epoch began, in whichever, or since the last one did."""
    return frozenset(memory.records.get("captured", {}).get("names", ())).union(derived_ever(memory))


def _begin_epoch(memory: Memory, present: Present, tables: tuple[str, ...], born: int, batch: Batch) -> None:
    """Older progress is void: everything is read again, and what is not found is swept."""
    ever = ever_published(memory)
    for kind in ("backfill/", "owed/", "dirty/", "derived/", "identity/", "digest/", "doubt/", "poll/", "course"):
        for key in memory.under(kind):
            memory.forget(key, batch)
    epoch, now_ms = memory.run.epoch, time.time_ns() // 1_000_000
    job = BackfillJob(
        id=of_epoch(epoch),
        tables=tables,
        inboxes=None,
        requested_ms=now_ms,
        is_complete=True,
    )
    memory.write(f"backfill/{job.id}", job.to_record(), batch)
    memory.write("captured", {"names": sorted({*ever, *tables})}, batch)
    fresh_ms = memory.records.get("confirmed", {}).get("fresh_ms", 0)
    upto = present.slot_confirmed if present.mode == Mode.STREAM else present.generation
    memory.write("confirmed", {"lsn": upto, "fresh_ms": fresh_ms}, batch)
    memory.write(
        "epoch",
        {
            "epoch": epoch,
            "system_id": present.system_id,
            "timeline": present.timeline,
            "slot": present.slot,
            "published": present.published,
            "born": born,
            "mode": present.mode,
            "begun_ms": now_ms,
            "quick": quick_epochs(memory.records.get("epoch", {}), Mode(present.mode), now_ms),
        },
        batch,
    )
