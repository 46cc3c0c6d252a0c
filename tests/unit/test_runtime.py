"""A process that was asked to stop is gone in time, whatever it waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HANGS = """
import sys, threading
from replicator.runtime import Stop
stop = Stop()
stop.install(within=float(sys.argv[1]))
print("ready", flush=True)
stop.wait(60)
print("asked", flush=True)
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""


@contextmanager
def hanging(within: float) -> Iterator[subprocess.Popen[str]]:
    """A process that was asked to stop, and hangs."""
    with subprocess.Popen([sys.executable, "-c", HANGS, str(within)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "asked\n"
            yield process
        finally:
            process.kill()


def test_one_that_hangs_ends_all_the_same_and_says_so() -> None:
    with hanging(within=0.2) as process:
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "stop.forced" in said


def test_a_second_signal_ends_it_at_once() -> None:
    with hanging(within=3600) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
