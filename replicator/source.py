"""Plain SQL sessions on the source: few, short, each with time-outs and the pinned settings.

Relies on nothing but SELECT, REPLICATION and pg_logical_emit_message. Turns the driver's errors into ours, saying
whose they are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import Connection, errors, sql
from psycopg.pq.abc import PGresult

from replicator.config import Settings
from replicator.errors import SourceBusy, SourceRefused, SourceUnavailable
from replicator.lsn import parse_lsn
from replicator.pgoutput import Column
from replicator.progress import Snapshot
from replicator.values import PINNED_SETTINGS

MESSAGE_PREFIX = "inbox-replicator"
"""Of everything we emit into the source's WAL."""

_times = count(1)

_REFUSALS = (
    errors.DuplicateTable,
    errors.InsufficientPrivilege,
    errors.UndefinedColumn,
    errors.UndefinedObject,
    errors.UndefinedTable,
    errors.ObjectNotInPrerequisiteState,
)
_OUTSTAYED = (errors.IdleInTransactionSessionTimeout, errors.TransactionTimeout)
"""The server ended a session because we were held up."""

_LOGIN_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|(role|database) .* does not exist|not permitted to log in|permission denied for database"
    r"|replication role to start walsender|permission denied to start WAL sender"
)
"""libpq keeps the SQLSTATE of a failed login to itself, so its sentence has to do. A server that speaks another
language than English is waited for like one that is away; its sentence is in the log."""


@contextmanager
def source_errors() -> Iterator[None]:
    """The driver's errors as ours.

    A message of the server is passed on where it names objects; what we did not expect may quote a value, so it is
    named by its SQLSTATE alone.
    """
    try:
        yield
    except (errors.LockNotAvailable, errors.ObjectInUse, errors.DuplicateObject) as error:
        raise SourceBusy(_sentence(error)) from None
    except errors.QueryCanceled as error:
        raise SourceUnavailable(f"the source is too slow: {_sentence(error)}") from None
    except _REFUSALS as error:
        raise SourceRefused(_sentence(error)) from None
    except (psycopg.OperationalError, psycopg.InterfaceError, *_OUTSTAYED) as error:
        if error.pgconn is not None and _LOGIN_REFUSED.search(str(error)):
            raise SourceRefused(_sentence(error)) from None
        raise SourceUnavailable(_sentence(error)) from None
    except psycopg.Error as error:
        state = f"SQLSTATE {error.sqlstate}" if error.sqlstate else "no SQLSTATE"
        raise SourceRefused(f"the source refused a statement: {type(error).__name__}, {state}") from None


def _sentence(error: psycopg.Error) -> str:
    """What the server, or else libpq, said first: further lines give hints and other addresses."""
    said = error.diag.message_primary or str(error).strip() or type(error).__name__
    return said.splitlines()[0]


def identifier(*names: str) -> sql.Identifier:
    """For a statement that carries parameters: a percent sign alone would be taken for the beginning of one."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def columns_of(result: PGresult) -> tuple[Column, ...]:
    """The columns of a result; a domain is its base type here."""
    return tuple(
        Column((result.fname(i) or b"").decode(), result.ftype(i), result.fmod(i), False) for i in range(result.nfields)
    )


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """What every session on the source has in common."""
    return {
        "connect_timeout": settings.connect_timeout_s,
        "application_name": settings.slot,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 8_000,
    }


_NEXT_XID: Final = "(3 + age('3'::xid)::bigint) & 4294967295"
"""The 32-bit id that the next transaction will have: age() counts from there in one that has none itself."""
_REPLAYED: Final = "WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')"
_REPLAYED_US: Final = "(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint"
_FLUSHED: Final = f"CASE {_REPLAYED} ELSE pg_current_wal_flush_lsn() END"
_INSERTED: Final = f"CASE {_REPLAYED} ELSE pg_current_wal_insert_lsn() END"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """Which history the source's WAL belongs to."""

    system_id: str
    timeline: int
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Our replication slot, as the source has it."""

    confirmed_lsn: int | None
    """None while it is being made."""
    active_pid: int | None
    wal_status: str | None
    held_bytes: int | None = None
    """WAL that the source keeps for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The source at one moment: what a snapshot sees, and how far its WAL is flushed."""

    snapshot: Snapshot
    flushed_lsn: int
    at_ms: int
    """Of its clock: what was committed before that time lies before `flushed_lsn`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSample:
    """The snapshot of a transaction."""

    at_us: int
    """When its statement began, microseconds since 1970 by the source's clock."""
    snapshot: Snapshot
    next_xid: int
    """Transactions from this 64-bit id on had not begun to write. The snapshot's xmax says less: it is beyond the last
    that has *ended*, so those that began since may be writing."""
    lsn: int
    """Flushed, or on a standby replayed, at that time."""


class Source:
    """One autocommit session."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._schema = settings.source_schema
        self.busy_s = 0.0
        """Spent in transactions that read."""
        self._replayed_us: int | None = None
        """On a standby: when the last commit was made that it had replayed at the last sample."""
        with source_errors():
            self.connection: Connection[tuple[Any, ...]] = psycopg.connect(
                settings.source_dsn.get_secret_value(), autocommit=True, **connection_parameters(settings)
            )
            try:
                self._pin()
            except BaseException:
                self.connection.close()
                raise

    def _pin(self) -> None:
        session = {
            **PINNED_SETTINGS,
            "statement_timeout": f"{int(self._settings.statement_timeout_s * 1000)}",
            "lock_timeout": f"{int(self._settings.lock_timeout_s * 1000)}",
            "idle_in_transaction_session_timeout": "60000",
            "synchronous_commit": "local",  # what we emit must not wait for a standby
            "jit": "off",
            "search_path": sql.Identifier(self._schema).as_string(),
            "row_security": "off",  # a read that a policy would narrow fails: what is hidden is not gone
        }
        for name, value in session.items():
            self.connection.execute("SELECT set_config(%s, %s, false)", (name, value))

    def plan_once(self) -> None:
        """Statements of this session are planned without their parameters: a read must not pay for a new plan each."""
        self.rows("SELECT set_config('plan_cache_mode', 'force_generic_plan', false)")

    def forget_plans(self) -> None:
        """A statement that was prepared for other columns would fail for ever."""
        # psycopg looks at what a statement did, and so forgets its own list, only where the text is new to it.
        with source_errors():
            self.connection.execute(f"DEALLOCATE ALL -- {next(_times)}".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def cancel(self) -> None:
        """From another thread: ends the statement that runs, if the source still takes such a wish."""
        with suppress(psycopg.Error):
            self.connection.cancel_safe(timeout=2)

    def rows(self, statement: LiteralString | sql.Composed, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Runs one statement and returns its rows."""
        with source_errors():
            return self.connection.execute(statement, parameters).fetchall()

    def slot(self) -> Slot | None:
        """Our slot, or None. Raises SourceRefused for a slot of that name that is not ours to use."""
        rows = self.rows(
            "SELECT slot_type, plugin, database = current_database(), confirmed_flush_lsn, active_pid, wal_status,"
            " CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END"
            " FROM pg_replication_slots WHERE slot_name = %s",
            (self._settings.slot,),
        )
        if not rows:
            return None
        ((kind, plugin, ours, confirmed, active_pid, wal_status, held),) = rows
        if kind != "logical" or plugin != "pgoutput" or not ours:
            raise SourceRefused(
                f"replication slot {self._settings.slot} is {kind} with plugin {plugin}"
                f"{'' if ours else ' of another database'}: set REPLICATOR_SLOT to another name"
            )
        return Slot(
            confirmed_lsn=parse_lsn(confirmed) if confirmed is not None else None,
            active_pid=active_pid,
            wal_status=wal_status,
            held_bytes=held,
        )

    def slots(self, names: Sequence[str]) -> dict[str, bool]:
        """Those of these names that this database has, and whether somebody reads them."""
        return dict(
            self.rows(
                "SELECT slot_name::text, active FROM pg_replication_slots"
                " WHERE slot_name = ANY(%s) AND database = current_database() ORDER BY 1",
                (list(names),),
            )
        )

    def create_slot(self) -> int:
        """Its confirmed LSN. Waits for running transactions no longer than the lock time-out.

        Raises SourceBusy with their number, or if somebody else makes the slot.
        """
        try:
            ((lsn,),) = self.rows(
                "SELECT lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput')", (self._settings.slot,)
            )
        except (SourceBusy, SourceUnavailable) as error:
            ((running,),) = self.rows("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL")
            raise SourceBusy(
                f"the slot could not be made while {running} transactions stay open on the source ({error})"
            ) from None
        return parse_lsn(lsn)

    def drop_slot(self) -> None:
        """Our slot, unless somebody holds it."""
        self.rows(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
            (self._settings.slot,),
        )

    def holder(self, pid: int) -> str:
        """Who holds the slot, in words."""
        rows = self.rows(
            "SELECT format('PID %%s (%%s, user %%s, from %%s, since %%s)', pid, application_name, usename,"
            " coalesce(host(client_addr), 'a local socket'), backend_start) FROM pg_stat_activity WHERE pid = %s",
            (pid,),
        )
        return str(rows[0][0]) if rows else f"PID {pid}"

    def sample(self) -> Sample:
        # An asynchronous commit is flushed at the latest three delays of the WAL writer after it
        # (https://www.postgresql.org/docs/current/wal-async-commit.html); unless all WAL is flushed already, as much is
        # taken off the clock, which comes first: what is committed meanwhile is after it.
        ((at_ms, lsn, inserted, delay_ms, snapshot),) = self.rows(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,"
            f" {_FLUSHED}, {_INSERTED},"
            " (extract(epoch FROM current_setting('wal_writer_delay')::interval) * 1000)::bigint,"
            " pg_current_snapshot()::text"
        )
        late_ms = 0 if lsn == inserted else 3 * delay_ms
        return Sample(snapshot=Snapshot.parse(snapshot), flushed_lsn=parse_lsn(lsn), at_ms=at_ms - late_ms)

    def in_recovery(self) -> bool:
        """Whether it is a standby."""
        ((found,),) = self.rows("SELECT pg_is_in_recovery()")
        return bool(found)

    def may_stream(self) -> tuple[bool, bool, str]:
        """Whether it is a standby, whether our role may replicate, and `wal_level`."""
        ((in_recovery, may_replicate, wal_level),) = self.rows(
            "SELECT pg_is_in_recovery(), rolsuper OR rolreplication OR EXISTS ("
            " SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'azure_pg_replication')"
            " AND pg_has_role(r.oid, g.oid, 'MEMBER')), current_setting('wal_level')"
            " FROM pg_roles r WHERE rolname = current_user"
        )
        return bool(in_recovery), bool(may_replicate), str(wal_level)

    def identity(self) -> SourceIdentity:
        """As the walsender has it, for a role that may not ask that. An empty `system_id`: it is not told."""
        try:
            ((system_id,),) = self.rows("SELECT system_identifier::text FROM pg_control_system()")
        except SourceRefused:
            system_id = ""
        ((timeline, database, self._replayed_us),) = self.rows(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 0"
            " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END, current_database(),"
            f" {_REPLAYED_US}"
        )
        return SourceIdentity(system_id=str(system_id), timeline=int(timeline), database=str(database))

    def lock_polling(self) -> None:
        """One poller at a time, for as long as this session lives. Raises SourceBusy, and names the holder."""
        ((locked,),) = self.rows("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._lock_name,))
        if not locked:
            holders = self._lock_holders()
            holder = self.holder(holders[0]) if holders else "another session"
            raise SourceBusy(f"the source is polled by {holder}")

    def refuse_unlocked(self) -> None:
        """Raises SourceBusy if the pollers' lock is not ours any more."""
        if self.connection.info.backend_pid not in self._lock_holders():
            raise SourceBusy("the pollers' lock was lost while the run began")

    @property
    def _lock_name(self) -> str:
        return f"inbox-replicator/{self._settings.slot}"

    def _lock_holders(self) -> list[int]:
        rows = self.rows(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)",
            (self._lock_name,),
        )
        return [pid for (pid,) in rows]

    @property
    def slot_name(self) -> str:
        return self._settings.slot

    def poll_sample(self) -> PollSample:
        """Of the transaction that is open: first in it, so that its time is before what its snapshot lacks.

        On a standby the time is that of a commit on the primary which was replayed by then, and 1970 as long as none is
        known.
        """
        ((at_us, printed, next_xid, lsn, in_recovery, replayed_us),) = self.rows(
            "SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint, pg_current_snapshot()::text,"
            f" {_NEXT_XID}, {_FLUSHED}, pg_is_in_recovery(), {_REPLAYED_US}"
        )
        snapshot = Snapshot.parse(printed)
        before, self._replayed_us = self._replayed_us, replayed_us
        if in_recovery:
            # Its clock goes on while it lags behind. What is told here may be later than the snapshot: what the sample
            # before was told is not.
            at_us = before or 0
        return PollSample(at_us=at_us, snapshot=snapshot, next_xid=snapshot.widen(next_xid), lsn=parse_lsn(lsn))

    def emit(self, content: str) -> int:
        """Writes a message into the WAL and flushes it; returns an LSN at or after it.

        The first message is not transactional, so that it is streamed at its own place in the WAL. The second makes
        the statement a transaction with a commit record, and that is what flushes both at once.
        """
        ((lsn,),) = self.rows(
            "SELECT pg_logical_emit_message(false, %s, %s) FROM pg_logical_emit_message(true, %s, 'flush')",
            (MESSAGE_PREFIX, content, MESSAGE_PREFIX),
        )
        return parse_lsn(lsn)

    def type_names(self, types: Iterable[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """SQL's names of (type OID, modifier); `text` for a type that no longer exists."""
        wanted = list(types)
        rows = self.rows(
            "SELECT t.oid::bigint, t.modifier, CASE WHEN p.oid IS NULL THEN 'text'"
            " ELSE format_type(t.oid, t.modifier) END"
            " FROM unnest(%s::oid[], %s::int[]) AS t(oid, modifier) LEFT JOIN pg_type p ON p.oid = t.oid",
            ([oid for oid, _ in wanted], [modifier for _, modifier in wanted]),
        )
        return {(oid, modifier): name for oid, modifier, name in rows}

    def columns(self, table: str) -> list[Column]:
        """The columns of a table as pg_attribute has them: a domain is itself here, not its base type."""
        rows = self.rows(
            "SELECT attname, atttypid::bigint, atttypmod FROM pg_attribute"
            " WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND attnum > 0 AND NOT attisdropped"
            " AND attgenerated = '' ORDER BY attnum",
            (self._schema, table),
        )
        return [Column(name, oid, modifier, False) for name, oid, modifier in rows]

    def columns_of(self, select: str) -> list[Column]:
        """The columns of a SELECT."""
        with source_errors():
            result = self.connection.execute(f"SELECT * FROM ({select}) AS q LIMIT 0".encode()).pgresult
        return list(columns_of(result)) if result is not None else []

    def may_be_null(self, table: str, columns: Sequence[str]) -> bool:
        """Whether any of these columns takes NULL."""
        ((found,),) = self.rows(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass"
            " AND attname = ANY(%s) AND NOT attnotnull)",
            (self._schema, table, list(columns)),
        )
        return bool(found)

    def published(self) -> dict[str, list[int]]:
        """The tables that our publication names → numbers of which the first is the table's OID.

        As long as they stay the same no change of the table was left out of the publication: what is made anew gets
        another OID, what is altered another xmin. Names are as `name_of` has them.
        """
        rows = self.rows(
            "SELECT n.nspname, c.relname, c.oid::bigint, r.oid::bigint, p.oid::bigint, p.xmin::text::bigint"
            " FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
            (self._settings.publication,),
        )
        return {self.name_of(schema, name): numbers for schema, name, *numbers in rows}

    def name_of(self, schema: str, table: str) -> str:
        """A table's bare name where it is one of Chatwoot's schema."""
        return table if schema == self._schema else f"{schema}.{table}"

    def qualified(self, table: str) -> sql.Identifier:
        """For a statement that carries parameters, be they none."""
        return identifier(self._schema, table)

    def estimate_rows(self, table: str, where: sql.Composed, parameters: Any) -> int:
        """How many rows the planner expects."""
        statement = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE {}")
        ((plan,),) = self.rows(statement.format(self.qualified(table), where), parameters)
        return int(plan[0]["Plan"]["Plan Rows"])

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A REPEATABLE READ, READ ONLY transaction: its snapshot is taken by the first query inside."""
        began = time.monotonic()
        with source_errors():
            self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield
            finally:
                self.busy_s += time.monotonic() - began
                if not self.connection.closed:
                    # At a ROLLBACK psycopg would forget what it has prepared, and reads be planned anew: 10 ms for the
                    # analytics view, where reading a row takes 1.
                    self.connection.execute("COMMIT")
