"""What keeps one process from trying the stream again and again, and what it does about WAL that it keeps."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import mode_choice
from replicator.config import Settings, load
from replicator.errors import ModeChanged, SlotRests, SourceRefused
from replicator.mode_choice import ModeChoice
from replicator.modes import LONGEST_PAUSE_MS, Mode, Standing, Why
from replicator.runtime import Stop

SETTINGS = load(
    _env_file=None,
    source_dsn="postgresql://nowhere",
    kafka_bootstrap_servers="nowhere:1",
    stream_retry_s=10,
    wal_budget_bytes=1 << 20,
)
POLLED = Standing(mode=Mode.POLL, why=Why.RIGHT, since_ms=0, switches=1)


class Source:
    """One that can be streamed."""

    slot_name = "ours"

    def __init__(self) -> None:
        self.held: int | None = None
        """WAL that our slot keeps; None: there is none."""
        self.wal_status = "reserved"
        self.may_replicate = True
        self.is_active = False

    def slot(self) -> Any:
        if self.held is None:
            return None
        pid = 7 if self.is_active else None
        return SimpleNamespace(held_bytes=self.held, active_pid=pid, wal_status=self.wal_status)

    def drop_slot(self) -> None:
        if not self.may_replicate:
            raise SourceRefused("permission denied")
        if not self.is_active:
            self.held = None

    def may_stream(self) -> tuple[bool, bool, str]:
        return False, self.may_replicate, "logical"


class World:
    """A source, a state topic, and a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source, self.now_ms = Source(), 1_000_000
        self.records: dict[str, Any] = {}
        self.said: list[str] = []
        definitions = SimpleNamespace(available=("view",))
        monkeypatch.setattr(mode_choice, "Source", lambda settings: nullcontext(self.source))
        monkeypatch.setattr(mode_choice, "read_memory", self._read)
        monkeypatch.setattr(mode_choice, "read_definitions", lambda source, captured: definitions)
        monkeypatch.setattr(mode_choice.topics, "ensure", lambda kafka, settings: self.said.append("topics"))
        monkeypatch.setattr(mode_choice, "_now_ms", lambda: self.now_ms)
        monkeypatch.setattr(mode_choice, "LET_GO_S", 0.0)

    def _read(self, *_: Any) -> Any:
        self.said.append("memory")
        return SimpleNamespace(records=self.records)

    def is_now(self, standing: Standing, quick: int = 0) -> None:
        """What a run says that has begun; `quick`: how many epochs of the stream had done so in short time."""
        self.records |= {
            "mode": standing.to_record(),
            "epoch": {
                "mode": str(standing.mode),
                "slot": SETTINGS.slot,
                "begun_ms": self.now_ms if quick else 0,
                "quick": quick,
            },
        }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def choice(settings: Settings = SETTINGS) -> ModeChoice:
    return ModeChoice(settings, {}, Stop())


def test_the_topics_are_there_before_they_are_read(world: World) -> None:
    """The first run of all would wait for ever."""
    assert choice().choose().mode is Mode.STREAM
    assert world.said == ["topics", "memory"]


def test_a_return_that_fails_leaves_polling_for_longer_each_time(world: World) -> None:
    world.is_now(POLLED)
    chosen = choice()
    for pause_ms in (10_000, 20_000, 40_000):
        assert chosen.choose().mode is Mode.STREAM
        assert chosen.postpone()
        world.now_ms += pause_ms - 1
        assert chosen.choose() == POLLED
        chosen.leave_polling(POLLED, world.source)  # type: ignore[arg-type]
        assert not chosen.postpone(), "it was polling that failed then"
        world.now_ms += 1
        with pytest.raises(ModeChanged):
            chosen.leave_polling(POLLED, world.source)  # type: ignore[arg-type]


def test_a_stream_that_has_nothing_to_go_back_to_is_not_postponed(world: World) -> None:
    chosen = choice()
    chosen.choose()
    assert not chosen.postpone()
    world.is_now(Standing(mode=Mode.STREAM, since_ms=0, switches=2))
    world.source.held = 0
    chosen.choose()
    assert not chosen.postpone()
    assert chosen.choose().mode is Mode.STREAM


def test_a_budget_that_was_spent_once_is_spent_once(world: World) -> None:
    world.is_now(Standing(mode=Mode.STREAM, since_ms=0))
    world.source.held = SETTINGS.wal_budget_bytes + 1
    chosen = choice()
    fallen = chosen.choose()
    assert (fallen.mode, fallen.why, world.source.held) == (Mode.POLL, Why.WAL_BUDGET, None)
    assert chosen.choose().why is Why.WAL_BUDGET, "until a run has begun to poll"
    world.is_now(fallen)
    world.now_ms = fallen.not_before_ms
    back = chosen.choose()
    assert back.mode is Mode.STREAM
    world.is_now(back)
    world.source.held = 0
    assert chosen.choose() == back


def test_a_slot_that_may_not_be_dropped_or_is_held_keeps_nothing_from_going_on(world: World) -> None:
    world.is_now(POLLED)
    world.source.held, world.source.may_replicate = SETTINGS.wal_budget_bytes + 1, False
    assert choice().choose() == POLLED
    world.source.may_replicate = world.source.is_active = True
    chosen = choice()
    chosen.choose()
    assert not chosen.budget_is_spent, "another replicator holds it"


def test_a_slot_that_may_not_be_dropped_is_looked_at_while_the_source_is_polled(world: World) -> None:
    """It keeps WAL, and only its owner can end that."""
    world.source.may_replicate, world.source.held = False, 5
    chosen = choice(SETTINGS.model_copy(update={"mode": "poll"}))
    assert (chosen.choose().mode, chosen.held_bytes) == (Mode.POLL, 5)
    world.source.held = 7_000
    chosen.leave_polling(POLLED, world.source)  # type: ignore[arg-type]
    assert chosen.held_bytes == 7_000


@pytest.mark.parametrize("only_by_setting", [True, False])
def test_a_source_that_can_only_be_streamed_is_left_alone_for_longer_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch, only_by_setting: bool
) -> None:
    """Each new slot brings a backfill of everything."""
    world.is_now(Standing(mode=Mode.STREAM, since_ms=0))
    if not only_by_setting:
        monkeypatch.setattr(mode_choice, "read_definitions", lambda *_: SimpleNamespace(available=()))
    chosen = choice(SETTINGS.model_copy(update={"mode": "stream"}) if only_by_setting else SETTINGS)
    for pause_ms in (10_000, 20_000, 40_000):
        world.source.held = SETTINGS.wal_budget_bytes + 1
        with pytest.raises(SlotRests, match=f"a new one is made in {pause_ms // 1000} s"):
            chosen.choose()
        assert world.source.held is None, "the source's disk wins at once"
        world.now_ms += pause_ms - 1
        with pytest.raises(SlotRests):
            chosen.choose()
        world.now_ms += 1
        assert chosen.choose().mode is Mode.STREAM


@pytest.mark.parametrize("only_by_setting", [True, False])
@pytest.mark.parametrize("lost", ["gone", "lost"])
def test_a_slot_that_is_lost_again_and_again_is_not_made_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, only_by_setting: bool, lost: str
) -> None:
    """Also by a process that has just started: the epoch's record says how many there were."""
    if not only_by_setting:
        monkeypatch.setattr(mode_choice, "read_definitions", lambda *_: SimpleNamespace(available=()))
    settings = SETTINGS.model_copy(update={"mode": "stream"}) if only_by_setting else SETTINGS
    if lost == "lost":
        world.source.held, world.source.wal_status = 0, "lost"
    for quick, pause_ms in ((0, 0), (1, 10_000), (2, 20_000), (9, 2_560_000)):
        world.is_now(Standing(mode=Mode.STREAM, since_ms=0), quick)
        if pause_ms:
            with pytest.raises(SlotRests, match=f"was lost; a new one is made in {pause_ms // 1000} s"):
                choice(settings).choose()
        world.now_ms += pause_ms
        assert choice(settings).choose().mode is Mode.STREAM
    world.is_now(Standing(mode=Mode.STREAM, since_ms=0), 9)
    world.now_ms -= LONGEST_PAUSE_MS
    assert choice(settings).choose().mode is Mode.STREAM, "the clock was ahead when the epoch began"
    world.now_ms += LONGEST_PAUSE_MS
    world.source.held, world.source.wal_status = 0, "reserved"
    assert choice(settings).choose().mode is Mode.STREAM, "a slot that is there keeps nothing waiting"


def test_a_stream_that_ran_and_ended_is_no_failed_return(world: World) -> None:
    world.is_now(POLLED)
    chosen = choice()
    assert chosen.choose().mode is Mode.STREAM
    assert chosen.postpone()
    world.now_ms += 10_000
    assert chosen.choose().mode is Mode.STREAM
    chosen.note_begun()
    assert not chosen.postpone()
    assert chosen.choose().mode is Mode.STREAM, "it did not say so before it failed: it is tried again"
    assert chosen.postpone()
    world.now_ms += 10_000
    assert chosen.choose().mode is Mode.STREAM, "and begins to count anew"


def test_polling_that_begins_ends_no_row_of_failed_returns(world: World) -> None:
    world.is_now(POLLED)
    chosen = choice()
    for pause_ms in (10_000, 20_000):
        assert chosen.choose().mode is Mode.STREAM
        assert chosen.postpone()
        world.now_ms += pause_ms - 1
        assert chosen.choose() == POLLED
        chosen.note_begun()
        world.now_ms += 1


def test_a_budget_that_was_spent_says_nothing_of_the_next_slot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be polled at that time; now something can be."""
    world.is_now(Standing(mode=Mode.STREAM, since_ms=0))
    monkeypatch.setattr(mode_choice, "read_definitions", lambda *_: SimpleNamespace(available=()))
    chosen = choice()
    world.source.held = SETTINGS.wal_budget_bytes + 1
    with pytest.raises(SlotRests):
        chosen.choose()
    world.now_ms += 10_000
    assert chosen.choose().mode is Mode.STREAM
    world.source.held = 0
    monkeypatch.setattr(mode_choice, "read_definitions", lambda *_: SimpleNamespace(available=("view",)))
    assert chosen.choose().mode is Mode.STREAM


def test_a_source_that_can_be_polled_is_polled_while_a_new_slot_rests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing could be polled at first: that made the rests long."""
    world.is_now(Standing(mode=Mode.STREAM, since_ms=0))
    monkeypatch.setattr(mode_choice, "read_definitions", lambda *_: SimpleNamespace(available=()))
    chosen = choice()
    for pause_ms in (10_000, 20_000):
        world.source.held = SETTINGS.wal_budget_bytes + 1
        with pytest.raises(SlotRests):
            chosen.choose()
        world.now_ms += pause_ms
    monkeypatch.setattr(mode_choice, "read_definitions", lambda *_: SimpleNamespace(available=("view",)))
    world.source.held = SETTINGS.wal_budget_bytes + 1
    fallen = chosen.choose()
    assert fallen.mode is Mode.POLL
    world.is_now(fallen)
    world.now_ms += 39_999
    assert world.now_ms > fallen.not_before_ms
    chosen.leave_polling(fallen, world.source)  # type: ignore[arg-type]
    assert chosen.choose() == fallen
    world.now_ms += 1
    assert chosen.choose().mode is Mode.STREAM
