"""From where a replay reads: what is understood, and what is refused before anything is read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from consumers.errors import Refused, SettingsError
from consumers.starts import Start, parse, resolve
from consumers.stretch import LogReader


class Log:
    """A log that begins at offset 100 of each partition, written at 1000 ms, and has a message every ms."""

    def bounds(self, partition: int) -> tuple[int, int]:
        return 100, 900

    def offset_at(self, partition: int, milliseconds: int) -> int | None:
        offset = max(100, milliseconds - 900)
        return offset if offset < 900 else None

    def written_ms(self, partition: int, offset: int) -> int | None:
        return 900 + offset


LOG: Any = cast("LogReader", Log())
ENDS = {0: 500, 1: 600}


def at(milliseconds: int) -> Start:
    return Start(moment=datetime.fromtimestamp(milliseconds / 1000, UTC))


def test_starts_are_read() -> None:
    assert parse([]) == parse(["start"]) == Start()
    assert parse(["offset:3:120", "offset:4:7"]) == Start(offsets={3: 120, 4: 7})
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert parse(["2026-03-01T12:00:00Z"]) == parse(["2026-03-01 12:00"]) == Start(moment=moment)


@pytest.mark.parametrize("given", [["soon"], ["offset:3"], ["offset:a:b"], ["start", "start"], ["start", "offset:1:2"]])
def test_others_are_refused(given: list[str]) -> None:
    with pytest.raises(SettingsError, match="--from"):
        parse(given)


def test_a_start_comes_to_an_offset_in_each_partition() -> None:
    assert resolve(Start(), LOG, ENDS, [1]) == {0: 100, 1: 100}
    assert resolve(Start(offsets={1: 300}), LOG, ENDS, [1]) == {1: 300}
    assert resolve(at(1000), LOG, ENDS, [1]) == {0: 100, 1: 100}
    assert resolve(at(1200), LOG, ENDS, [1]) == {0: 300, 1: 300}
    assert resolve(at(9000), LOG, ENDS, [1]) == ENDS, "nothing was written since"


@pytest.mark.parametrize("start", [at(999), Start(offsets={0: 99})])
def test_what_the_log_no_longer_has_is_refused_with_a_backfill_instead(start: Start) -> None:
    with pytest.raises(Refused, match=r"begins at offset 100.*replicator backfill --inbox 1 --inbox 2"):
        resolve(start, LOG, ENDS, [2, 1])


def test_a_partition_of_others_is_refused() -> None:
    with pytest.raises(Refused, match="partition 5 holds nothing of these inboxes"):
        resolve(Start(offsets={5: 100}), LOG, ENDS, [1])
