"""A table of ours that exists already: what it lacks is added, what is too narrow widened, what stands in the way said.

Whoever made the table keeps every column, key, policy and row of it. Only reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pglast import ast, enums
from pglast.stream import RawStream

from consumers import audit
from consumers.catalogue import Catalogue, ForeignKey
from consumers.identifiers import quoted
from consumers.plan import Finding, finding, note, refusal
from consumers.relation import LEAD_COLUMNS

Change = tuple[str, str]
"""What it does, in words, and as SQL."""

_PARTS_UNCHECKED: Final = 180_000
"""The first PostgreSQL that takes a foreign key on a partitioned table without checking the rows that are there."""
_LENGTH: Final = re.compile(r"\((\d+)(?:,\d+)?\)")
_WIDER: Final[dict[str, frozenset[str]]] = {
    "smallint": frozenset({"integer", "bigint", "numeric"}),
    "integer": frozenset({"bigint", "numeric"}),
    "bigint": frozenset({"numeric"}),
    "character varying": frozenset({"text"}),
    "text": frozenset({"character varying"}),
    "json": frozenset({"text"}),
}
"""What holds every value of a type, by the type's name without its length."""


def adopt(catalogue: Catalogue, node: Any) -> Iterator[Change | Finding]:
    """What the CREATE TABLE statement comes to for a table that exists."""
    return _Adoption(catalogue, node).items()


class _Adoption:
    def __init__(self, catalogue: Catalogue, node: Any) -> None:
        self._now = catalogue
        self._table: str = node.relation.relname
        self._wanted: dict[str, Any] = {str(e.colname): e for e in node.tableElts if isinstance(e, ast.ColumnDef)}
        self._constraints = [e for e in node.tableElts if isinstance(e, ast.Constraint)]
        self._present = catalogue.columns.get(self._table, {})

    def items(self) -> Iterator[Change | Finding]:
        yield from self._columns()
        yield from self._types()
        if "synced_at" in self._wanted:
            yield from self._bars()
        if self._table == "etl_control":
            yield from self._audit_bars()
        for constraint in self._constraints:
            if constraint.contype == enums.ConstrType.CONSTR_FOREIGN:
                yield from self._foreign_key(constraint)
            else:
                yield from self._unique_key(constraint)

    def _columns(self) -> Iterator[Change | Finding]:
        missing = [column for name, column in self._wanted.items() if name not in self._present]
        if not missing:
            return
        barred = [column.colname for column in missing if _needs_value(column)]
        if barred and self._now.has_rows(self._table):
            yield refusal(
                f"table {self._table} has rows and no {', '.join(barred)}: add and fill it, or rename the table"
            )
            return
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {RawStream()(column)}" for column in missing)
        names = ", ".join(column.colname for column in missing)
        if any(column.colname == "synced_at" for column in missing):
            yield from self._unknown()
        yield f"adopt table {self._table}: add column {names}", f"ALTER TABLE {quoted(self._table)} {added}"

    def _unknown(self) -> Iterator[Finding]:
        """What nobody but the owner knows of, before the first adoption."""
        keys = self._now.unique_keys.get(self._table, ())
        unknown = [name for name in self._present if name not in self._wanted and frozenset({name}) not in keys]
        if unknown:
            yield note(
                f"column {', '.join(unknown)} of {self._table} is not known here: it stays, but nothing keeps it when"
                " the source deletes the row"
            )

    def _types(self) -> Iterator[Change | Finding]:
        """Columns of replicated rows are widened, all by one statement: the table is rewritten once at the most."""
        both = [name for name in self._wanted if name in self._present]
        ours = self._now.types([RawStream()(self._wanted[name].typeName) for name in both])
        unfit = {n: t for n, t in zip(both, ours, strict=True) if not holds(self._present[n].type, t)}
        wider = widened(self._now, self._table, unfit) if "synced_at" in self._wanted else {}
        held = self._now.users_of(self._table) if unfit.keys() - wider.keys() else {}
        for name, expected in unfit.items():
            found = self._present[name].type
            if name in wider:
                continue
            says = f"column {self._table}.{name} is {found}, narrower than or unlike {expected}"
            if "synced_at" not in self._wanted or not holds(expected, found):
                lead = ", and lead signals are not made while it does" if name in LEAD_COLUMNS else ""
                yield finding(f"{says}; it stays so{lead}")
            else:
                users = ", ".join(held[name])
                yield finding(f"{says}; {users} must be dropped and made again for setup to widen it")
        if wider:
            names = ", ".join(f"{name} ({self._present[name].type} → {kind})" for name, kind in wider.items())
            altered = ", ".join(f"ALTER COLUMN {quoted(name)} TYPE {kind}" for name, kind in wider.items())
            yield f"adopt table {self._table}: widen {names}", f"ALTER TABLE {quoted(self._table)} {altered}"

    def _bars(self) -> Iterator[Finding]:
        """What would make an insert of a stub, or of one row for each of two tenants, fail."""
        required = [
            name
            for name, column in self._present.items()
            if column.required and not (name in self._wanted and _is_required(self._wanted[name]))
        ]
        if required:
            drops = ", ".join(f"ALTER COLUMN {quoted(name)} DROP NOT NULL" for name in required)
            yield finding(
                f"table {self._table} requires {', '.join(required)}, so a parent that has not come yet can't stand"
                f" there: ALTER TABLE {quoted(self._table)} {drops}"
            )
        for key in sorted(sorted(key) for key in self._now.unique_keys.get(self._table, ()) if "tenant_id" not in key):
            if all(name not in self._wanted and self._present[name].fills_itself for name in key):
                continue  # a number of the target's own
            yield finding(
                f"table {self._table} has a unique key ({', '.join(key)}) without tenant_id: two tenants can't both"
                " hold such a row"
            )

    def _audit_bars(self) -> Iterator[Finding]:
        """What would make an insert of a worker's audit row fail."""
        required = [name for name, column in self._present.items() if column.required and name not in audit.GIVEN]
        asks = required + [f"what {rule} says" for rule in sorted(self._now.checks.get(self._table, ()))]
        if asks:
            yield finding(
                f"table {self._table} asks for {', '.join(asks)}: a worker's audit row that lacks it is left out"
            )

    def _foreign_key(self, node: Any) -> Iterator[Change | Finding]:
        key = ForeignKey(columns=names(node.fk_attrs), parent=node.pktable.relname)
        if key in self._now.foreign_keys.get(self._table, ()):
            return
        if (self._table, node.conname) in self._now.constraints:
            yield refusal(f"table {self._table} has another constraint named {node.conname}: rename it")
            return
        # NOT VALID: the rows that are there are not checked, so that nothing is locked for the time of a check.
        is_checked = self._now.relations[self._table].kind == "p" and self._now.server_version < _PARTS_UNCHECKED
        yield (
            f"adopt table {self._table}: add foreign key ({', '.join(key.columns)}) to {key.parent}",
            f"ALTER TABLE {quoted(self._table)} ADD {RawStream()(node)}{'' if is_checked else ' NOT VALID'}",
        )

    def _unique_key(self, node: Any) -> Iterator[Change]:
        columns = names(node.keys)
        if frozenset(columns) in self._now.unique_keys.get(self._table, ()):
            return
        primary = node.contype == enums.ConstrType.CONSTR_PRIMARY and self._table not in self._now.primary_keys
        kind = "PRIMARY KEY" if primary else "UNIQUE"
        listed = ", ".join(quoted(column) for column in columns)
        yield (
            f"adopt table {self._table}: add {kind.lower()} ({', '.join(columns)})",
            f"ALTER TABLE {quoted(self._table)} ADD {kind} ({listed})",
        )


def widened(catalogue: Catalogue, table: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """Columns of a replicated table that adoption widens, and to what; of those wanted, as format_type prints them."""
    present = catalogue.columns.get(table, {})
    unfit = {name: kind for name, kind in wanted.items() if name in present and not holds(present[name].type, kind)}
    held = catalogue.users_of(table) if unfit else {}
    return {name: kind for name, kind in unfit.items() if name not in held and holds(kind, present[name].type)}


def names(strings: Any) -> tuple[str, ...]:
    """A parsed list of names as text."""
    return tuple(string.sval for string in strings)


def holds(found: str, expected: str) -> bool:
    """Whether a column of the found type takes every value of the expected one; both as format_type prints them."""
    if found == expected:
        return True
    plain_found, plain_expected = _LENGTH.sub("", found), _LENGTH.sub("", expected)
    if plain_found != plain_expected and plain_found not in _WIDER.get(plain_expected, ()):
        return False
    length_found, length_expected = _LENGTH.search(found), _LENGTH.search(expected)
    if length_found is None:
        return True
    return length_expected is not None and int(length_found[1]) >= int(length_expected[1])


def _needs_value(column: Any) -> bool:
    """NOT NULL, and nothing says which value rows that are there already would get."""
    kinds = {constraint.contype for constraint in column.constraints or ()}
    gives = {enums.ConstrType.CONSTR_DEFAULT, enums.ConstrType.CONSTR_IDENTITY}
    return enums.ConstrType.CONSTR_NOTNULL in kinds and not kinds & gives


def _is_required(column: Any) -> bool:
    return any(constraint.contype == enums.ConstrType.CONSTR_NOTNULL for constraint in column.constraints or ())
