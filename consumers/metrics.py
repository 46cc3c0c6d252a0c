"""Prometheus metrics of a worker, by their names. Never updated per row."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

_PREFIX = "inbox_consumers_"

APPLIED = Counter(_PREFIX + "applied_rows", "Rows written or deleted in the target", ["tenant"])
BATCHES = Counter(_PREFIX + "batches", "Batches that became durable")
MESSAGES = Counter(_PREFIX + "messages", "Messages read")
REPEATED = Counter(_PREFIX + "repeated_events", "Streamed changes that were published twice, skipped")
ZOMBIES = Counter(_PREFIX + "zombie_events", "Events of an older run than their partition has seen, dropped")
UNMAPPED = Counter(_PREFIX + "unmapped_events", "Events of inboxes that belong to nobody")
TABLELESS = Counter(
    _PREFIX + "tableless_events", "Changes of rows of relations that the target has no table for", ["table"]
)
UNREADABLE = Counter(_PREFIX + "unreadable_messages", "Messages that are not ours: another program writes to the topic")
BODILESS = Counter(_PREFIX + "rows_without_body", "Rows that could not be sent and are stubs until they can", ["table"])
DEAD_LETTERS = Counter(_PREFIX + "dead_letters", "Events that became dead letters", ["table"])
PARKED = Gauge(_PREFIX + "parked", "Tenants and partitions that could not follow")
PARTITIONS = Gauge(_PREFIX + "partitions", "Partitions assigned to this worker")
