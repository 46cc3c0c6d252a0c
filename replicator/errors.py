"""What can go wrong, and whose fault it is; and one table from a fault to what the program does about it.

Every message is a sentence that an operator can act on. None holds a row's value or a secret.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class ReplicatorError(Exception):
    """Base of all that this program raises on purpose."""


class SettingsError(ReplicatorError):
    """The operator's: a setting is missing or wrong."""


class SourceUnavailable(ReplicatorError):
    """The environment's: the source does not answer, restarts, or cut the connection. It is waited out."""


class SourceSilent(SourceUnavailable):
    """The environment's: the walsender leaves a question unanswered, on a connection that stands."""


class NothingToPoll(SourceUnavailable):
    """The operator's, or passing: no relation can be read."""


class SourceBusy(ReplicatorError):
    """The environment's: something else holds what is needed (the slot, a lock). It is waited out, the holder named."""


class SourceRefused(ReplicatorError):
    """The operator's: the source lacks a right, an object or a setting that streaming needs."""


class SourceChanged(ReplicatorError):
    """Nobody's: the publication, or a table in it, is not the one that the run began with."""


class SourceWentBack(SourceChanged):
    """The operator's: the source was restored, and its WAL is not the one that was read."""


class SlotStuck(ReplicatorError):
    """Nobody's: the slot stands before changes that were made without the publication, and can't pass them (before
    PostgreSQL 18). It is of no use any more.
    """


class WalBudgetSpent(ReplicatorError):
    """The environment's: our slot keeps more WAL on the source than it may. The source's disk wins."""


class SlotRests(ReplicatorError):
    """Nobody's: our slot is gone, and a new one would bring a backfill of everything too soon after the last."""


class ModeChanged(ReplicatorError):
    """Nobody's: the source is to be read another way from now on."""


class ProtocolError(ReplicatorError):
    """The server's or ours: bytes of the stream that are not what PostgreSQL's protocol describes."""


class LogUnavailable(ReplicatorError):
    """The environment's: Kafka does not answer. It is waited out."""


class DeliveryFailed(ReplicatorError):
    """The environment's: Kafka refused an event for good. The run ends and starts again at the confirmed LSN."""


class LogRefused(ReplicatorError):
    """The operator's: a topic is not as it must be (number of partitions, size limit) or a right is missing."""


class Superseded(ReplicatorError):
    """Nobody's: another replicator has begun a later run; this one must not write any more."""


class Action(Enum):
    """What the program does after a fault."""

    AGAIN = "start a new run after a growing pause"
    STOP = "stop with the reason"


ACTIONS: Final[dict[type[ReplicatorError], tuple[Action, str]]] = {
    SettingsError: (Action.STOP, "Put the setting right and start again."),
    SourceUnavailable: (
        Action.AGAIN,
        "Waiting for the source PostgreSQL; nothing is lost, its slot holds the changes.",
    ),
    SourceSilent: (Action.AGAIN, "Connecting to the source anew; nothing is lost, its slot holds the changes."),
    NothingToPoll: (Action.AGAIN, "Waiting until something can be read; `replicator check` says what is missing."),
    SourceBusy: (Action.AGAIN, "Waiting for the named holder to let go; stop it if it should not be there."),
    SourceRefused: (Action.STOP, "Run `replicator check`: it prints the SQL that mends this."),
    SourceChanged: (Action.AGAIN, "A new epoch begins, with a full backfill."),
    SourceWentBack: (Action.AGAIN, "A new epoch begins, with a full backfill: what was read and is gone is swept."),
    SlotStuck: (Action.AGAIN, "The slot is made anew: a new epoch begins, with a full backfill."),
    WalBudgetSpent: (
        Action.AGAIN,
        "The slot is dropped; the source is polled, or left alone, before it is streamed again.",
    ),
    SlotRests: (
        Action.AGAIN,
        "The source is left alone until the pause is over. Find what takes the slot: a budget of WAL, or somebody.",
    ),
    ModeChanged: (Action.AGAIN, "A new epoch begins in the other mode."),
    ProtocolError: (Action.STOP, "Report this with the position and the message type; the slot keeps the changes."),
    LogUnavailable: (Action.AGAIN, "Waiting for Kafka; nothing is lost, the slot holds the changes."),
    DeliveryFailed: (Action.AGAIN, "Publishing again from the confirmed LSN."),
    LogRefused: (Action.STOP, "Run `replicator check`: it says what the topic must be."),
    Superseded: (Action.AGAIN, "Another replicator serves this slot; waiting until it lets go."),
}


def action_for(error: ReplicatorError) -> tuple[Action, str]:
    """What to do, and the sentence for the operator."""
    for kind in type(error).__mro__:
        if kind in ACTIONS:
            return ACTIONS[kind]
    return Action.STOP, "This is a defect of the program; report it."
