"""How far the log reaches: the end of every partition of the changes topic, in one request.

Knows Kafka only. An answer or LogUnavailable within seconds: who asks is looking at a screen.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # re-exported silently

from consumers import clients
from consumers.config import Settings
from consumers.errors import LogUnavailable
from replicator import Topics

_SECONDS: Final = 10.0


def ends(settings: Settings) -> dict[int, int]:
    """The offset after the last message, by partition. Raises LogUnavailable, also if the topic does not exist."""
    topic = Topics(settings.topic_prefix).changes
    try:
        admin = clients.admin(settings)
        # All topics: to ask for one by its name may make it, with as many partitions as the broker likes.
        found = admin.list_topics(timeout=_SECONDS).topics.get(topic)
        if found is None:
            raise LogUnavailable(f"Kafka has no topic {topic}: the replicator makes it (see CONSUMERS_TOPIC_PREFIX)")
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, partition): latest for partition in found.partitions}
        answers = admin.list_offsets(asked, request_timeout=_SECONDS) if asked else {}
        return {part.partition: answer.result(_SECONDS).offset for part, answer in answers.items()}
    except KafkaException as error:
        raise LogUnavailable(f"Kafka does not answer: {error.args[0].str()}") from None
    except TimeoutError:
        raise LogUnavailable("Kafka does not answer") from None
