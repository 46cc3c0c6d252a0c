"""The walsender's end of the line: START_REPLICATION, frames in, feedback out.

psycopg enters COPY BOTH by a plain execute on a connection with `replication=database`; frames come from
`pgconn.get_copy_data(1)`, feedback goes by `put_copy_data`
(https://www.postgresql.org/docs/current/protocol-replication.html). Reading never blocks; waiting is a separate call
with a bound, so that feedback is sent in time also when nothing is read.
"""

from __future__ import annotations

import re
import select
import time

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from replicator.config import Settings
from replicator.errors import ReplicatorError, SlotStuck, SourceBusy, SourceUnavailable
from replicator.pgoutput import encode_feedback
from replicator.source import SourceIdentity, connection_parameters, source_errors
from replicator.values import startup_options

_SQLSTATE, _PRIMARY = pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY
_UNDEFINED_OBJECT = b"42704"


class Replication:
    """One streaming session. Holds the slot as long as it is open."""

    def __init__(self, settings: Settings) -> None:
        """Connects to a walsender; nothing is held yet."""
        self._settings = settings
        conninfo = make_conninfo(
            settings.source_dsn.get_secret_value(),
            replication="database",
            options=startup_options(),
            **connection_parameters(settings),
        )
        with source_errors():
            self._connection = psycopg.connect(conninfo, autocommit=True)
        self._pgconn = self._connection.pgconn
        self._asked_at: float | None = None

    @property
    def pid(self) -> int:
        """Of the walsender."""
        return self._connection.info.backend_pid

    def identity(self) -> SourceIdentity:
        """Which history the source's WAL belongs to."""
        with source_errors():
            row = self._connection.execute("IDENTIFY_SYSTEM").fetchone()
        if row is None:
            raise SourceUnavailable("the source did not identify itself")
        system_id, timeline, _, database = row
        return SourceIdentity(system_id=str(system_id), timeline=int(timeline), database=str(database))

    def start(self) -> None:
        """Takes the slot and begins at its confirmed LSN.

        Raises SlotActive if another session holds the slot, SourceRefused if it or the publication is missing or its
        WAL is gone.
        """
        command = (
            f'START_REPLICATION SLOT "{self._settings.slot}" LOGICAL 0/0'  # both names are checked by pattern
            f" (proto_version '1', publication_names '{self._settings.publication}', messages 'true')"
        )
        try:
            with source_errors():
                self._connection.execute(command.encode())
        except SourceBusy as error:
            pid = re.search(r"PID (\d+)", str(error))
            raise SlotActive(str(error), int(pid[1]) if pid else None) from None
        self._pgconn.nonblocking = 1

    def close(self) -> None:
        self._connection.close()

    def read(self) -> bytes | None:
        """The next frame, or None if there is none yet. Raises SourceUnavailable or SlotStuck at the stream's end."""
        try:
            size, frame = self._pgconn.get_copy_data(1)
            if size == 0:
                self._pgconn.consume_input()
                size, frame = self._pgconn.get_copy_data(1)
        except psycopg.OperationalError as error:
            raise SourceUnavailable(str(error).strip()) from None
        if size > 0:
            self._asked_at = None
            return bytes(frame)
        if size == 0:
            return None
        raise self._ending()

    @property
    def silent_s(self) -> float:
        """How long nothing has come since a reply was asked for. From any thread.

        Who reads late must read first: what has come by then ends the silence.
        """
        asked_at = self._asked_at
        return time.monotonic() - asked_at if asked_at is not None else 0.0

    def read_to_end(self) -> None:
        """Passes over what has arrived. Raises as `read` does if the stream has ended."""
        while self.read() is not None:
            pass

    def _ending(self) -> ReplicatorError:
        """Why the stream ended, in the server's words."""
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            return SourceUnavailable("the source ended the stream")
        said = f"the source ended the stream: {result.get_error_message().strip()}"
        state, primary = (result.error_field(field) or b"" for field in (_SQLSTATE, _PRIMARY))
        if state == _UNDEFINED_OBJECT and self._settings.publication.encode() in primary:
            return SlotStuck(said)
        return SourceUnavailable(said)

    def wait(self, seconds: float, wake: int) -> None:
        """Until something has arrived here or at the file descriptor `wake`, at most so long."""
        try:
            select.select([self._pgconn.socket, wake], [], [], seconds)
        except psycopg.OperationalError as error:
            raise SourceUnavailable(str(error).strip()) from None

    def feedback(self, received: int, confirmed: int, *, ask_reply: bool = False) -> None:
        """Tells the server how far we are; with `ask_reply` it answers with a keepalive at once."""
        now_us = time.time_ns() // 1000
        if ask_reply and self._asked_at is None:
            self._asked_at = time.monotonic()
        try:
            self._pgconn.put_copy_data(encode_feedback(received, confirmed, now_us, ask_reply=ask_reply))
            self._pgconn.flush()
        except psycopg.OperationalError as error:
            raise SourceUnavailable(str(error).strip()) from None


class SlotActive(SourceBusy):
    """Another session holds the slot."""

    def __init__(self, sentence: str, pid: int | None) -> None:
        super().__init__(sentence)
        self.pid = pid
