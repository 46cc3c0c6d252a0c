"""Every fault of the source becomes one of ours, without a value and without a secret."""

from __future__ import annotations

import traceback
from typing import Any, cast

import psycopg
import pytest
from psycopg import errors
from psycopg.pq.abc import PGconn

from replicator.errors import ReplicatorError, SourceBusy, SourceRefused, SourceUnavailable
from replicator.replication import Replication
from replicator.source import source_errors

VALUE = "s3cr3t"
LOGIN = cast(PGconn, object())


def fault_of(error: Exception) -> ReplicatorError:
    with pytest.raises(ReplicatorError) as fault, source_errors():
        raise error
    return fault.value


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.LockNotAvailable("x"), SourceBusy),
        (errors.ObjectInUse("x"), SourceBusy),
        (errors.DuplicateObject("x"), SourceBusy),
        (errors.QueryCanceled("x"), SourceUnavailable),
        (errors.AdminShutdown("x"), SourceUnavailable),
        (errors.TooManyConnections("x"), SourceUnavailable),
        (errors.IdleInTransactionSessionTimeout("x"), SourceUnavailable),
        (errors.TransactionTimeout("x"), SourceUnavailable),
        (psycopg.OperationalError("server closed the connection unexpectedly"), SourceUnavailable),
        (psycopg.InterfaceError("the connection is closed"), SourceUnavailable),
        (errors.InsufficientPrivilege("x"), SourceRefused),
        (errors.UndefinedTable("x"), SourceRefused),
        (errors.UndefinedColumn("x"), SourceRefused),
        (errors.DuplicateTable("x"), SourceRefused),
        (errors.UndefinedObject("x"), SourceRefused),
        (errors.ObjectNotInPrerequisiteState("x"), SourceRefused),
    ],
)
def test_a_fault_has_one_kind(error: Exception, kind: type[ReplicatorError]) -> None:
    assert type(fault_of(error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidTextRepresentation(f'invalid input syntax for type integer: "{VALUE}"'),
        errors.UndefinedFunction(f"operator does not exist: {VALUE}"),
        psycopg.DataError(f"PostgreSQL text fields cannot contain NUL (0x00) bytes: {VALUE}"),
        psycopg.ProgrammingError(VALUE),
    ],
)
def test_what_nobody_expected_is_named_by_its_state_alone(error: Exception) -> None:
    fault = fault_of(error)
    assert type(fault) is SourceRefused
    assert type(error).__name__ in str(fault)
    assert VALUE not in "".join(traceback.format_exception(fault))


TO = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (TO + 'FATAL:  password authentication failed for user "u"', SourceRefused),
        (TO + "fe_sendauth: no password supplied", SourceRefused),
        (
            TO + 'FATAL:  no pg_hba.conf entry for host "10.0.0.2", user "u", database "d", SSL encryption',
            SourceRefused,
        ),
        (TO + 'FATAL:  role "u" does not exist', SourceRefused),
        (TO + 'FATAL:  database "d" does not exist', SourceRefused),
        (TO + 'FATAL:  role "u" is not permitted to log in', SourceRefused),
        (TO + "FATAL:  must be superuser or replication role to start walsender", SourceRefused),
        (TO + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?", None),
        (TO + "FATAL:  the database system is starting up", None),
        (TO + "FATAL:  sorry, too many clients already", None),
        (TO + "timeout expired", None),
    ],
)
def test_a_login_that_can_never_succeed_is_the_operators(said: str, kind: type[ReplicatorError] | None) -> None:
    """libpq gives no SQLSTATE for it."""
    fault = fault_of(psycopg.OperationalError(said, pgconn=LOGIN))
    assert type(fault) is (kind or SourceUnavailable)
    assert str(fault) == said.splitlines()[0]


class Lost:
    """libpq's connection once the line is cut."""

    def get_copy_data(self, asynchronous: int) -> tuple[int, bytes]:
        raise psycopg.OperationalError("no COPY in progress\nmore")

    @property
    def socket(self) -> int:
        raise psycopg.OperationalError("the connection is lost")


def test_a_lost_stream_is_waited_out_wherever_it_is_noticed() -> None:
    replication = object.__new__(Replication)
    replication._pgconn = cast(Any, Lost())
    with pytest.raises(SourceUnavailable):
        replication.read()
    with pytest.raises(SourceUnavailable):
        replication.wait(0, 0)
