"""How the demo lets the replicator read the source: what its role may, what it is told, what can be compared then.

The poller's settings are for a demo that is watched: in use it asks less often and spends less of the source's time.
Probes of a source that may be polled go through the view, which every poller reads, and are stamped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from demo.compare import TABLES, VIEW
from demo.probes import IN_INBOXES, IN_VIEW, Probed
from demo.reading import POLLING, STREAMING

CAPTURED = ("inboxes", "conversations", "contact_inboxes", "messages")
DERIVED_FROM = ("contacts", "csat_survey_responses")
POLLER = {
    "REPLICATOR_POLL_INTERVAL_S": "1",
    "REPLICATOR_POLL_SHARE": "0.5",
    "REPLICATOR_POLL_CLOCK_MARGIN_S": "1",
    "REPLICATOR_DIGEST_KEYS_PER_SECOND": "20000",
}
EVERYTHING = (*CAPTURED, *DERIVED_FROM, VIEW)


class Mode(StrEnum):
    STREAM = "stream"
    POLL = "poll"
    POLL_TABLES = "poll-tables"


class Scenario(StrEnum):
    """What happens in the middle of the live part."""

    WORKER_KILLED = "worker-killed"
    SLOT_LOST = "slot-lost"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """Of one demo."""

    attributes: str
    """Of the replicator's role."""
    readable: Sequence[str]
    """What it has SELECT on."""
    settings: Mapping[str, str]
    compared: Sequence[str]
    """The tables of the target that are replicated so."""
    probed: Probed
    modes: Sequence[str]
    """In which the source should be read, one after another."""


STREAMED = Manner(
    attributes="LOGIN REPLICATION",
    readable=EVERYTHING,
    settings={},
    compared=TABLES,
    probed=IN_INBOXES,
    modes=(STREAMING,),
)
SLOT_LOST = replace(
    STREAMED,
    settings={**POLLER, "REPLICATOR_STREAM_RETRY_S": "10"},
    probed=IN_VIEW,
    modes=(STREAMING, POLLING, STREAMING),
)
LOSES_SLOT = (Scenario.SLOT_LOST, Scenario.RECOVERY)
POLLED_TABLES = Manner(
    attributes="LOGIN",
    readable=EVERYTHING,
    settings={**POLLER, "REPLICATOR_MODE": "poll", "REPLICATOR_POLL_TABLES": "true"},
    compared=TABLES,
    probed=IN_VIEW,
    modes=(POLLING,),
)
POLLED_VIEW = replace(
    POLLED_TABLES,
    readable=(VIEW,),
    settings={**POLLER, "REPLICATOR_MODE": "poll"},
    compared=("conversations_analytics",),
)


def manner_of(mode: Mode, scenario: Scenario) -> Manner:
    """A slot can only be lost where there is one."""
    if scenario in LOSES_SLOT:
        return SLOT_LOST
    return {Mode.STREAM: STREAMED, Mode.POLL: POLLED_VIEW, Mode.POLL_TABLES: POLLED_TABLES}[mode]
