"""The product's two programs as child processes, which the demo starts, watches, kills and starts again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from demo.servers.guardian import GuardedFolder
from demo.servers.starting import last_lines

STATUS_SECONDS = 1.0  # a program that does not answer for so long has no news
STOP_SECONDS = 15.0  # the programs promise 10 s
COMMAND_SECONDS = 120.0
LOUD = ("warning", "error", "critical")


class CommandFailed(Exception):
    """A command of the product ended with another exit code than 0."""


class Program:
    """A long-running program under a name that stays the same over its lives; its log is `<name>.log`."""

    def __init__(
        self, folder: GuardedFolder, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = folder.path / f"{name.replace(' ', '-')}.log"
        self.peak = 0
        """The most memory that one of its lives had, in bytes."""
        self.remarks: Counter[str] = Counter()
        """What it warned of: names of events, and lines that are none."""
        self._folder, self._arguments, self._environment = folder, arguments, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._read_to = 0
        self._port: int | None = None

    def start(self) -> None:
        """Begin a life; returns at once."""
        self._port = None
        self._read_to = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._folder.spawn(
            [sys.executable, "-m", *self._arguments], log=self.log, env=bare_environment(self._environment)
        )
        self._wanted = True

    @property
    def pid(self) -> int:
        """Of the present life."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def fell(self) -> str | None:
        """Said of one that ended though nobody wanted it to."""
        if not self._wanted or self._process is None or self._process.poll() is None:
            return None
        return f"{self.name} ended unexpectedly with exit code {self._process.returncode}"

    def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        assert self._process is not None
        self._wanted = False
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def ask_to_stop(self) -> None:
        """SIGTERM; `stopped` says what came of it."""
        self._wanted = False
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGTERM)

    def stopped(self) -> str | None:
        """Wait for the end that was asked for; a sentence if it was not a clean one."""
        if self._process is None:
            return None
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self.name} did not stop within {STOP_SECONDS:g} s of SIGTERM"
        return None if code in (0, -signal.SIGKILL) else f"{self.name} stopped with exit code {code}"

    def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it does not answer."""
        if self._port is None or not self.alive:
            return {}
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/status", timeout=STATUS_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):  # it is busy, or ends just now
            return {}
        return found

    def news(self) -> list[dict[str, Any]]:
        """What it has logged since the last call, in this life; also finds its port and counts its warnings."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as log:
            log.seek(self._read_to)
            whole = log.read().rpartition(b"\n")[0]
        self._read_to += len(whole) + bool(whole)
        found = [_fields(line) for line in whole.decode(errors="replace").splitlines()]
        for fields in found:
            self._port = fields.get("http_port", self._port)
            if fields.get("level") in LOUD:
                self.remarks[str(fields.get("event"))] += 1
        return found

    def memory(self) -> int:
        """Resident bytes now; remembers the most."""
        if self._process is None or not self.alive:
            return 0
        try:
            now = int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:  # ended just now
            return 0
        self.peak = max(self.peak, now, _high_water(self._process.pid))
        return now

    def tail(self) -> str:
        """The end of its log."""
        return last_lines(self.log, 12).replace(" | ", "\n")


def command(
    folder: GuardedFolder,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    seconds: float = COMMAND_SECONDS,
) -> None:
    """Run a command of the product to its end; CommandFailed with its last words."""
    log = folder.path / f"{'-'.join(word for word in arguments if word.isalnum())}.log"
    child = folder.spawn([sys.executable, "-m", *arguments], log=log, env=bare_environment(environment))
    code = child.wait(seconds)
    if code != 0:
        raise CommandFailed(f"`{' '.join(arguments)}` ended with exit code {code}: {last_lines(log)}")


def bare_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our own environment with just these settings: what the user may have set for another installation stays out."""
    ours = ("REPLICATOR_", "CONSUMERS_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **settings}


def _fields(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    # A traceback, or a library that prints: that is worth a look too.
    return found if isinstance(found, dict) else {"level": "error", "event": "a line that is no JSON"}


def _high_water(pid: int) -> int:
    """The most memory that the process ever had, where the system keeps that (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # another system, or it ended just now
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0
