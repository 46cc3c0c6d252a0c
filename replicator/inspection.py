"""Reads from the source whatever the rules judge. Changes nothing.

One session and one walsender, both short; every statement with the time-outs of `source`. Rows of catalogues come as
JSON objects where a column depends on the server's version: what an old server lacks is simply not in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from replicator.config import Settings
from replicator.definitions import captured_by, read_definitions
from replicator.errors import ReplicatorError
from replicator.facts import (
    ColumnFacts,
    IndexFacts,
    PublicationFacts,
    PublishedTable,
    RoleFacts,
    ServerFacts,
    SessionFacts,
    SlotFacts,
    SourceFacts,
    TableFacts,
)
from replicator.publication import wanted_tables
from replicator.relations import BaseTable
from replicator.replication import Replication
from replicator.source import Source

_SETTINGS = (
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "synchronous_standby_names",
    "wal_level",
    "wal_sender_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "TimeZone",
)

_OPERATIONS = {"pubinsert": "insert", "pubupdate": "update", "pubdelete": "delete", "pubtruncate": "truncate"}

_TABLES = """
    SELECT c.oid::bigint, c.relname, c.relkind::text, c.relpersistence::text, c.relispartition,
        ARRAY(
            SELECT ARRAY[format('%%I.%%I', cn.nspname, child.relname), format('%%I.%%I', pn.nspname, parent.relname)]
            FROM pg_inherits i
            JOIN pg_class child ON child.oid = i.inhrelid JOIN pg_namespace cn ON cn.oid = child.relnamespace
            JOIN pg_class parent ON parent.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = parent.relnamespace
            WHERE c.oid IN (i.inhrelid, i.inhparent) ORDER BY 1
        ),
        pg_has_role(c.relowner, 'USAGE'),
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
        c.relreplident::text,
        ARRAY(
            SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
            WHERE r.prrelid = c.oid
                AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR p.pubname <> %s AND to_jsonb(r) ->> 'prattrs' IS NOT NULL)
            ORDER BY 1
        ),
        c.reltuples::bigint,
        c.relpages::bigint * current_setting('block_size')::bigint
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
"""

_COLUMNS = """
    SELECT attrelid::bigint, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated <> ''
    FROM pg_attribute WHERE attrelid = ANY(%s::bigint[]::oid[]) AND attnum > 0 AND NOT attisdropped
"""

_INDEXES = """
    SELECT i.indrelid::bigint, c.relname,
        ARRAY(
            SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
            WHERE k.place <= i.indnkeyatts ORDER BY k.place
        ),
        i.indisunique AND i.indimmediate AND i.indpred IS NULL, i.indisvalid AND i.indisready AND i.indislive,
        i.indisprimary, i.indisreplident, pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = ANY(%s::bigint[]::oid[]) ORDER BY c.relname
"""


def read_source(settings: Settings) -> SourceFacts:
    """Raises SourceUnavailable if the source does not answer, SourceRefused if it lets us read nothing."""
    with Source(settings) as source:
        server = _server(source)
        made_of = read_definitions(source, captured_by(settings)).made_of
        return SourceFacts(
            server=server,
            role=_role(source),
            session=_session(settings, source),
            slot=_slot(settings, source),
            idle_slots=_idle_slots(settings, source),
            publication=_publication(settings, source),
            made_of=made_of,
            tables=read_tables(settings, source, wanted_tables(made_of, settings)),
        )


def _server(source: Source) -> ServerFacts:
    # reset_val: what the role and the database were given, before the session pinned its own.
    rows = source.rows(
        "SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)",
        (list(_SETTINGS),),
    )
    setting = dict(rows)
    ((version, in_recovery, database, encoding, slots, walsenders),) = source.rows(
        "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_database(),"
        " current_setting('server_encoding'), (SELECT count(*) FROM pg_replication_slots),"
        " (SELECT count(*) FROM pg_stat_replication)"
    )
    return ServerFacts(
        version=version,
        in_recovery=in_recovery,
        database=database,
        encoding=encoding,
        wal_level=setting["wal_level"],
        max_slots=int(setting["max_replication_slots"]),
        used_slots=slots,
        max_walsenders=int(setting["max_wal_senders"]),
        used_walsenders=walsenders,
        keep_size_mb=int(setting["max_slot_wal_keep_size"]),
        synchronous_standbys=setting["synchronous_standby_names"] or "",
        wal_sender_timeout_ms=int(setting["wal_sender_timeout"]),
        idle_session_timeout_ms=int(setting.get("idle_session_timeout", 0)),
        transaction_timeout_ms=int(setting.get("transaction_timeout", 0)),
        time_zone=setting["TimeZone"],
    )


def _role(source: Source) -> RoleFacts:
    ((name, superuser, can_create),) = source.rows(
        "SELECT rolname, rolsuper, has_database_privilege(current_database(), 'CREATE')"
        " FROM pg_roles WHERE rolname = current_user"
    )
    _, replication, _ = source.may_stream()  # as the choice of the mode has it, managed services included
    return RoleFacts(name=name, superuser=superuser, replication=replication, can_create=can_create)


def _session(settings: Settings, source: Source) -> SessionFacts:
    source.rows("SELECT set_config('inbox_replicator.probe', 'here', false)")
    probes = [
        source.rows("SELECT pg_backend_pid(), current_setting('inbox_replicator.probe', true)")[0] for _ in range(3)
    ]
    pids = {pid for pid, _ in probes}
    error, same_system = _walsender(settings, source)
    return SessionFacts(
        same_backend=len(pids) == 1 and all(probe == "here" for _, probe in probes),
        direct=source.connection.info.backend_pid in pids,
        walsender_error=error,
        same_system=same_system,
    )


def _walsender(settings: Settings, source: Source) -> tuple[str | None, bool]:
    """Why it does not answer, and whether it is of the same cluster and database."""
    try:
        replication = Replication(settings)
        try:
            identity = replication.identity()
        finally:
            replication.close()
    except (ReplicatorError, psycopg.Error) as error:
        return str(error).strip(), True
    ((database, may_ask),) = source.rows(
        "SELECT current_database(), has_function_privilege('pg_control_system()', 'EXECUTE')"
    )
    if not may_ask:
        return None, identity.database == database
    ((system_id,),) = source.rows("SELECT system_identifier::text FROM pg_control_system()")
    return None, (identity.system_id, identity.database) == (system_id, database)


def _slot(settings: Settings, source: Source) -> SlotFacts | None:
    rows = source.rows(
        "SELECT to_jsonb(s), a.application_name,"
        " CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END"
        " FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = %s",
        (settings.slot,),
    )
    if not rows:
        return None
    ((slot, holder, held),) = rows
    return SlotFacts(
        kind=slot["slot_type"],
        plugin=slot["plugin"],
        database=slot["database"],
        temporary=slot["temporary"],
        active_pid=slot["active_pid"],
        holder=holder,
        wal_status=slot["wal_status"],
        held_bytes=held,
        invalidated=_invalidation(slot),
    )


def _idle_slots(settings: Settings, source: Source) -> tuple[str, ...]:
    rows = source.rows(
        "SELECT slot_name::text FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database()"
        " AND NOT active AND slot_name <> %s ORDER BY 1",
        (settings.slot,),
    )
    return tuple(name for (name,) in rows)


def _invalidation(slot: Mapping[str, Any]) -> str | None:
    """PostgreSQL 17 says why; 16 knows conflicts with recovery; older ones only that the WAL is gone."""
    if reason := slot.get("invalidation_reason"):
        return str(reason)
    if slot.get("conflicting"):
        return "it conflicted with recovery"
    return "its WAL was removed" if slot["wal_status"] == "lost" else None


def _publication(settings: Settings, source: Source) -> PublicationFacts | None:
    rows = source.rows(
        "SELECT oid::bigint, to_jsonb(p), pg_has_role(pubowner, 'USAGE') FROM pg_publication p WHERE pubname = %s",
        (settings.publication,),
    )
    if not rows:
        return None
    ((oid, publication, owned),) = rows
    tables = source.rows(
        # A column list is a list of numbers (PostgreSQL 15): older servers have none.
        "SELECT n.nspname, c.relname, to_jsonb(r),"
        " ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = r.prrelid"
        " AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum))"
        " FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = %s::bigint::oid ORDER BY 1, 2",
        (oid,),
    )
    return PublicationFacts(
        owned=owned,
        all_tables=publication["puballtables"],
        schemas=_published_schemas(source, oid),
        operations=frozenset(name for column, name in _OPERATIONS.items() if publication[column]),
        tables=tuple(
            PublishedTable(
                schema=schema,
                name=name,
                columns=frozenset(columns) if entry.get("prattrs") is not None else None,
                has_filter=entry.get("prqual") is not None,
            )
            for schema, name, entry, columns in tables
        ),
    )


def _published_schemas(source: Source, publication: int) -> tuple[str, ...]:
    if source.connection.info.server_version < 150_000:
        return ()
    rows = source.rows(
        "SELECT n.nspname FROM pg_publication_namespace p JOIN pg_namespace n ON n.oid = p.pnnspid"
        " WHERE p.pnpubid = %s::bigint::oid ORDER BY 1",
        (publication,),
    )
    return tuple(name for (name,) in rows)


def read_tables(settings: Settings, source: Source, tables: Iterable[BaseTable]) -> dict[str, TableFacts]:
    """Those of these that exist, by name."""
    names = [table.name for table in tables]
    rows = source.rows(_TABLES, (settings.publication, settings.source_schema, names))
    oids = [row[0] for row in rows]
    columns: dict[int, dict[str, ColumnFacts]] = {oid: {} for oid in oids}
    for oid, name, type_name, not_null, generated in source.rows(_COLUMNS, (oids,)):
        columns[oid][name] = ColumnFacts(type_name=type_name, not_null=not_null, generated=generated)
    indexes: dict[int, list[IndexFacts]] = {oid: [] for oid in oids}
    for oid, name, keys, unique, valid, primary, identity, definition in source.rows(_INDEXES, (oids,)):
        indexes[oid].append(
            IndexFacts(
                name=name,
                columns=tuple(keys),
                unique=unique,
                valid=valid,
                primary=primary,
                identity=identity,
                definition=definition,
            )
        )
    return {
        name: TableFacts(
            schema=settings.source_schema,
            name=name,
            kind=kind,
            persistence=persistence,
            is_partition=is_partition,
            inheritance=tuple((child, parent) for child, parent in inheritance),
            owned=owned,
            readable=readable,
            row_security=row_security,
            identity=identity,
            limited_by=tuple(limited_by),
            columns=columns[oid],
            indexes=tuple(indexes[oid]),
            rows=estimate,
            bytes=size,
        )
        for (
            oid,
            name,
            kind,
            persistence,
            is_partition,
            inheritance,
            owned,
            readable,
            row_security,
            identity,
            limited_by,
            estimate,
            size,
        ) in rows
    }
