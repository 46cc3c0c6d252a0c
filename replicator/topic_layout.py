"""What the topics of an installation must be, and how far one that exists is from that.

Pure: settings and facts in, values and sentences out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from replicator.config import Settings
from replicator.event import Topics
from replicator.facts import TopicFacts

MS_PER_DAY: Final = 86_400_000
MIN_SEGMENT_BYTES: Final = 16 << 20
"""Compaction never touches the segment that is being written; with 1 GiB, the default, it would never begin."""
SEGMENT_SLACK_BYTES: Final = 1 << 20
"""A message batch must fit into a segment, with its frame."""
MAX_SEGMENT_BYTES: Final = (1 << 31) - 1
SEGMENT_MS: Final = 3_600_000
TIME: Final = "message.timestamp.type"
BROKERS_TIME: Final = "LogAppendTime"
"""Not the replicator's: a clock that is ahead would have events refused, one that is behind would let them expire
early. Nothing of ours reads Kafka's timestamps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one topic is made."""

    name: str
    partitions: int
    config: Mapping[str, str]

    @property
    def compacted(self) -> bool:
        return self.config["cleanup.policy"] == "compact"


def layouts(settings: Settings) -> tuple[Layout, ...]:
    """All topics. `min.insync.replicas` is the broker's affair."""
    names = Topics(settings.topic_prefix)
    size = {"max.message.bytes": str(settings.max_message_bytes)}
    clock = {TIME: BROKERS_TIME}
    timed = clock | {
        "cleanup.policy": "delete",
        "retention.ms": str(int(settings.retention_days * MS_PER_DAY)),
        "retention.bytes": "-1",  # a broker's limit of size would cut the promised days short
        "compression.type": "producer",
    }
    segment = max(MIN_SEGMENT_BYTES, settings.max_message_bytes + SEGMENT_SLACK_BYTES)
    compacted = clock | {
        "cleanup.policy": "compact",
        "compression.type": "producer",
        "segment.bytes": str(min(segment, MAX_SEGMENT_BYTES)),
        "segment.ms": str(SEGMENT_MS),
        "min.cleanable.dirty.ratio": "0.1",
    }
    return (
        Layout(name=names.changes, partitions=settings.partitions, config=timed | size),
        Layout(name=names.schemas, partitions=1, config=compacted | size),
        Layout(name=names.state, partitions=1, config=compacted | size),
        Layout(name=names.control, partitions=1, config=timed),
    )


def deviations(layout: Layout, found: TopicFacts) -> list[str]:
    """What makes an existing topic unusable, each as a sentence that says what to do."""
    sentences = []
    if found.partitions != layout.partitions:
        sentences.append(_partitions_differ(layout, found.partitions))
    if found.config is None:
        return sentences
    policy = found.config.get("cleanup.policy", "delete")
    if policy != layout.config["cleanup.policy"]:
        sentences.append(
            f"topic {layout.name} has cleanup.policy={policy}; alter it to {layout.config['cleanup.policy']}: "
            + ("what is kept by key must never expire" if layout.compacted else "compaction would remove changes")
        )
    wanted = int(layout.config.get("max.message.bytes", 0))
    if (size := int(found.config.get("max.message.bytes", wanted))) < wanted:
        sentences.append(
            f"topic {layout.name} takes messages of {size} bytes, REPLICATOR_MAX_MESSAGE_BYTES is {wanted}: alter the "
            f"topic's max.message.bytes to {wanted}, or lower the setting (rows larger than it have no body)"
        )
    return sentences


def shortfalls(layout: Layout, found: TopicFacts) -> list[str]:
    """What is usable, but may keep or take less than was promised."""
    if found.config is None:
        return []
    sentences = []
    if (given := found.config.get(TIME, BROKERS_TIME)) != BROKERS_TIME:
        sentences.append(
            f"topic {layout.name} takes the time of its messages from the replicator's clock ({TIME}={given}): ahead, "
            f"its events are refused, behind, they expire early: alter it to {BROKERS_TIME}"
        )
    if layout.compacted:
        return sentences
    wanted, kept = int(layout.config["retention.ms"]), int(found.config.get("retention.ms", -1))
    if 0 <= kept < wanted:
        sentences.append(
            f"topic {layout.name} keeps messages for {kept / MS_PER_DAY:g} days, the setting says "
            f"{wanted / MS_PER_DAY:g}: alter its retention.ms to {wanted}, or lower REPLICATOR_RETENTION_DAYS"
        )
    if (limit := int(found.config.get("retention.bytes", -1))) >= 0:
        sentences.append(
            f"topic {layout.name} keeps at most {limit} bytes of a partition (retention.bytes), however young: "
            "alter it to -1"
        )
    return sentences


def _partitions_differ(layout: Layout, found: int) -> str:
    if layout.partitions == 1:
        return f"topic {layout.name} has {found} partitions; it must have one: delete it, it is made again"
    return (
        f"topic {layout.name} has {found} partitions, REPLICATOR_PARTITIONS is {layout.partitions}. Partitions are "
        f"never added, because an inbox would change its partition and lose its order: set "
        f"REPLICATOR_PARTITIONS={found}, or choose a new REPLICATOR_TOPIC_PREFIX, which begins with a full backfill"
    )
