"""A process that is asked to stop ends in time, whatever its threads are doing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_PATIENT, _IMPATIENT = 60.0, 0.3
_PROGRAM = """
import ctypes
from replicator.runtime import Stop, configure_logging
configure_logging()
stop = Stop()
stop.install({patience})
print("ready", flush=True)
{main}
"""
_CLEAN = "while not stop.wait(60): pass"
# A mutex that is locked twice: the call never returns, and no signal interrupts it.
_STUCK = "libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\nwhile True: libc.pthread_mutex_lock(mutex)"
_DEAF = "stop.wait(60)\nprint('asked', flush=True)\n" + _STUCK


@contextmanager
def started(main: str, patience: float) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(main=main, patience=patience)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield program
    finally:
        program.kill()
        program.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    with started(_CLEAN, _PATIENT) as program:
        program.send_signal(number)
        _, says = program.communicate(timeout=20)
    assert (program.returncode, says) == (0, "")


def test_a_main_thread_that_does_not_come_back_from_a_call_does_not_keep_the_process() -> None:
    with started(_STUCK, _IMPATIENT) as program:
        program.send_signal(signal.SIGTERM)
        _, says = program.communicate(timeout=20)
    assert program.returncode == 1
    assert says.count("stop.forced") == 1


def test_a_second_signal_ends_it_at_once() -> None:
    with started(_DEAF, _PATIENT) as program:
        program.send_signal(signal.SIGTERM)
        assert program.stdout is not None
        assert program.stdout.readline() == "asked\n"
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 128 + signal.SIGTERM
