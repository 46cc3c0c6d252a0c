"""What every server needs while it starts: a port, patience, and one way to say that it cannot be had."""

import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Below Linux's range of ephemeral ports (32768 and up). Inside that range a client that keeps reconnecting while its
# server is down can be given the server's port as its own, connect to itself, and keep the server from coming back.
PORTS = range(20_000, 32_000)
PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks at a condition: longer, the longer a look takes."""


class ServersUnavailable(Exception):
    """The servers cannot be started here; the message is one line that says what to install or to mend."""


def wait_until(condition: Callable[[], T], what: str, timeout: float) -> T:
    """The first true value of `condition`; TimeoutError, naming `what`, when there is none in `timeout` seconds.

    Looks for a fifth of the time at most: whoever is waited for shares the machine with a look that compares databases.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(min(max(PAUSE, 4 * (now - began)), LONGEST_PAUSE))


def free_port() -> int:
    """A loopback port on which nobody listens now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # taken: the next one
                continue
            return port
    raise ServersUnavailable(f"no free loopback port among 200 tried in {PORTS.start}-{PORTS.stop}")


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a server's log, for an error's message."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-count:]) if log.exists() else "no log"
