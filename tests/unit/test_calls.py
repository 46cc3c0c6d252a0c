"""Work that crosses from one thread to the loop's is done once, or surely not at all."""

from __future__ import annotations

import gc
import os
import select
import threading
from collections.abc import Callable

import pytest

from replicator.calls import Calls, Ended


@pytest.fixture
def calls() -> Calls:
    return Calls()


def asked(ask: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """A thread that asks, and what it got or met."""
    met: list[object] = []

    def run() -> None:
        try:
            met.append(ask())
        except Exception as error:
            met.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, met


def serve_one(calls: Calls) -> None:
    select.select([calls.wake], [], [], 10)
    calls.serve()


def test_the_loop_does_what_another_thread_asks(calls: Calls) -> None:
    thread, met = asked(lambda: calls.run(threading.get_ident))
    serve_one(calls)
    thread.join(10)
    assert met == [threading.get_ident()]


def test_the_loop_knows_without_a_wait_whether_it_is_asked(calls: Calls) -> None:
    assert not calls.is_waiting()
    thread, _ = asked(lambda: calls.run(lambda: None))
    select.select([calls.wake], [], [], 10)
    assert calls.is_waiting()
    calls.serve()
    assert not calls.is_waiting()
    thread.join(10)


def test_a_fault_is_both_the_askers_and_the_loops(calls: Calls) -> None:
    thread, met = asked(lambda: calls.run(lambda: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        serve_one(calls)
    thread.join(10)
    assert isinstance(met[0], ZeroDivisionError)


def test_after_the_end_nothing_is_asked_in_vain(calls: Calls) -> None:
    waiting, met = asked(lambda: calls.run(lambda: 1))
    select.select([calls.wake], [], [], 10)
    calls.close()
    waiting.join(10)
    assert isinstance(met[0], Ended)
    with pytest.raises(Ended):
        calls.run(lambda: 1)


def test_its_descriptors_go_with_the_last_who_holds_it() -> None:
    """Also when a run fails before its loop begins, or its other thread is not waited for."""
    calls = Calls()
    wake, was = calls.wake, os.fstat(calls.wake)

    def is_open() -> bool:
        """Another thread of the process may have been given the number since."""
        try:
            return os.path.samestat(os.fstat(wake), was)
        except OSError:
            return False

    assert is_open()
    del calls
    gc.collect()
    assert not is_open()
