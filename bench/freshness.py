"""How long a commit in the source takes until a tenant's dashboard sees it in the derived relations.

Four writes that polling by `updated_at` does not see, one at a time, at rest and beside live traffic: a message edited,
an agent renamed, a survey answered, a conversation deleted. The clock starts before the COMMIT is sent and stops after
the reader, bound by row-level security, has the answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from itertools import count
from typing import Any, Final, NamedTuple, Self

import psycopg

from bench import path
from bench.measured import Measured, Part, Ratio
from bench.path import Ground, NotMeasured
from demo.source.traffic import Traffic
from demo.stage import Stage

CONVERSATIONS: Final = 3_000
SEEN_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 0.005
AIM_MS: Final = 1000.0
AT_REST: Final = "at rest"
BESIDE: Final = "beside traffic"
NOW: Final = "now() AT TIME ZONE 'UTC'"


class Write(NamedTuple):
    """A change in the source, and what the tenant then sees."""

    tenant: int
    change: str
    given: tuple[object, ...]
    seen: str
    """A query of one boolean."""
    sought: tuple[object, ...]
    stands: str
    """Of one boolean, on the source: whether nobody has undone it since."""
    looked_for: tuple[object, ...]


def measure(ground: Ground) -> Part:
    """All of it. Raises NotMeasured."""
    conversations, rate = ground.options.conversations or CONVERSATIONS, ground.options.rate
    stage = path.stage(ground, conversations, ground.options.messages)
    inboxes = [inbox for owned in stage.tenants.values() for inbox in owned]
    took: dict[str, dict[str, list[float]]] = {AT_REST: {}, BESIDE: {}}
    with path.running(ground, stage), _Writes(stage) as writes:
        for circumstances, found in took.items():
            with Traffic(stage.source_dsn, inboxes=inboxes, rate=rate) if circumstances == BESIDE else nullcontext():
                for what, milliseconds in writes.take_turns(ground.options.samples):
                    found.setdefault(what, []).append(milliseconds)
            ground.say(f"{ground.options.samples} writes of each kind, {circumstances}")
    measured = {
        circumstances: [
            Measured(what=f"{what}, {circumstances}", unit="ms", values=tuple(values)) for what, values in found.items()
        ]
        for circumstances, found in took.items()
    }
    return Part(
        name="freshness",
        on=f"{conversations:,} conversations; traffic of {rate} row changes/s; commit → seen by a dashboard",
        measured=[each for found in measured.values() for each in found],
        ratios=[
            Ratio(
                what=f"{AIM_MS:,.0f} ms / the longest p99, {circumstances}",
                value=AIM_MS / max(each.at(0.99) for each in found),
                aim=1,
            )
            for circumstances, found in measured.items()
        ],
    )


class _Writes:
    """A writer on the source, and a reader of each tenant on the target."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._random, self._numbers = stage, random.Random(1), count(1)
        # Conversations move to inboxes of other accounts too: whose they are, the inbox says.
        self._owners = {inbox: tenant for tenant, owned in stage.tenants.items() for inbox in owned}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._source = self._stack.enter_context(psycopg.connect(self._stage.source_dsn, autocommit=True))
        self._readers = {
            tenant: self._stack.enter_context(
                psycopg.connect(self._stage.reader_dsn, options=f"-c app.current_tenant_id={tenant}", autocommit=True)
            )
            for tenant in self._stage.tenants
        }
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def take_turns(self, samples: int) -> Iterator[tuple[str, float]]:
        """(what, milliseconds), each kind in turn; without what the traffic has undone before anybody saw it."""
        kinds: dict[str, Callable[[], Write]] = {
            "a message edited": self._edited,
            "an agent renamed": self._renamed,
            "a survey answered": self._answered,
            "a conversation deleted": self._deleted,
        }
        for _ in range(samples):
            for what, kind in kinds.items():
                took = self._time(what, kind())
                if took is not None:
                    yield what, took

    def _time(self, what: str, write: Write) -> float | None:
        reader = self._readers[write.tenant]
        began = time.perf_counter()
        if self._source.execute(write.change.encode(), write.given).rowcount != 1:
            raise NotMeasured(f"{what}: the row that was to be written is gone")
        while not path.one(reader, write.seen, *write.sought):
            if time.perf_counter() - began > SEEN_SECONDS:
                if not path.one(self._source, write.stands, *write.looked_for):
                    return None
                raise NotMeasured(f"{what}: not seen within {SEEN_SECONDS:g} s, {write.sought}")
            time.sleep(PAUSE_SECONDS)
        return 1000 * (time.perf_counter() - began)

    def _pick(self, rows: str) -> tuple[Any, ...]:
        """One of those that were there from the beginning, at random."""
        found = self._source.execute(f"{rows} ORDER BY random() LIMIT 1".encode()).fetchone()
        if found is None:
            raise NotMeasured(f"nothing to write to: {rows}")
        return found

    def _edited(self) -> Write:
        message, conversation, inbox = self._pick(
            "SELECT m.id, m.conversation_id, c.inbox_id FROM messages m JOIN conversations c"
            " ON c.id = m.conversation_id AND c.inbox_id = m.inbox_id WHERE m.content IS NOT NULL"
        )
        text = f"edited for the {next(self._numbers)}th time"
        return Write(
            tenant=self._owners[inbox],
            change="UPDATE messages SET content = %s WHERE id = %s",
            given=(text, message),
            seen="SELECT EXISTS (SELECT FROM conversations_analytics WHERE conversation_id = %s"
            " AND strpos(message_compiled::text, %s) > 0)",
            sought=(conversation, text),
            stands="SELECT EXISTS (SELECT FROM messages AS m JOIN conversations AS c ON c.id = m.conversation_id"
            " WHERE m.id = %s AND m.content = %s)",
            looked_for=(message, text),
        )

    def _renamed(self) -> Write:
        """Seen when the last of the agent's conversations shows it."""
        agent, account = self._pick(
            "SELECT assignee_id, account_id FROM conversations WHERE assignee_id IN (SELECT id FROM users)"
        )
        name = f"Agent {next(self._numbers)}"
        return Write(
            tenant=10 * account,
            change="UPDATE users SET name = %s WHERE id = %s",
            given=(name, agent),
            seen="SELECT NOT EXISTS (SELECT FROM conversations_analytics"
            " WHERE assignee_id = %s AND assignee_name IS DISTINCT FROM %s)",
            sought=(agent, name),
            stands="SELECT EXISTS (SELECT FROM users WHERE id = %s AND name = %s)",
            looked_for=(agent, name),
        )

    def _answered(self) -> Write:
        message, conversation, contact, account, inbox = self._pick(
            "SELECT m.id, c.id, c.contact_id, c.account_id, c.inbox_id FROM messages m JOIN conversations c"
            " ON c.id = m.conversation_id AND c.inbox_id = m.inbox_id WHERE c.contact_id IN (SELECT id FROM contacts)"
            " AND NOT EXISTS (SELECT FROM csat_survey_responses a WHERE a.conversation_id = c.id)"
        )
        return Write(
            tenant=self._owners[inbox],
            change="INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, contact_id,"
            f" created_at, updated_at) VALUES (%s, %s, %s, 5, %s, {NOW}, {NOW})",
            given=(account, conversation, message, contact),
            seen="SELECT EXISTS (SELECT FROM conversations_analytics WHERE conversation_id = %s AND has_csat)"
            " AND EXISTS (SELECT FROM csat_survey_responses WHERE conversation_id = %s)",
            sought=(conversation, conversation),
            stands="SELECT EXISTS (SELECT FROM csat_survey_responses AS a JOIN conversations AS c"
            " ON c.id = a.conversation_id WHERE a.message_id = %s)",
            looked_for=(message,),
        )

    def _deleted(self) -> Write:
        conversation, inbox = self._pick("SELECT id, inbox_id FROM conversations WHERE inbox_id IS NOT NULL")
        return Write(
            tenant=self._owners[inbox],
            change="DELETE FROM conversations WHERE id = %s",
            given=(conversation,),
            seen="SELECT NOT EXISTS (SELECT FROM conversations_analytics WHERE conversation_id = %s)",
            sought=(conversation,),
            stands="SELECT NOT EXISTS (SELECT FROM conversations WHERE id = %s)",
            looked_for=(conversation,),
        )
