"""A hot standby of a server of the test's own."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from demo.servers import ServersUnavailable
from demo.servers.postgres import LocalPostgres
from tests.server_settings import QUICK

BACKUP_SECONDS = 60.0


class Standby(LocalPostgres):
    """Follows its primary by streaming, and answers reads. Ends with the primary's folder."""

    def __init__(self, primary: LocalPostgres) -> None:
        self._primary = primary
        super().__init__(primary._folder, "standby", primary.bin_dir, QUICK)

    def _init(self, password: str) -> None:
        """A copy of the primary, its roles and their passwords included."""
        del password
        self.dsn = self.on(self._primary.dsn)
        home = self.data.parent
        home.mkdir(mode=0o700)
        if self._owner is not None:
            os.chown(home, *self._owner)
        copy = [self.bin_dir / "pg_basebackup", "-D", self.data, "-d", self._primary.dsn]
        follow = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        if self._folder.run([*copy, *follow], log=self.log, timeout=BACKUP_SECONDS, user=self._owner) != 0:
            raise ServersUnavailable(f"pg_basebackup failed: {self.log_text()}")

    def take_its_place(self) -> None:
        """Promoted, at the address of its primary, which is gone for good. To be stopped before."""
        self.port, self.dsn = self._primary.port, self._primary.dsn
        self._settings = {**self._settings, "primary_conninfo": ""}  # else it would follow itself
        self.start()
        with self._connect() as connection:
            connection.execute("SELECT pg_promote()")

    def on(self, dsn: str) -> str:
        """An address on the primary as the same one here."""
        parts = urlsplit(dsn)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}"))
