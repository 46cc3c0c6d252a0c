"""What can go wrong, whose fault it is, and one table from a fault to what the worker does about it.

The tables here, and `reasons`, are all that knows SQLSTATEs
(https://www.postgresql.org/docs/current/errcodes-appendix.html).
Every sentence is written for the operator and holds no row's value and no secret. Never waits, retries or logs: it
says what should be done, the worker does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import psycopg
from confluent_kafka import KafkaException


class ConsumersError(Exception):
    """Base of all that this program raises on purpose."""


class SettingsError(ConsumersError):
    """The operator's: a setting is missing or wrong."""


class Refused(ConsumersError):
    """The operator's: what was asked for would break a rule; the message says what to do instead."""


class RulesRefused(ConsumersError):
    """The tenant's: lead rules that can't be taken. `faults` holds each one's name and the reason."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"rule {name!r}: {reason}" for name, reason in faults))
        self.faults = tuple(faults)


class TargetRefused(ConsumersError):
    """The operator's: the target lacks a right, an object or a setting."""


class LogTooNew(ConsumersError):
    """The operator's: a newer replicator wrote what this version can't read."""


class TargetUnavailable(ConsumersError):
    """The environment's: the target does not answer, restarts, or cut the connection."""


class LogUnavailable(ConsumersError):
    """The environment's: Kafka does not answer."""


class VersionUnknown(LogUnavailable):
    """The tenant's: a version of a table's columns that its events name has not come."""


class LogGap(ConsumersError):
    """The environment's: events that were not read yet are gone, or the topic is another one."""


class BadEvent(ConsumersError):
    """The row's: an event that can't be read or has no body."""


class LettersMoved(ConsumersError):
    """Nobody's: a tenant's dead letters are others than those that were read; they must be read again."""


class TooManyLetters(ConsumersError):
    """The environment's or ours: what so many rows fail of is no row's fault. `kind`: of error, as they have it."""

    def __init__(self, kind: str, says: str, advice: str) -> None:
        super().__init__(says)
        self.kind, self.advice = kind, advice


class Overtaken(ConsumersError):
    """Nobody's: another worker, or a changed mapping, was there first; the truth must be read again."""


class Action(Enum):
    """What the worker does after a fault."""

    RETRY = "try the same again, a few times or for a while; then as PARK"
    WAIT = "try the same again after growing pauses, without end"
    HALVE = "try half of the batch"
    PARK = "after bisecting: make the event a dead letter, or park the tenant at it; at once where no row is at fault"
    STOP = "stop with the reason"


class Fault(Enum):
    """Whose fault it is."""

    OPERATOR = "settings or rights"
    ENVIRONMENT = "environment"
    ROW = "row"
    NOBODY = "concurrency"
    OURS = "program"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an error, whose fault it is, and what the operator should know or do."""

    action: Action
    fault: Fault
    advice: str


_SETUP = "Run `consumers setup` with CONSUMERS_SETUP_DSN set to the owner's DSN, read the plan, then add --apply."
_DEFECT = Verdict(Action.STOP, Fault.OURS, "This is a defect of the program; report it with the error's class.")

BY_CLASS: Final[dict[type[BaseException], Verdict]] = {
    SettingsError: Verdict(Action.STOP, Fault.OPERATOR, "Put the setting right and start again."),
    Refused: Verdict(Action.STOP, Fault.OPERATOR, "Nothing was changed."),
    TargetRefused: Verdict(Action.STOP, Fault.OPERATOR, _SETUP),
    LogTooNew: Verdict(Action.STOP, Fault.OPERATOR, "Install the replicator's version of the consumers too."),
    TargetUnavailable: Verdict(Action.WAIT, Fault.ENVIRONMENT, "Waiting for the target; Kafka keeps the events."),
    LogUnavailable: Verdict(Action.WAIT, Fault.ENVIRONMENT, "Waiting for Kafka; the target keeps the offsets."),
    KafkaException: Verdict(Action.WAIT, Fault.ENVIRONMENT, "Waiting for Kafka; the target keeps the offsets."),
    VersionUnknown: Verdict(
        Action.RETRY,
        Fault.ENVIRONMENT,
        "The replicator writes a version before its rows; see whether the topic was emptied.",
    ),
    LogGap: Verdict(Action.PARK, Fault.ENVIRONMENT, "The tenants concerned are backfilled from the source."),
    BadEvent: Verdict(Action.PARK, Fault.ROW, "A later full image of the same row heals this."),
    LettersMoved: Verdict(Action.RETRY, Fault.NOBODY, "Reading the tenant's dead letters again."),
    TooManyLetters: Verdict(
        Action.HALVE,
        Fault.ENVIRONMENT,
        "So many rows are refused: see what the target, or this program, does wrong.",
    ),
    Overtaken: Verdict(Action.RETRY, Fault.NOBODY, "Reading progress and mapping again."),
}

BY_SQLSTATE: Final[dict[str, Verdict]] = {
    "40001": Verdict(Action.RETRY, Fault.NOBODY, "Serialization failure; the transaction is tried again."),
    "40P01": Verdict(Action.RETRY, Fault.NOBODY, "Deadlock; the transaction is tried again."),
    "55P03": Verdict(
        Action.RETRY, Fault.ENVIRONMENT, "Another session holds a lock; if this goes on, look for it in pg_locks."
    ),
    "57014": Verdict(
        Action.HALVE,
        Fault.ENVIRONMENT,
        "A statement was too slow; raise CONSUMERS_STATEMENT_TIMEOUT_S if this goes on.",
    ),
    "25P03": Verdict(Action.RETRY, Fault.ENVIRONMENT, "The server ended an idle transaction; it is tried again."),
    "25P04": Verdict(
        Action.HALVE, Fault.ENVIRONMENT, "A transaction was too slow for the server's transaction_timeout."
    ),
    "25006": Verdict(
        Action.WAIT,
        Fault.ENVIRONMENT,
        "The target is read-only (a standby?); CONSUMERS_TARGET_DSN must name the primary.",
    ),
    "08": Verdict(Action.WAIT, Fault.ENVIRONMENT, "Waiting for the target; Kafka keeps the events."),
    "53100": Verdict(Action.WAIT, Fault.ENVIRONMENT, "The target's disk is full; free some space, the worker goes on."),
    "53200": Verdict(Action.HALVE, Fault.ENVIRONMENT, "The target is out of memory; lower CONSUMERS_BATCH_MESSAGES."),
    "53300": Verdict(
        Action.WAIT,
        Fault.ENVIRONMENT,
        "The target has no connection left; lower CONSUMERS_CONNECTIONS or raise its limit.",
    ),
    "53": Verdict(
        Action.WAIT, Fault.ENVIRONMENT, "The target is short of a resource; the worker goes on when it has it."
    ),
    "57P": Verdict(Action.WAIT, Fault.ENVIRONMENT, "The target restarts or ended the session; waiting for it."),
    "58": Verdict(Action.WAIT, Fault.ENVIRONMENT, "The target's disk or operating system fails; see its log."),
    "28": Verdict(
        Action.STOP,
        Fault.OPERATOR,
        "The target refuses the login; check the user and password in CONSUMERS_TARGET_DSN.",
    ),
    "3D000": Verdict(Action.STOP, Fault.OPERATOR, "The database named in CONSUMERS_TARGET_DSN does not exist."),
    "3F000": Verdict(Action.STOP, Fault.OPERATOR, f"The target's schema is not set up. {_SETUP}"),
    "42501": Verdict(Action.STOP, Fault.OPERATOR, f"The role lacks a right on the target. {_SETUP}"),
    "42P01": Verdict(Action.STOP, Fault.OPERATOR, f"A table is missing: the target's schema is not set up. {_SETUP}"),
    "42703": Verdict(Action.STOP, Fault.OPERATOR, f"A column is missing: the target's schema is older. {_SETUP}"),
    "42883": Verdict(Action.STOP, Fault.OPERATOR, f"A function is missing: the target's schema is older. {_SETUP}"),
    "42P10": Verdict(Action.STOP, Fault.OPERATOR, f"A table has no unique (tenant_id, id). {_SETUP}"),
    "26": Verdict(
        Action.STOP, Fault.OPERATOR, "A prepared statement was lost: use the server itself or a pooler in session mode."
    ),
    "23503": Verdict(
        Action.RETRY,
        Fault.ROW,
        "A row that this one refers to is missing in the target, by a foreign key of its own; add it there.",
    ),
    "22": Verdict(
        Action.PARK, Fault.ROW, "The value does not fit its column; see `consumers setup` for narrower columns."
    ),
    "23": Verdict(
        Action.PARK,
        Fault.ROW,
        "The row breaks a constraint of the target: alter or drop that, or mend the row in the source.",
    ),
    "54": Verdict(Action.PARK, Fault.ROW, "The row exceeds a limit of PostgreSQL (an index entry, a row's size)."),
}
"""By SQLSTATE, the longest matching beginning wins."""

_CONNECTION_LOST: Final = BY_SQLSTATE["08"]
_REFUSED_ROW: Final = Verdict(
    Action.PARK, Fault.ROW, "The target refuses the row (a trigger or rule of its own?); see the server's log."
)
_UNSENDABLE: Final = Verdict(
    Action.PARK,
    Fault.ROW,
    "PostgreSQL can't be sent what the event holds; a later full image of the row heals this.",
)


def classify(error: BaseException) -> Verdict:
    """The verdict for any error; what is in neither table is a defect of ours."""
    for kind in type(error).__mro__:
        if kind in BY_CLASS:
            return BY_CLASS[kind]
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate:
        matching = (BY_SQLSTATE.get(sqlstate[:length]) for length in (5, 3, 2))
        return next((verdict for verdict in matching if verdict is not None), _DEFECT)
    # libpq reports a connection that it could not make, or lost, without a SQLSTATE; psycopg_pool's time-outs are
    # OperationalErrors too.
    return _CONNECTION_LOST if isinstance(error, psycopg.OperationalError) else _DEFECT


def classify_applying(error: BaseException) -> Verdict:
    """The verdict for an error while rows are applied.

    What the target says and no table knows concerns the row, and so does what a trigger of its own stumbles over: the
    next tenant's row may not come to it.
    """
    verdict = classify(error)
    if not isinstance(error, psycopg.Error) or verdict.action is not Action.STOP:
        return verdict
    if error.sqlstate is None:  # psycopg's own, of what it was given
        return _UNSENDABLE if isinstance(error, psycopg.DataError) else verdict
    return _REFUSED_ROW if verdict is _DEFECT or came_from_within(error) else verdict


def came_from_within(error: psycopg.Error) -> bool:
    """Whether it was raised not by our statement itself, but by what this led to: a trigger's function, a policy's."""
    # The server says so in the language of its own messages: that it says anything is what counts.
    return bool(error.diag.context)
