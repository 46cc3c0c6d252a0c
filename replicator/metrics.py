"""Prometheus metrics of the replicator, by their names. Updated once every status interval, never per row."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Protocol

from prometheus_client import Gauge

_PREFIX = "inbox_replicator_"

ROW_CHANGES = Gauge(_PREFIX + "run_row_changes", "Row changes of captured tables in this run")
TRANSACTIONS = Gauge(_PREFIX + "run_transactions", "Transactions delivered in this run")
EVENTS = Gauge(_PREFIX + "run_events", "Events published in this run, broadcasts counted once")
OVERSIZED = Gauge(_PREFIX + "run_oversized_events", "Rows too large for the topic, published without a body")
UNACKNOWLEDGED = Gauge(_PREFIX + "unacknowledged_messages", "Messages that Kafka has not acknowledged")
UNSETTLED = Gauge(_PREFIX + "unsettled_transactions", "Delivered transactions that no snapshot has seen yet")
LAST_COMMIT = Gauge(_PREFIX + "last_commit_seconds", "Source time of the last delivered commit, seconds since 1970")

POLLING = Gauge(_PREFIX + "polling", "1 while the source is polled, 0 while it is streamed")
MODE_SWITCHES = Gauge(_PREFIX + "mode_switches", "Between stream and polling, since the state topic was made")
VERIFIED = Gauge(_PREFIX + "verified_through_seconds", "Up to when a relation is proved to be published", ["relation"])
REPAIRED = Gauge(_PREFIX + "run_repaired_rows", "Rows that a rolling pass found not to be as published", ["relation"])


class _Capture(Protocol):
    row_changes: int
    transactions: int
    last_commit_ms: int


class _Outlet(Protocol):
    published: int
    oversized: int


def observe(capture: _Capture, outlet: _Outlet, unacknowledged: int, unsettled: Sized) -> None:
    """Takes the counters of a run over."""
    ROW_CHANGES.set(capture.row_changes)
    TRANSACTIONS.set(capture.transactions)
    LAST_COMMIT.set(capture.last_commit_ms / 1000)
    EVENTS.set(outlet.published)
    OVERSIZED.set(outlet.oversized)
    UNACKNOWLEDGED.set(unacknowledged)
    UNSETTLED.set(len(unsettled))


def observe_mode(*, is_polling: bool, switches: int) -> None:
    """By which way the source is read."""
    POLLING.set(is_polling)
    MODE_SWITCHES.set(switches)


def observe_pass(repaired: Mapping[str, int], verified_us: Mapping[str, int]) -> None:
    """What rolling passes have shown; times in microseconds since 1970."""
    for relation, rows in repaired.items():
        REPAIRED.labels(relation).set(rows)
    for relation, at_us in verified_us.items():
        VERIFIED.labels(relation).set(at_us / 1e6)
