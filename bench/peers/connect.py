"""Kafka Connect, standalone: one process with one connector, started as its own script starts it.

A task that fails leaves the process running as if nothing were wrong: so `fell` asks what it says of its tasks.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.servers.guardian import GuardedFolder
from demo.servers.kafka import LOGGING
from demo.servers.kafka import VERSION as KAFKA_VERSION
from demo.servers.maven import CACHE, jars_of, require_java
from demo.servers.starting import free_port, last_lines

ANSWER_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 2.0
STOP_SECONDS: Final = 60.0
STOPPED: Final = (0, 128 + signal.SIGTERM, -signal.SIGKILL)
MAIN: Final = "org.apache.kafka.connect.cli.ConnectStandalone"
DEBEZIUM_VERSION: Final = "3.3.1.Final"
# As bin/connect-standalone.sh and bin/kafka-run-class.sh of Kafka have it.
JVM: Final = (
    *("-server", "-Xms256M", "-Xmx2G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
)
CONVERTER: Final = "org.apache.kafka.connect.json.JsonConverter"
WORKER: Final = {
    "key.converter": CONVERTER,
    "value.converter": CONVERTER,  # with schemas: the sink needs them
    "offset.flush.interval.ms": "1000",
    "plugin.discovery": "service_load",
    "producer.compression.type": "lz4",
    "producer.linger.ms": "20",
    "producer.batch.size": str(256 << 10),
    "consumer.max.poll.records": "5000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Jars:
    """Where what Maven fetched is."""

    connect: Path
    plugins: Path


def installed(folder: GuardedFolder) -> Jars:
    """Connect and both connectors. Raises ServersUnavailable with a line that says why they can't be had."""
    require_java()
    poms, cache = Path(__file__).parent, CACHE / "peers"
    connect = jars_of(folder, poms / "connect-pom.xml", cache / "connect" / KAFKA_VERSION, "Kafka Connect")
    plugins = cache / "debezium" / DEBEZIUM_VERSION
    for part in ("source", "sink"):
        jars_of(folder, poms / f"{part}-pom.xml", plugins / part, f"Debezium's {part} connector")
    return Jars(connect=connect, plugins=plugins)


class Connect:
    """Start, stop and look at it as at one of our programs (`demo.programs.Program`)."""

    def __init__(
        self, folder: GuardedFolder, jars: Jars, bootstrap: str, name: str, connector: Mapping[str, str]
    ) -> None:
        self.name = name
        self._home = folder.path / name
        self._home.mkdir(mode=0o700)
        self.log = self._home / "log"
        self._folder, self._jars, self._port = folder, jars, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted, self._looked, self._said = False, 0.0, ""
        worker = {
            **WORKER,
            "bootstrap.servers": bootstrap,
            "listeners": f"http://127.0.0.1:{self._port}",
            "offset.storage.file.filename": str(self._home / "offsets"),
            "plugin.path": str(jars.plugins),
        }
        self._write("worker.properties", worker)
        self._write("connector.properties", {"name": name, **connector})
        (self._home / "log4j2.properties").write_text(LOGGING.replace("INFO", "WARN"))

    def start(self) -> None:
        """Begin a life; returns at once."""
        command: list[str | Path] = ["java", *JVM, f"-Djava.io.tmpdir={self._home}", "-XX:-UsePerfData"]
        command += [f"-Dlog4j2.configurationFile={self._home / 'log4j2.properties'}", "-cp", f"{self._jars.connect}/*"]
        command += [MAIN, self._home / "worker.properties", self._home / "connector.properties"]
        self._process = self._folder.spawn(command, log=self.log)
        self._wanted = True

    @property
    def pid(self) -> int:
        """Of the present life."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether the connector and all its tasks run."""
        states = self._states()
        return len(states) > 1 and all(state == "RUNNING" for state, _ in states)

    @property
    def fell(self) -> str | None:
        """Said of one that ended, or of which a task did, though nobody wanted it to."""
        if not self._wanted or self._process is None:
            return None
        if self._process.poll() is not None:
            return f"{self.name} ended unexpectedly with exit code {self._process.returncode}"
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            failed = [trace.partition("\n")[0] for state, trace in self._states() if state == "FAILED"]
            self._said = f"{self.name} failed: {failed[0]}" if failed else ""
        return self._said or None

    def ask_to_stop(self) -> None:
        """SIGTERM; `stopped` says what came of it."""
        self._wanted = False
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stopped(self) -> str | None:
        """Wait for the end that was asked for; a sentence if it was not a clean one."""
        if self._process is None:
            return None
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # a task that hangs says nothing about what it has done before
            self._process.kill()
            code = self._process.wait(STOP_SECONDS)
        return None if code in STOPPED else f"{self.name} stopped with exit code {code}"

    def tail(self) -> str:
        """The end of its log."""
        return last_lines(self.log, 12).replace(" | ", "\n")

    def _states(self) -> list[tuple[str, str]]:
        """The state of the connector and of each task, with what it died of; empty while it does not answer."""
        try:
            address = f"http://127.0.0.1:{self._port}/connectors/{self.name}/status"
            with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):  # not yet
            return []
        return [(each["state"], each.get("trace", "")) for each in (found["connector"], *found["tasks"])]

    def _write(self, name: str, properties: Mapping[str, str]) -> None:
        (self._home / name).write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
