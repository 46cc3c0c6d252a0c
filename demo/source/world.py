"""What a Chatwoot process remembers while it writes, and the statements that it writes with.

A `Transaction` is a list of statements that commit together; nothing here talks to a database. Every choice comes
from the `World`'s own random numbers, so that one seed gives one sequence of choices.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple


class Statement(NamedTuple):
    """One SQL statement and its parameters."""

    text: str
    parameters: tuple[object, ...]


Transaction = list[Statement]

# The Rails host's clock at the moment of the statement: neither the transaction's start nor its commit.
NOW = object()
LONG = (50_000, 150_000)  # characters of a long e-mail; far beyond what PostgreSQL keeps in the row
PHRASES = (
    "Bom dia! Gostaria de saber mais sobre os planos.",
    "Qual é o valor da mensalidade?",
    "Posso agendar uma visita para amanhã às 15h?",
    "Obrigada 😊",
    'Enviei os documentos "assinados" em anexo.',
    "Só um instante, vou verificar.\nJá volto.",
    "Caminho: C:\\recibos\\maio",
    "Perfeito, fico no aguardo.",
    "Matrícula confirmada, seja bem-vinda!",
)
LABELS = ("lead", "visita", "aluno", "financeiro", "sem interesse")


@dataclass(slots=True, kw_only=True)
class Conversation:
    """A conversation as its writer remembers it; the database may know better."""

    id: int
    account: int
    inbox: int
    contact: int | None
    messages: list[int] = field(default_factory=list)


class World:
    """The inboxes (id → account), the conversations and the long e-mails that one writer works on.

    `next_id(table)` gives a fresh primary key.
    """

    def __init__(
        self,
        random: Random,
        inboxes: Mapping[int, int],
        conversations: list[Conversation],
        next_id: Callable[[str], int],
    ) -> None:
        self.random = random
        self.inboxes = inboxes
        self.conversations = conversations
        self.next_id = next_id
        self.long_emails: list[int] = []

    def chance(self, probability: float) -> bool:
        """True in this share of the calls."""
        return self.random.random() < probability

    def conversation(self) -> Conversation:
        """One of the known conversations, the latest ones much more often."""
        age = int(self.random.random() ** 2 * len(self.conversations))
        return self.conversations[-1 - age]

    def inbox(self, account: int | None = None) -> int:
        """An inbox, of this account if one is named."""
        return self.random.choice([i for i, owner in self.inboxes.items() if account in (None, owner)])

    def agent(self, account: int) -> int:
        """One of the six agents that the seed gives each account."""
        return (account - 1) * 6 + self.random.randint(1, 6)

    def text(self) -> str | None:
        """What somebody wrote; None for an attachment alone."""
        if self.chance(0.02):
            return None
        return " ".join(self.random.choices(PHRASES, k=self.random.randint(1, 3)))

    def long_text(self) -> str:
        """A long e-mail that hardly compresses, so that it is stored out of line."""
        return base64.b64encode(self.random.randbytes(self.random.randint(*LONG) * 3 // 4)).decode()


def insert(table: str, **values: object) -> Statement:
    """INSERT one row."""
    places = ", ".join(_place(value) for value in values.values())
    return Statement(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", _parameters(values))


def update(table: str, key: int | None, by: str = "id", /, **values: object) -> Statement:
    """UPDATE the rows whose column `by` is `key`."""
    changes = ", ".join(f"{column} = {_place(value)}" for column, value in values.items())
    return Statement(f"UPDATE {table} SET {changes} WHERE {by} = %s", (*_parameters(values), key))


def delete(table: str, key: int | None, by: str = "id") -> Statement:
    """DELETE the rows whose column `by` is `key`."""
    return Statement(f"DELETE FROM {table} WHERE {by} = %s", (key,))


def _place(value: object) -> str:
    return "timezone('UTC', clock_timestamp())" if value is NOW else "%s"


def _parameters(values: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(value for value in values.values() if value is not NOW)
