"""No server outlives the process that asked for it, however that process ends.

`GuardedFolder` makes a temporary folder and starts, in a session of its own, the guardian: this very file run as
a program. Between them is a pipe whose write end nobody but the parent holds. Every process that the parent wants
to start first waits at a gate; its pid goes through the pipe, the guardian takes down who that is (psutil: pid and
start time, so that a stranger who gets the number later is left alone) and answers; only then does the gate open.
When the pipe ends, because the folder was closed, or because the parent crashed, was interrupted or was killed, the
guardian ends the processes that it knows, first politely, and removes the folder. There is no other way to the end,
so the normal exit tests the abnormal one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

PREFIX = "inbox-replicator-"
MEMORY, PLENTY = Path("/dev/shm"), 8 << 30  # noqa: S108 (mkdtemp makes the name inside unguessable)
"""Where files can be kept in memory, and how many bytes there must be of both: databases and WAL are files too."""
POLITE_SECONDS = 8.0  # PostgreSQL's postmaster itself kills children that ignore its SIGQUIT for 5 s
CLOSE_SECONDS = 30.0
# The gate: the child becomes the server when a line arrives, and ends when its parent died instead.
GATE = 'read -r _ && exec "$@" </dev/null'


class GuardedFolder:
    """A temporary folder (`path`) and the processes started in it, all gone after `close()` or with this process.

    `in_memory`: for files that come and go by the thousand, if the machine has the memory; else on disk as usual.
    """

    def __init__(self, open_to_others: bool = False, in_memory: bool = False) -> None:
        place = MEMORY if in_memory and _is_roomy(MEMORY) else _enterable() if open_to_others else None
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        if open_to_others:
            self.path.chmod(0o711)
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._guardian = subprocess.Popen(  # -P: our module kafka.py must not hide a package of that name
            [sys.executable, "-P", __file__, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self._guardian.stdin is not None
        # exec closes the pipe in children by itself; a fork without exec (multiprocessing) would keep it open.
        os.register_at_fork(after_in_child=self._guardian.stdin.close)

    def spawn(
        self,
        args: Sequence[str | Path],
        *,
        log: Path,
        end: signal.Signals = signal.SIGKILL,
        user: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, output appended to `log`; `end` is what makes it go at once."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                ["/bin/sh", "-c", GATE, "gate", *map(str, args)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.path,
                env=None if env is None else dict(env),
                start_new_session=True,
                user=None if user is None else user[0],
                group=None if user is None else user[1],
                extra_groups=None if user is None else [],
            )
        self._children.append(child)
        self._announce(child.pid, end)
        assert child.stdin is not None
        with child.stdin as gate:
            gate.write(b"go\n")
        return child

    def run(self, args: Sequence[str | Path], *, log: Path, timeout: float, user: tuple[int, int] | None = None) -> int:
        """Run a program to its end and return its exit code; TimeoutExpired after `timeout` seconds."""
        return self.spawn(args, log=log, user=user).wait(timeout)

    def _announce(self, pid: int, end: signal.Signals) -> None:
        assert self._guardian.stdin is not None
        assert self._guardian.stdout is not None
        with self._lock:
            self._guardian.stdin.write(f"{pid} {int(end)}\n".encode())
            if not self._guardian.stdout.readline():
                raise RuntimeError("the guardian of the servers is gone; nothing is started without it")

    def close(self) -> None:
        """End every process and remove the folder; returns when both are done."""
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        code = self._guardian.wait(CLOSE_SECONDS)
        for child in self._children:
            child.poll()  # reaped, so that nothing is left in the process table
        if code != 0:
            raise RuntimeError(f"the guardian of {self.path} ended with {code}; its processes may still run")


def _is_roomy(memory: Path) -> bool:
    """Containers often have tiny ones, and some systems let no program start from there."""
    if not memory.is_dir() or os.statvfs(memory).f_flag & os.ST_NOEXEC:
        return False
    return min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) >= PLENTY


def _enterable() -> Path:
    """A temporary folder that other users can enter too."""
    usual = Path(tempfile.gettempdir())
    open_to_all = all(folder.stat().st_mode & 0o001 for folder in (usual, *usual.parents))
    return usual if open_to_all else Path("/tmp")  # noqa: S108 (mkdtemp makes the name inside unguessable)


# What follows runs in the guardian's own process.


def guard(folder: Path) -> None:
    """Take down the processes announced on standard input; at its end, end them and remove the folder."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # whoever stops everything stops the parent too: the pipe will end
    known: list[tuple[psutil.Process, int]] = []
    for line in sys.stdin.buffer:
        pid, end = map(int, line.split())
        with contextlib.suppress(psutil.NoSuchProcess):  # ended already
            known.append((psutil.Process(pid), end))
        with contextlib.suppress(BrokenPipeError):  # the parent died meanwhile: the loop ends by itself
            sys.stdout.buffer.write(b"known\n")
            sys.stdout.buffer.flush()
    end_processes(known)
    shutil.rmtree(folder)


def end_processes(known: Sequence[tuple[psutil.Process, int]]) -> None:
    """Send each process its own signal; whoever of them and their children is still there later is killed."""
    roots = [(process, end) for process, end in known if lives(process)]
    family = [member for process, _ in roots for member in (process, *_children(process))]
    for process, end in roots:
        _send(process, end)
        _send(process, signal.SIGCONT)  # a frozen process hears nothing else than SIGKILL
    _wait(family, POLITE_SECONDS)
    for member in family:
        _send(member, signal.SIGKILL)
    _wait(family, POLITE_SECONDS)


def lives(process: psutil.Process) -> bool:
    """False for zombies too: their parent may be waiting for us and cannot reap them before we are done."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # gone, which is what was wanted
        process.send_signal(number)


def _wait(family: Sequence[psutil.Process], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while any(map(lives, family)) and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
