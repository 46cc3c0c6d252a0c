"""The rows of a tenant's inboxes as the source has them, by key: pages of keys, and hashes of the rows of given keys.

A derived relation's rows are read key by key (`CROSS JOIN LATERAL (… OFFSET 0)`): so each key is pushed down into the
relation's aggregates, which a list of keys is not (`replicator.derived` has the figures).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

from consumers.identifiers import doubled, quoted
from consumers.row_text import Texts
from consumers.source_session import Source
from replicator import CONTACTS, STREAMED_BY_NAME, SURVEY_ANSWERS, analytics

PAGE: Final = 1_000
"""Keys. A row of the analytics view takes 0.2 ms."""


class Seen(NamedTuple):
    inbox: int
    hashes: Any
    """Of the whole row, or of each column."""


class SourceRows:
    """One relation, at some inboxes."""

    def __init__(self, source: Source, table: str, view: str, inboxes: Collection[int], texts: Texts) -> None:
        self._source, self._inboxes, self._texts = source, sorted(inboxes), texts
        self._streamed = STREAMED_BY_NAME.get(table)
        shown = ".".join(map(quoted, view.split(".")))
        derived = {each.name: each for each in (CONTACTS, SURVEY_ANSWERS, analytics(shown))}
        self._derived = None if self._streamed else derived[table]
        self._relation = self._streamed or derived[table]
        self._key = _q(self._relation.key[0])
        self._inbox = _q(self._relation.inbox)

    def pages(self) -> Iterator[list[int]]:
        """All keys, in pages."""
        if self._streamed is None:
            yield from self._derived_keys()
            return
        for inbox in self._inboxes:
            yield from self._streamed_keys(inbox, self._streamed.scan)

    def hashes(self, keys: Sequence[int], *, by_column: bool = False) -> dict[int, Seen]:
        """The rows of these keys that are at one of the inboxes."""
        found = self._texts.column_hashes if by_column else self._texts.row_hash
        return {key: Seen(inbox, hashes) for key, inbox, hashes in self._read(found, keys)}

    def present(self, keys: Sequence[int]) -> set[int]:
        """Which of these keys are at one of the inboxes."""
        return {key for key, _, _ in self._read("NULL", keys)}

    def _read(self, what: str, keys: Sequence[int]) -> list[tuple[Any, ...]]:
        if not keys:
            return []
        if self._derived is None:
            statement = (
                f"SELECT r.{self._key}, r.{self._inbox}, {what} FROM {_q(self._relation.name)} AS r"
                f" WHERE r.{self._key} = ANY (%(keys)s::bigint[]) AND r.{self._inbox} = ANY (%(inboxes)s::bigint[])"
            )
        else:
            newest = f", r.{_q(self._derived.newest)} DESC NULLS LAST" if self._derived.newest else ""
            statement = (
                f"SELECT DISTINCT ON (k.id) k.id, r.{self._inbox}, {what} FROM unnest(%(keys)s::bigint[]) AS k (id)"
                f" CROSS JOIN LATERAL (SELECT * FROM ({doubled(self._derived.select)}) AS q"
                f" WHERE q.{self._key} = k.id OFFSET 0) AS r"
                f" WHERE r.{self._inbox} = ANY (%(inboxes)s::bigint[]) ORDER BY k.id{newest}"
            )
        return self._source.rows(statement, keys=list(keys), inboxes=self._inboxes)

    def _streamed_keys(self, inbox: int, scan: Sequence[str]) -> Iterator[list[int]]:
        """In the order of an index that is there, for a unique replica identity or the primary key."""
        columns = ", ".join(map(_q, scan))
        at = scan.index(self._relation.key[0])
        after: tuple[Any, ...] | None = None
        while True:
            beyond = f" AND ({columns}) > ({', '.join(f'%(a{n})s' for n in range(len(scan)))})" if after else ""
            page = self._source.rows(
                f"SELECT {columns} FROM {_q(self._relation.name)} WHERE {self._inbox} = %(inbox)s{beyond}"
                f" ORDER BY {columns} LIMIT {PAGE}",
                inbox=inbox,
                **{f"a{n}": value for n, value in enumerate(after or ())},
            )
            if page:
                yield [row[at] for row in page]
                after = page[-1]
            if len(page) < PAGE:
                return

    def _derived_keys(self) -> Iterator[list[int]]:
        assert self._derived is not None  # noqa: S101  # the caller's choice
        after = -(2**63)
        while True:
            page = self._source.rows(
                f"SELECT DISTINCT q.{self._key} FROM ({doubled(self._derived.select)}) AS q"
                f" WHERE q.{self._inbox} = ANY (%(inboxes)s::bigint[]) AND q.{self._key} > %(after)s"
                f" ORDER BY 1 LIMIT {PAGE}",
                inboxes=self._inboxes,
                after=after,
            )
            if page:
                yield [key for (key,) in page]
                after = page[-1][0]
            if len(page) < PAGE:
                return


def _q(name: str) -> str:
    return doubled(quoted(name))
