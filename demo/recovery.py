"""The tour of recovery: a tenant comes, an inbox changes hands, rows are damaged, slot and log are lost.

Everything is done as an operator would do it, by SQL and by the product's commands, beside live traffic; each turn
proves what it claims, or ends the tour.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from demo.isolation import Isolation
from demo.probes import Probes
from demo.programs import Program, bare_environment
from demo.servers.guardian import GuardedFolder
from demo.servers.starting import last_lines
from demo.source.traffic import Traffic
from demo.stage import PREFIX, Stage

COMMAND_SECONDS = 180.0
SEEN_SECONDS = 60.0
BACKFILL_SECONDS = 300.0
KAFKA_SECONDS = 30.0
MISSED_ROWS = 100  # that the log loses before any worker has read them
LOST_ROWS, ALTERED_ROWS = 5, 4  # few enough for a report to name every key
TOPIC = f"{PREFIX}.changes"


class Disproved(Exception):
    """A turn did not bring what it promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the tour does by means of the play."""

    tell: Callable[[str], None]
    begin: Callable[[str], None]
    """A new part of the play, by name."""
    until: Callable[[Callable[[], bool], str, float], None]
    """(condition, what it is, seconds): waits while the screen goes on."""
    start: Callable[[Program], None]
    lose_slot: Callable[[], None]
    """Until the source is streamed again and all of it read."""
    is_served: Callable[[], bool]
    """Whether every worker is well."""


class Tour:
    """One turn after another."""

    def __init__(
        self,
        stage: Stage,
        folder: GuardedFolder,
        workers: Sequence[Program],
        traffic: Traffic,
        probes: Probes,
        hands: Hands,
    ) -> None:
        self._stage, self._folder, self._workers = stage, folder, workers
        self._traffic, self._probes, self._hands = traffic, probes, hands
        self._settings = {
            **stage.consumers,
            **stage.owner,
            "CONSUMERS_SOURCE_DSN": stage.replicator["REPLICATOR_SOURCE_DSN"],
        }
        self._commands = 0
        first, second, *_ = stage.tenants
        self._receiver, self._damaged = first, second
        self._newcomer = max(stage.tenants) + 10

    def go(self) -> None:
        """All turns. Raises Disproved, and what the play's waiting raises."""
        isolation = Isolation(self._stage.target_dsn)
        isolation.start()
        try:
            self._add_tenant()
            self._move_inbox()
            self._damage_and_replay()
            self._hands.lose_slot()
            self._lose_part_of_the_log()
        finally:
            isolation.close()
        if isolation.wrong:
            raise Disproved(f"{len(isolation.wrong)} sights of others' rows, the first: {isolation.wrong[0]}")
        self._hands.tell(f"in {isolation.looks:,} looks at any moment no tenant saw a row of another's inbox")

    def _add_tenant(self) -> None:
        self._hands.begin("a tenant is added")
        inboxes = list(self._stage.unclaimed)

        def unmapped() -> set[int]:
            return {each["inbox_id"] for each in self._ask("consumers", "status")["unmapped"]}

        self._hands.until(lambda: unmapped() >= set(inboxes), "nobody's inboxes are listed", SEEN_SECONDS)
        self._hands.tell(f"`consumers status` lists inboxes {_listed(inboxes)}: events, and nobody's")
        began = time.monotonic()
        self._sql(
            "INSERT INTO tenants (id, name, slug) VALUES (%s, %s, %s)",
            self._newcomer,
            f"School {self._newcomer}",
            f"school-{self._newcomer}",
        )
        self._sql(
            "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id) SELECT unnest(%s::integer[]), %s",
            inboxes,
            self._newcomer,
        )
        self._hands.tell(f"tenant {self._newcomer} is added by one INSERT of its inboxes")
        self._hands.until(self._progress(len(inboxes)), "the new tenant is backfilled", BACKFILL_SECONDS)
        self._prove_equal(self._newcomer)
        self._hands.tell(f"tenant {self._newcomer} is equal to the source, {time.monotonic() - began:.1f} s later")

    def _progress(self, inboxes: int) -> Callable[[], bool]:
        """Whether all of the new tenant's are backfilled; tells of each."""
        told = 0

        def is_complete() -> bool:
            nonlocal told
            ((done,),) = self._sql(
                "SELECT count(backfilled_at) FROM inbox_tenant_mapping WHERE tenant_id = %s", self._newcomer
            )
            if done > told:
                told = done
                self._hands.tell(f"{done} of its {inboxes} inboxes are backfilled")
            return bool(done == inboxes)

        return is_complete

    def _move_inbox(self) -> None:
        self._hands.begin("an inbox is moved")
        inbox = self._stage.unclaimed[-1]
        move = ("consumers", "map", "move", "--inbox", inbox, "--to", self._receiver)
        began = time.monotonic()
        planned = self._ask(*move)
        if planned["applied"] or self._owner(inbox) != self._newcomer:
            raise Disproved("a plan has moved an inbox")
        self._hands.tell(
            f"`consumers map move --inbox {inbox} --to {self._receiver}` plans it: {_rows(planned):,} rows"
        )
        moved = self._ask(*move, "--apply")
        rows = _rows(moved)
        if self._owner(inbox) != self._receiver or not rows:
            raise Disproved(f"inbox {inbox} was not moved")
        self._hands.tell(f"inbox {inbox} is tenant {self._receiver}'s, with {rows:,} rows, in one transaction")
        self._hands.until(lambda: not self._incomplete(), "the moved inbox is backfilled", BACKFILL_SECONDS)
        self._prove_equal(self._receiver)
        self._hands.tell(f"tenant {self._receiver} is equal to the source, {time.monotonic() - began:.1f} s later")

    def _damage_and_replay(self) -> None:
        self._hands.begin("rows are damaged and brought back")
        self._traffic.pause()  # else it might mend, or take away, what is damaged here
        try:
            paused = time.monotonic()
            self._hands.until(lambda: not self._probes.unreached_since(paused), "all is applied", SEEN_SECONDS)
            lost, altered = self._damage()
            self._hands.tell(
                f"of tenant {self._damaged} {len(lost)} messages are deleted, {len(altered)} altered, by hand"
            )
            replay = ("consumers", "replay", "--tenant", self._damaged)
            began = time.monotonic()
            found = {each["table"]: each for each in self._ask(*replay, codes=(1,))["tables"]}
            messages = found.pop("messages")
            named = set(messages["examples"]["missing"]), set(messages["examples"]["different"])
            if named != (lost, altered) or messages["extra"] or messages["columns"] != {"content": len(altered)}:
                raise Disproved(f"the replay names other messages than those that were damaged: {messages['examples']}")
            if wrong := _differing(found.values()):
                raise Disproved(f"the replay finds damage where none was done: {', '.join(wrong)}")
            self._hands.tell("`consumers replay` names exactly these, and the column that differs")
            self._ask(*replay, "--apply")
            if not self._ask(*replay)["is_equal"]:
                raise Disproved("the replay has not brought everything back")
            self._hands.tell(f"they are back, and nothing differs, {time.monotonic() - began:.1f} s later")
        finally:
            self._traffic.resume()

    def _damage(self) -> tuple[set[int], set[int]]:
        """Messages that are deleted, and that are altered."""
        chosen = "SELECT id FROM messages WHERE tenant_id = %s AND synced_at IS NOT NULL AND content <> '' ORDER BY id"
        with psycopg.connect(self._stage.target_dsn, autocommit=True) as target:
            keys = [key for (key,) in target.execute(chosen.encode(), [self._damaged]).fetchmany(200)]
            lost, altered = set(keys[-LOST_ROWS:]), set(keys[:ALTERED_ROWS])
            target.execute("DELETE FROM messages WHERE tenant_id = %s AND id = ANY (%s)", [self._damaged, list(lost)])
            target.execute(
                "UPDATE messages SET content = 'damaged' WHERE tenant_id = %s AND id = ANY (%s)",
                [self._damaged, list(altered)],
            )
        return lost, altered

    def _lose_part_of_the_log(self) -> None:
        self._hands.begin("a part of the log is lost")
        for worker in self._workers:
            worker.ask_to_stop()
        if faults := [fault for worker in self._workers if (fault := worker.stopped())]:
            raise Disproved("; ".join(faults))
        until = self._traffic.counts.rows + MISSED_ROWS
        self._hands.until(lambda: self._traffic.counts.rows >= until, "changes that no worker reads", SEEN_SECONDS)
        began = time.monotonic()
        messages = self._forget_log()
        self._hands.tell(f"the workers are stopped, and the log has forgotten what it had: {messages:,} messages")
        for worker in self._workers:
            worker.remarks.pop("log.gap", None)
            self._hands.start(worker)
        self._hands.until(
            lambda: any(worker.remarks["log.gap"] for worker in self._workers), "the gap is named", SEEN_SECONDS
        )
        self._hands.tell("the workers name the gap, and ask for backfills")
        self._hands.until(lambda: not self._incomplete(), "all tenants are backfilled", BACKFILL_SECONDS)
        self._hands.until(self._hands.is_served, "the workers are well", SEEN_SECONDS)
        self._hands.tell(f"every tenant is backfilled, {time.monotonic() - began:.1f} s after the loss")

    def _forget_log(self) -> int:
        """Deletes every message of the topic, as a retention that is too short does; how many there were."""
        options: dict[str, Any] = {"bootstrap.servers": self._settings["CONSUMERS_KAFKA_BOOTSTRAP_SERVERS"]}
        consumer = Consumer({**options, "group.id": "demo.tour"})
        try:
            partitions = consumer.list_topics(TOPIC, timeout=KAFKA_SECONDS).topics[TOPIC].partitions
            bounds = {
                number: consumer.get_watermark_offsets(TopicPartition(TOPIC, number), timeout=KAFKA_SECONDS)
                for number in partitions
            }
        finally:
            consumer.close()
        ends = [TopicPartition(TOPIC, number, high) for number, (_, high) in bounds.items()]
        admin = AdminClient(options)  # it answers only as long as somebody holds it
        for done in admin.delete_records(ends).values():
            done.result(KAFKA_SECONDS)
        return sum(high - low for low, high in bounds.values())

    def _prove_equal(self, tenant: int) -> None:
        """Beside the traffic, by the product's own fence; the witness compares at the end."""
        found = self._ask("consumers", "compare", "--tenant", tenant, codes=(0, 1))
        if not found["is_equal"]:
            differing = [
                each["table"] for each in found["tables"] if each["missing"] or each["extra"] or each["different"]
            ]
            raise Disproved(f"tenant {tenant} differs from the source in {', '.join(differing) or 'something'}")

    def _ask(self, program: str, *arguments: object, codes: Sequence[int] = (0,)) -> Any:
        """A command of the product with `--json`, while the screen goes on. Raises Disproved for another exit code."""
        self._commands += 1
        log, errors = (self._folder.path / f"tour-{self._commands}.{kind}" for kind in ("json", "stderr"))
        words = [program, *map(str, arguments), "--json"]
        apart = ["/bin/sh", "-c", 'exec "$@" 2>"$0"', str(errors)]
        child = self._folder.spawn(
            [*apart, sys.executable, "-m", *words], log=log, env=bare_environment(self._settings)
        )
        self._hands.until(lambda: child.poll() is not None, f"`{' '.join(words)}` ends", COMMAND_SECONDS)
        answer = log.read_text()
        if child.returncode not in codes or not answer:
            said = last_lines(errors)
            raise Disproved(f"`{' '.join(words)}` ended with exit code {child.returncode}: {said}")
        return json.loads(answer)

    def _sql(self, statement: str, *given: object) -> list[tuple[Any, ...]]:
        """As the target's owner by hand."""
        with psycopg.connect(self._stage.owner["CONSUMERS_SETUP_DSN"], autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), given or None)
            return cursor.fetchall() if cursor.description else []

    def _incomplete(self) -> bool:
        return bool(self._sql("SELECT 1 FROM inbox_tenant_mapping WHERE is_active AND backfilled_at IS NULL"))

    def _owner(self, inbox: int) -> int:
        ((tenant,),) = self._sql("SELECT tenant_id FROM inbox_tenant_mapping WHERE inbox_id = %s", inbox)
        return int(tenant)


def _rows(handover: dict[str, Any]) -> int:
    """That a move takes along."""
    return sum(tally["rows"] for holding in handover["holdings"] for tally in holding["rows"])


def _differing(tables: Iterable[dict[str, Any]]) -> list[str]:
    """Their names, as a comparison or a replay tells of them."""
    return [each["table"] for each in tables if each["missing"] or each["extra"] or each["different"]]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
