"""`consumers adopt compare`: the batch ETL's rows beside ours, tenant by tenant, while both are kept up.

Only what the ETL fills is compared: not its times, the clock's columns, or the tenant's own. Both sides are read in one
snapshot, as the tables' owner, by SQL in the server; of rows only counts and conversation ids come out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers import beside, migrations, provision
from consumers.batch_etl import ZONE
from consumers.beside import EXAMPLES, KINDS, Kind, Sides
from consumers.catalogue import Catalogue
from consumers.config import Settings
from consumers.errors import Refused, SettingsError
from consumers.identifiers import quoted
from consumers.live import ANALYTICS, LOCAL_ONLY
from consumers.session import connect

_FIRST: Final = -(2**63)
_LAST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    tenant_id: int
    what: str
    """A column, `only there`, `only here`, or `mapping`."""
    kind: Kind
    rows: int
    examples: tuple[int, ...]
    """The first conversations; of the mapping, inboxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRows:
    tenant_id: int
    there: int
    here: int
    alike: int
    """On both sides, and the same in every column but those that the ETL computes otherwise."""
    tested: int
    """On both sides, and written by the ETL after us: where it would have seen what we missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    tenants: tuple[TenantRows, ...]
    differences: tuple[Difference, ...]
    compared: tuple[str, ...]
    unfilled: tuple[str, ...]
    """Columns of ours that no row of the ETL's has a value in."""

    @property
    def is_explained(self) -> bool:
        return all(difference.kind.is_explained for difference in self.differences)


def compare(settings: Settings, there: str, expected: frozenset[str]) -> Trial:
    """Raises Refused, SettingsError, TargetRefused or TargetUnavailable."""
    if there == settings.target_schema:
        raise SettingsError(f"--with and CONSUMERS_TARGET_SCHEMA both name {there}: it would be compared with itself")
    with connect(settings, settings.owner_dsn, "adopt compare") as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        theirs, ours = Catalogue(connection, there), Catalogue(connection, settings.target_schema)
        _verify(theirs, ours)
        sides, unfilled = _sides(connection, theirs, ours, settings, expected)
        ((zone,),) = connection.execute(f"SELECT {ZONE}".encode()).fetchall()
        tenants, differences = [], list(_remapped(connection, sides))
        for tenant in _tenants(connection, sides):
            rows, found = _tenant(connection, sides, tenant, zone)
            tenants.append(rows)
            differences += found
        order = (*sides.columns, beside.ONLY_THERE, beside.ONLY_HERE, beside.MAPPING)
        differences.sort(key=lambda d: (d.tenant_id, -order.index(d.what), d.kind.word))
        return Trial(
            tenants=tuple(tenants), differences=tuple(differences), compared=tuple(sides.columns), unfilled=unfilled
        )


def _verify(theirs: Catalogue, ours: Catalogue) -> None:
    found = theirs.relations.get(ANALYTICS)
    if found is None:
        raise Refused(f"schema {theirs.schema} has no table {ANALYTICS}: --with names the schema of the ETL's tables")
    if found.forced:
        raise Refused(f"{theirs.schema}.{ANALYTICS} is ours already: there is nothing to compare with")
    if not found.is_ours:
        raise Refused(f"{theirs.schema}.{ANALYTICS} belongs to {found.owner}: CONSUMERS_SETUP_DSN must name its owner")
    if "replication_migrations" not in ours.relations:
        raise Refused(
            f"schema {ours.schema} is not set up: `consumers setup --apply` with this CONSUMERS_TARGET_SCHEMA"
        )


def _sides(
    connection: psycopg.Connection[Any],
    theirs: Catalogue,
    ours: Catalogue,
    settings: Settings,
    expected: frozenset[str],
) -> tuple[Sides, tuple[str, ...]]:
    """What is compared, and what the ETL leaves empty."""
    made = migrations.load(schema=settings.target_schema, applier=settings.applier)
    there, here = theirs.columns[ANALYTICS], ours.columns[ANALYTICS]
    own = {*LOCAL_ONLY, "conversation_id"}
    replicated = [name for name, _ in provision.shipped(made).columns if name not in own]
    common = [name for name in replicated if name in there and name in here]
    has_value = connection.execute(beside.filled(theirs.schema, common).encode()).fetchone() if common else ()
    compared = [name for name, has in zip(common, has_value or (), strict=True) if has]
    if unknown := sorted(expected - set(compared)):
        raise SettingsError(f"--expect: the ETL fills no column {', '.join(unknown)}")
    columns = {name: (there[name].type, here[name].type) for name in compared}
    sides = Sides(
        there=theirs.schema,
        here=ours.schema,
        columns=columns,
        expected=expected,
        has_written_at="etl_updated_at" in there,
    )
    return sides, tuple(name for name in replicated if name not in columns)


def _tenants(connection: psycopg.Connection[Any], sides: Sides) -> list[int]:
    """Of either side; one that is marked as deleted is left as it is."""
    there, here = (f"{quoted(schema)}.tenants" for schema in (sides.there, sides.here))
    return [
        tenant
        for (tenant,) in connection.execute(
            f"SELECT id FROM (SELECT id FROM {there} UNION SELECT id FROM {here}) AS t"
            f" WHERE id NOT IN (SELECT id FROM {here} WHERE deleted_at IS NOT NULL) ORDER BY id".encode()
        )
    ]


def _remapped(connection: psycopg.Connection[Any], sides: Sides) -> Iterator[Difference]:
    inboxes: dict[int, list[int]] = defaultdict(list)
    for tenant, inbox in connection.execute(beside.remapped(sides.there, sides.here).encode()):
        inboxes[tenant].append(inbox)
    for tenant, found in inboxes.items():
        yield Difference(
            tenant_id=tenant,
            what=beside.MAPPING,
            kind=Kind.REMAPPED,
            rows=len(found),
            examples=tuple(found[:EXAMPLES]),
        )


def _tenant(
    connection: psycopg.Connection[Any], sides: Sides, tenant: int, zone: str
) -> tuple[TenantRows, list[Difference]]:
    connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
    counts: Counter[str] = Counter()
    rows: Counter[tuple[str, str]] = Counter()
    examples: Mapping[tuple[str, str], list[int]] = defaultdict(list)
    given: dict[str, Any] = {"tenant": tenant, "zone": zone, "after": _FIRST}
    while given["after"] < _LAST:
        ((end,),) = connection.execute(beside.stretch_end(sides).encode(), given).fetchall()
        given["upto"] = _LAST if end is None else end
        for what, kind, number, some in connection.execute(beside.differences(sides).encode(), given):
            if kind is None:
                counts[what] += number
            else:
                rows[what, kind] += number
                examples[what, kind].extend(some[: EXAMPLES - len(examples[what, kind])])
        given["after"] = given["upto"]
    found = [
        Difference(tenant_id=tenant, what=what, kind=KINDS[kind], rows=number, examples=tuple(examples[what, kind]))
        for (what, kind), number in rows.items()
    ]
    whole = TenantRows(
        tenant_id=tenant,
        there=counts["there"],
        here=counts["here"],
        alike=counts["both"] - counts["unlike"],
        tested=counts["tested"],
    )
    return whole, found


def to_json(trial: Trial) -> dict[str, Any]:
    return {
        "is_explained": trial.is_explained,
        "tenants": [
            {"tenant_id": t.tenant_id, "there": t.there, "here": t.here, "alike": t.alike, "tested": t.tested}
            for t in trial.tenants
        ],
        "differences": [
            {
                "tenant_id": each.tenant_id,
                "what": each.what,
                "kind": each.kind.word,
                "is_explained": each.kind.is_explained,
                "rows": each.rows,
                "examples": list(each.examples),
            }
            for each in trial.differences
        ],
        "compared": list(trial.compared),
        "unfilled": list(trial.unfilled),
    }


def render(trial: Trial) -> RenderableType:
    """For people: rows by tenant, then differences, then what the kinds mean."""
    rows, listed = Table("tenant"), Table("tenant", "what", "kind")
    for heading in ("ETL's rows", "ours", "alike", "tested"):
        rows.add_column(heading, justify="right")
    listed.add_column("rows", justify="right")
    listed.add_column("for instance")
    for tenant in trial.tenants:
        numbers = (tenant.tenant_id, tenant.there, tenant.here, tenant.alike, tenant.tested)
        rows.add_row(*map(str, numbers))
    for each in trial.differences:
        style = "" if each.kind.is_explained else "red"
        some = ", ".join(map(str, each.examples))
        listed.add_row(str(each.tenant_id), each.what, each.kind.word, str(each.rows), some, style=style)
    met = [kind for kind in Kind if any(each.kind is kind for each in trial.differences)]
    meanings = [Text(f"{'' if kind.is_explained else 'not explained: '}{kind.word}: {kind.says}") for kind in met]
    columns = Text(f"compared: {len(trial.compared)} columns; {len(trial.unfilled)} that the ETL leaves empty are not")
    tested = Text("tested: rows that the ETL wrote after we did, so that it would have seen what we missed")
    untested = [str(tenant.tenant_id) for tenant in trial.tenants if tenant.here and not tenant.tested]
    verdict = "every difference is explained" if trial.is_explained else "some differences are not explained"
    if untested:
        verdict += f"; no row is tested yet of tenant {', '.join(untested)}"
    return Group(rows, *([listed] if trial.differences else []), *meanings, columns, tested, Text(verdict))
