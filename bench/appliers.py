"""Who reads Kafka and writes to a target, ours and Debezium's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import psycopg

from bench import path, plain_target
from bench.path import Ground, Service
from bench.peers import connect, debezium
from demo.programs import Program
from demo.stage import Stage

OURS, DEBEZIUM = "worker", "Debezium JDBC sink"


class Applier(Protocol):
    """One of them."""

    @property
    def name(self) -> str: ...

    @property
    def service(self) -> Service: ...

    @property
    def dsn(self) -> str:
        """Of its target, as superuser."""

    def is_ready(self) -> bool:
        """Whether it applies what comes."""


class Ours:
    """A worker, with the stage's target: tenants, row-level security, foreign keys."""

    name: Final = OURS

    def __init__(self, ground: Ground, stage: Stage, number: int = 1) -> None:
        self.dsn = stage.target_dsn
        self.service = self._program = Program(
            ground.folder, f"{self.name} {number}", ["consumers", "run"], stage.consumers
        )

    def is_ready(self) -> bool:
        """And whether every inbox is complete."""
        self._program.news()
        status = self._program.status()
        with psycopg.connect(self.dsn, autocommit=True) as target:
            return bool(status.get("healthy") and status.get("partitions")) and path.is_loaded(target)


class Debezium:
    """Its JDBC sink in Kafka Connect, with a target that has nothing but tables and indexes."""

    name: Final = DEBEZIUM

    def __init__(self, ground: Ground, jars: connect.Jars, topics: Sequence[str]) -> None:
        self.dsn = plain_target.make(ground.servers, "debezium")
        kafka = ground.servers.kafka.bootstrap
        self.service = self._connect = connect.Connect(
            ground.folder, jars, kafka, "debezium-sink", debezium.sink(self.dsn, topics)
        )

    def is_ready(self) -> bool:
        return self._connect.is_ready
