"""The two programs as real processes, for tests that stop, freeze and kill them."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from demo.servers import wait_until
from replicator import setup, topics
from replicator.config import PREFIX, Settings, load
from tests.integration.nursery import nursery

RUN = ["replicator", "run"]
START_SECONDS = 60.0
STOP_SECONDS = 10.0
"""What the programs promise after SIGTERM."""


class Program:
    """One running process of ours, with its log in a file."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._process = nursery().bear(arguments, {**os.environ, **environment}, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged, as fields. Lines that are not JSON stand under `text`."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"event": "", "text": line})
        return found

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event") == event]

    def status(self) -> dict[str, Any]:
        """What `/status` answers; `{}` while it does not answer."""
        ports = [line["http_port"] for line in self.lines() if "http_port" in line]
        if not ports:
            return {}
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}/status", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels, as `/metrics` has it; 0 while it has none, or does not answer."""
        ports = [line["http_port"] for line in self.lines() if "http_port" in line]
        if not ports:
            return 0.0
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        families = [family for family in text_string_to_metric_families(text) if family.name == name]
        return sum(s.value for family in families for s in family.samples if not s.name.endswith("_created"))

    def wait_healthy(self, seconds: float = START_SECONDS) -> None:
        def healthy() -> bool:
            assert self.running, self.tail()
            return bool(self.status().get("healthy"))

        wait_until(healthy, "healthy", seconds)

    def tail(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-30:])

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """SIGTERM; the exit code. Fails if it takes longer than promised."""
        self._process.terminate()
        return self._process.wait(STOP_SECONDS)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(STOP_SECONDS)


def replicator_environment(source_dsn: str, kafka: str, prefix: str, **settings: object) -> dict[str, str]:
    """The settings of a replicator of one test; `settings` are named as in `replicator.config`."""
    ours = {
        "source_dsn": source_dsn,
        "kafka_bootstrap_servers": kafka,
        "topic_prefix": prefix,
        "slot": prefix.replace("-", "_").replace(".", "_")[-60:],
        "partitions": 6,
        "http_port": 0,
        "heartbeat_s": 0.5,
        "mode": "stream",
        **settings,
    }
    return {f"REPLICATOR_{name.upper()}": str(value) for name, value in ours.items()}


@contextmanager
def started(arguments: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Program]:
    """A program that is gone afterwards. Its log is shown if the test fails inside."""
    program = Program(arguments, environment, log)
    try:
        yield program
    except BaseException:
        print(f"--- log of {' '.join(arguments)}\n{program.tail()}")
        raise
    finally:
        program.end()


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The same settings in this process."""
    return load(_env_file=None, **{name.removeprefix(PREFIX).lower(): value for name, value in environment.items()})


def prepare_source(environment: Mapping[str, str]) -> None:
    """What `replicator setup --apply` does."""
    settings = settings_of(environment)
    setup.apply(settings, setup.plan(settings), lambda _: None)


def be_prepared(environment: Mapping[str, str]) -> None:
    """The same, unless the source is a copy of one that was prepared: comparing its views again takes longest."""
    settings = settings_of(environment)
    with psycopg.connect(settings.source_dsn.get_secret_value(), connect_timeout=10) as source:
        found = source.execute("SELECT FROM pg_publication WHERE pubname = %s", [settings.publication]).fetchone()
    if found is None:
        prepare_source(environment)


def make_topics(environment: Mapping[str, str]) -> None:
    """What a run does first."""
    settings = settings_of(environment)
    topics.ensure(topics.kafka_base(settings), settings)
