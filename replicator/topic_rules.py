"""Judges Kafka: brokers and topics.

Pure: facts and settings in, findings out.
"""

from __future__ import annotations

from replicator.config import Settings
from replicator.facts import KafkaFacts, TopicFacts
from replicator.findings import KAFKA_OWNER, OPERATOR, Finding, note, ok, refusal, warning
from replicator.topic_layout import Layout, deviations, layouts, shortfalls


def judge_kafka(facts: KafkaFacts, settings: Settings) -> list[Finding]:
    """Brokers, then each topic."""
    return [
        _brokers(facts),
        _request_size(facts, settings),
        *(judge_topic(layout, facts.topics.get(layout.name)) for layout in layouts(settings)),
    ]


def _brokers(facts: KafkaFacts) -> Finding:
    if facts.unreachable:
        return warning(
            "brokers",
            ", ".join(facts.unreachable),
            f"{len(facts.unreachable)} of {facts.brokers} brokers do not answer: events for the partitions that they "
            "lead are held up, and with them the source's slot",
            "start them, or mend advertised.listeners and the way there",
            whose=KAFKA_OWNER,
        )
    return ok("brokers", f"{facts.brokers}", "all answer", whose=KAFKA_OWNER)


def _request_size(facts: KafkaFacts, settings: Settings) -> Finding:
    limit = facts.request_max_bytes
    if limit is not None and limit < settings.max_message_bytes:
        return warning(
            "request_size",
            f"{limit} bytes",
            f"the brokers' socket.request.max.bytes is below REPLICATOR_MAX_MESSAGE_BYTES "
            f"({settings.max_message_bytes}): a row between the two ends the run again and again",
            f"set REPLICATOR_MAX_MESSAGE_BYTES to {limit} or less, or raise the brokers' limit",
            whose=OPERATOR,
        )
    return ok("request_size", f"{settings.max_message_bytes} bytes", "the brokers take it", whose=KAFKA_OWNER)


def judge_topic(layout: Layout, topic: TopicFacts | None) -> Finding:
    """One finding: the gravest that there is."""
    if topic is None:
        return ok("topic", layout.name, "does not exist yet; the first run makes it", whose=KAFKA_OWNER)
    if faults := deviations(layout, topic):
        return refusal("topic", layout.name, "; ".join(faults), "as said", whose=KAFKA_OWNER)
    if faults := shortfalls(layout, topic):
        return warning("topic", layout.name, "; ".join(faults), "as said", whose=KAFKA_OWNER)
    if topic.config is None:
        return note(
            "topic", layout.name, "our Kafka user may not read its settings, so they are unverified", whose=KAFKA_OWNER
        )
    if topic.config.get("unclean.leader.election.enable") == "true":
        return warning(
            "topic",
            layout.name,
            "acknowledged events may be lost when a broker that lags becomes leader",
            "alter the topic's unclean.leader.election.enable to false",
            whose=KAFKA_OWNER,
        )
    return _copies(layout, topic, topic.config.get("min.insync.replicas", "1"))


def _copies(layout: Layout, topic: TopicFacts, in_sync: str) -> Finding:
    if topic.replicas <= 1:
        return note("topic", layout.name, "one copy only: a broker's disk is all that keeps it", whose=KAFKA_OWNER)
    if in_sync == "1":
        return warning(
            "topic",
            layout.name,
            f"{topic.replicas} copies, but one is enough to acknowledge (min.insync.replicas=1): a lost broker may "
            "take acknowledged events with it",
            "alter the topic's min.insync.replicas to 2",
            whose=KAFKA_OWNER,
        )
    return ok("topic", layout.name, f"{topic.partitions} partitions, {topic.replicas} copies", whose=KAFKA_OWNER)
