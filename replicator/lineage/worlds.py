"""What the equalities of one world are made of: instances, terms, facts, and the choices that make it this world.

Pure data.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final

from replicator.lineage.query_tree import Gate, Name, Region

OPEN: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instance:
    """An occurrence, or a double of one."""

    table: Name
    region: Region
    origin: int
    """The occurrence's number."""
    doubled: Gate | None = None
    """The outermost gate that it is a double behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An expression over one row; without a source, a constant."""

    source: int | None
    sql: str
    type: str | None
    column: str | None
    """Set if it is a plain column."""
    implies: frozenset[Region]
    """Regions that are there if the value is not NULL."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fact:
    """A predicate that holds wherever its regions are there."""

    sql: str
    sources: frozenset[int]
    regions: tuple[Region, ...]
    implies: frozenset[Region]
    sides: tuple[Term, Term] | None = None
    """An equality of one value in two rows."""
    fixes: str | None = None
    """The plain column that equals a constant."""
    transfers: bool = False
    """Equal values also print alike, so that one may stand for the other."""
    identity: bool = False
    """NULL equals NULL; holds only if `needs` are there whenever what is around them is."""
    needs: frozenset[Region] = frozenset()


class World:
    """One choice of each alternative, made when it is first met, or given; OPEN: nothing is said of any."""

    def __init__(self, plan: tuple[int, ...], given: Mapping[Hashable, int]) -> None:
        self._plan = plan
        self._given = given
        self._options: list[int] = []
        self._chosen: dict[Hashable, int] = {}

    def given(self, what: Hashable) -> int | None:
        """The alternative that was not this world's to choose."""
        return self._given.get(what)

    def choose(self, what: Hashable, options: int) -> int:
        """Which alternative holds in this world."""
        if what in self._given:
            return self._given[what]
        if what not in self._chosen:
            place = len(self._options)
            self._options.append(options)
            self._chosen[what] = self._plan[place] if place < len(self._plan) else 0
        return self._chosen[what]

    def following(self) -> tuple[int, ...] | None:
        """The plan of the next world; None after the last one."""
        plan = list(self._chosen.values())
        while plan:
            if plan[-1] + 1 < self._options[len(plan) - 1]:
                return (*plan[:-1], plan[-1] + 1)
            plan.pop()
        return None
