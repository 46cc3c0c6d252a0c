"""Which base rows lead to which keys of a SELECT or view, with all views within it.

`derive` reads the relation itself, by PostgreSQL's own parser: the base columns that reach an output or decide rows or
order; for each mention of a base table the path from a changed row to the keys whose result it may have changed;
outputs that read the clock; outputs whose order leaves ties. What it cannot resolve it names with the piece of SQL
concerned, and never guesses: a path by hand can stand in.

A result has changed if its rows of one key have, as a multiset. Rows with a NULL in the key have none.

Bottom up: `query_tree`, `functions`, `casts`, `strictness`, `floats` (data, and what is known of PostgreSQL's own
functions); `scopes`, `expressions`, `from_items`, `flattening` (names, then everything opened down to base tables);
`worlds`, `equalities` (what holds between the rows of one result; a row that another may be chosen instead of is an
occurrence of its own); `paths` (the narrowest way to the key); `same_rows`, `agreement`, `determinism` (clock, ties).

Relies on the catalogue's definitions being printed under an empty search path (`replicator.view_catalog` reads them
so), and on collations that call no two different texts equal. Pure: no I/O, no logging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicator.lineage.determinism import clock_columns, clock_conditions, clock_dependence, unstable_dependence
from replicator.lineage.equalities import Equalities, worlds
from replicator.lineage.flattening import flatten
from replicator.lineage.paths import Path, firm_regions, walk
from replicator.lineage.query_tree import (
    BaseTable,
    Branches,
    Catalog,
    Flat,
    Name,
    Node,
    Passed,
    Problem,
    Region,
    ast,
    chain,
    inside,
    number,
)
from replicator.lineage.same_rows import SameValues, settle_joins
from replicator.lineage.scopes import Refused

_BY_THE_CLOCK = (
    "rows come and go here as time passes, and no write tells of it: leave this condition out, and ask it where the"
    " copy is read"
)

__all__ = ("BaseTable", "Catalog", "Lineage", "Name", "Path", "Problem", "derive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What is known of a relation from its definition alone."""

    key: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    """Names, in their order."""
    sources: Mapping[Name, frozenset[str]]
    """Base table → used columns. A change that touches none of them dirties nothing; a row that comes or goes does."""
    paths: tuple[Path, ...] = ()
    """All of a table's paths together lead to every key that a changed row concerns."""
    clock: Mapping[str, str | None]
    """Output that reads the clock → expression over other outputs, none of which does; None: there is none."""
    unstable: Mapping[str, tuple[str, ...]]
    """Output → the pieces of SQL that take rows in an order with ties."""
    functions: frozenset[str] = frozenset()
    """Functions outside pg_catalog that it calls: its rows change with what these do."""
    problems: tuple[Problem, ...] = ()

    def starts(self) -> Mapping[Name, frozenset[str]]:
        """Base table → columns whose old values the stream must carry."""
        found: dict[Name, set[str]] = {}
        for path in self.paths:
            found.setdefault(path.table, set()).update(path.start)
        return {table: frozenset(columns) for table, columns in found.items()}


def derive(select: str, key: tuple[str, ...], catalog: Catalog, extra_paths: Iterable[Path] = ()) -> Lineage:
    """The lineage of a SELECT whose rows are read by `key`, names of its outputs.

    `extra_paths` are added to those found; the problem that a table has no path is theirs to solve and is not reported
    for their tables. Raises nothing on account of the SQL: what is wrong with it stands in `problems`.
    """
    extra = tuple(extra_paths)
    try:
        flat = flatten(select, catalog)
        missing = [name for name in key if name not in flat.outputs]
        if missing or not key:
            raise Refused(", ".join(missing), "the key must be outputs of the relation")
        settle_joins(flat)
        paths, problems = _paths(flat, key)
        clock, unstable, of_time = _determinism(flat, key)
    except (Refused, RecursionError) as error:
        told = (error.sql, error.reason) if isinstance(error, Refused) else ("", "nested too deeply to be followed")
        problem = Problem(sql=told[0], reason=told[1])
        return Lineage(key=key, sources={}, clock={}, unstable={}, paths=extra, problems=(problem,))
    by_hand = {path.table for path in extra}
    problems = [each for each in (*flat.problems, *problems, *of_time) if each.table not in by_hand]
    sources = _sources(flat, extra)
    problems += [
        Problem(sql=".".join(table), reason="a path by hand starts at a table that is not read here")
        for table in sorted(by_hand - sources.keys())
    ]
    return Lineage(
        key=key,
        outputs=tuple(flat.outputs),
        sources=sources,
        paths=tuple(dict.fromkeys((*paths, *extra))),
        clock=clock,
        unstable=unstable,
        functions=frozenset(flat.functions),
        problems=tuple(dict.fromkeys(problems)),
    )


def _sources(flat: Flat, by_hand: Iterable[Path]) -> dict[Name, frozenset[str]]:
    found: dict[Name, set[str]] = {each.table: set() for each in flat.occurrences.values()}
    for source, column in flat.used:
        found[flat.occurrences[source].table].add(column)
    for path in by_hand:
        found.get(path.table, set()).update(path.start)
    return {table: frozenset(columns) for table, columns in found.items()}


def _paths(flat: Flat, key: tuple[str, ...]) -> tuple[list[Path], list[Problem]]:
    paths: list[Path] = []
    problems: list[Problem] = []
    for world, origins in worlds(flat, key):
        firm = firm_regions(world)
        for origin in origins:
            found = _from(world, origin, firm)
            paths += [path for path in found if path is not None and path not in paths]
            if None in found:
                problems.append(_no_path(flat, origin))
    for value, member, region, sql in flat.memberships:
        if not (_never_null(flat, value, region.parent) and _never_null(flat, member, region)):
            reason = "NULLs in IN or NOT IN: one row may change the answer for all"
            problems.append(Problem(sql=sql, reason=reason))
    return paths, problems


def _from(world: Equalities, origin: int, firm: dict[Region, None]) -> list[Path | None]:
    """The paths of an occurrence as the row that changed and, where others may be chosen instead, as the chosen one."""
    first = walk(world, origin, firm)
    if first is None:
        return [None]
    gate = world.flat.occurrences[origin].place.gate
    behind = [world.instances[each].doubled for each in first[1]]
    if not any(doubled is not None and inside(gate, doubled) for doubled in behind):
        return [first[0]]
    doubles = [number for number, each in world.instances.items() if each.origin == origin and number != origin]
    others = [walk(world, each, firm) for each in doubles]
    return [first[0], *(found[0] if found else None for found in others)]


def _no_path(flat: Flat, origin: int) -> Problem:
    each = flat.occurrences[origin]
    gate, pieces = each.place.gate, []
    while gate is not None:
        if gate.active:
            pieces.append(gate.sql)
        gate = gate.parent
    reason = f"no equality leads from a row of {'.'.join(each.table)} to the key"
    return Problem(sql=" in ".join((each.sql, *pieces[:1])), reason=reason, table=each.table)


def _never_null(flat: Flat, value: Node, around: Region | None) -> bool:
    """Whether a value is a NOT NULL column of a row that is there wherever a region is, or one of several such."""
    if not isinstance(value, ast.ColumnRef):
        return False
    match flat.leaves.get(number(value)):
        case Passed() as passed:
            return _never_null(flat, passed.value, around)
        case Branches() as branches:
            return all(_never_null(flat, each, around) for each in branches.values)
    occurrence = flat.occurrences.get(number(value))
    there = set(chain(around))
    if occurrence is None or not all(each.always or each in there for each in chain(occurrence.place.region)):
        return False
    table = flat.catalog.tables[occurrence.table]
    column = value.fields[1].sval
    return column in table.not_null or column in table.key


def _determinism(
    flat: Flat, key: tuple[str, ...]
) -> tuple[dict[str, str | None], dict[str, tuple[str, ...]], list[Problem]]:
    depends = clock_dependence(flat)
    clock = clock_columns(flat, depends, SameValues(flat))
    problems = [Problem(sql=condition, reason=_BY_THE_CLOCK) for condition in clock_conditions(flat, depends)]
    problems += [
        Problem(sql=name, reason="reads the clock and cannot be written over the other outputs")
        for name, expression in clock.items()
        if expression is None
    ]
    order = unstable_dependence(flat)
    of_rows = order.of_rows()
    unstable = {
        name: found
        for name, value in flat.outputs.items()
        if (found := tuple(dict.fromkeys((*order.of(value), *(of_rows if name not in key else ())))))
    }
    return clock, unstable, problems
