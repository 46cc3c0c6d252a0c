"""From a changed base row to the keys whose result it may have changed: the narrowest way along equal values.

A walk starts at one instance and binds others, one layer after another, until every key column has a value. Each time
it takes the steps that lead to the fewest rows: by a unique key to one; else by the column whose name the fewest tables
have, for a name that most of them have (a tenant's id) tells where a row belongs rather than which one it is. What it
concludes holds for each result in which the changed row took part, and for each that it kept from being there: where
the row may be missing (an outer join's nullable side), conditions from further out that name it prove nothing.
Reading a row too many is harmless, one too few is not.

Pure: no I/O, no logging.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from math import inf

from replicator.lineage.equalities import Equalities
from replicator.lineage.query_tree import MARK, MARKED, BaseTable, Name, Region, chain
from replicator.lineage.worlds import Fact, Term

_NAME = r'("(?:[^"]|"")+"|[^\W]\w*)'
_COLUMN = re.compile(MARK + r"\." + _NAME)  # after the start's number has been taken out
_ANY_COLUMN = re.compile(MARK + r"\d+\." + _NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How a changed row of a table leads to keys. A key with a NULL in it is none."""

    table: Name
    start: tuple[str, ...]
    """Columns of the changed row, its old and its new values, that the path begins with."""
    direct: tuple[str, ...] | None = None
    """The columns of the row that are the key, in the key's order."""
    lookup: str | None = None
    """Else: a SELECT of distinct keys, in the key's order, for psycopg: one `%s` for each start column in order, each
    an array, all of one length; the n-th elements are one row's values. An array's value is given as its text. Percent
    signs are doubled, so parameters must be passed even where there are none."""
    description: str = ""
    """For people."""


@dataclass(slots=True, eq=False)
class Walk:
    """What is known once an instance's row is given."""

    world: Equalities
    start: int
    known: set[Region]
    firm: dict[Region, None]
    facts: list[Fact]
    pending: list[Fact]
    """The facts that may still tell more than is known by now."""
    bound: dict[int, int] = field(default_factory=dict)
    """Instance → layer."""
    values: dict[tuple[int, str], Term] = field(default_factory=dict)
    """(instance, expression) → the equal expression of a bound instance."""

    def value(self, term: Term, before: float = inf) -> Term | None:
        """The expression of an instance, bound before a layer, that a term's value can be taken from."""
        if term.source is None:
            return term
        known = self.values.get((term.source, term.sql))
        if known is not None and self.bound.get(_source(known), before) < before:
            return known
        return term if self.bound.get(term.source, before) < before else None

    def valid(self, fact: Fact) -> bool:
        """Whether a fact holds, given what is there."""
        return self.known.issuperset(fact.regions)

    def reached(self, term: Term) -> bool:
        """Whether a term's row is there if its value is."""
        here = self.world.instances[_source(term)].region
        return all(region in self.known or region in term.implies for region in chain(here))

    def know(self, regions: Iterable[Region]) -> None:
        """Add regions that are there, and those that are there with them."""
        new = [region for region in regions if region not in self.known]
        for region in new:
            self.known.update(chain(region))
        if new:
            for region in self.firm:  # outer ones first
                if region.parent in self.known:
                    self.known.add(region)


def firm_regions(world: Equalities) -> dict[Region, None]:
    """Regions that are there whenever what is around them is: an outer join whose side is needed is an inner one.

    Outer ones come first.
    """
    regions = {region for each in world.instances.values() for region in chain(each.region)}
    firm = {region for region in regions if region.always}
    for term in world.key:
        firm.update(region for one in (term.implies if term else ()) for region in chain(one))
    size = 0
    while size != len(firm):
        size = len(firm)
        for fact in world.facts:
            if fact.identity:
                continue
            for region in fact.implies - firm:
                around = set(chain(region.parent))
                if all(one in around or one in firm for each in fact.regions for one in chain(each)):
                    firm.add(region)
    return dict.fromkeys(sorted(firm, key=lambda region: len(list(chain(region)))))


def walk(world: Equalities, start: int, firm: dict[Region, None]) -> tuple[Path, set[int]] | None:
    """The shortest path from an instance to the key, and the instances on it; None: there is none."""
    keys = world.key
    own = list(chain(world.instances[start].region))
    absent = [region for region in own if region not in firm]
    # A fact from beyond a region that may be absent, if it names a row in it, proves nothing for that row.
    facts = [fact for fact in world.facts if fact.needs <= firm.keys() and world.beyond[fact].isdisjoint(absent)]
    state = Walk(world, start, {world.flat.root}, firm, facts, facts, {start: 0})
    state.know([*own, *(region for term in keys if term is not None for region in term.implies)])
    layer = 0
    while True:
        _transfer(state)
        found = [None if term is None else state.value(term) for term in keys]
        if all(found):
            return _path(state, [term for term in found if term is not None])
        layer += 1
        if not _bind(state, layer) and not _bind_every(state, layer):
            return None


def _transfer(state: Walk) -> None:
    """Equal values stand for one another, without a look at the row that has them."""
    size = -1
    while size != len(state.values) + len(state.known):
        size = len(state.values) + len(state.known)
        state.pending = [fact for fact in state.pending if not _told(fact, state)]


def _told(fact: Fact, state: Walk) -> bool:
    """Take what a fact tells now; whether that was all."""
    if not state.valid(fact):
        return False
    if not fact.identity:
        state.know(fact.implies)
    if fact.sides is None or not fact.transfers:
        return True
    for here, there in (fact.sides, fact.sides[::-1]):
        value = state.value(here)
        if value is not None and state.value(there) is None and state.reached(there):
            state.values[(_source(there), there.sql)] = value
    return all(state.value(side) is not None for side in fact.sides)


def _bind(state: Walk, layer: int) -> bool:
    """Bind the instances that equalities lead to the fewest rows of, else each that another predicate leads to."""
    equal: dict[int, list[tuple[Term, Term]]] = {}
    for fact in state.facts:
        for there, value in _equals(fact, state):
            equal.setdefault(_source(there), []).append((there, value))
    sharing = {source: _sharing(state, source, pairs) for source, pairs in equal.items()}
    fewest = min(sharing.values(), default=0)
    new = {source for source, each in sharing.items() if each == fewest}
    new = new or {source for fact in state.facts for source in _leads_to(fact, state)}
    state.bound.update(dict.fromkeys(new, layer))
    for source in new:
        state.know([state.world.instances[source].region])
    return bool(new)


def _equals(fact: Fact, state: Walk) -> list[tuple[Term, Term]]:
    """The terms of unbound instances that an equality gives, each with the value it has."""
    if fact.sides is None or not state.valid(fact):
        return []
    return [
        (there, value)
        for here, there in (fact.sides, fact.sides[::-1])
        if there.source not in state.bound and (value := state.value(here)) is not None and state.reached(there)
    ]


def _sharing(state: Walk, source: int, pairs: list[tuple[Term, Term]]) -> int:
    """How widely the rows of an instance that equalities lead to are shared; 0: there is at most one."""
    table = state.world.flat.catalog.tables[state.world.instances[source].table]
    covered = {there.column for there, _ in pairs}
    if any(unique <= covered for unique in _unique_keys(table)):
        return 0
    return min(_spread(state, there, value) for there, value in pairs)


def _spread(state: Walk, *terms: Term) -> int:
    """How many tables have the least frequent of the names that some expressions read."""
    return min(state.world.spread[name] for term in terms for name in _names(term.sql))


@cache
def _names(sql: str) -> tuple[str, ...]:
    return tuple(_unquoted(found) for found in _ANY_COLUMN.findall(sql))


def _bind_every(state: Walk, layer: int) -> bool:
    """The one row of a table that constants tell stands beside every row that the next part of the key is in."""
    table = state.world.flat.catalog.tables[state.world.instances[state.start].table]
    fixed = {fact.fixes for fact in _fixing(state)}
    keys = [term.source for term in state.world.key if term is not None and state.value(term) is None]
    if None in state.world.key or not any(unique <= fixed for unique in _unique_keys(table)):
        return False
    state.bound.update(dict.fromkeys([source for source in keys[:1] if source is not None], layer))
    return True


def _fixing(state: Walk) -> list[Fact]:
    """What says that a column of the start is a constant."""
    return [fact for fact in state.facts if fact.fixes and fact.sources == {state.start} and state.valid(fact)]


def _leads_to(fact: Fact, state: Walk) -> list[int]:
    """The unbound instance that a predicate gives rows of."""
    open_sources = [source for source in fact.sources if source not in state.bound]
    if len(fact.sources) < 2 or len(open_sources) != 1 or fact.sides is not None or not state.valid(fact):
        return []
    region = state.world.instances[open_sources[0]].region
    there_now = all(each in state.known or each in fact.implies for each in chain(region))
    return open_sources if there_now else []


@dataclass(frozen=True, slots=True)
class _Step:
    """A predicate that binds an instance, and the bound instances that it takes values from."""

    sql: str
    origins: frozenset[int]
    start_columns: frozenset[str]
    spread: int | None = None
    """Of an equality: how widely its values are shared."""
    covers: frozenset[str] = frozenset()
    """The plain columns of the bound instance that it fixes."""


def _steps(state: Walk, source: int) -> list[_Step]:
    """All predicates by which an instance is bound to instances of earlier layers."""
    steps = []
    layer = state.bound[source]
    for fact in state.facts:
        if source not in fact.sources or len(fact.sources) < 2 or not state.valid(fact):
            continue
        if fact.sides is None:
            others = fact.sources - {source}
            if all(state.bound.get(other, layer) < layer for other in others):
                steps.append(_Step(fact.sql, others, _start_columns(fact.sql, state.start)))
            continue
        here, there = fact.sides if fact.sides[1].source == source else fact.sides[::-1]
        value = state.value(here, layer)
        if value is None:
            continue
        sql = f"{there.sql} = {value.sql}"
        if fact.identity and not (_never_null(value, state) and _never_null(there, state)):
            sql = f"({sql} OR {there.sql} IS NULL AND {value.sql} IS NULL)"
        origins = frozenset() if value.source is None else frozenset((value.source,))
        covers = frozenset() if there.column is None else frozenset((there.column,))
        spread = _spread(state, there, value)
        steps.append(_Step(sql, origins, _start_columns(value.sql, state.start), spread, covers))
    alone = () if steps else _fixing(state)
    steps += [_Step(fact.sql, fact.sources, _start_columns(fact.sql, state.start)) for fact in alone]
    return list(dict.fromkeys(steps))


def _chosen(steps: list[_Step], state: Walk, source: int) -> list[_Step]:
    """The predicates worth their start columns: those of a unique key on either side if there is one, else all that
    come from where the narrowest does."""
    instances, tables = state.world.instances, state.world.flat.catalog.tables

    def distance(step: _Step) -> tuple[int, int]:
        return sum(state.bound[each] for each in step.origins), step.spread or 0

    steps = sorted([step for step in steps if step.spread is not None] or steps, key=distance)
    own_key = set(tables[instances[state.start].table].key)
    by_key = [step for step in steps if step.start_columns and step.start_columns <= own_key]
    if own_key and own_key == set().union(*(step.start_columns for step in by_key)):
        return by_key
    for unique in _unique_keys(tables[instances[source].table]):
        covering = [next((step for step in steps if column in step.covers), None) for column in sorted(unique)]
        if None not in covering:
            return [step for step in covering if step is not None]
    narrowest = min(steps, key=lambda step: step.spread or 0)
    return [step for step in steps if step.origins == narrowest.origins]


def _unique_keys(table: BaseTable) -> list[frozenset[str]]:
    return [frozenset(columns) for columns in (table.key, *table.unique) if columns]


def _path(state: Walk, keys: list[Term]) -> tuple[Path, set[int]]:
    table = state.world.instances[state.start].table
    plain = [term.column for term in keys if term.source == state.start and term.column is not None]
    if len(plain) == len(keys):
        direct = tuple(plain)
        start = tuple(dict.fromkeys(direct))
        return Path(table=table, start=start, direct=direct, description=_direct_text(table, start)), set()
    needed: dict[int, list[_Step]] = {}
    pending = [term.source for term in keys if term.source not in (None, state.start)]
    while pending:
        source = pending.pop()
        if source is None or source in needed or source == state.start:
            continue
        needed[source] = _chosen(_steps(state, source), state, source)
        pending += [origin for step in needed[source] for origin in step.origins]
    return _lookup(state, keys, needed), set(needed)


def _lookup(state: Walk, keys: list[Term], needed: dict[int, list[_Step]]) -> Path:
    order = sorted(needed, key=lambda source: (state.bound[source], source))
    instances, tables = state.world.instances, state.world.flat.catalog.tables
    aliases = {state.start: "s", **{source: f"t{n}" for n, source in enumerate(order, 1)}}
    joins, told = [], []
    given = {column for steps in needed.values() for step in steps for column in step.start_columns}
    for n, source in enumerate(order):
        earlier = {state.start, *order[:n]}
        steps = needed[source] + [
            step
            for step in _steps(state, source)
            if step.origins <= earlier and step.start_columns <= given and step not in needed[source]
        ]
        conditions = [
            fact.sql for fact in state.facts if fact.sources == {source} and fact.sides is None and state.valid(fact)
        ]
        predicates = list(dict.fromkeys([*(step.sql for step in steps), *conditions]))
        joins.append(f"JOIN {quoted(instances[source].table)} AS {aliases[source]} ON {' AND '.join(predicates)}")
        told.append(f"{instances[source].table[1]} {aliases[source]} ({' AND '.join(predicates)})")
    selected = [term.sql for term in keys]
    nulls = [f"{term.sql} IS NOT NULL" for term in keys if not _never_null(term, state)]
    sql = " ".join(("SELECT DISTINCT", ", ".join(selected), "FROM {start}", *joins))
    sql += f" WHERE {' AND '.join(nulls)}" if nulls else ""
    start = sorted(_start_columns(sql, state.start))
    table = instances[state.start].table
    types = tables[table].columns
    unnested = _unnested({column: types[column] for column in start})
    written = _named(sql, aliases).replace("%", "%%").replace("{start}", unnested, 1)
    names_for_people = {**aliases, state.start: table[1]}
    told_text = " → ".join((f"{table[1]}({', '.join(start)})", *(_named(each, names_for_people) for each in told)))
    reached = ", ".join(_named(term.sql, names_for_people) for term in keys)
    return Path(table=table, start=tuple(start), lookup=written, description=f"{told_text} → {reached}")


def _unnested(types: dict[str, str]) -> str:
    """The start values as a FROM item `s`; arrays of arrays would come apart, so an array's elements are its text."""
    if not types:
        return "(SELECT 1) AS s"  # a key of constants
    types = {column.replace("%", "%%"): kind.replace("%", "%%") for column, kind in types.items()}
    names = ", ".join(quote(column) for column in types)
    elements = {column: "text" if kind.endswith("[]") else kind for column, kind in types.items()}
    rows = f"unnest({', '.join(f'%s::{kind}[]' for kind in elements.values())})"
    if elements == types:
        return f"{rows} AS s({names})"
    values = ", ".join(f"CAST(u.{quote(column)} AS {kind}) AS {quote(column)}" for column, kind in types.items())
    return f"(SELECT {values} FROM {rows} AS u({names})) AS s"


def _direct_text(table: Name, columns: tuple[str, ...]) -> str:
    return f"{table[1]}({', '.join(columns)})"


def _never_null(term: Term, state: Walk) -> bool:
    if term.source is None or term.column is None or (term.source == state.start and term.column is None):
        return False
    table = state.world.flat.catalog.tables[state.world.instances[term.source].table]
    return term.column in table.not_null or term.column in table.key


def _start_columns(sql: str, start: int) -> frozenset[str]:
    """The start instance's columns that a piece of SQL names."""
    return frozenset(_unquoted(found) for found in _COLUMN.findall(sql.replace(f"{MARK}{start}.", f"{MARK}.")))


def _named(sql: str, aliases: dict[int, str]) -> str:
    return MARKED.sub(lambda match: aliases[int(match[1])], sql)


def _source(term: Term) -> int:
    if term.source is None:
        raise ValueError("a constant belongs to no row")
    return term.source


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def quote(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def quoted(name: Name) -> str:
    """A table's name, quoted."""
    return f"{quote(name[0])}.{quote(name[1])}"
