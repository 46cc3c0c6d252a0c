"""Work that one thread asks the stream's loop to do, between two frames.

Everything that a run shares (the producer, the memory, the progress) belongs to the loop's thread; the backfill's
thread hands it functions instead of taking locks.
"""

from __future__ import annotations

import os
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
        self._closed = False

    def run(self, call: Callable[[], T], seconds: float = 60.0) -> T:
        """From another thread: the call's result, or what it raised.

        Raises Ended, or TimeoutError if the loop has not come to it; then it is never done.
        """
        future: Future[T] = Future()
        self._queue.put((call, future))
        if self._closed:  # looked at last: the queue may have been emptied just before
            future.cancel()
            raise Ended
        self._wake_up()
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.cancel():
                raise TimeoutError(f"the stream has been held up for {seconds:g} s") from None
            return future.result(seconds)

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
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
                raise

    def close(self) -> None:
        """In the loop's thread, last: who still asks gets Ended."""
        self._closed = True
        while not self._queue.empty():
            _, future = self._queue.get_nowait()
            if future.set_running_or_notify_cancel():
                future.set_exception(Ended())

    def release(self) -> None:
        """When no other thread is left: the descriptors' numbers are soon another file's."""
        os.close(self.wake)
        os.close(self._ring)

    def _wake_up(self) -> None:
        os.write(self._ring, b"!")
