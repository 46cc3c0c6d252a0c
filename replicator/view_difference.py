"""What would be another about a view if another definition took its place, column by column.

Pure: two descriptions by the same server in, differences out. A column's definition is followed through nested views
and subqueries to the tables, so that it is told by what it is made of, whatever the views between are called. Where a
query is none that this follows (UNION, WITH), its text stands for all of its columns.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import pglast
from pglast import ast
from pglast.stream import RawStream

from replicator.remedies import Difference
from replicator.view_facts import ViewFacts

Views = Mapping[tuple[str, str], ViewFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A relation that is not looked into."""

    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """A view or a subquery in FROM, and what its columns are called."""

    label: str
    select: Any
    columns: tuple[str, ...]


_Source = _Table | _Query
_Scope = ChainMap[str, _Source]


def is_same(theirs: ViewFacts, ours: ViewFacts) -> bool:
    """Whether nothing would be another."""
    return (theirs.kind, theirs.columns, theirs.definition) == (ours.kind, ours.columns, ours.definition)


def may_replace(theirs: ViewFacts, ours: ViewFacts) -> bool:
    """Whether CREATE OR REPLACE VIEW does: same names and types in the same order, new ones only after them.

    https://www.postgresql.org/docs/current/sql-createview.html
    """
    return theirs.kind == "v" and theirs.columns == ours.columns[: len(theirs.columns)]


def differences(theirs: ViewFacts, all_of_theirs: Views, ours: ViewFacts, all_of_ours: Views) -> tuple[Difference, ...]:
    """In the order of the columns; first what is removed, last what concerns the rows as a whole."""
    then = {column.name: column.type_name for column in ours.columns}
    now = {column.name: column.type_name for column in theirs.columns}
    found = [Difference(view=ours.name, column=name, change="removed", now=now[name]) for name in now.keys() - then]
    found.sort(key=lambda difference: list(now).index(difference.column))
    moved = _moved([name for name in now if name in then], [name for name in then if name in now])
    made_now, made_then = _Definitions(theirs, all_of_theirs), _Definitions(ours, all_of_ours)
    for name, type_name in then.items():
        if name not in now:
            found.append(Difference(view=ours.name, column=name, change="added", then=type_name))
            continue
        if now[name] != type_name:
            found.append(Difference(view=ours.name, column=name, change="type", now=now[name], then=type_name))
        if name in moved:
            places = (str(1 + list(side).index(name)) for side in (now, then))
            found.append(Difference(view=ours.name, column=name, change="order", now=next(places), then=next(places)))
        if (before := made_now.column(name)) != (after := made_then.column(name)):
            found.append(Difference(view=ours.name, column=name, change="definition", now=before, then=after))
    if (before := made_now.rows()) != (after := made_then.rows()):
        found.append(Difference(view=ours.name, column="", change="rows", now=before, then=after))
    return tuple(found)


def _moved(now: list[str], then: list[str]) -> set[str]:
    """The fewest that must move to get from one order to the other, more or less."""
    blocks = SequenceMatcher(None, now, then, autojunk=False).get_matching_blocks()
    return set(then).difference(*(then[block.b : block.b + block.size] for block in blocks))


class _Definitions:
    """One view's columns and rows, told by the tables that they come from."""

    def __init__(self, view: ViewFacts, views: Views) -> None:
        self._views = views
        self._parsed: dict[tuple[str, str], _Source] = {}
        self._schema = view.schema
        self._top = self._looked_into(view)

    def column(self, name: str) -> str:
        if isinstance(self._top, _Table):
            return f"{self._top.label}.{name}"
        return str(RawStream()(self._output(self._top, name)))

    def rows(self) -> str:
        return self._rows(self._top)

    def _rows(self, source: _Source) -> str:
        """The query without its columns and order: FROM, WHERE, GROUP BY and the like."""
        if isinstance(source, _Table):
            return source.label
        scope = self._scope(source.select, ChainMap())
        rest = [name for name in source.select if name not in ("targetList", "sortClause")]
        kept = {name: self._resolved(getattr(source.select, name), scope) for name in rest}
        return f"({RawStream()(ast.SelectStmt(**kept))})"

    def _output(self, query: _Query, name: str) -> Any:
        """The expression that is this column."""
        target = query.select.targetList[query.columns.index(name)].val
        return self._resolved(target, self._scope(query.select, ChainMap()))

    def _resolved(self, part: Any, scope: _Scope) -> Any:
        """The same over columns of tables, and over rows of tables in FROM."""
        match part:
            case tuple():
                return tuple(self._resolved(each, scope) for each in part)
            case ast.ColumnRef():
                return self._followed(part, scope)
            case ast.RangeVar() | ast.RangeSubselect() if (name := _alias(part)) in scope.maps[0]:
                return ast.RangeVar(relname=self._rows(scope.maps[0][name]), inh=True)
            case ast.Node():
                if isinstance(part, ast.SelectStmt) and _is_plain(part):
                    scope = self._scope(part, scope)
                return type(part)(**{name: self._resolved(getattr(part, name), scope) for name in part})
        return part

    def _followed(self, reference: Any, scope: _Scope) -> Any:
        names = [str(field.sval) for field in reference.fields if isinstance(field, ast.String)]
        if len(names) == 1 and len(scope.maps[0]) == 1:
            names = [*scope.maps[0], *names]  # the only relation there is
        if len(names) != 2 or names[0] not in scope:
            return reference
        source, column = scope[names[0]], names[1]
        if isinstance(source, _Query) and column in source.columns:
            return self._output(source, column)
        return ast.ColumnRef(fields=(ast.String(sval=source.label), ast.String(sval=column)))

    def _scope(self, select: Any, outer: _Scope) -> _Scope:
        """What this query's FROM names; a table that is named again is told from the first."""
        seen: Counter[str] = Counter()
        inner: dict[str, _Source] = {}
        for item in _from(select.fromClause or ()):
            source = self._source(item)
            seen[source.label] += 1
            if isinstance(source, _Table) and seen[source.label] > 1:
                source = _Table(label=f"{source.label}#{seen[source.label]}")
            inner[_alias(item)] = source
        return outer.new_child(inner)

    def _source(self, item: Any) -> _Source:
        if isinstance(item, ast.RangeSubselect):
            select: Any = item.subquery
            if not _is_plain(select) or item.alias is None or item.alias.colnames:
                return _Table(label=str(RawStream()(select)))
            names = tuple(target.name or _last_name(target.val) for target in select.targetList)
            return _Query(label="", select=select, columns=names)
        schema = item.schemaname or self._schema
        view = self._views.get((schema, item.relname))
        if view is None:
            return _Table(label=item.relname if schema == self._schema else f"{schema}.{item.relname}")
        return self._looked_into(view)

    def _looked_into(self, view: ViewFacts) -> _Source:
        key = view.schema, view.name
        if key not in self._parsed:
            self._parsed[key] = _parsed(view)
        return self._parsed[key]


def _parsed(view: ViewFacts) -> _Source:
    digest = hashlib.md5(view.definition.encode(), usedforsecurity=False).hexdigest()[:8]
    opaque = _Table(label=f"{view.name}:{digest}")
    try:
        (raw,) = pglast.parse_sql(view.definition)
    except (pglast.parser.ParseError, ValueError):  # what is no view has no statement at all
        return opaque
    names, select = tuple(column.name for column in view.columns), _untyped(raw.stmt)
    if not _is_plain(select) or len(select.targetList) != len(names):
        return opaque
    return _Query(label=view.name, select=select, columns=names)


def _is_plain(select: Any) -> bool:
    """SELECT … FROM, without WITH and set operations."""
    return bool(select.targetList) and select.larg is None and select.withClause is None


def _from(items: tuple[Any, ...]) -> Iterator[Any]:
    """The relations and subqueries of a FROM clause, joins taken apart."""
    for item in items:
        if isinstance(item, ast.JoinExpr):
            yield from _from((item.larg, item.rarg))
        elif isinstance(item, ast.RangeVar | ast.RangeSubselect):
            yield item


def _alias(item: Any) -> str:
    return str(item.alias.aliasname if item.alias is not None else getattr(item, "relname", ""))


def _last_name(value: Any) -> str:
    """What PostgreSQL calls a column without AS."""
    return str(_untyped(value).fields[-1].sval) if isinstance(value, ast.ColumnRef) else ""


def _untyped(node: Any) -> Any:
    """pglast types every attribute as optional."""
    return node
