"""Ours and Debezium's: a stream into Kafka and who applies it, from one source, each to a target of its own."""

from __future__ import annotations

from dataclasses import dataclass

from bench import appliers, path, streams
from bench.path import Ground
from bench.peers import connect
from demo.servers import ServersUnavailable
from demo.stage import Stage

OURS, DEBEZIUM = "ours", "Debezium"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """From a commit in the source to a row in the target."""

    name: str
    stream: streams.Stream
    applier: appliers.Applier

    def start(self) -> None:
        """Returns when both are at work. Raises NotMeasured."""
        for half in (self.stream, self.applier):
            half.service.start()
        for half in (self.stream, self.applier):
            path.wait(half.service, half.is_ready, f"{half.name} at work")

    def stop(self) -> None:
        """Raises NotMeasured if one does not end in order."""
        path.stop(self.stream.service, self.applier.service)

    @property
    def pids(self) -> dict[str, int]:
        """Of those that run, by name."""
        return {half.name: half.service.pid for half in (self.stream, self.applier)}


def ours(ground: Ground, stage: Stage) -> Pair:
    return Pair(name=OURS, stream=streams.Ours(ground, stage), applier=appliers.Ours(ground, stage))


def set_up(ground: Ground, stage: Stage) -> tuple[list[Pair], list[str]]:
    """Ours, and Debezium's unless it can't be had, which is then said; ready to be started."""
    pairs, notes = [ours(ground, stage)], []
    try:
        jars = connect.installed(ground.folder)
        stream = streams.Debezium(ground, jars)
        pairs.append(Pair(name=DEBEZIUM, stream=stream, applier=appliers.Debezium(ground, jars, stream.topics)))
    except ServersUnavailable as error:
        notes.append(f"{DEBEZIUM} is left out: {error}")
    for pair in pairs:
        pair.stream.take_slot()
    load(pairs[0])
    return pairs, notes


def load(pair: Pair) -> None:
    """What the source has so far is in the target then."""
    pair.start()
    pair.stop()


def names(pair: Pair) -> tuple[str, str]:
    """Of its two halves."""
    return pair.stream.name, pair.applier.name
