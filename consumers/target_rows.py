"""A tenant's rows of one table as the target has them, by key, hashed as the source's are. Stubs are no rows.

Relies on a session of the applier that is bound to the tenant, and prints values as the source's does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from psycopg import Connection

from consumers.identifiers import doubled, quoted
from consumers.relation import Relation
from consumers.row_text import Texts

PAGE: Final = 5_000


class TargetRows:
    """Of the inboxes that are compared, and of those that are nobody's: not of `apart`, nor beyond `only`."""

    def __init__(
        self,
        connection: Connection[Any],
        relation: Relation,
        tenant: int,
        texts: Texts,
        *,
        only: Collection[int],
        apart: Collection[int],
    ) -> None:
        self._connection, self._relation, self._texts = connection, relation, texts
        self._given: dict[str, Any] = {"tenant": tenant, "only": sorted(only), "apart": sorted(apart)}
        self._key = f"r.{_q(relation.key)}"
        self._rows = f"FROM {_q(relation.name)} AS r WHERE r.tenant_id = %(tenant)s AND r.synced_at IS NOT NULL"

    def pages(self) -> Iterator[list[int]]:
        """All keys that are compared, in their order."""
        after = -(2**63)
        while True:
            page = self._ask(
                f"SELECT {self._key} {self._rows}{self._scope()} AND {self._key} > %(after)s"
                f" ORDER BY {self._key} LIMIT {PAGE}",
                after=after,
            )
            if page:
                yield [key for (key,) in page]
                after = page[-1][0]
            if len(page) < PAGE:
                return

    def hashes(self, keys: Sequence[int], *, by_column: bool = False) -> dict[int, Any]:
        found = self._texts.column_hashes if by_column else self._texts.row_hash
        return dict(
            self._ask(
                f"SELECT {self._key}, {found} {self._rows} AND {self._key} = ANY (%(keys)s::bigint[])", keys=list(keys)
            )
        )

    def inboxes(self, keys: Sequence[int]) -> dict[int, int | None]:
        """Where these rows are stored."""
        inbox = f"r.{_q(self._relation.inbox)}" if self._relation.inbox else "NULL"
        return dict(
            self._ask(
                f"SELECT {self._key}, {inbox} {self._rows} AND {self._key} = ANY (%(keys)s::bigint[])", keys=list(keys)
            )
        )

    def _scope(self) -> str:
        conditions = []
        if self._relation.inbox:
            inbox = f"r.{_q(self._relation.inbox)}"
            if self._given["only"]:
                conditions.append(f"{inbox} = ANY (%(only)s::bigint[])")
            if self._given["apart"]:
                conditions.append(f"({inbox} = ANY (%(apart)s::bigint[])) IS NOT TRUE")
        else:
            if self._given["only"]:
                conditions.append(f"{self._referred('bool_or', 'only')} IS TRUE")
            if self._given["apart"]:
                conditions.append(f"{self._referred('bool_and', 'apart')} IS NOT TRUE")
        return "".join(f" AND {condition}" for condition in conditions)

    def _referred(self, how: str, given: str) -> str:
        """Whether any, or every, row that refers to a row without an inbox is at one of those."""
        pointing = " UNION ALL ".join(
            f"SELECT c.{_q(inbox)} AS inbox FROM {_q(child)} AS c"
            f" WHERE c.tenant_id = r.tenant_id AND c.{_q(column)} = {self._key}"
            for child, column in self._relation.children
            if (inbox := self._relation.child_inboxes.get(child, "inbox_id"))
        )
        return f"(SELECT {how}(p.inbox = ANY (%({given})s::bigint[])) FROM ({pointing}) AS p)" if pointing else "NULL"

    def _ask(self, statement: str, **given: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement.encode(), {**self._given, **given}, prepare=True).fetchall()


def _q(name: str) -> str:
    return doubled(quoted(name))
