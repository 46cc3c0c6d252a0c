"""Work that a thread asks the run's loop to do, between two of its turns.

Everything that a run shares (the producer, the memory, the progress) belongs to the loop's thread; threads
that read hand it functions instead of taking locks.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Ended(Exception):
    """The loop has ended: nothing is done any more."""


class Calls:
    """A queue of calls and a file descriptor that becomes readable when one is waiting."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self.wake, self._ring = os.pipe()
        os.set_blocking(self.wake, False)
        # A thread that was not waited for may still ring: the descriptors go with the last who holds this.
        weakref.finalize(self, _close, self.wake, self._ring)
        self._closed = False

    def run(self, call: Callable[[], T]) -> T:
        """From another thread: the call's result, or what it raised. Raises Ended if the loop ends before.

        Waits for as long as the loop is held up, by Kafka for instance: what was given up here would still be done
        later, for nobody.
        """
        future: Future[T] = Future()
        self._queue.put((call, future))
        if self._closed:  # looked at last: the queue may have been emptied just before
            raise Ended
        self._wake_up()
        return future.result()

    def is_waiting(self) -> bool:
        """Whether something is asked for that `serve` has not begun."""
        return not self._queue.empty()

    def serve(self) -> None:
        """In the loop's thread: does what is asked."""
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            return
        while True:
            try:
                call, future = self._queue.get_nowait()
            except Empty:
                return
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
                raise

    def close(self) -> None:
        """In the loop's thread, last: who still asks gets Ended."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()[1].set_exception(Ended())

    def _wake_up(self) -> None:
        os.write(self._ring, b"!")


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
