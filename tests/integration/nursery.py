"""Programs born by `fork` of a process that has imported them: importing takes longer than most tests need them.

As real as `python -m` makes them: each is a process in a session of its own that runs the program's `__main__` from its
first line to the interpreter's end. That they start without this help too is what the demo and its tests show.

When the tests end, however they do, their end of the pipe closes, and the children that are left are killed.
"""

from __future__ import annotations

import gc
import os
import runpy
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import RLock
from typing import NamedTuple

IMPORTED = (
    *("replicator.__main__", "replicator.check", "replicator.pipeline"),
    *("consumers.__main__", "consumers.worker"),
)
LOOK_SECONDS = 0.5
"""Between two looks of a thread whose news another one may have read."""


class Wish(NamedTuple):
    """To the nursery; it answers with the child's pid, and later with that and the exit code."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    log: str


class Nursery:
    """Of one process that runs tests."""

    def __init__(self) -> None:
        self._pipe, other = Pipe()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=other.fileno(), start_new_session=True
            )
        self._ends: dict[int, int] = {}
        self._lock = RLock()

    def bear(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """`python -m arguments`, what it says appended to `log`."""
        log.touch()  # whoever starts it looks into its log at once
        with self._lock:
            self._pipe.send(Wish(arguments, dict(environment), str(Path.cwd()), str(log)))
            while not isinstance(told := self._pipe.recv(), int):
                self._ends.update([told])
            self._ends.pop(told, None)  # of an older child with this number
            return Child(told, self)

    def wait_for_news(self, seconds: float) -> None:
        """Until a child may have ended; no longer than this."""
        self._pipe.poll(seconds)

    def end_of(self, pid: int) -> int | None:
        """The exit code of a child, negative if a signal ended it; None while it runs."""
        with self._lock:
            while pid not in self._ends and self._pipe.poll():
                self._ends.update([self._pipe.recv()])
            return self._ends.get(pid)


@cache
def nursery() -> Nursery:
    """The one of this process; made when it is needed first."""
    return Nursery()


class Child:
    """As `subprocess.Popen` has it."""

    def __init__(self, pid: int, parent: Nursery) -> None:
        self.pid = pid
        self._parent = parent
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._parent.end_of(self.pid)
        return self._code

    def wait(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", seconds)
            self._parent.wait_for_news(min(left, LOOK_SECONDS))
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# What follows runs in the nursery's own process.


def tend() -> None:
    """Serve the pipe that is standard input. Returns only in a child, which has become what was wished for."""
    for name in IMPORTED:
        import_module(name)
    for program in ("replicator", "consumers"):
        del sys.modules[f"{program}.__main__"]  # each child runs it anew
    gc.collect()
    gc.freeze()  # a child's collector would touch, and so copy, every page that it shares with us
    tests: Connection[int | tuple[int, int], Wish] = Connection(os.dup(0))
    awake, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    with selectors.DefaultSelector() as waiting:
        waiting.register(tests, selectors.EVENT_READ)
        waiting.register(awake, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in waiting.select()}
            if awake in ready:
                os.read(awake, 4096)
                for pid in [pid for pid in running if _report(tests, pid)]:
                    running.remove(pid)
            if tests.fileno() not in ready:
                continue
            try:
                wish = tests.recv()
            except EOFError:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
                tests.close()
                os.close(awake)
                os.close(told)
                _become(wish)
                return
            running.add(pid)
            tests.send(pid)


def _report(tests: Connection[int | tuple[int, int], Wish], pid: int) -> bool:
    """Whether the child has ended; then its exit code is told."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        tests.send((pid, os.waitstatus_to_exitcode(status)))
    return bool(found)


def _become(wish: Wish) -> None:
    """A process as a shell would have started it."""
    os.setsid()
    os.chdir(wish.folder)
    os.environ.clear()
    os.environ.update(wish.environment)
    log = os.open(wish.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(here, there)
    os.close(log)
    os.close(nothing)
    sys.argv[:] = wish.arguments


if __name__ == "__main__":
    from tests.integration.nursery import tend as begin  # the names that wishes are pickled under

    begin()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
