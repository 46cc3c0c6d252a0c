"""The changes topic as Kafka has it now: its id, which a topic made anew does not share, and its partitions."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka._model import TopicCollection
from confluent_kafka.admin import AdminClient

from consumers import clients
from consumers.config import Settings
from consumers.errors import LogUnavailable
from replicator import Topics

_SECONDS: Final = 10.0
"""How long Kafka may take for one answer."""


class TopicShape:
    """One look at it, for which the caller waits."""

    def __init__(self, settings: Settings) -> None:
        """Raises LogUnavailable."""
        name = Topics(settings.topic_prefix).changes
        admin = clients.admin(settings)  # gone before its answer, there would be none
        try:
            found = _asked(admin, name).result(_SECONDS)
        except KafkaException as error:
            raise LogUnavailable(f"{name} can't be read: {error.args[0].str()}") from None
        except TimeoutError:
            raise LogUnavailable("Kafka does not answer") from None
        self.topic_id = str(found.topic_id)
        self.partitions = len(found.partitions)


class TopicWatch:
    """Looks now and then, for nobody to wait: a consumer says nothing of a topic that is made anew while it reads,
    if there is an event at the offset where it goes on.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = Topics(settings.topic_prefix).changes
        self._admin = clients.admin(settings)
        self._answer: Future[Any] | None = None
        self._topic_id = ""

    def topic_id(self) -> str:
        """As it was when last asked, which may be a while ago; empty before any answer. Asks again."""
        if self._answer is not None and self._answer.done():
            if self._answer.exception() is None:  # else the consumer says so too
                self._topic_id = str(self._answer.result().topic_id)
            self._answer = None
        if self._answer is None:
            self._answer = _asked(self._admin, self._name)
        return self._topic_id


def _asked(admin: AdminClient, name: str) -> Future[Any]:
    answer: Future[Any] = admin.describe_topics(TopicCollection([name]), request_timeout=_SECONDS)[name]
    return answer
