"""Statements that go to the server in one message, and what it answered to each.

A transaction of a few rows costs what its messages cost. Each statement is prepared in the session at its first use,
then called by name. Each sees what was committed before it began, as if it had been sent alone, so what comes after a
wait for a lock sees what its holder did. Answers are looked at in their order: what an earlier one says comes before
the error of a later one.

Values stand in the message, which a server may log: numbers and names of ours, never what a row holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final

from psycopg import Connection, generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from consumers.identifiers import literal

Value = int | str | Sequence[int] | None
_INTEGERS: Final = frozenset({"tenant", "load", "step", "form"})
"""Placeholders of this type; any other has the one that its place asks for."""
_PLACEHOLDER: Final = re.compile(r"(?<!%)(?:%%)*%\((\w+)\)s")
"""Not what a doubled % begins: a column may have any name."""
_MOST_PREPARED: Final = 200
"""Statements; each keeps its tree in the server's memory, some 100 kB where a table has a hundred columns.
Within a transaction there may be twice as many."""
_MOST_TEXT: Final = 64 << 10
"""Characters of a message, but for its last statement: with each that it prepares, the server keeps all of its text."""


class Answer:
    """What one statement came to."""

    __slots__ = ("_result",)

    def __init__(self, result: PGresult) -> None:
        self._result = result

    @property
    def count(self) -> int:
        """Rows that it wrote, or returned."""
        return self._result.command_tuples or 0

    @property
    def rows(self) -> list[tuple[str | None, ...]]:
        """As text."""
        result = self._result
        return [
            tuple(None if (value := result.get_value(row, column)) is None else value.decode() for column in columns)
            for columns in [range(result.nfields)]
            for row in range(result.ntuples)
        ]


Check = Callable[[Answer], Any]
"""Looks at an answer; what it raises goes up."""


class Script:
    """What one session is to send next. Not for two threads at once."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._names = count(1)
        self._prepared: dict[str, tuple[str, Sequence[str]]] = {}
        """By statement, its name in the session and its parameters; some may not have been sent yet."""
        self._statements: list[str] = []
        self._length = 0
        self._checks: list[Check | None] = []

    @property
    def is_full(self) -> bool:
        """Whether it is time to `forget`."""
        return len(self._prepared) >= _MOST_PREPARED

    def say(self, statement: str) -> None:
        """One without parameters, of which nothing is asked."""
        self._add(statement, None)

    def ask(self, statement: str, given: Mapping[str, Value], check: Check | None = None) -> None:
        """One with psycopg's named placeholders; of `given` it takes those that it has.

        May send what was said and asked before.
        """
        if self._length > _MOST_TEXT:
            self.send()
        if len(self._prepared) >= 2 * _MOST_PREPARED:
            self.send()
            self.say("DEALLOCATE ALL")
            self.send()
            self.forget()
        name, parameters = self._prepared.get(statement) or self._prepare(statement)
        values = ", ".join([_literal(given[each]) for each in parameters])
        self._add(f"EXECUTE {name}({values})" if values else f"EXECUTE {name}", check)

    def send(self) -> None:
        """All that was said and asked, in this order. Raises psycopg.Error, or what the checks raise."""
        statements, checks = self._statements, self._checks
        if not statements:
            return
        self._clear()
        connection = self._connection
        with connection.lock:
            connection.pgconn.send_query(";".join(statements).encode())
            results = connection.wait(generators.execute(connection.pgconn))
        try:
            for result, check in zip(results, checks, strict=False):  # after one that failed there are no more
                if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                    raise error_from_result(result, "utf-8")
                if check is not None:
                    check(Answer(result))
        except BaseException:
            self._forget_unsent(statements[len(results) - 1 :])
            raise

    def drop(self) -> None:
        """What was not sent is not sent."""
        self._forget_unsent(self._statements)
        self._clear()

    def forget(self) -> None:
        """The session's prepared statements are gone."""
        self._prepared.clear()

    def _add(self, statement: str, check: Check | None) -> None:
        self._statements.append(statement)
        self._checks.append(check)
        self._length += len(statement)

    def _clear(self) -> None:
        self._statements, self._checks, self._length = [], [], 0

    def _prepare(self, statement: str) -> tuple[str, Sequence[str]]:
        parameters = tuple(dict.fromkeys(_PLACEHOLDER.findall(statement)))
        name = f"ours_{next(self._names)}"
        types = ", ".join("integer" if each in _INTEGERS else "unknown" for each in parameters)
        text = statement % {each: f"${number}" for number, each in enumerate(parameters, 1)}
        self._add(f"PREPARE {name}{f' ({types})' if types else ''} AS {text}", None)
        self._prepared[statement] = name, parameters
        return self._prepared[statement]

    def _forget_unsent(self, statements: Sequence[str]) -> None:
        """The server did not come to these."""
        names = {text.split(" ", 2)[1] for text in statements if text.startswith("PREPARE ")}
        if names:
            self._prepared = {text: known for text, known in self._prepared.items() if known[0] not in names}


def _literal(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return literal(value)
    return f"'{{{','.join(map(str, value))}}}'"
