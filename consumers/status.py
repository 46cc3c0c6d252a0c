"""`consumers status`: for each tenant how far it is behind, what is parked or dead, and what is missing.

Reads the target as the applier, as each tenant in turn where row-level security asks for it, and the ends of the
partitions from Kafka. If Kafka is away the rest is shown all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.rows import class_row
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers import dead_letters_admin, lag, missing, recomputation, skipped
from consumers.config import Settings
from consumers.errors import LogUnavailable
from consumers.identifiers import doubled, quoted
from consumers.lead_columns import LeadColumns
from consumers.leads import read as read_leads
from consumers.mapping_admin import Listing, Mapped, Unmapped, read_listing
from consumers.missing import Missing
from consumers.reasons import BRIEF
from consumers.rules_file import shipped_rules
from consumers.session import connect
from consumers.skipped import Skipped
from consumers.tenants import DEFAULT_POOL
from replicator import partition_of

SILENT_S: Final = 30
"""Events that wait for so long without a reader are a fault: a worker's longest batch takes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A partition in which a tenant could not follow its pool."""

    partition: int
    pool: str
    from_offset: int
    since: datetime
    tries: int
    error_class: str | None
    error: str | None
    advice: str | None

    @property
    def is_passing(self) -> bool:
        """It changes pools, or has just stood aside so that others need not wait, which is no fault."""
        return self.error_class == "pool" or (self.error_class in BRIEF and self.tries == 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    last_applied_at: datetime | None = None
    last_change_at: datetime | None = None
    fresh_at: datetime | None = None
    """Everything that the source committed before is applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """Of one inbox, that has not ended."""

    inbox_id: int
    progress: str
    """`asked for` or `under way`."""
    conversations: int
    """That are there so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStatus:
    tenant_id: int
    name: str | None
    pool: str
    """That serves it."""
    partitions: tuple[int, ...]
    """Where the events of its inboxes stand."""
    lag: int | None
    """Events in these partitions that are still to be read, other tenants' included; None if that can't be known."""
    freshness: Freshness
    parked: tuple[Parked, ...]
    dead_letters: int
    """Events that could not be applied, and those that wait behind them."""
    stubs: int
    """Parent rows that are awaited: nothing was heard of them yet."""
    backfilling: tuple[int, ...]
    """Inboxes whose rows are not complete yet."""
    backfills: tuple[Backfill, ...]
    """How far these are."""
    lead_signals: str
    """Where they come from: source, rules, external, or auto."""
    outdated_signals: int
    """Conversations whose signals are still of other rules."""
    refused_rules: Mapping[str, str]
    """Lead rules that are left out: the reason by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    pool: str
    tenants: tuple[TenantStatus, ...]
    unmapped: tuple[Unmapped, ...]
    skipped: tuple[Skipped, ...]
    """Columns that the target lacks."""
    missing: tuple[Missing, ...]
    """Relations that the target has no table for."""
    faults: tuple[str, ...]
    """What kept this from being complete."""

    @property
    def is_well(self) -> bool:
        is_stuck = any(not parked.is_passing for tenant in self.tenants for parked in tenant.parked)
        return not self.faults and not is_stuck and not any(tenant.dead_letters for tenant in self.tenants)


def gather(settings: Settings) -> Status:
    """One look at everything. Raises TargetUnavailable or TargetRefused."""
    faults: list[str] = []
    with connect(settings, settings.target_dsn, "status") as connection:
        reading = _Reading(connection)
        try:
            reading.ends = lag.ends(settings)  # after the positions: a worker that goes on would be beyond older ends
        except LogUnavailable as error:
            faults.append(str(error))
        tenants = tuple(reading.tenant(tenant, name) for tenant, name in _tenants(connection))
        columns, relations = tuple(skipped.read(connection)), tuple(missing.read(connection))
    unknown = {tenant.pool for tenant in tenants if tenant.lag is None} if reading.ends else set()
    faults += [
        f"the pool {pool} has not read every partition yet, or the topic was made anew" for pool in sorted(unknown)
    ]
    for pool, unread in reading.unread({settings.pool, *(tenant.pool for tenant in tenants)}).items():
        faults.append(
            f"no reader for {SILENT_S} s, though events wait, in partition {', '.join(map(str, unread))}:"
            f" does a worker of the pool {pool} run?"
        )
    return Status(
        pool=settings.pool,
        tenants=tenants,
        unmapped=reading.listing.unmapped,
        skipped=columns,
        missing=relations,
        faults=tuple(dict.fromkeys(faults)),
    )


class _Reading:
    """What concerns all tenants, read once, and then tenant by tenant."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._shipped = shipped_rules()
        self.ends: dict[int, int] = {}
        """Of every partition; empty: unknown."""
        self.listing: Listing = read_listing(connection)
        self._next: dict[str, dict[int, int]] = defaultdict(dict)
        """By pool and partition."""
        self._silent: dict[str, list[int]] = defaultdict(list)
        for pool, partition, offset, is_read in connection.execute(
            "SELECT pool, partition, next_offset, read_at > now() - %s * interval '1 s' FROM replication_progress"
            " ORDER BY partition",
            [SILENT_S],
        ):
            self._next[pool][partition] = offset
            if not is_read:
                self._silent[pool].append(partition)
        self._pools: dict[int, str] = dict(
            connection.execute("SELECT tenant_id, pool FROM replication_tenant_pools").fetchall()
        )
        self._parked = _parked(connection)
        self._dead_letters = dead_letters_admin.counts(connection)
        self._stubs = _stub_count(connection)
        connection.commit()

    def unread(self, pools: Iterable[str]) -> dict[str, list[int]]:
        """By pool: partitions with events for which nobody has come for a while."""
        found = {
            pool: [p for p in self._silent[pool] if self._next[pool][p] < self.ends.get(p, 0)] for pool in sorted(pools)
        }
        return {pool: partitions for pool, partitions in found.items() if partitions}

    def tenant(self, tenant: int, name: str | None) -> TenantStatus:
        own = [mapped for mapped in self.listing.mapped if mapped.tenant_id == tenant and mapped.is_active]
        parked, pool = tuple(self._parked[tenant]), self._pools.get(tenant, DEFAULT_POOL)
        count = len(self.ends) or len(self._next[pool])
        inboxes = {partition_of(mapped.inbox_id, count) for mapped in own} if count else set()
        partitions = tuple(sorted(inboxes | {stuck.partition for stuck in parked}))
        freshness, stubs, leads, outdated, refused = self._as_tenant(tenant)
        return TenantStatus(
            tenant_id=tenant,
            name=name,
            pool=pool,
            partitions=partitions,
            lag=self._lag(pool, partitions, parked),
            freshness=freshness,
            parked=parked,
            dead_letters=self._dead_letters.get(tenant, 0),
            stubs=stubs,
            backfilling=tuple(mapped.inbox_id for mapped in own if mapped.backfilled_at is None),
            backfills=self._backfills(tenant, [mapped for mapped in own if mapped.backfilled_at is None]),
            lead_signals=leads.origin or "auto",
            outdated_signals=outdated,
            refused_rules=refused,
        )

    def _lag(self, pool: str, partitions: tuple[int, ...], parked: tuple[Parked, ...]) -> int | None:
        if not self.ends:
            return None
        positions = self._next[pool] | {stuck.partition: stuck.from_offset for stuck in parked}
        if any(p not in self.ends or p not in positions or positions[p] > self.ends[p] for p in partitions):
            return None
        return sum(self.ends[p] - positions[p] for p in partitions)

    def _backfills(self, tenant: int, incomplete: Sequence[Mapped]) -> tuple[Backfill, ...]:
        if not incomplete:
            return ()
        with self._connection.transaction():
            self._connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
            counted = dict(
                self._connection.execute(
                    "SELECT inbox_id, count(*) FROM conversations"
                    " WHERE tenant_id = %s AND inbox_id = ANY (%s) AND synced_at IS NOT NULL GROUP BY inbox_id",
                    [tenant, [mapped.inbox_id for mapped in incomplete]],
                ).fetchall()
            )
        return tuple(
            Backfill(inbox_id=mapped.inbox_id, progress=mapped.progress, conversations=counted.get(mapped.inbox_id, 0))
            for mapped in incomplete
        )

    def _as_tenant(self, tenant: int) -> tuple[Freshness, int, LeadColumns, int, Mapping[str, str]]:
        with self._connection.transaction():
            self._connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", [str(tenant)])
            freshness = (
                self._connection.cursor(row_factory=class_row(Freshness))
                .execute("SELECT last_applied_at, last_change_at, fresh_at FROM replication_freshness")
                .fetchone()
            )
            stubs = self._connection.execute(self._stubs, [tenant]).fetchone()
            leads, refused, _ = read_leads(self._connection, tenant, self._shipped)
            outdated = recomputation.outdated(self._connection, tenant, leads)
        return freshness or Freshness(), stubs[0] if stubs else 0, leads, outdated, refused


def _tenants(connection: psycopg.Connection[Any]) -> list[tuple[int, str | None]]:
    """Those that have, or had, an inbox."""
    return connection.execute(
        "SELECT id, name FROM tenants WHERE deleted_at IS NULL"
        " AND EXISTS (SELECT FROM inbox_tenant_mapping m WHERE m.tenant_id = tenants.id) ORDER BY id"
    ).fetchall()


def _parked(connection: psycopg.Connection[Any]) -> dict[int, list[Parked]]:
    found: dict[int, list[Parked]] = defaultdict(list)
    for tenant, *fields in connection.execute(
        "SELECT tenant_id, partition, pool, from_offset, since, tries, error_class, error, advice"
        " FROM replication_parked ORDER BY tenant_id, partition"
    ):
        partition, pool, from_offset, since, tries, error_class, error, advice = fields
        found[tenant].append(
            Parked(
                partition=partition,
                pool=pool,
                from_offset=from_offset,
                since=since,
                tries=tries,
                error_class=error_class,
                error=error,
                advice=advice,
            )
        )
    return found


def _stub_count(connection: psycopg.Connection[Any]) -> bytes:
    """A query over every replicated table; each has a partial index for it."""
    counts = [
        f"(SELECT count(*) FROM {doubled(quoted(name))}"
        " WHERE tenant_id = own.id AND synced_at IS NULL AND source_epoch = 0)"
        for (name,) in connection.execute("SELECT relation FROM replication_relations() ORDER BY 1")
    ]
    return f"SELECT {' + '.join(counts)} FROM (SELECT %s::integer AS id) AS own".encode()


def to_json(status: Status) -> dict[str, Any]:
    """For machines; times become ISO 8601 in UTC when it is printed."""
    return {**asdict(status), "add_columns": skipped.remedies(status.skipped), "is_well": status.is_well}


def render(status: Status) -> RenderableType:
    """For people, readable at 80 columns; backfilling: inbox ids."""
    table = Table(box=None, pad_edge=False)
    for heading in ("tenant", "parts", "lag", "last applied", "fresh at", "parked", "dead", "stubs", "backfilling"):
        table.add_column(heading, justify="right" if heading in ("lag", "dead", "stubs") else "left")
    for tenant in status.tenants:
        elsewhere = "" if tenant.pool == DEFAULT_POOL else f" ({tenant.pool})"
        table.add_row(
            f"{tenant.tenant_id} {tenant.name or ''}{elsewhere}",
            ", ".join(map(str, tenant.partitions)) or "-",
            "?" if tenant.lag is None else str(tenant.lag),
            _time(tenant.freshness.last_applied_at),
            _time(tenant.freshness.fresh_at),
            ", ".join(str(stuck.partition) for stuck in tenant.parked) or "-",
            str(tenant.dead_letters),
            str(tenant.stubs),
            ", ".join(map(str, tenant.backfilling)) or "-",
        )
    return Group(f"pool {status.pool}", table, *(Text(line) for line in _sentences(status)))


def _sentences(status: Status) -> list[str]:
    parked = [
        f"tenant {tenant.tenant_id} is parked in partition {stuck.partition} since {_time(stuck.since)}"
        f" (from offset {stuck.from_offset}, {stuck.tries} tries): {stuck.error or stuck.error_class or 'unknown'}."
        f" {stuck.advice or ''}"
        for tenant in status.tenants
        for stuck in tenant.parked
    ]
    dead = [
        f"tenant {tenant.tenant_id} has {tenant.dead_letters:,} dead letters:"
        f" `consumers dead-letters list --tenant {tenant.tenant_id}`"
        for tenant in status.tenants
        if tenant.dead_letters
    ]
    unmapped = [
        f"inbox {inbox.inbox_id} belongs to nobody: {inbox.events} events since {_time(inbox.first_seen)};"
        f" `consumers map suggest`, `consumers map add --inbox {inbox.inbox_id} --tenant ...`"
        for inbox in status.unmapped
    ]
    backfills = [
        f"inbox {backfill.inbox_id} of tenant {tenant.tenant_id}: its backfill is {backfill.progress},"
        f" {backfill.conversations:,} conversations are there"
        for tenant in status.tenants
        for backfill in tenant.backfills
    ]
    lacking = [
        f"column {column.relation}.{column.name} is skipped, the target lacks it: {column.rows} rows since"
        f" {_time(column.first_seen)}"
        for column in status.skipped
    ]
    remedies = [
        f"{statement} {skipped.ADVICE.format(table=table)}"
        for table, statement in skipped.remedies(status.skipped).items()
    ]
    tableless = [
        f"relation {found.relation} has no table in the target: {found.changes} changes of its rows came to nothing"
        f" since {_time(found.first_seen)}; {missing.ADVICE}"
        for found in status.missing
    ]
    refused = [
        f"tenant {tenant.tenant_id}: lead rule {name} is left out: {reason}"
        for tenant in status.tenants
        for name, reason in sorted(tenant.refused_rules.items())
    ]
    outdated = [
        f"tenant {tenant.tenant_id}: the lead signals of {tenant.outdated_signals:,} conversations are yet to be made"
        " by its rules"
        for tenant in status.tenants
        if tenant.outdated_signals
    ]
    return [
        *(*status.faults, *parked, *dead, *backfills, *unmapped),
        *(*lacking, *remedies, *tableless, *refused, *outdated),
    ]


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%m-%d %H:%M:%SZ")
