"""Why something went wrong, in words for people that hold no value of a row: for the log, the status and the tables.

Relies on the server's primary messages naming objects only, for the SQLSTATEs that are listed here; of any other error
the class and the code are told. Never decides what is done: `errors` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg

from consumers.errors import TooManyLetters, Verdict, came_from_within

_LOCKED: Final = "55P03"
"""The kind of a reason that is a lock of somebody's (lock_not_available)."""
BRIEF: Final = frozenset({_LOCKED, "57014"})
"""A lock, or a statement that took too long (query_canceled): whoever is parked for one of them may need nobody."""
_SAFE: Final = frozenset({"23502", "23503", "23505", "23514", "57014", "55P03"})
"""SQLSTATEs whose primary message names objects, never values, unless a function of the target's words it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a tenant is parked, or an event a dead letter, in words that hold no value of a row."""

    kind: str
    says: str
    advice: str
    concerns: str = ""
    """The constraint, or the columns, that refuse the row."""

    @property
    def is_lock(self) -> bool:
        """It passes by itself, and may have passed already."""
        return self.kind == _LOCKED

    @property
    def is_brief(self) -> bool:
        """Of a batch, which others wait for: the tenant's own reading has more time."""
        return self.kind in BRIEF

    @classmethod
    def of(cls, error: BaseException, verdict: Verdict) -> Reason:
        if isinstance(error, TooManyLetters):
            return cls(kind=error.kind, says=str(error), advice=error.advice)
        if not isinstance(error, psycopg.Error):
            return cls(kind=type(error).__name__, says=str(error), advice=verdict.advice)
        concerns = error.diag.constraint_name or error.diag.column_name or ""
        kind = error.sqlstate or type(error).__name__
        return cls(kind=kind, says=_words_of(error), advice=verdict.advice, concerns=concerns)


def _words_of(error: psycopg.Error) -> str:
    """The server's own, or the class where they may quote a value ("invalid input syntax for type …: "…"")."""
    is_connections = error.sqlstate is None and isinstance(error, psycopg.OperationalError)
    if is_connections or (error.sqlstate in _SAFE and not came_from_within(error)):
        return first_line(error)
    state = error.sqlstate and f"SQLSTATE {error.sqlstate}"
    where = ".".join(filter(None, (error.diag.table_name, error.diag.column_name)))
    known = ", ".join(filter(None, (state, error.diag.constraint_name or where)))
    return type(error).__name__ + (f" ({known})" if known else "")


def first_line(error: psycopg.Error) -> str:
    """What the server says, without the detail, which may quote a row."""
    return error.diag.message_primary or str(error).strip().partition("\n")[0]
